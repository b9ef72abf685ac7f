"""The fact sheet of a model version: what those who rely on it should know, in eight sections, none empty.

After the FactSheets of Arnold et al. (IBM Journal of Research and Development 63, 2019). Everything comes
from the declaration and from what the training recorded; what nobody declared is asked for by name.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from anabranch.declare.operations import Watch
from anabranch.declare.projects import Project
from anabranch.pages.rendering import render
from batch.training.card import CardContents

SECTIONS = {
    "purpose": "Purpose",
    "data": "Data",
    "evaluation": "Evaluation",
    "fairness": "Fairness",
    "explainability": "Explainability",
    "security": "Security",
    "lineage": "Lineage",
    "drift": "Drift plan",
}
"""The sections by their names in JSON, with their titles."""
_THRESHOLDS = tuple(each.name for each in fields(Watch) if each.name.endswith(("_above", "_below")))
_MOST = 10


@dataclass(frozen=True, kw_only=True)
class FactSection:
    """One section: facts by name, and what is missing with how to declare it."""

    facts: Mapping[str, str]
    missing: Sequence[str] = ()


FactSheet = Mapping[str, FactSection]


def fact_sheet(project: Project, shown: CardContents, left_out: int) -> FactSheet:
    """The sections by name; `left_out` labels were not usable."""
    sections = {
        "purpose": _purpose(project),
        "data": _data(project, shown, left_out),
        "evaluation": _evaluation(project, shown),
        "fairness": _fairness(project, shown),
        "explainability": _explainability(project, shown),
        "security": _security(project),
        "lineage": _lineage(project, shown),
        "drift": _drift(project),
    }
    return {name: sections[name] for name in SECTIONS}


def files_of(project: Project, sheet: FactSheet) -> dict[str, bytes]:
    """The sheet as HTML, Markdown and JSON, by file name."""
    titled = [(SECTIONS[name], section) for name, section in sheet.items()]
    lines = [f"# Fact sheet: {project.name}", ""]
    for title, section in titled:
        lines += [f"## {title}", "", *(f"- **{_md(k)}**: {_md(v)}" for k, v in section.facts.items())]
        lines += [f"- *{_md(each)}*" for each in section.missing] + [""]
    page = render(
        "fact_sheet.html",
        project=project.name,
        sections=[(title, list(one.facts.items()), one.missing) for title, one in titled],
    )
    value = {name: {"facts": dict(one.facts), "missing": list(one.missing)} for name, one in sheet.items()}
    return {
        "fact_sheet.html": page.encode(),
        "fact_sheet.md": "\n".join(lines).encode(),
        "fact_sheet.json": (json.dumps({"project": project.name, **value}, indent=1) + "\n").encode(),
    }


def _md(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;").replace("*", "\\*")


def _section(found: Mapping[str, object], asked: Mapping[str, str] | None = None) -> FactSection:
    """Facts that are there; for each that is not, what to declare, where `asked` names it."""
    facts = {name: str(value) for name, value in found.items() if value not in (None, "")}
    asked = asked or {}
    missing = [f"{name} is not declared: {how}" for name, how in asked.items() if name not in facts]
    return FactSection(facts=facts, missing=missing)


def _purpose(project: Project) -> FactSection:
    model, label = project.model, project.label
    found = {
        "project": project.name,
        "description": project.description,
        "intended use": model.intended_use if model else "",
        "limits": model.limits if model else "",
        "owner": project.owner,
        "predicts": label.target if label else "",
        "answers": {"class": "two classes", "classes": "several classes"}.get(project.task, "a number"),
    }
    return _section(
        found,
        {
            "description": "Project(description=...)",
            "intended use": "Model(intended_use=...)",
            "limits": "Model(limits=...)",
            "owner": "Project(owner=...)",
        },
    )


def _data(project: Project, shown: CardContents, left_out: int) -> FactSection:
    metrics = shown.metrics
    found: dict[str, object] = {
        f"source {each.name}": each.description or ", ".join(column.name for column in each.columns)
        for each in project.sources.values()
    }
    found |= {
        "rows learnt from": f"{metrics['rows_train']:,.0f}",
        "rows held out": f"{metrics['rows_test']:,.0f}",
        "labels left out": f"{left_out:,}",
        "split": shown.about.get("split"),
        "features": ", ".join(project.model_features),
        "known late": shown.hindsight.said
        if shown.hindsight
        else "the training set does not say what came late",
    }
    return _section(found)


def _evaluation(project: Project, shown: CardContents) -> FactSection:
    metrics = shown.metrics
    found: dict[str, object] = {}
    for name, value in metrics.items():
        if name.endswith(("_low", "_high")) or name.startswith(("train_", "rows_")):
            continue
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        found[name] = f"{value:.4f}" + ("" if low is None or high is None else f" [{low:.4f}, {high:.4f}]")
    for one in shown.slices:
        judged = "not defined" if one.value is None else f"{one.value:.4f}"
        found[f"{project.model.metric if project.model else 'metric'}, {one.feature} {one.part}"] = (
            f"{judged} of {one.rows:,} rows"
        )
    gate = project.model.gate if project.model else None
    found["least metric to become champion"] = None if gate is None else gate.minimum
    asked = {"least metric to become champion": "Model(gate=Gate(minimum=...))"}
    return _section(found, asked)


def _fairness(project: Project, shown: CardContents) -> FactSection:
    gate = project.model.gate if project.model else None
    found: dict[str, object] = {
        "compared": "rates of class 1 between groups, which no slice divides the rows into"
        if project.task == "class"
        else "the metric alone, by slice: rates are for models of two classes",
        "most difference that passes the gate": gate.disparity if gate else None,
    }
    if shown.fairness is not None:
        found |= {f"{one.feature}, {one.rate}": one.said for one in shown.fairness.disparities} or {
            "slices": shown.fairness.said
        }
    slices = project.model.declared_slices if project.model else ()
    if slices:
        found["compared"] = "the metric" + (" and rates of class 1" if project.task == "class" else "")
        found["slices judged"] = ", ".join(each.feature for each in slices)
    asked = {"slices judged": "Model(slices=(...)), the features whose groups are to be compared"}
    if project.task == "class":
        asked["most difference that passes the gate"] = "Model(gate=Gate(disparity=...))"
    return _section(found, asked)


def _explainability(project: Project, shown: CardContents) -> FactSection:
    weight = sorted(shown.importance.items(), key=lambda item: -item[1])[:_MOST]
    reasons = project.model.reasons if project.model else {}
    found: dict[str, object] = {f"importance of {name}": f"{value:.4f}" for name, value in weight}
    found |= {
        "of one score": 'contributions as Shapley values, with "explain": true or anabranch answer --explain',
        "reasons in plain language": "; ".join(f"{name}: {text}" for name, text in reasons.items()),
    }
    return _section(found, {"reasons in plain language": "Model(reasons={feature: text})"})


def _security(project: Project) -> FactSection:
    return _section(
        {
            "keys that may name persons": ", ".join(project.keys),
            "erasing": "anabranch erase deletes all data of a key, older versions included",
            "files of the version": "data without pickled code: ONNX, or the library's own format",
            "who may ask": "API keys or tokens by project and right, where serving.auth is on",
            "inputs": "typed and bounded; values beyond the training's are answered and watched for drift",
            "not covered": "no test against deliberate attacks on the model (evasion, extraction, poisoning)",
        }
    )


def _lineage(project: Project, shown: CardContents) -> FactSection:
    found: dict[str, object] = {
        name: value for name, value in shown.about.items() if name not in ("label", "split")
    }
    found |= {
        "views": ", ".join(view.full_name for view in project.views),
        "python": shown.environment.get("python"),
        "made again by": f"anabranch reproduce {project.name} VERSION",
        "events of OpenLineage": f"job {project.name}.train",
    }
    return _section(found)


def _drift(project: Project) -> FactSection:
    watch = project.watch
    given = {name: getattr(watch, name) for name in _THRESHOLDS if getattr(watch, name) is not None}
    found = {
        "examined": f"predictions and labels of the last {watch.window}, accuracy by {watch.period}",
        "labels are awaited for": watch.horizon,
        "after an alert": "a training is requested" if watch.retrain else "people decide",
        "thresholds": ", ".join(f"{name} {value}" for name, value in given.items()),
        "freshness": str(project.freshness) if project.freshness else "",
    }
    return _section(
        found,
        {
            "thresholds": "Project(watch=Watch(psi_above=..., metric_below=...))",
            "freshness": "Project(freshness=Freshness(...))",
        },
    )
