"""The page at /: every project that the reader may see, as one card each."""

from collections.abc import Mapping, Sequence

from serving.api.facts import ProjectFacts
from serving.site.markup import Content, Markup, facts, link, path, tag
from serving.site.measures_page import standing, worst_drift
from serving.site.shown import NOTHING, batch_age, metric, pill, state


def home(found: Sequence[ProjectFacts], broken: Mapping[str, str]) -> Content:
    """The body of the page."""
    count = len(found)
    cards = [_card(one) for one in sorted(found, key=lambda one: one.served.project.name)]
    return [
        tag("h1", "Projects"),
        tag("p", f"{count} project{'' if count == 1 else 's'}: features merged from batch and stream, scores of models trained on them.", class_="lead soft"),
        [tag("p", tag("b", f"{name}: "), why, class_="note", role="status") for name, why in broken.items()],
        tag("ul", cards, class_="cards") if cards else tag("p", "None yet: ", tag("code", "anabranch init NAME"), " writes a declaration to begin with."),
    ]  # fmt: skip


def _card(found: ProjectFacts) -> Markup:
    served, project = found.served, found.served.project
    version = served.scorer.version if served.scorer else None
    name, measured = metric(served, found.model)
    pairs: list[tuple[str, Content]] = [
        ("Owner", project.owner or NOTHING),
        (
            "Batch",
            [
                str(served.manifest.batch_version),
                tag("span", f", cut {batch_age(served, found.now)} ago", class_="soft"),
            ]
            if served.manifest
            else NOTHING,
        ),
        ("Model", NOTHING if project.model is None else version or "none yet"),
        (name or "Metric", measured or NOTHING),
        (
            "Features",
            f"{len(project.columns)} in {len(project.views)} view{'' if len(project.views) == 1 else 's'}",
        ),
    ]
    drifted = worst_drift(found)
    if drifted is not None:
        pairs.append(("Drift", drifted))
    alerts = standing(found)
    pairs.append(("Alerts", [pill(one, "bad") for one in alerts] if alerts else NOTHING))
    heading = tag("h2", link(path("projects", project.name), project.name), " ", state(found))
    return tag(
        "li",
        heading,
        tag("p", project.description or "No description is declared.", class_="soft"),
        facts(pairs),
        class_="card",
    )
