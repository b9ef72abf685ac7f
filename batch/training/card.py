"""The model card: one HTML page for people, made from what a training recorded. It needs nothing else to be shown."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from anabranch.declare.projects import Project
from batch.evaluation.assessment import SliceResult

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #ddd}table{border-collapse:collapse}
td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}
img{max-width:29rem;margin-right:1rem}"""


def card(
    project: Project,
    *,
    metrics: Mapping[str, float],
    slices: Sequence[SliceResult],
    importance: Mapping[str, float],
    parameters: Mapping[str, object],
    about: Mapping[str, str],
    environment: Mapping[str, str],
    pictures: Mapping[str, bytes],
) -> str:
    """The page; metrics are named as `measured` and ``train_`` name them."""
    model = project.model
    parts = [
        f"<h1>Model card: {escape(project.name)}</h1>",
        f"<p>{escape(project.description or 'No description is declared.')}</p>",
        _section(
            "Intended use",
            escape((model.intended_use if model else "") or "None is declared: Model(intended_use=...)."),
        ),
        _section("Limits", _limits(project, metrics, slices)),
        _section("How good it is", _metrics(metrics)),
        _section("By slice", _slices(slices, model.metric if model else "")),
        _section(
            "Curves, on held-out rows", "".join(_picture(name, content) for name, content in pictures.items())
        ),
        _section(
            "What it goes by",
            _pairs((name, f"{value:.4f}") for name, value in importance.items()) + _IMPORTANCE,
        ),
        _section("Data", _pairs(about.items())),
        _section("Parameters", _pairs((name, str(value)) for name, value in parameters.items())),
        _section("Environment", _pairs(environment.items())),
    ]
    owner = f"<p>Owner: {escape(project.owner)}</p>" if project.owner else ""
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(project.name)}</title><style>{_STYLE}</style>{owner}{"".join(parts)}</html>\n'


_IMPORTANCE = "<p>How much worse the metric on held-out rows gets when the feature's values are shuffled among them.</p>"


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>{content}"


def _limits(project: Project, metrics: Mapping[str, float], slices: Sequence[SliceResult]) -> str:
    said = (
        [project.model.limits]
        if project.model and project.model.limits
        else ["None are declared: Model(limits=...)."]
    )
    said.append(
        f"Judged on {metrics['rows_test']:,.0f} held-out rows; an interval is the 95% bootstrap by key."
    )
    small = [f"{one.feature}: {one.part} ({one.rows} rows)" for one in slices if one.rows < 30]
    if small:
        said.append(f"Too few rows to say much about {'; '.join(small)}.")
    return "".join(f"<p>{escape(text)}</p>" for text in said)


def _metrics(metrics: Mapping[str, float]) -> str:
    plain = [
        name
        for name in metrics
        if not name.endswith(("_low", "_high")) and not name.startswith(("train_", "rows_"))
    ]
    rows = [(name, _with_interval(metrics, name), _with_interval(metrics, f"train_{name}")) for name in plain]
    rows.append(("rows", f"{metrics['rows_test']:,.0f}", f"{metrics['rows_train']:,.0f}"))
    return _table(("metric", "held-out rows", "training rows"), rows)


def _with_interval(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return f"{metrics[name]:.4f}" + ("" if low is None or high is None else f" [{low:.4f}, {high:.4f}]")


def _slices(slices: Sequence[SliceResult], metric: str) -> str:
    if not slices:
        return "<p>No slices are declared: Model(slices=...).</p>"
    rows = [(one.feature, one.part, f"{one.rows:,}", _of_slice(one)) for one in slices]
    return _table(("feature", "part", "rows", metric), rows)


def _of_slice(one: SliceResult) -> str:
    if one.value is None:
        return "cannot be told: one class, or one row"
    return f"{one.value:.4f}" + (
        "" if one.low is None or one.high is None else f" [{one.low:.4f}, {one.high:.4f}]"
    )


def _picture(name: str, content: bytes) -> str:
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return _table((), list(pairs))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in heads)}</tr>" if heads else ""
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{escape(cell)}</td>" if i == 0 else f'<td class="n">{escape(cell)}</td>'
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table>{head}{body}</table>"
