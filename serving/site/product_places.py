"""The end of a project's page: what its answers were made from, and where it can be asked and read."""

from serving.api import catalogue
from serving.api.facts import Missing, ProjectFacts
from serving.site.markup import Content, Markup, facts, section, table, tag

_TOPICS = (
    ("predictions", "predictions_topic"),
    ("scores", "scores_topic"),
    ("rows to be scored", "score_requests_topic"),
    ("new versions of the model", "models_topic"),
)


def lineage(found: ProjectFacts) -> Markup:
    """From the lake to answers, four steps."""
    model = None if isinstance(found.model, Missing) else found.model
    known = catalogue.lineage(found.served, model)
    batch, trained = known["batch"], known["model"]
    steps: list[tuple[str, list[tuple[str, Content]]]] = [
        ("Lake", [(source, f"version {version}") for source, version in known["lake"].items()]),
        ("Batch", []),
        ("Model", []),
        (
            "Answers",
            [
                ("carry", ", ".join(known["answers"])),
                ("kept in", catalogue.addresses(found.served)["predictions_topic"] or "no topic"),
            ],
        ),
    ]
    if batch is not None:
        steps[1][1].extend(
            [
                ("version", batch["version"]),
                ("cut", batch["cut"][:19]),
                *((view, f"{count:,} keys") for view, count in batch["keys"].items()),
            ]
        )
    if trained is not None:
        steps[2][1].extend(
            [
                ("version", trained["version"]),
                *((source, f"lake version {version}") for source, version in trained["lake"].items()),
            ]
        )
    boxes = [
        tag("li", tag("h3", name), facts(pairs) if pairs else tag("p", "none yet", class_="soft"))
        for name, pairs in steps
    ]
    return section("Lineage", tag("ol", boxes, class_="flow"), name="lineage")


def addresses(found: ProjectFacts) -> Markup:
    """Where it can be asked and read, by what way."""
    places, name = catalogue.addresses(found.served), found.served.project.name
    rows: list[tuple[Content, ...]] = [
        ("REST", what, _code(places[what])) for what in ("predict", "features", "scores") if places[what]
    ]
    rows += [("REST", f"events of {source}", _code(address)) for source, address in places["events"].items()]
    rows += [("Kafka", f"events of {source}", _code(topic)) for source, topic in places["topics"].items()]
    rows += [("Kafka", what, _code(places[topic])) for what, topic in _TOPICS if places[topic]]
    rows += [("Cassandra", "current rows", _code(places["current_table"]))]
    rows += [("Cassandra", f"states of {view}", _code(one)) for view, one in places["batch_tables"].items()]
    rows += [
        ("Spark SQL", one.removeprefix(f"anabranch.{name}_").replace("_", " "), _code(one))
        for one in places["spark"]
    ]
    return section(
        "Addresses",
        table(("by", "", "address"), rows, caption="Where it can be asked and read"),
        tag("h3", "In CQL"),
        tag("pre", f"SELECT key, score, as_of FROM {places['current_table']} WHERE key = '...';"),
        tag("h3", "In Spark SQL"),
        tag(
            "pre",
            f'anabranch sql "SELECT key, score FROM anabranch.{name}_scores ORDER BY score DESC LIMIT 10"',
        ),
        name="addresses",
    )


def _code(text: object) -> Markup:
    return tag("code", text)
