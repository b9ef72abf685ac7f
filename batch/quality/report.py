"""A load's report of the quality gate, as an HTML page and as JSON."""

import json
from dataclasses import asdict, dataclass

from anabranch.pages.rendering import render


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An expectation and its result. `decides` is false where a failure only sends rows to quarantine."""

    type: str
    column: str
    expected: str
    severity: str
    notes: str
    met: bool
    decides: bool
    observed: str
    unexpected: int | None
    samples: tuple[str, ...]

    @property
    def said(self) -> str:
        """What is not as expected, when it is not met."""
        return f"{self.column or 'the number of rows'} is not {self.expected}"


@dataclass(frozen=True, kw_only=True)
class QuarantinedRows:
    """Rows that went to quarantine for one kind of reason, and one of them."""

    kind: str
    count: int
    reason: str
    raw: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the gate found of one load."""

    project: str
    source: str
    load: str
    arrival: str
    rows: int
    bad: int
    verdict: str
    faults: tuple[str, ...]
    suite: str
    outcomes: tuple[Outcome, ...]
    groups: tuple[QuarantinedRows, ...]


def as_json(report: Report) -> str:
    """The report as JSON, as the listing of reports reads it."""
    return json.dumps(asdict(report), ensure_ascii=False, indent=1) + "\n"


def as_html(report: Report) -> str:
    """The report as a page: no script, no picture, and no other file needed."""
    return render("quality_report.html", report=report)
