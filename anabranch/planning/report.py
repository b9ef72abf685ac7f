"""A plan for people: tables for the terminal, Markdown for a pull request, and a page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.pages.formats import plain
from anabranch.pages.rendering import render
from anabranch.planning.changes import CHANGES, COMES, GOES, RENAMED
from anabranch.planning.plans import ChangePlan
from anabranch.planning.values import Side, ValueChange
from anabranch.planning.views import ANEW, ViewPlan, duration, told
from anabranch.planning.views import GOES as VIEW_GOES
from anabranch.values.times import format_time

_BLOCKS = "·▁▂▃▄▅▆▇█"
_SIGNS = {COMES: "+", GOES: "-", CHANGES: "~", RENAMED: "→"}
Cell = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class PlanTable:
    """A titled table of a plan."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def tables(plan: ChangePlan) -> Iterator[PlanTable]:
    """The tables of a plan that have rows."""
    found = (
        _features(plan),
        _declaration(plan),
        _views(plan),
        _values(plan),
        _examples(plan),
        _champion(plan),
    )
    return (each for each in found if each.rows)


def summary(plan: ChangePlan) -> str:
    """What changes, in one sentence."""
    return told(plan.project, plan.against, plan.changes, plan.views)


def lines(plan: ChangePlan) -> list[str]:
    """Sentences below the tables: what is in the way, borrowers, and what could not be told."""
    refused = [f"{plan.refused} of the sampled events would now go to quarantine"] if plan.refused else []
    obstacles = [f"a build will fail: {each}" for each in plan.obstacles]
    return [*obstacles, *refused, *plan.borrowers, *(f"not told: {note}" for note in plan.notes)]


def bars(counts: Sequence[int]) -> str:
    """Counts as a row of blocks."""
    most = max(counts, default=0) or 1
    return "".join(_BLOCKS[0 if not one else max(1, round(8 * one / most))] for one in counts)


def _features(plan: ChangePlan) -> PlanTable:
    found = () if plan.changes is None else plan.changes.features
    rows = [(_SIGNS[one.kind], one.name, one.kind, one.text) for one in found]
    return PlanTable(title="Features", heads=("", "feature", "", "what"), rows=rows)


def _declaration(plan: ChangePlan) -> PlanTable:
    found = () if plan.changes is None else plan.changes.others
    rows = [(_SIGNS[one.kind], one.what, one.name, one.text or one.kind) for one in found]
    return PlanTable(title="Sources, label and model", heads=("", "part", "name", "what"), rows=rows)


def _views(plan: ChangePlan) -> PlanTable:
    heads = (
        "view",
        "becomes",
        "events to read",
        "time",
        "bytes of a state, at most",
        "of a key",
        "keys",
        "tiles of the stream",
    )
    return PlanTable(title="Views", heads=heads, rows=[_view(one) for one in plan.views])


def _view(one: ViewPlan) -> Sequence[Cell]:
    becomes = f"{one.becomes}, was {one.before}" if one.before else one.becomes
    if one.becomes == VIEW_GOES:
        return (one.name, becomes, None, None, None, None, one.keys, None)
    restarts = f", filled again from {one.restarts}" if one.restarts else ""
    known = one.rows is not None
    return (
        one.name,
        becomes,
        f"{one.rows:,}" if known else "unknown",
        "" if one.becomes != ANEW else "unknown" if one.seconds is None else duration(one.seconds),
        _pair(one.state_bytes_before, one.state_bytes),
        _pair(one.key_bytes_before, one.key_bytes),
        one.keys,
        f"{_pair(' '.join(one.tiles_before) or None, ' '.join(one.tiles))}{restarts}",
    )


def _pair(before: Any, after: Any) -> str:
    shown = [f"{one:,}" if isinstance(one, int) else one for one in (before, after)]
    return str(shown[1]) if before in (None, after) else f"{shown[0]} → {shown[1]}"


def _values(plan: ChangePlan) -> PlanTable:
    at = "" if plan.at is None else f", as of {format_time(plan.at)}"
    heads = ("feature", "keys that differ", "missing", "mean", "10%", "median", "90%", "distribution")
    rows = [_value(one) for one in plan.values]
    return PlanTable(title=f"Values of {plan.keys} sampled keys before → after{at}", heads=heads, rows=rows)


def _value(one: ValueChange) -> Sequence[Cell]:
    differ = "" if one.differ is None else f"{one.differ} of {one.keys}"
    sides = [side for side in (one.before, one.after) if side is not None]
    figures = [
        _arrow([_figure(getattr(side, name)) for side in sides]) for name in ("mean", "p10", "p50", "p90")
    ]
    drawn = [
        f"[{bars(counts)}]"
        for side, counts in ((one.before, one.counts_before), (one.after, one.counts_after))
        if side is not None
    ]
    ends = f"{one.names[0]}… " if one.names and one.names[0].lstrip("-")[:1].isdigit() else ""
    return (
        one.name,
        differ,
        _arrow([_share(side) for side in sides]),
        *figures,
        f"{ends}{' → '.join(drawn)}",
    )


def _arrow(texts: Sequence[str]) -> str:
    return texts[0] if len(set(texts)) == 1 else " → ".join(texts)


def _share(side: Side) -> str:
    return f"{100 * side.missing:.0f}%"


def _figure(value: float | None) -> str:
    return "" if value is None else plain(value, 4)


def _examples(plan: ChangePlan) -> PlanTable:
    rows = [
        (one.name, key, _shown(before), _shown(after))
        for one in plan.values
        for key, before, after in one.examples
    ]
    return PlanTable(title="Examples", heads=("feature", "key", "before", "after"), rows=rows)


def _shown(value: Any) -> str:
    return plain(value) if isinstance(value, float) else str(value)


def _champion(plan: ChangePlan) -> PlanTable:
    one = plan.champion
    if one is None:
        return PlanTable(title="", heads=(), rows=())
    reads = ", ".join(one.reads) or "none"
    rows: list[tuple[Cell, ...]] = [
        ("fits the declaration", "yes" if one.fits else f"no: {one.why}"),
        ("reads features that change meaning", reads),
    ]
    if one.unknown:
        rows.append((f"{one.metric} on recent labels", f"not told: {one.unknown}"))
    elif one.after is not None:
        told = _arrow([_figure(value) for value in (one.before, one.after) if value is not None])
        rows.append((f"{one.metric} on {one.labels} recent labels", told))
    return PlanTable(title=f"Champion: version {one.version}", heads=("", ""), rows=rows)


def markdown(plan: ChangePlan) -> str:
    """The plan as Markdown, for a comment on a pull request."""
    parts = [f"### Plan for `{plan.project}`", summary(plan)]
    for each in tables(plan):
        heads = " | ".join(head or " " for head in each.heads)
        rows = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in each.rows]
        parts.append(
            "\n".join([f"**{each.title}**", "", f"| {heads} |", "|" + " --- |" * len(each.heads), *rows])
        )
    parts += ["\n".join(f"- {line}" for line in lines(plan))] if lines(plan) else []
    parts += ["\n".join(["```", *plan.steps, "```"])] if plan.steps else []
    return "\n\n".join(parts) + "\n"


def _cell(cell: Cell) -> str:
    text = "" if cell is None else f"{cell:,}" if isinstance(cell, int) else str(cell)
    return text.replace("|", "\\|").replace("\n", " ")


def page(plan: ChangePlan) -> str:
    """The plan as one HTML file, with the distributions as pictures."""
    pictures = [
        {
            "title": f"{one.name}: {one.change}",
            "names": one.names,
            "before": None if one.before is None else one.counts_before,
            "after": None if one.after is None else one.counts_after,
        }
        for one in plan.values
        if one.names
    ]
    shown = [
        {"title": each.title, "heads": each.heads, "rows": each.rows, "numbers": _numbers(each)}
        for each in tables(plan)
    ]
    context: Mapping[str, Any] = {
        "project": plan.project, "changed": plan.changed, "summary": summary(plan), "tables": shown,
        "pictures": pictures, "lines": lines(plan), "steps": plan.steps,
    }  # fmt: skip
    return render("plan.html", **context)


def _numbers(each: PlanTable) -> list[int]:
    columns = [[cell for cell in cells if cell is not None] for cells in zip(*each.rows, strict=True)]
    return [
        place
        for place, cells in enumerate(columns)
        if cells and all(isinstance(cell, int | float) for cell in cells)
    ]
