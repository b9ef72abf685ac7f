"""Where the schemas of messages lie, and declarations of them that cannot be."""

from pathlib import Path

import pytest

from anabranch import Source
from anabranch.declare.loading import load_project
from anabranch.errors import DeclarationError

PROJECT = """
from anabranch import Count, FeatureView, Project, Source
SCHEMA = "id STRING, at TIMESTAMP"
sales = Source(name="sales", id="id", time="at", schema=SCHEMA, format="avro", wire_schema="schemas/a.avsc")
view = FeatureView(name="by_id", source=sales, key="id", features={{"n": Count()}})
project = Project(name="{name}", views=(view,))
"""


def declared(form: str, wire_schema: str | None) -> Source:
    return Source(
        name="s", id="id", time="at", schema="id STRING, at TIMESTAMP", format=form, wire_schema=wire_schema
    )


def test_a_schema_lies_where_the_module_of_its_project_does(tmp_path: Path) -> None:
    for folder in (tmp_path / "first", tmp_path / "second"):
        (folder / "schemas").mkdir(parents=True)
        (folder / "schemas" / "a.avsc").write_text("{}")
        (folder / f"{folder.name}.py").write_text(PROJECT.format(name=folder.name))
        source = load_project(folder.name, (folder,)).sources["sales"]
        assert source.wire_schema == str(folder / "schemas" / "a.avsc")


@pytest.mark.parametrize(
    ("form", "wire_schema", "reason"),
    [
        ("json", "a.avsc", "messages of the format 'json' have no schema: leave `wire_schema` out"),
        ("avro", "nowhere.avsc", "'nowhere.avsc' is not found"),
        ("protobuf", "a.desc", "names no file and message: write 'path.desc:package.Message'"),
        ("protobuf", "a.desc:not a name", "names no file and message"),
        ("debezium", "weeks", "'weeks' is not found"),
    ],
)
def test_a_schema_that_cannot_be_is_an_error_of_the_declaration(
    form: str, wire_schema: str, reason: str
) -> None:
    with pytest.raises(DeclarationError, match=reason):
        declared(form, wire_schema)


def test_debezium_takes_a_unit_of_times_for_a_schema() -> None:
    assert declared("debezium", "micros").wire_schema == "micros"
