"""The page at /projects/{p}: the project as a data product, for whoever wants to use it."""

from collections import Counter
from typing import Any

from anabranch.declare.sources import Source
from anabranch.values.keys import show_key
from anabranch.values.times import format_time, parse_time
from serving.api import catalogue
from serving.api.facts import MOST_ROWS, Missing, ProjectFacts
from serving.api.promises import ChannelFreshness
from serving.site.charts import histogram
from serving.site.key_page import key_address
from serving.site.markup import Content, Markup, facts, link, path, section, table, tag
from serving.site.measures_page import measured, standing
from serving.site.product_places import addresses, lineage
from serving.site.shown import NOTHING, age, batch_age, metric, missing, moment, number, pill, state, troubles

_SHOWN_KEYS = 12


def product(found: ProjectFacts) -> Content:
    """The body of the page."""
    project = found.served.project
    return [
        tag("h1", project.name, " ", state(found)),
        tag(
            "p", project.description or "No description is declared: Project(description=...).", class_="lead"
        ),
        tag(
            "p",
            f"Owner: {project.owner or 'none is declared'} · key: {', '.join(project.keys)}",
            class_="soft",
        ),
        troubles(found),
        [
            tag(
                "p",
                pill("alert", "bad"),
                f" {one} is beyond its declared threshold",
                class_="note",
                role="status",
            )
            for one in standing(found)
        ],
        _tiles(found),
        _freshness(found),
        _scores(found),
        _model(found) if project.model is not None else None,
        measured(found),
        _features(found),
        _sources(found),
        _quality(found),
        lineage(found),
        addresses(found),
    ]


def _tiles(found: ProjectFacts) -> Markup:
    served, project = found.served, found.served.project
    name, measured = metric(served, found.model)
    cut, version = (
        (f"{batch_age(served, found.now)} ago", f"version {served.manifest.batch_version}")
        if served.manifest
        else ("none yet", "")
    )
    tiles: list[tuple[str, Content, str]] = [
        ("Batch cut", cut, version),
        ("Features", len(project.columns), f"{len(project.views)} views of {len(project.sources)} sources"),
    ]
    if project.model is not None:
        tiles.append(
            (
                "Champion",
                f"version {served.scorer.version}" if served.scorer else "none yet",
                project.model.trainer,
            )
        )
        tiles.append((name or project.model.metric, measured or "–", "on held-out rows"))
    return tag(
        "ul",
        [
            tag(
                "li",
                tag("span", what, class_="name"),
                tag("b", value),
                tag("span", more, class_="soft"),
                class_="tile",
            )
            for what, value, more in tiles
        ],
        class_="tiles",
    )


def _freshness(found: ProjectFacts) -> Markup:
    promised, manifest = found.served.project.freshness, found.served.manifest
    stood = found.freshness
    batch: Content = (
        [
            batch_age(found.served, found.now),
            tag("span", " since the cut ", moment(manifest.cut), class_="soft"),
        ]
        if manifest
        else "no batch yet"
    )
    rows: list[tuple[Content, ...]] = [
        ("Batch: age of the cut", (promised and promised.batch) or NOTHING, batch, _standing(stood["batch"])),
        (
            "Stream: from arrival to the current row",
            (promised and promised.stream) or NOTHING,
            _stream(found, stood["stream"]),
            _standing(stood["stream"]),
        ),
    ]
    return section(
        "Freshness",
        table(
            ("", "promised", "measured", ""),
            rows,
            caption="What arrived since the cut is in answers by the stream",
        ),
        name="freshness",
    )


def _standing(found: ChannelFreshness) -> Content:
    """How a promise stands, and since when."""
    if found.state is None:
        return NOTHING
    kinds = {"kept": "good", "missed": "bad", "unknown": "warn"}
    return [
        pill(found.state, kinds[found.state]),
        tag("span", " since ", moment(found.since), class_="soft") if found.since is not None else None,
    ]


def _stream(found: ProjectFacts, stood: ChannelFreshness) -> Content:
    """What the stream tells of its delay, or else what the rows say of the stream."""
    if stood.behind is not None:
        slowest = max(stood.sources, key=lambda name: stood.sources[name] or 0)
        return [
            f"{age(stood.behind)} behind arrival",
            tag("span", f" in {slowest}", class_="soft") if len(stood.sources) > 1 else None,
        ]
    if isinstance(found.rows, Missing):
        return found.rows.why
    newest = max((row.as_of for row in found.rows if row.layer == "speed"), default=None)
    if newest is None:
        return "no row of the stream among those looked at"
    return [
        f"newest row written {age(found.now - newest)} ago",
        tag("span", "; lag is in the stream's own /metrics", class_="soft"),
    ]


def _scores(found: ProjectFacts) -> Markup:
    project = found.served.project
    lookup = tag(
        "form",
        [tag("label", name, tag("input", name=name, required="", autocomplete="off")) for name in project.keys],
        tag("button", "Show this key"),
        action=path("projects", project.name, "keys"), method="get",
    )  # fmt: skip
    return section("Scores and keys", _distribution(found), lookup, name="scores")


def _distribution(found: ProjectFacts) -> Content:
    if isinstance(found.rows, Missing):
        return missing(found.rows)
    scores = [row.score for row in found.rows if row.score is not None]
    names = found.served.project.keys
    keys = [
        link(key_address(found.served.project, row.key), show_key(names, row.key))
        for row in found.rows[:_SHOWN_KEYS]
    ]
    layers = Counter(row.layer for row in found.rows)
    which = (
        f"the first {MOST_ROWS:,} keys in the order of their hashes"
        if len(found.rows) == MOST_ROWS
        else f"all {len(found.rows):,} keys"
    )
    told = f"Scores of {which}; last written by " + " and ".join(
        f"{layer} ({count:,})" for layer, count in layers.most_common()
    )
    return [
        histogram(scores, title=f"Distribution of {len(scores):,} scores") if scores else tag("p", "No scores yet.", class_="soft"),
        tag("p", told, class_="soft") if found.rows else None,
        tag("ul", [tag("li", one) for one in keys], class_="keys") if keys else None,
    ]  # fmt: skip


def _features(found: ProjectFacts) -> Markup:
    described = catalogue.features(found.served.project)
    rows: list[tuple[Content, ...]] = [
        (
            tag("code", one["name"]),
            one["type"],
            one["window"],
            one["exactness"],
            tag("code", one["aggregate"]),
            one["source"],
            one["view"],
        )
        for one in described
    ]
    heads = ("feature", "type", "window", "exactness", "made by", "source", "view")
    return section(
        "Features",
        table(heads, rows, caption="Exact: equal to a fold over all events that have arrived"),
        name="features",
    )


def _sources(found: ProjectFacts) -> Markup:
    return section(
        "Sources", [_source(source) for source in found.served.project.sources.values()], name="sources"
    )


def _source(source: Source) -> Markup:
    columns: list[tuple[Content, ...]] = [
        (tag("code", column.name), str(column.type), _role(source, column.name)) for column in source.columns
    ]
    came = f"topic {source.topic}" if source.topic else "files only"
    told = tag("summary", tag("b", source.name), f" · {came} · {len(source.columns)} columns")
    return tag(
        "details",
        told,
        tag("p", source.description or "No description is declared.", class_="soft"),
        table(("column", "type", ""), columns, caption=f"Schema of {source.name}"),
    )


def _role(source: Source, column: str) -> str:
    return "names the event" if column == source.id else "event time" if column == source.time else ""


def _model(found: ProjectFacts) -> Markup:
    model, declared, label = found.model, found.served.project.model, found.served.project.label
    if isinstance(model, Missing):
        return section("Model", missing(model), name="model")
    if model is None or declared is None or label is None:
        return section(
            "Model",
            tag("p", "No version serves yet: ", tag("code", f"anabranch train {found.served.project.name}")),
            name="model",
        )
    pairs: list[tuple[str, Content]] = [
        (
            "Version",
            f"{model.version}, trained {format_time(parse_time(model.created))[:19].replace('T', ' ')} UTC",
        ),
        (
            "Learns",
            [
                tag("code", label.target),
                f" of {label.source.name}",
                f" ({label.description})" if label.description else None,
            ],
        ),
        ("Gate", [model.gate or "not judged", f": {model.reason}" if model.reason else None]),
        ("Intended use", declared.intended_use or NOTHING),
        ("Limits", declared.limits or NOTHING),
        (
            "Model card",
            link(
                path("projects", found.served.project.name, "card"), "curves, slices, importance, environment"
            ),
        ),
    ]
    names = [
        name
        for name in model.metrics
        if not name.startswith(("train_", "rows_")) and not name.endswith(("_low", "_high"))
    ]
    rows: list[tuple[Content, ...]] = [
        (
            name,
            number(model.metrics[name]),
            _interval(model.metrics, name),
            number(model.metrics.get(f"train_{name}", "")),
        )
        for name in names
    ]
    return section(
        "Model",
        facts(pairs),
        tag("h3", "Metrics"),
        table(
            ("metric", "held-out rows", "95% interval", "training rows"),
            rows,
            numbers=(1, 2, 3),
            caption="As measured when it was trained",
        ),
        name="model",
    )


def _interval(metrics: Any, name: str) -> str:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return "" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _quality(found: ProjectFacts) -> Markup:
    if isinstance(found.reports, Missing):
        return section("Quality of the data", missing(found.reports), name="quality")
    project = found.served.project.name
    kinds = {"accepted": "good", "refused": "bad"}
    rows: list[tuple[Content, ...]] = [
        (
            link(
                path("projects", project, "quality", str(one["source"]), str(one["name"])),
                str(one["arrival"]),
            ),
            one["source"],
            number(one["rows"]),
            number(one["bad"]),
            pill(str(one["verdict"]), kinds.get(str(one["verdict"]), "warn")),
        )
        for one in found.reports
    ]
    shown = (
        table(
            ("load of", "source", "rows", "to quarantine", "verdict"),
            rows,
            numbers=(2, 3),
            caption="The newest loads at the quality gate",
        )
        if rows
        else None
    )
    return section(
        "Quality of the data",
        shown or tag("p", "No load has passed the gate yet.", class_="soft"),
        name="quality",
    )
