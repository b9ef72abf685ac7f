"""The gateway to Cassandra: swap of batch versions, rollback, tiles by meaning, current rows by time."""

import threading
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from anabranch import Aggregate, Count, FeatureView, Histogram, Last, LastK, Max, Mean, Project, Source, Sum
from anabranch.answers.features import Answers
from anabranch.errors import AnabranchError, ViewUnavailableError
from anabranch.folds.merge import Merged, merge
from anabranch.folds.packing import LARGEST
from anabranch.folds.spark import pieces_of
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.tables import (
    batch_table,
    current_table,
    history_table,
    table_name,
    tiles_table,
)
from anabranch.stores.cassandra.views import Views
from anabranch.stores.cassandra.writer import upsert
from anabranch.testing.states import SLACK, batch_part, tiles
from anabranch.values.times import HOUR, floor_to, from_micros, now_micros, to_micros
from batch.building.versions import rollback
from jobs.wiring.settings import Settings
from speed.tiles import tile_writer
from tests.support.law import START, Event
from tests.support.stores import stores_with

CUT = START
SCHEMA = (
    "id STRING, who STRING, time TIMESTAMP, x DOUBLE, n BIGINT, d DECIMAL(12,2), s STRING, b BOOLEAN, "
    "day DATE"
)


@pytest.fixture(scope="module")
def views(servers: Settings) -> Views:
    return Views(servers.views)


def declare(features: Mapping[str, Aggregate], name: str | None = None) -> Project:
    """A project of one view over a topic."""
    fed = Source(name="things", topic="things", id="id", time="time", schema=SCHEMA)
    view = FeatureView(name="seen", source=fed, key="who", features=features)
    return Project(name=name or f"views_{uuid.uuid4().hex[:8]}", views=(view,))


def entry(views: Views, project: Project, wanted: int) -> Manifest:
    """A batch version with its tables, as a build leaves it before the swap."""
    version = views.new_version(project.name, wanted)
    return Manifest(
        project=project.name,
        batch_version=version,
        cut=CUT + wanted * HOUR,
        slack=SLACK,
        built_at=CUT + wanted * HOUR + 123_456,
        fingerprints={view.name: view.fingerprint for view in project.views},
        tables={
            view.name: views.create_batch_table(project.name, view.name, version) for view in project.views
        },
        rows={view.name: wanted for view in project.views},
        lake_versions={"things": wanted},
        increments={view.fingerprint: [wanted] for view in project.views},
    )


def put(views: Views, project: Project, version: int, key: str, total: float) -> None:
    """Batch states of one event for one key."""
    (view,) = project.views
    part = batch_part(view, [Event(id="1", key=key, time=CUT - HOUR, arrival=CUT - HOUR, x=total)], CUT)
    table = batch_table(project.name, view.name, version)
    views.session.execute(
        f"INSERT INTO {table} (key, states) VALUES (%s, %s)", (key, part.rows.astype("<f8").tobytes())
    )


def tables(views: Views, project: Project) -> set[str]:
    """The project's tables as the server has them."""
    found = views.session.execute(
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s", (views.settings.keyspace,)
    )
    return {row.table_name for row in found if row.table_name.startswith(project.name)}


def test_a_manifest_is_read_as_it_was_written(views: Views) -> None:
    project = declare({"total": Sum("x")})
    assert views.manifest(project.name) is None
    first = entry(views, project, 1)
    views.swap(first, None, None)
    assert views.manifest(project.name) == replace(first, revision=1)


def test_of_two_concurrent_builds_one_wins_and_the_other_raises(views: Views) -> None:
    project = declare({"total": Sum("x")})
    first, second = entry(views, project, 1), entry(views, project, 1)
    assert first.batch_version != second.batch_version
    views.swap(first, None, None)
    with pytest.raises(
        AnabranchError, match=rf"another build or rollback of '{project.name}' finished first.*run it again"
    ):
        views.swap(second, None, None)
    seen = views.manifest(project.name)
    third, fourth = entry(views, project, 3), entry(views, project, 4)
    views.swap(fourth, seen, seen)
    with pytest.raises(AnabranchError, match="finished first"):
        views.swap(third, seen, seen)
    now = views.manifest(project.name)
    assert now is not None
    assert now.batch_version == 4
    assert now.previous is not None
    assert now.previous.batch_version == first.batch_version


def test_the_previous_version_is_kept_and_older_ones_are_dropped(views: Views) -> None:
    project = declare({"total": Sum("x")})
    for wanted in (1, 2, 3):
        before = views.manifest(project.name)
        views.swap(entry(views, project, wanted), before, before)
    assert tables(views, project) == {batch_table(project.name, "seen", version) for version in (2, 3)}


def test_a_table_that_a_later_version_still_uses_is_kept(views: Views) -> None:
    project = declare({"total": Sum("x")})
    views.swap(entry(views, project, 1), None, None)
    for wanted in (2, 3):
        before = views.manifest(project.name)
        assert before is not None
        views.swap(replace(before, batch_version=wanted), before, before)
    assert tables(views, project) == {batch_table(project.name, "seen", 1)}


def test_versions_of_a_project_with_a_common_prefix_are_left_alone(views: Views) -> None:
    project = declare({"total": Sum("x")})
    other = declare({"total": Sum("x")}, f"{project.name}_more")
    views.swap(entry(views, other, 1), None, None)
    for wanted in (2, 3, 4):
        before = views.manifest(project.name)
        views.swap(entry(views, project, wanted), before, before)
    assert batch_table(other.name, "seen", 1) in tables(views, project)


def test_a_version_that_failed_leaves_no_tables(views: Views) -> None:
    project = declare({"total": Sum("x")})
    version = views.new_version(project.name, 1)
    views.create_batch_table(project.name, "seen", version)
    assert tables(views, project)
    views.drop_version(project.name, ["seen"], version)
    assert not tables(views, project)


def test_rollback_exchanges_the_two_versions_and_can_be_undone(views: Views, settings: Settings) -> None:
    stores = stores_with(settings, views=views)
    project = declare({"total": Sum("x")})
    with pytest.raises(AnabranchError, match="has no previous batch version"):
        rollback(stores, project)
    for wanted in (1, 2):
        before = views.manifest(project.name)
        views.swap(entry(views, project, wanted), before, before)
        put(views, project, wanted, "k", float(wanted))
    latest = views.manifest(project.name)
    assert latest is not None
    answers = Answers(views)
    at = CUT + 3 * HOUR
    assert answers.features(project, [{"who": "k"}], at)[0].values == {"total": 2.0}
    assert rollback(stores, project).batch_version == 1
    back = answers.features(project, [{"who": "k"}], at)[0]
    assert (back.values, back.batch_version) == ({"total": 1.0}, 1)
    rollback(stores, project)
    again = views.manifest(project.name)
    assert again == replace(latest, revision=again.revision if again else 0)
    assert answers.features(project, [{"who": "k"}], at)[0].values == {"total": 2.0}


def test_a_view_whose_declaration_changed_since_the_build_is_refused(views: Views) -> None:
    project = declare({"total": Sum("x")})
    views.swap(entry(views, project, 1), None, None)
    other = declare({"total": Max("x")}, project.name)
    with pytest.raises(
        AnabranchError, match=f"declared anew since the last build: run 'anabranch build {project.name}'"
    ):
        Answers(views).features(other, [{"who": "k"}], CUT)


def test_a_missing_table_is_a_different_error_than_a_store_that_is_down(views: Views) -> None:
    project = declare({"total": Sum("x")})
    views.swap(entry(views, project, 1), None, None)
    answers = Answers(views, patience=60)
    answers.features(project, [{"who": "k"}], CUT)
    views.drop_version(project.name, ["seen"], 1)
    with pytest.raises(ViewUnavailableError, match=r"a table of view 'seen'.* is gone"):
        answers.features(project, [{"who": "k"}], CUT)


def test_a_renamed_feature_and_another_use_of_the_same_states_need_no_build(views: Views) -> None:
    project = declare({"total": Sum("x")})
    views.swap(entry(views, project, 1), None, None)
    put(views, project, 1, "k", 4.0)
    other = declare({"sum": Sum("x"), "mean": Mean("x")}, project.name)
    assert Answers(views).features(other, [{"who": "k"}], CUT + 2 * HOUR)[0].values == {
        "sum": 4.0,
        "mean": 4.0,
    }


def test_tiles_of_another_fingerprint_are_in_another_table(views: Views) -> None:
    project = declare({"total": Sum("x")})
    other = declare({"total": Sum("x", where="n > 0")}, project.name)
    for declared in (project, other, project):
        views.ensure_tiles(declared)
    one, two = tiles_table(project.name, project.views[0]), tiles_table(other.name, other.views[0])
    assert tables(views, project) == {one, two}
    assert len({one, two}) == 2
    states = np.array([[0.0] * project.views[0].layout.width])
    views.session.execute(
        f"INSERT INTO {one} (key, slot, tile_start, state) VALUES (%s, %s, %s, %s)",
        ("k", CUT, CUT, states.tobytes()),
    )
    assert views.known(project.name, project.views[0], "k", None, CUT)[1] is not None
    assert views.known(other.name, other.views[0], "k", None, CUT)[1] is None


def test_long_table_names_are_shortened_and_stay_distinct() -> None:
    project = "a_project_whose_name_is_as_long_as_it_may"
    found = {table_name(project, f"a_view_whose_name_is_long_{i}", "b1700000000") for i in range(3)}
    assert len(found) == 3
    assert all(len(name) <= 48 for name in found)


def test_tables_that_another_process_has_just_made_are_read(views: Views) -> None:
    """A worker of Spark that stays hears of new tables seconds later; its rows were those of no events."""
    worker = Views(replace(views.settings, history_ttl_days=views.settings.history_ttl_days + 1))
    assert worker.session is not views.session
    for _ in range(3):
        project = declare({"seen_count": Count()})
        views.ensure_tiles(project)
        (view,) = project.views
        part = batch_part(view, [Event(id="1", key="k", time=CUT - HOUR, arrival=CUT)], CUT)
        views.session.execute(
            f"INSERT INTO {tiles_table(project.name, view)} (key, slot, tile_start, state) "
            "VALUES (%s, %s, %s, %s)",
            ("k", CUT, CUT - HOUR, part.rows[0, 2:].astype("<f8").tobytes()),
        )
        assert Answers(worker).features(project, [{"who": "k"}], CUT)[0].values == {"seen_count": 1}


def test_an_answer_while_its_tables_are_made_is_that_of_no_events(views: Views) -> None:
    """Cassandra's own list has a table before it can be read."""
    worker = Views(replace(views.settings, history_ttl_days=views.settings.history_ttl_days + 1))
    for _ in range(6):
        project = declare({"seen_count": Count()})
        made = threading.Thread(target=views.ensure_tiles, args=(project,))
        made.start()
        while made.is_alive():
            assert Answers(worker).features(project, [{"who": "k"}], CUT)[0].values == {"seen_count": 0}
        made.join()
        assert worker.has_table(tiles_table(project.name, project.views[0]))


def test_tiles_before_the_cut_are_not_read(views: Views) -> None:
    project = declare({"seen_count": Count()})
    (view,) = project.views
    views.swap(entry(views, project, 1), None, None)
    views.ensure_tiles(project)
    cut = CUT + HOUR
    for slot in (cut - HOUR, cut):
        part = batch_part(view, [Event(id="1", key="k", time=CUT - HOUR, arrival=slot)], CUT)
        state = part.rows[0, 2:].astype("<f8").tobytes()
        table = tiles_table(project.name, view)
        views.session.execute(
            f"INSERT INTO {table} (key, slot, tile_start, state) VALUES (%s, %s, %s, %s)",
            ("k", slot, CUT - HOUR, state),
        )
    assert Answers(views).features(project, [{"who": "k"}], cut + HOUR)[0].values == {"seen_count": 1}


def current(score: float, **more: object) -> dict[str, object]:
    """A current row."""
    return {
        "key": "k",
        "score": score,
        "label": 1,
        "model_version": "1",
        "batch_version": 1,
        "layer": "speed",
        **more,
    }


def test_the_current_row_of_the_later_time_stays_whichever_is_written_last(views: Views) -> None:
    project = declare({"total": Sum("x")})
    assert views.current(project, "k") is None
    views.ensure_current(project)
    views.write_current(project.name, [current(0.5, total=2.0)], CUT + 1)
    views.write_current(project.name, [current(0.1, total=1.0)], CUT)
    assert (views.current(project, "k") or {})["score"] == 0.5
    views.write_current(project.name, [current(0.9, total=3.0)], CUT + 2)
    found = views.current(project, "k")
    assert found is not None
    assert (found["score"], found["total"]) == (0.9, 3.0)
    assert views.current(project, "never seen") is None


HISTORY = "SELECT slot, as_of, score, total FROM {} WHERE key = 'k'"


def test_history_has_the_last_current_row_of_each_slot_newest_first(views: Views) -> None:
    project = declare({"total": Sum("x")})
    views.ensure_current(project)

    def write(at: int, score: float) -> None:
        views.write_current(project.name, [current(score, total=score, as_of=from_micros(at))], at)

    def history() -> list[tuple[int, float, float]]:
        found = views.session.execute(HISTORY.format(history_table(project.name)))
        return [(to_micros(row.slot.replace(tzinfo=UTC)), row.score, row.total) for row in found]

    for at, score in ((CUT + 1, 0.5), (CUT + HOUR - 1, 0.6), (CUT + HOUR, 0.7), (CUT + 3 * HOUR + 5, 0.8)):
        write(at, score)
    expected = [(CUT + 3 * HOUR, 0.8, 0.8), (CUT + HOUR, 0.7, 0.7), (CUT, 0.6, 0.6)]
    assert history() == expected
    write(CUT + HOUR, 0.7)  # a replay
    write(CUT + 1, 0.1)  # a slow retry
    assert history() == expected
    assert (views.current(project, "k") or {})["score"] == history()[0][1]
    (left,) = views.session.execute(f"SELECT TTL(score) FROM {history_table(project.name)} LIMIT 1").one()
    assert 89 * 86_400 < left <= 90 * 86_400


def test_no_history_is_written_when_it_is_switched_off(views: Views) -> None:
    project, quiet = declare({"total": Sum("x")}), Views(replace(views.settings, history_ttl_days=0))
    quiet.ensure_current(project)
    quiet.write_current(project.name, [current(0.5, total=1.0)], CUT)
    assert not quiet.has_table(history_table(project.name))
    assert (quiet.current(project, "k") or {})["score"] == 0.5


def test_current_rows_hold_features_of_every_type(views: Views) -> None:
    features: dict[str, Aggregate] = {
        "mean": Mean("x"),
        "count": Count(),
        "last_s": Last("s"),
        "last_b": Last("b"),
        "last_day": Last("day"),
        "last_time": Max("time"),
        "sum_d": Sum("d"),
        "few_n": LastK("n", 3),
        "few_days": LastK("day", 2),
        "few_times": LastK("time", 2),
        "few_d": LastK("d", 2),
        "bins": Histogram("x", edges=(0.0, 1.0)),
    }
    project = declare(features)
    views.ensure_current(project)
    moment = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    values: dict[str, object] = {
        "mean": 0.1,
        "count": 2**53 + 1,
        "last_s": "é",
        "last_b": False,
        "last_day": date(2024, 2, 29),
        "last_time": moment,
        "sum_d": Decimal("-1.50"),
        "few_n": [2**62, -1],
        "few_days": [date(2024, 2, 29)],
        "few_times": [datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC), moment],
        "few_d": [Decimal("0.10"), Decimal("3.00")],
        "bins": [0, 1, 2],
    }
    views.write_current(project.name, [current(0.5, who="k", as_of=from_micros(CUT), **values)], CUT)
    found = views.current(project, "k")
    assert found is not None
    assert {name: found[name] for name in values} == values
    assert (found["who"], found["as_of"]) == ("k", from_micros(CUT))
    assert views.sample_features(project, list(values), 9)[0]["last_time"] == moment
    (text,) = views.session.execute(f"SELECT last_time FROM {current_table(project.name)}").one()
    assert text == "9999-12-31T23:59:59.999999Z"


def test_the_table_of_current_rows_follows_the_declaration(views: Views) -> None:
    project = declare({"total": Sum("x")})
    views.ensure_current(project)
    views.write_current(project.name, [current(0.5, total=2.0)], CUT)
    wider = declare({"total": Sum("x"), "more": Count()}, project.name)
    views.ensure_current(wider)
    kept = views.current(wider, "k")
    assert kept is not None
    assert (kept["total"], kept["more"]) == (2.0, None)
    retyped = declare({"total": Count()}, project.name)
    views.ensure_current(retyped)
    assert views.current(retyped, "k") is None
    views.write_current(project.name, [current(0.5, total=7)], CUT)
    assert (views.current(retyped, "k") or {})["total"] == 7
    assert current_table(project.name) in tables(views, project)


def test_states_that_are_larger_than_the_store_takes_are_told_by_answers(views: Views) -> None:
    project = declare({"n": Count(), "few": LastK("s", 20)})
    (view,) = project.views
    views.ensure_tiles(project)
    now = floor_to(now_micros(), HOUR)
    event = Event(id="1", key="crawler", time=now, arrival=now, s="x")
    state = tiles(view, [event]).rows.tolist()
    rows = pa.RecordBatch.from_pydict(
        {
            "piece": [0, 0],
            "key": ["crawler", "ann"],
            "slot": [now, now],
            "tile_start": [now, now],
            "events": [1, 1],
            "state": [state[0], state[0]],
            "extra": [[b"x" * (LARGEST + 1)], [as_frame(now, b"y")]],
        }
    )
    pieces = pieces_of(project.views, project.keys)
    (changed,) = tile_writer(views.settings, project, view.source, pieces)(iter([rows]))
    assert changed.column("key").to_pylist() == ["ann", "crawler"]
    known = {key: views.known(project.name, view, key, None, now + HOUR) for key in ("ann", "crawler")}
    answers = {key: merge(view, *states, now + HOUR) for key, states in known.items()}
    assert answers["ann"] == Merged({"n": 1, "few": ["y"]})
    assert answers["crawler"].values == {"n": 1, "few": []}
    assert "more than the store takes" in str(answers["crawler"].degraded)


def as_frame(time: int, value: bytes) -> bytes:
    """A text with its event time, as `LeadingTexts` keeps it."""
    stamped = (time + 2**63).to_bytes(8, "big") + value
    return len(stamped).to_bytes(4, "big") + stamped


def test_rows_of_any_size_are_written(views: Views) -> None:
    project = declare({"n": Count()})
    table = views.create_batch_table(project.name, "seen", views.new_version(project.name, 1))
    sizes = [10, 40_000, 30_000, 3_000_000, 20, 3_000_000, 36_000, 36_000]
    rows = pa.RecordBatch.from_pydict(
        {
            "key": [str(place) for place in range(len(sizes))],
            "states": pa.array([b"x" * size for size in sizes], pa.binary()),
        }
    )
    assert upsert(views.settings, table, ["key", "states"], None, [rows]) == len(sizes)
    assert views.count(table, len(sizes)) == len(sizes)
