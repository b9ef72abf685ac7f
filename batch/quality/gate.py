"""The quality gate: a load is measured in the pass that reads it and judged before any of it becomes visible.

Landing asks for a `LoadCheck`, lets Spark compute its measures over the judged rows while it writes them
where nobody reads, and hands the numbers back. Great Expectations then judges numbers, not rows: it takes
milliseconds for a load of any size. It is imported here and nowhere else, without a data context: so it
writes no file, asks no server, sends nothing.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError
from anabranch.events.conditions import measured, measures
from anabranch.events.expectations import Expectation, Suite
from anabranch.settings import QualitySettings
from anabranch.stores.files.filesystems import file_names, read_text, write_text
from anabranch.stores.lake.lake import Lake
from anabranch.values.times import from_micros, parse_time
from batch.quality.reasons import kind
from batch.quality.report import Outcome, QuarantinedRows, Report, as_html, as_json

log = logging.getLogger(__name__)
_GROUPS = 20
_SHOWN = 300  # characters of a reason in a message
_FORMAT = {"result_format": "BASIC", "partial_unexpected_count": 3}


class RefusedLoadError(AnabranchError):
    """A load that is not good enough to land; nothing of it was landed."""


@dataclass(frozen=True, kw_only=True)
class LoadVerdict:
    """The gate's verdict on a load that may land: its report, and the expectations that were not met."""

    report: str
    rows: int
    bad: int
    unmet: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class QualityGate:
    """The gate of a project; `suites` by source. With `settings.mode` ``off`` a project has no gate."""

    project: Project
    settings: QualitySettings
    suites: Mapping[str, Suite]

    def suite(self, source: Source) -> Suite:
        """The suite of a source; its rules judge rows (anabranch/events/judging.py)."""
        return self.suites[source.name]

    def check(self, source: Source) -> "LoadCheck":
        """A check of one load of the source."""
        return LoadCheck(gate=self, source=source)


@dataclass(frozen=True, kw_only=True)
class LoadCheck:
    """One load at the gate: first measured, then closed."""

    gate: QualityGate
    source: Source

    @property
    def measures(self) -> tuple[Column, ...]:
        """Aggregates over the judged rows, for `DataFrame.observe`; `close` takes their values."""
        place = {
            "first": F.min("_file"), "last": F.max("_file"), "topic": F.max("_topic"),
            "arrival": F.max("_arrival"), "begin": F.min("_offset"), "end": F.max("_offset"),
        }  # fmt: skip
        return (
            *measures(self.gate.suite(self.source)),
            *(column.alias(f"load_{name}") for name, column in place.items()),
        )

    def close(
        self, spark: SparkSession, lake: Lake, found: Mapping[str, Any], bad: DataFrame | None = None
    ) -> LoadVerdict:
        """Judge the load by its measures and keep the report; raises RefusedLoadError when it is not to land.

        `bad`: its bad rows, where reading them again is cheap, for examples in the report.
        """
        suite, settings = self.gate.suite(self.source), self.gate.settings
        outcomes = judge_measures(suite, found)
        groups = () if bad is None or not found["bad"] else _groups(bad)
        faults = _faults(outcomes, found["rows"], found["bad"], settings.refuse_above, groups)
        unmet = tuple(each.said for each in outcomes if not each.met)
        mode = settings.topic_mode if found["load_topic"] else settings.mode
        report = Report(
            project=self.gate.project.name,
            source=self.source.name,
            load=_load_name(found),
            arrival=_arrival(found).isoformat(timespec="seconds"),
            rows=found["rows"],
            bad=found["bad"],
            verdict="refused"
            if faults and mode == "refuse"
            else "accepted with warnings"
            if faults or unmet
            else "accepted",
            faults=tuple(faults),
            suite=suite.origin,
            outcomes=tuple(outcomes),
            groups=groups,
        )
        path = f"{lake.reports(self.gate.project, self.source)}/{_file_name(found, report)}"
        write_text(spark, f"{path}.json", as_json(report))
        write_text(spark, f"{path}.html", as_html(report))
        log.info(
            "gate project=%s source=%s load=%s rows=%d bad=%d %s",
            report.project,
            report.source,
            report.load,
            report.rows,
            report.bad,
            report.verdict,
        )
        if report.verdict == "refused":
            raise RefusedLoadError(
                f"{report.load} is refused: {'; '.join(faults)}; nothing of it was landed (see {path}.html): "
                f"correct it, or the suite ('anabranch quality {report.project} {self.source.name}'), "
                "or land it all the same with ANABRANCH__QUALITY__MODE=warn"
            )
        return LoadVerdict(report=f"{path}.html", rows=report.rows, bad=report.bad, unmet=(*faults, *unmet))


def reports(spark: SparkSession, lake: Lake, project: Project, most: int) -> list[dict[str, Any]]:
    """The newest reports of every source, newest first: the fields of `Report`, and its page as `report`."""
    found = []
    for source in project.sources.values():
        folder = lake.reports(project, source)
        names = [name for name in file_names(spark, folder) if name.endswith(".json")][-most:]
        found += [
            json.loads(read_text(spark, f"{folder}/{name}"))
            | {"report": f"{folder}/{name.removesuffix('.json')}.html"}
            for name in names
        ]
    return sorted(found, key=lambda each: str(each["arrival"]), reverse=True)[:most]


def _faults(
    outcomes: Sequence[Outcome], rows: int, bad: int, most: float, groups: Sequence[QuarantinedRows]
) -> list[str]:
    """The reasons for which a load should not land."""
    found = []
    if rows and bad / rows > most:
        share = f"{bad:,} of {rows:,} rows ({100 * bad / rows:.1f}%) are bad, at most {100 * most:g}% may be"
        most_often = f" (most often: {groups[0].reason[:_SHOWN]})" if groups else ""
        found.append(share + most_often)
    return found + [
        f"{each.said}: {each.observed}"
        for each in outcomes
        if each.severity == "critical" and not each.met and each.decides
    ]


@contextmanager
def _without_connect() -> Iterator[None]:
    """Hide Spark's client for remote servers from imports.

    It ends a process that runs `python -c` when its own packages are missing, and is not needed here.
    """
    name = "pyspark.sql.connect"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment] # so that its import fails
    try:
        yield
    finally:
        del sys.modules[name]


def judge_measures(suite: Suite, found: Mapping[str, Any]) -> list[Outcome]:
    """Great Expectations' verdict on the measures of a load (events/conditions.py), by expectation."""
    with _without_connect():
        from great_expectations.expectations import core

    outcomes = []
    for number, each in enumerate(suite.expectations):
        values = measured(suite, found, number)
        kwargs = {name: _moment(each, value) for name, value in each.kwargs.items()}
        asked = getattr(core, "".join(word.capitalize() for word in each.type.split("_")))(**kwargs)
        needed = asked.get_validation_dependencies(
            runtime_configuration={"result_format": _FORMAT}
        ).metric_configurations
        metrics = {needed[name].id: _metric(name, found["rows"], values) for name in needed}
        judged = asked.metrics_validate(metrics, runtime_configuration={"result_format": _FORMAT})
        outcomes.append(_outcome(each, judged, values))
    return outcomes


def _metric(name: str, rows: int, values: Mapping[str, Any]) -> object:
    """The value of Great Expectations' metric `name`."""
    known = rows - values.get("missing", 0)
    if name == "table.row_count":
        return rows
    if name.startswith("column_values.nonnull."):
        return _samples(values) if name.endswith("values") else values["missing"]
    if name.endswith(".unexpected_count"):
        return values["unexpected"]
    if name.endswith(".unexpected_values"):
        return _samples(values)
    if name.endswith(".filtered_row_count"):
        return known
    if name == "column.non_null_proportion":
        return known / rows if rows else None
    value = _plain(values["value"])
    # The number of different values is an estimate, and may pass what there can be.
    if name == "column.distinct_values.count":
        return min(value, known)
    return value if name != "column.unique_proportion" else min(value / known, 1.0) if known else None


def _samples(values: Mapping[str, Any]) -> list[str]:
    return [
        text
        for text in dict.fromkeys(values.get(name) for name in ("low", "other", "high"))
        if text is not None
    ]


def _plain(value: Any) -> Any:
    """A measured value as Great Expectations compares it: times with a zone, decimals as floats."""
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    return float(value) if isinstance(value, Decimal) else value


def _moment(each: Expectation, value: object) -> object:
    """A bound that is a time as a time: the suite has it as text."""
    return (
        from_micros(parse_time(value))
        if isinstance(value, str) and "_between" in each.type and value not in each.columns
        else value
    )


def _outcome(each: Expectation, judged: Any, values: Mapping[str, Any]) -> Outcome:
    result = judged.result
    observed, unexpected = result.get("observed_value"), result.get("unexpected_count")
    if each.about_rows:
        share = result.get("unexpected_percent") or 0.0
        told = "all" if not unexpected else f"{unexpected:,} rows are not ({share:.3g}%)"
    else:
        told = (
            "no value"
            if observed is None
            else observed.isoformat()
            if isinstance(observed, datetime)
            else f"{observed:,.6g}"
        )
    return Outcome(
        type=each.type,
        column=next(iter(each.columns), ""),
        expected=each.words,
        severity=each.severity,
        notes=each.notes,
        met=bool(judged.success),
        decides=not each.about_rows or "mostly" in each.kwargs,
        observed=told,
        unexpected=unexpected,
        samples=tuple(_samples(values)),
    )


def _groups(bad: DataFrame) -> tuple[QuarantinedRows, ...]:
    one = F.min(
        F.struct(F.col("_reason").alias("reason"), F.left(F.make_valid_utf8("_raw"), F.lit(200)).alias("raw"))
    ).alias("one")
    found = bad.groupBy(kind(F.col("_reason")).alias("kind")).agg(F.count(F.lit(1)).alias("count"), one)
    rows = found.orderBy(F.desc("count"), "kind").limit(_GROUPS).collect()
    return tuple(
        QuarantinedRows(
            kind=row["kind"], count=row["count"], reason=row["one"]["reason"], raw=row["one"]["raw"] or ""
        )
        for row in rows
    )


def _arrival(found: Mapping[str, Any]) -> datetime:
    arrival = found["load_arrival"]
    return datetime.fromtimestamp(0, UTC) if arrival is None else arrival.astimezone(UTC)


def _load_name(found: Mapping[str, Any]) -> str:
    if found["load_topic"]:
        return f"topic {found['load_topic']}, offsets {found['load_begin']} to {found['load_end']}"
    first, last = found["load_first"], found["load_last"]
    return "a load without rows" if first is None else str(first) if first == last else f"{first} to {last}"


def _file_name(found: Mapping[str, Any], report: Report) -> str:
    """The name of a report's file, which a load that is repeated overwrites.

    Micro-batches without a fault share one file a day, since a topic never ends.
    """
    day = _arrival(found).strftime("%Y%m%d")
    if found["load_topic"] and report.verdict == "accepted":
        return f"{day}T-accepted"
    return (
        f"{_arrival(found).strftime('%Y%m%dT%H%M%S')}-{hashlib.sha256(report.load.encode()).hexdigest()[:10]}"
    )
