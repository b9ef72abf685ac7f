"""Three judges, one verdict: an event is accepted by REST, by the stream and by landing, or by none."""

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from anabranch import Source
from anabranch.answers.problems import ProblemError
from anabranch.answers.requests import decode
from anabranch.events.cells import named
from anabranch.events.decoders.csv_lines import CsvDecoder
from anabranch.events.faults import find_fault, find_text_fault
from anabranch.events.judging import judge, parse
from tests.support import forms
from tests.support.drill import LONG, SEED

KINDS = {
    "tiny": "TINYINT", "small": "SMALLINT", "int": "INT", "big": "BIGINT", "float": "FLOAT",
    "double": "DOUBLE", "money": "DECIMAL(10,2)", "fine": "DECIMAL(38,18)", "whole": "DECIMAL(20,0)",
    "flag": "BOOLEAN", "day": "DATE", "moment": "TIMESTAMP", "text": "STRING", "bytes": "BINARY",
}  # fmt: skip
SCHEMA = ", ".join(f"{name} {kind}" for name, kind in KINDS.items())
SOURCE = Source(
    name="forms", topic="forms", id="id", time="at", schema=f"id STRING, at TIMESTAMP, k STRING, {SCHEMA}"
)
TYPES = {column.name: column.type for column in SOURCE.columns}
IN_KEYS = [name for name in KINDS if TYPES[name].in_keys]
KEYS = (("k",), *((name,) for name in IN_KEYS))
ARRIVAL = datetime(2024, 5, 2, tzinfo=UTC)
RAW = "value STRING, _arrival TIMESTAMP, _file STRING, _topic STRING, _partition INT, _offset BIGINT"


@pytest.mark.proof(
    "one verdict of REST, stream and landing: 4,000 drawn texts for each of a source's columns"
)
def test_every_form_of_a_value_has_one_verdict_and_one_key(spark: SparkSession) -> None:
    cases = [
        (name, token, _event(name, token))
        for token in forms.tokens(SEED, 4_000 if LONG else 60)
        for name in ("id", "at", "more", *KINDS)
    ]
    messages = {number: text for number, (_, _, text) in enumerate(cases)}
    # No file has half a surrogate pair.
    texts = [
        number
        for number, (name, token, _) in enumerate(cases)
        if name != "more" and token[0] == '"' and r'"\ud' not in token
    ]
    lines = {number: _line(cases[number][2]) for number in texts}
    by_topic, by_file = _judged(spark, messages, None), _judged(spark, lines, CsvDecoder())
    differences = []
    for number, (name, token, text) in enumerate(cases):
        reason, key = by_topic[number]
        value, refused = _asked(text, name)
        if (refused is None) != (reason is None):
            differences.append((name, token[:60], "REST", refused, "stream", reason))
        elif reason is None and name in IN_KEYS and value is not None and TYPES[name].key_text(value) != key:
            differences.append((name, token[:60], "asked for", TYPES[name].key_text(value), "stored", key))
        if number in by_file and (by_file[number][0] is None) != (reason is None):
            differences.append((name, token[:60], "landing", by_file[number][0], "stream", reason))
    assert not differences, "\n".join(map(str, [f"{len(differences)} of {len(cases)}", *differences[:40]]))
    accepted = sum(reason is None for reason, _ in by_topic.values())
    assert 0.2 * len(cases) < accepted < 0.9 * len(cases)  # the table has both


def test_a_value_at_a_path_and_in_a_struct_has_the_same_verdict_and_value(spark: SparkSession) -> None:
    given: dict[str, str] = {"name": "forms", "topic": "forms", "id": "id", "time": "at"}
    base = "id STRING, at TIMESTAMP, k STRING"
    at_paths = Source(
        **cast("Any", given), schema=f"{base}, {SCHEMA}", fields={name: f"p.{name}" for name in KINDS}
    )
    parts = SCHEMA.replace(" ", ": ").replace(",:", ",")
    in_struct = Source(**cast("Any", given), schema=f"{base}, s STRUCT<{parts}>", fields={"s": "p"})
    cases = [
        (name, token, f'{{"id": "1", "at": "2024-05-01", "k": "k", "p": {{"{name}": {token}}}}}')
        for token in forms.tokens(SEED, 1_000 if LONG else 20)
        for name in KINDS
    ]
    rows = [(text, ARRIVAL, None, "forms", 0, number) for number, (_, _, text) in enumerate(cases)]
    frame = spark.createDataFrame(rows, RAW)
    found = []
    for source, prefix in ((at_paths, ""), (in_struct, "s.")):
        values = [F.col(f"{prefix}{name}").cast("string").alias(name) for name in KINDS]
        judged = judge(source, (("k",),), parse(source, frame), 300).select("_offset", "_reason", *values)
        found.append({row["_offset"]: row for row in judged.collect()})
    differences = []
    for number, (name, token, text) in enumerate(cases):
        by_path, by_struct = found[0][number], found[1][number]
        for source, row in ((at_paths, by_path), (in_struct, by_struct)):
            refused = _refused(text, source)
            if (refused is None) != (row["_reason"] is None):
                differences.append((name, token[:60], "REST", refused, "stream", row["_reason"]))
        if (by_path["_reason"] is None) != (by_struct["_reason"] is None):
            differences.append((name, token[:60], "path", by_path["_reason"], "part", by_struct["_reason"]))
        elif by_path["_reason"] is None and by_path[name] != by_struct[name]:
            differences.append((name, token[:60], "path", by_path[name], "part", by_struct[name]))
    assert not differences, "\n".join(map(str, [f"{len(differences)} of {len(cases)}", *differences[:40]]))


def _refused(text: str, source: Source) -> str | None:
    try:
        event = decode(text.encode("utf-8", "surrogatepass"), exact=True)
    except ProblemError as problem:
        return problem.detail
    fault = find_fault(event, source, (("k",),), int(ARRIVAL.timestamp()) * 1_000_000 + 300_000_000)
    return None if fault is None else fault.reason


def _event(name: str, token: str) -> str:
    """An event with the value at one of its columns; one that can be a key is the only key."""
    given = {"id": '"1"', "at": '"2024-05-01"', **({} if name in IN_KEYS else {"k": '"k"'}), name: token}
    return "{" + ", ".join(f'"{column}": {value}' for column, value in given.items()) + "}"


def _asked(text: str, name: str) -> tuple[object, str | None]:
    """The value as REST decodes it, and why REST refuses the event."""
    try:
        event = decode(text.encode("utf-8", "surrogatepass"), exact=True)
    except ProblemError as problem:
        return None, problem.detail
    assert isinstance(event, dict)
    latest = int(ARRIVAL.timestamp()) * 1_000_000 + 300_000_000
    fault = find_fault(event, SOURCE, KEYS, latest) or find_text_fault(
        text.encode("utf-8", "surrogatepass"), SOURCE
    )
    return event[name], None if fault is None else fault.reason


def _line(text: str) -> str:
    event, line = json.loads(text), io.StringIO()
    csv.writer(line, lineterminator="", quoting=csv.QUOTE_ALL).writerow([event.get(name) for name in TYPES])
    return line.getvalue()


def _judged(
    spark: SparkSession, texts: dict[int, str], decoder: CsvDecoder | None
) -> dict[int, tuple[str | None, str | None]]:
    """The reason against each event and, of the column that is its key, the text in the lake."""
    rows = [(text, ARRIVAL, None, "forms", 0, number) for number, text in texts.items()]
    events = judge(SOURCE, KEYS, parse(SOURCE, spark.createDataFrame(rows, RAW), decoder), 300)
    key = F.coalesce(*[named(name).cast("string") for name in IN_KEYS])
    found = events.select("_offset", "_reason", key.alias("key")).collect()
    return {row["_offset"]: (row["_reason"], row["key"]) for row in found}
