"""The progress of a stream: Spark's own read into figures, shown as a line for people and as gauges."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pyspark.sql.streaming.listener import StreamingQueryProgress

from anabranch.stores.queries import SupervisedQuery
from anabranch.values.times import to_micros
from speed.progress import Meter, Snapshot, StreamMetrics, Stretch
from speed.streams import _MeasuredQuery
from tests.conftest import free_ports

# As Spark 4.2 writes the progress of a query of a topic with two partitions, with fewer custom metrics.
RECORDED = """{
  "id": "1f6c6b7e-0ad2-4a5b-9c0e-2a3f1b7f6f11",
  "runId": "5a0c9d1e-53fd-4e64-8a93-1f8c8f0c1a01", "name": "pumps.readings",
  "timestamp": "2026-11-21T12:00:10.000Z", "batchId": 0, "batchDuration": 1480, "numInputRows": 60,
  "inputRowsPerSecond": 40.5, "processedRowsPerSecond": 40.54,
  "durationMs": {"addBatch": 1210, "commitBatch": 31, "commitOffsets": 33, "getBatch": 1, "latestOffset": 9,
                 "queryPlanning": 170, "triggerExecution": 1480, "walCommit": 35},
  "eventTime": {"avg": "2026-11-21T12:00:04.500Z", "max": "2026-11-21T12:00:09.000Z",
                "min": "2026-11-21T12:00:00.000Z", "watermark": "1970-01-01T00:00:00.000Z"},
  "stateOperators": [
    {"operatorName": "stateStoreSave", "numRowsTotal": 24, "numRowsUpdated": 24,
     "allUpdatesTimeMs": 12, "numRowsRemoved": 0, "allRemovalsTimeMs": 0,
     "commitTimeMs": 90, "memoryUsedBytes": 70000, "numRowsDroppedByWatermark": 0,
     "numShufflePartitions": 2, "numStateStoreInstances": 2,
     "customMetrics": {"rocksdbBytesCopied": 4100, "rocksdbCommitFlushLatency": 22}},
    {"operatorName": "dedupeWithinWatermark", "numRowsTotal": 55, "numRowsUpdated": 55,
     "allUpdatesTimeMs": 9, "numRowsRemoved": 0, "allRemovalsTimeMs": 0,
     "commitTimeMs": 80, "memoryUsedBytes": 60000, "numRowsDroppedByWatermark": 0,
     "numShufflePartitions": 2, "numStateStoreInstances": 2,
     "customMetrics": {"numDroppedDuplicateRows": 5, "rocksdbBytesCopied": 3900}}],
  "sources": [
    {"description": "DeltaSource[file:/lake/pumps]", "startOffset": null, "endOffset": null,
     "latestOffset": null, "numInputRows": 7,
     "inputRowsPerSecond": 0.0, "processedRowsPerSecond": 0.0, "metrics": {}},
    {"description": "KafkaV2[Subscribe[readings]]", "startOffset": null,
     "endOffset": {"readings": {"0": 40, "1": 20}},
     "latestOffset": {"readings": {"0": 40, "1": 20}}, "numInputRows": 60, "inputRowsPerSecond": 40.5,
     "processedRowsPerSecond": 40.54,
     "metrics": {"avgOffsetsBehindLatest": "0.0",
     "maxOffsetsBehindLatest": "0", "minOffsetsBehindLatest": "0"}}],
  "sink": {"description": "ForeachBatchSink", "numOutputRows": -1}
}"""
SLOT = 3600


def progress(
    number: int = 0, rows: int = 60, ends: Mapping[str, int] | None = None, **changed: Any
) -> StreamingQueryProgress:
    """One more micro-batch like the recorded one."""
    found = json.loads(RECORDED) | {"batchId": number, "numInputRows": rows} | changed
    found["sources"][1] |= {"numInputRows": rows, "endOffset": {"readings": ends or {"0": 40, "1": 20}}}
    return StreamingQueryProgress.fromJson(found)


def idle(number: int) -> StreamingQueryProgress:
    """What Spark says now and then of a query that finds nothing new: nothing was added."""
    return progress(number, rows=0, durationMs={"latestOffset": 3, "triggerExecution": 3}, stateOperators=[])


def meter(*queries: list[StreamingQueryProgress]) -> Meter:
    """A meter that read each query twice, as it is while little happens."""
    found = Meter(SLOT)
    for recent in queries:
        for _ in range(2):
            found.read(SimpleNamespace(recentProgress=recent))  # type: ignore[arg-type]
    return found


def test_each_micro_batch_counts_once_and_an_empty_one_not_at_all() -> None:
    found = meter([progress(0), idle(1), progress(1, rows=30, ends={"0": 60, "1": 30}), idle(2)])
    assert (found.events, found.offsets) == (90, {0: 60, 1: 30})
    assert (found.seconds, found.state) == (1.48, (79, 130_000))


def test_counting_goes_on_over_a_restart() -> None:
    again = "0d9f5c35-1b8f-4c7e-b5f7-7d1c3f1f9b02"
    # A failed micro-batch is repeated under its number; partitions that it does not name keep their offsets.
    found = meter(
        [progress(0), progress(1, rows=30, ends={"0": 70})],
        [progress(1, rows=35, ends={"0": 75}, runId=again)],
    )
    assert (found.events, found.offsets) == (125, {0: 75, 1: 20})


def test_a_meter_keeps_what_may_be_in_neither_batch_nor_tiles() -> None:
    operators = json.loads(RECORDED)["stateOperators"]
    late: dict[str, Any] = {"stateOperators": [operators[0] | {"numRowsDroppedByWatermark": 2}]}
    ahead: dict[str, Any] = {"eventTime": {}, "observedMetrics": {"ahead": {"until": 7_000_000}}}
    found = meter([progress(0), idle(1), progress(1, **late), progress(2, **ahead)])
    ends = {0: 40, 1: 20}
    noon = to_micros(datetime(2026, 11, 21, 12, tzinfo=UTC))
    assert list(found.unseen) == [
        Stretch(starts={}, ends=ends, earliest=noon),
        Stretch(starts={}, ends=ends, earliest=noon, dropped=2),
        Stretch(starts={}, ends=ends, ahead=7_000_000),
    ]


@pytest.mark.parametrize(
    ("topic_ids", "whole", "again"),
    [
        (["a", "a"], True, False),
        (["a", "b"], True, True),
        (["a", "a"], False, True),
    ],
)
def test_a_query_starts_again_when_its_topic_or_its_tiles_were_deleted(
    topic_ids: list[str], whole: bool, again: bool
) -> None:
    layer: Any = SimpleNamespace(
        stores=SimpleNamespace(views=SimpleNamespace(lacking_tiles=lambda *_: set() if whole else {"tiles"}))
    )
    stopped: list[str] = []
    query: Any = SimpleNamespace(stop=lambda: stopped.append("stopped"))
    supervised = SupervisedQuery(name="pumps.readings", begin=lambda: query, query=query)
    project: Any = SimpleNamespace(name="pumps")
    measured = _MeasuredQuery(project, "readings", "readings", supervised, meter([progress(0)]))
    feed: Any = SimpleNamespace(project=project, source=SimpleNamespace(name="readings"))
    measured.feed = feed
    for topic_id in topic_ids:
        measured.look(layer, topic_id)
    assert (stopped, supervised.query) == ((["stopped"], None) if again else ([], query))
    assert measured.meter.offsets == ({} if again else {0: 40, 1: 20})


def test_a_meter_that_read_nothing_shows_nothing() -> None:
    found = meter([idle(0)])
    assert (found.events, found.offsets, found.seconds, found.state, found.open_slots) == (
        0,
        {},
        0.0,
        (0, 0),
        0,
    )


def test_slots_are_open_from_the_watermark_to_the_newest_event() -> None:
    times = {"max": "2026-11-21T12:00:09.000Z", "watermark": "2026-11-21T10:59:59.000Z"}
    assert meter([progress(eventTime=times)]).open_slots == 3
    assert meter([progress(eventTime=times | {"watermark": "2026-11-21T12:00:00.000Z"})]).open_slots == 1
    # Before the first event there is no watermark.
    assert meter([progress()]).open_slots == 1


SHOWN = Snapshot(
    project="pumps",
    source="readings",
    events=12_345,
    events_per_second=1999.6,
    lag={1: 0, 0: 1200},
    state_rows=79_000,
    state_bytes=3 * 2**20,
    open_slots=2,
    seconds=1.48,
    restarts=3,
)


def test_a_snapshot_is_shown_as_a_line() -> None:
    state = "state 79,000 rows 3.0 MiB  open slots 2  micro-batch 1.48 s"
    line = f"pumps.readings  12,345 events, 2,000/s  lag 0:1,200 1:0  {state}"
    assert SHOWN.line() == line
    waiting, failed = replace(SHOWN, running=False), replace(SHOWN, running=False, failure="[DIVIDE_BY_ZERO]")
    assert waiting.line() == f"{line}  WAITING for a server"
    assert failed.line() == f"{line}  FAILED: [DIVIDE_BY_ZERO]"
    asked = Snapshot(project="pumps", source="score-requests", unit="requests", events=2)
    assert asked.line() == "pumps.score-requests  2 requests, 0/s  lag unknown  micro-batch 0.00 s"


def test_every_figure_is_shown_to_prometheus_as_it_now_is() -> None:
    (port,) = free_ports(1)
    metrics = StreamMetrics(port)
    try:
        metrics.show(
            [
                replace(SHOWN, events=1, lag={0: 9, 1: 9}),
                replace(SHOWN, source="marks", running=False, failure="why"),
            ]
        )
        metrics.show([SHOWN])
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    finally:
        metrics.close()
    found = {
        (
            sample.labels["source"],
            sample.name.removeprefix("anabranch_stream_") + sample.labels.get("partition", ""),
        ): sample.value
        for family in families
        for sample in family.samples
        if sample.labels.get("project") == "pumps"
    }
    figures = {
        "running": 1,
        "failed": 0,
        "events": 12_345,
        "events_per_second": 1999.6,
        "state_rows": 79_000,
        "state_bytes": 3 * 2**20,
    }
    figures |= {"open_slots": 2, "seconds": 1.48, "restarts": 3, "lag0": 1200, "lag1": 0}
    figures |= {"behind": 0, "lost": 0}  # of a relay
    assert {name: value for (source, name), value in found.items() if source == "readings"} == figures
    assert (found["marks", "running"], found["marks", "failed"]) == (0, 1)
