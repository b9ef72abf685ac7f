"""Publishing of files: every row is sent, and rows that REST would refuse are counted; the bus is a list."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from anabranch.aggregates.counting import Count
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureView
from anabranch.errors import AnabranchError
from anabranch.progress import Silent
from anabranch.stores.kafka.bus import Bus
from anabranch.values.times import parse_time
from batch.landing import publishing
from batch.landing.event_files import find_files
from batch.landing.publishing import Published, publish_file
from tests.support.serving_fakes import Topics

SCHEMA = "id STRING, cart STRING, at TIMESTAMP, quantity INT, price DECIMAL(20,4)"
LINES = Source(name="lines", topic="lines", id="id", time="at", schema=SCHEMA)
VIEW = FeatureView(name="all", source=LINES, key="cart", features={"lines": Count()})
CARTS = Project(name="carts", views=(VIEW,))
NOW = parse_time("2024-05-02T00:00:00Z")


def published(file: Path, topics: Topics) -> Published:
    return publish_file(cast("Bus", topics), CARTS, "lines", file, Silent(), NOW)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "2", "cart": "a", "at": "2024-05-01", "quantity": "many"}', "quantity: 'many'"),
        (b'{"id": "2", "at": "2024-05-01"}', "cart is missing: an event needs its key"),
        (b'{"id": "2", "cart": "a", "at": "2024-05-03"}', "at: '2024-05-03' is in the future"),
        (b'{"id": "2", "cart": "a", "at": "2024-05-01", "quantity": NaN}', "quantity: NaN and infinities"),
        (b'["no", "object"]', "an event is a JSON object, not"),
        (b'{"id":', "it is not JSON: "),
        (b'{"id": "\\ud800"}', "it has half of a surrogate pair"),
        (b"\xff", "it is not JSON: "),
    ],
)
def test_a_row_that_rest_would_refuse_is_published_and_told(tmp_path: Path, line: bytes, reason: str) -> None:
    good = b'{"id": "1", "cart": "a", "at": "2024-05-01", "price": 1234567890123456.7891}'
    file, topics = tmp_path / "lines.jsonl", Topics()
    file.write_bytes(b"\n".join((good, b"", line, line, good)))
    found = published(file, topics)
    assert (found.events, found.faulty) == (4, 2)
    assert (found.first_fault or "").startswith(f"line 3: {reason}"), found.first_fault
    assert [text for _, text in topics.messages["lines"]] == [good, line, line, good]
    assert topics.messages["lines"][0][0] == b"a"


def test_a_row_of_csv_with_another_number_of_cells_is_told(tmp_path: Path) -> None:
    file, topics = tmp_path / "lines.csv", Topics()
    file.write_bytes(b"id,cart,at,quantity,price\n1,a,2024-05-01,,2.5\n2,a,2024-05-01\n3,\xff,2024-05-01,,\n")
    found = published(file, topics)
    assert (found.events, found.faulty) == (3, 2)
    assert found.first_fault == "line 3: 3 cells, where the header has 5"
    first = json.loads(topics.messages["lines"][0][1])
    assert (first["cart"], first["quantity"], first["price"]) == ("a", None, "2.5")


def test_a_file_that_is_gone_before_it_is_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lines.jsonl").write_text("{}\n")

    def gone(path: str) -> Iterator[str]:
        Path(path).unlink()
        return iter(Path(path).open(encoding="utf-8"))

    monkeypatch.setattr(publishing, "open_text", gone)
    with pytest.raises(AnabranchError, match=re.escape("lines.jsonl cannot be read to its end")):
        published(tmp_path, Topics())


def test_a_file_that_goes_while_its_folder_is_listed_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("{}\n")
    stat = Path.stat

    def going(path: Path, **how: bool) -> os.stat_result:
        found = stat(path, **how)
        if path.name == "a.jsonl" and how.get("follow_symlinks", True):
            path.unlink(missing_ok=True)  # it is a file when asked for the first time, and gone then
        return found

    monkeypatch.setattr(Path, "stat", going)
    assert [each.name for each in find_files([str(tmp_path)], None)] == ["b.jsonl"]


def test_what_has_no_other_form_is_published_as_it_came(tmp_path: Path) -> None:
    file, topics = tmp_path / "lines.jsonl", Topics()
    lines = (b'{"id": "1", "at": "2024-05-01", "cart": "a", "quantity": 2}', b'{"quantity": NaN}')
    file.write_bytes(b"\n".join(lines))
    source = replace(LINES, format="csv")
    project = replace(CARTS, views=(replace(VIEW, source=source),))
    found = publish_file(cast("Bus", topics), project, "lines", file, Silent(), NOW)
    assert (found.events, found.faulty) == (2, 1)
    assert [text for _, text in topics.messages["lines"]] == [b"1,a,2024-05-01,2,", lines[1]]
