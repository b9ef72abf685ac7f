"""A column of current rows is one list entry: one from here reaches tables, messages and schemas."""

import json
import uuid
from collections.abc import Iterator

import pytest

from anabranch import Count, FeatureView, Last, LastK, Project, Source
from anabranch.answers.current import rows_of
from anabranch.answers.features import Answer
from anabranch.answers.tables.merged import merged_schema
from anabranch.declare.names import RESERVED
from anabranch.errors import DeclarationError
from anabranch.stores.cassandra.current_rows import (
    CURRENT_COLUMNS,
    CurrentColumn,
    current_message,
    register_column,
)
from anabranch.stores.cassandra.data_source.source import CassandraSource, cassandra_options
from anabranch.stores.cassandra.tables import current_table, history_table
from anabranch.stores.cassandra.views import Views
from anabranch.values.keys import key_text
from anabranch.values.names import quoted
from anabranch.values.times import SECOND, parse_time
from anabranch.values.types import DOUBLE
from jobs.wiring.settings import Settings

AT = parse_time("2026-05-01T10:00:00Z")
visits = Source(
    name="visits", topic="visits", id="id", time="at", schema="id STRING, who STRING, at TIMESTAMP"
)


def declare(feature: str = "n") -> Project:
    view = FeatureView(name="seen", source=visits, key="who", features={feature: Count()})
    return Project(name=f"rows_{uuid.uuid4().hex[:8]}", views=(view,))


@pytest.fixture
def age() -> Iterator[CurrentColumn]:
    """A column that the product does not have: seconds since 1970, shown in messages as a whole number."""
    column = CurrentColumn(
        name="as_of_seconds", type=DOUBLE, value=lambda row: row.as_of / SECOND, message=round
    )
    register_column(column)
    yield column
    CURRENT_COLUMNS.remove(column)
    RESERVED.discard(column.name)


def test_a_column_from_outside_shows_up_in_tables_rows_messages_and_schemas(
    servers: Settings, age: CurrentColumn
) -> None:
    project, views = declare(), Views(servers.views)
    views.ensure_current(project)
    rows = rows_of(project, [Answer({"who": "ann"}, {"n": 3}, AT + SECOND // 2)], None, "speed")
    views.write_current(project.name, rows, AT)
    row = views.current(project, "ann")
    assert row is not None
    assert (row["n"], row[age.name]) == (3, AT / SECOND + 0.5)
    (kept,) = views.session.execute(f"SELECT {age.name} FROM {history_table(project.name)}")
    assert kept[0] == row[age.name]
    assert json.loads(current_message(project, rows[0]))[age.name] == round(AT / SECOND + 0.5)
    assert f"`{age.name}` DOUBLE" in merged_schema(project)
    options = {**cassandra_options(servers.views), "table": current_table(project.name)}
    assert f"`{age.name}` DOUBLE" in CassandraSource(options).schema()


def test_a_table_that_exists_gains_a_new_column(servers: Settings) -> None:
    project, views = declare(), Views(servers.views)
    views.ensure_current(project)
    column = CurrentColumn(name="as_of_micros", type=DOUBLE, value=lambda row: float(row.as_of))
    register_column(column)
    try:
        views.ensure_current(project)
        rows = rows_of(project, [Answer({"who": "ann"}, {"n": 3}, AT)], None, "speed")
        views.write_current(project.name, rows, AT)
        assert (views.current(project, "ann") or {})[column.name] == AT
    finally:
        CURRENT_COLUMNS.remove(column)
        RESERVED.discard(column.name)


def test_keys_and_features_may_have_odd_names(servers: Settings) -> None:
    keys = ("Unit Price (EUR)", "start", "a.b", "it's", "TOKEN", "Größe", "select")
    schema = "id STRING, at TIMESTAMP, " + ", ".join(f"`{name}` STRING" for name in keys)
    source = Source(name="select", topic="select", id="id", time="at", schema=schema)
    features = {"order": Count(), "primary": Last("start"), "null": LastK("`it's`", 2)}
    view = FeatureView(name="token", source=source, key=keys, features=features)
    project, views = Project(name=f"from_{uuid.uuid4().hex[:8]}", views=(view,)), Views(servers.views)
    views.ensure_current(project)
    views.ensure_current(project)  # which compares the columns that are there
    key, values = {name: f"{name}=1" for name in keys}, {"order": 3, "primary": "x", "null": ["y"]}
    views.write_current(project.name, rows_of(project, [Answer(key, values, AT)], None, "speed"), AT)
    row = views.current(project, key_text(keys, key))
    assert row is not None
    assert {name: row[name] for name in (*keys, *values)} == {**key, **values}
    assert views.sample_features(project, ["order", "null"], 5) == [{"order": 3, "null": ["y"]}]
    options = {**cassandra_options(servers.views), "table": current_table(project.name)}
    read = CassandraSource(options).schema()
    assert {f"{quoted(name)} STRING" for name in keys} <= set(read.split(", "))


def test_a_row_of_more_text_than_the_store_takes_loses_the_longest_and_says_so(servers: Settings) -> None:
    features = {"n": Count(), "last": Last("who"), "few": LastK("who", 20)}
    view = FeatureView(name="seen", source=visits, key="who", features=features)
    project, views = Project(name=f"rows_{uuid.uuid4().hex[:8]}", views=(view,)), Views(servers.views)
    views.ensure_current(project)
    values: dict[str, object] = {"n": 3, "last": "x" * 600_000, "few": ["y" * 600_000] * 20}
    answers = [Answer({"who": who}, values, AT) for who in ("ann", "bob")]
    views.write_current(project.name, rows_of(project, answers, None, "speed"), AT)
    for who in ("ann", "bob"):
        row = views.current(project, who)
        assert row is not None
        assert (row["n"], row["last"], row["few"]) == (3, values["last"], None)
        assert row["degraded"] == (
            "few of this key are more than the store takes: keep fewer or shorter values"
        )


def test_no_feature_can_have_the_name_of_a_column_and_no_column_that_of_another(age: CurrentColumn) -> None:
    with pytest.raises(DeclarationError, match=age.name):
        declare(age.name)
    with pytest.raises(ValueError, match=f"column '{age.name}' exists already"):
        register_column(age)


def test_the_names_of_all_columns_are_reserved_before_the_store_is_imported() -> None:
    assert {column.name for column in CURRENT_COLUMNS} <= RESERVED
