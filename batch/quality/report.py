"""A load's report of the quality gate, for people as one page of HTML that needs nothing else, and as JSON."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from html import escape

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid #8885; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } code { overflow-wrap: anywhere; white-space: pre-wrap; }
.verdict { padding: .6rem 1rem; border-left: .4rem solid #2a7d4f; background: #2a7d4f22; }
.verdict.refused { border-color: #b3261e; background: #b3261e22; } .verdict.warned { border-color: #a86400; background: #a8640022; }
.no { color: #b3261e; font-weight: 600; } .note { color: #777; font-size: .9rem; }
@media (prefers-color-scheme: dark) { .no { color: #ff8a80; } }
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One expectation and what was found; `decides`: may it refuse a load, or does it only send rows to quarantine?"""

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
    """The report as a page: no script, no picture, no address but its own text."""
    title = f"{report.project}.{report.source}: a load {escape(report.verdict)}"
    share = f" ({100 * report.bad / report.rows:.3g}%)" if report.rows else ""
    colour = {"accepted": "", "refused": " refused"}.get(report.verdict, " warned")
    faults = "".join(f"<li>{escape(fault)}</li>" for fault in report.faults)
    facts = [
        ("load", f"<code>{escape(report.load)}</code>"), ("arrival", escape(report.arrival)), ("rows", f"{report.rows:,}"),
        ("good", f"{report.rows - report.bad:,}"), ("to quarantine", f"{report.bad:,}{share}"), ("suite", f"<code>{escape(report.suite)}</code>"),
    ]  # fmt: skip
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n"
        f'<div class="verdict{colour}"><strong>{escape(report.verdict)}</strong>{f"<ul>{faults}</ul>" if faults else ""}</div>\n'
        f"<h2>The load</h2>\n<table>{''.join(f'<tr><th scope=row>{name}</th><td>{value}</td></tr>' for name, value in facts)}</table>\n"
        f"<h2>Expectations</h2>\n{_table(('', 'column', 'expected', 'found', 'values that fail', 'severity'), map(_expectation, report.outcomes))}\n"
        f"{_quarantined(report.groups)}</body>\n</html>\n"
    )


def _expectation(each: Outcome) -> tuple[str, ...]:
    note = f'<div class="note">{escape(each.notes)}</div>' if each.notes else ""
    samples = ", ".join(f"<code>{escape(text)}</code>" for text in each.samples) if each.unexpected else ""
    met = "met" if each.met else '<span class="no">not met</span>'
    return (
        met,
        escape(each.column) or "(rows)",
        escape(each.expected) + note,
        escape(each.observed),
        samples,
        each.severity,
    )


def _quarantined(groups: tuple[QuarantinedRows, ...]) -> str:
    if not groups:
        return ""
    rows = [
        (f"{each.count:,}", escape(each.kind), f"{escape(each.reason)}<br><code>{escape(each.raw)}</code>")
        for each in groups
    ]
    return f"<h2>Rows in quarantine</h2>\n{_table(('rows', 'reason', 'an example'), rows)}\n"


def _table(heads: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    head = "".join(f"<th scope=col>{name}</th>" for name in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"
