"""A view in two roles over real Kafka, Cassandra and a lake: tables once, answers and training by role."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path

from pyspark.sql import SparkSession

from anabranch import Count, FeatureView, Label, Model, Project, Source, Sum
from anabranch.values.times import MINUTE, SECOND, format_time, now_micros, parse_time
from batch.landing.ingest import ingest
from batch.training.training_sets import lake_frame
from jobs.flows.building import build_project
from jobs.flows.erasing import erase_key
from jobs.flows.verifying import verify_settled
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.settings import Settings
from speed.streams import start

PAIRS = [("a", "b"), ("b", "b"), ("b", "c")]
"""Buyer and seller of each deal."""


def declare() -> Project:
    name = f"roles_{uuid.uuid4().hex[:8]}"
    payments = Source(
        name="payments",
        topic=name,
        id="id",
        time="at",
        schema="id STRING, card STRING, at TIMESTAMP, amount BIGINT",
    )
    deals = Source(
        name="deals",
        id="id",
        time="at",
        schema="id STRING, buyer_card STRING, seller_card STRING, at TIMESTAMP, fraud BOOLEAN",
    )
    spending = FeatureView(
        name="spending",
        source=payments,
        key="card",
        windows=("1h", "7d"),
        features={"n": Count(), "spent": Sum("amount")},
    )
    roles = (spending.on(card="buyer_card", prefix="buyer"), spending.on(card="seller_card", prefix="seller"))
    label = Label(source=deals, key=("buyer_card", "seller_card"), target="fraud")
    return Project(name=name, views=roles, label=label, model=Model(trainer="logistic"))


def folded(payments: list[Mapping[str, object]], pair: tuple[str, str], at: int) -> dict[str, object]:
    """The features of a pair strictly before a time, by a plain loop; all windows reach back far enough."""
    values: dict[str, object] = {}
    for role, card in zip(("buyer", "seller"), pair, strict=True):
        mine = [
            int(str(each["amount"]))
            for each in payments
            if each["card"] == card and parse_time(str(each["at"])) < at
        ]
        for window in ("1h", "7d"):
            values |= {
                f"{role}_n_{window}": len(mine),
                f"{role}_spent_{window}": sum(mine) if mine else None,
            }
    return values


def test_a_view_in_two_roles_has_its_tables_once_and_answers_by_role(
    servers: Settings, spark: SparkSession, tmp_path: Path
) -> None:
    context, project, steps = Context(servers), declare(), Steps()
    now = now_micros() - MINUTE
    payments: list[Mapping[str, object]] = [
        {
            "id": f"e{i}",
            "card": "ab"[i % 2],
            "at": format_time(now - 20 * SECOND + i * SECOND),
            "amount": 2**i,
        }
        for i in range(12)
    ]
    sold = [
        {
            "id": f"d{i}",
            "buyer_card": buyer,
            "seller_card": seller,
            "at": format_time(now - 15 * SECOND + i * SECOND),
            "fraud": i == 1,
        }
        for i, (buyer, seller) in enumerate(PAIRS)
    ]

    def load(source: str, rows: list[Mapping[str, object]]) -> None:
        path = tmp_path / f"{uuid.uuid4().hex}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        ingest(context, project, source, [str(path)], steps)

    load("payments", payments[:6])
    load("deals", list(sold))
    built = build_project(context, project, None, steps)
    assert (list(built.manifest.tables), built.manifest.rows) == (["spending"], {"spending": 2})
    assert built.current_rows == len(PAIRS)
    context.bus.ensure_topics([project.name])
    context.bus.publish(project.name, [(None, json.dumps(each).encode()) for each in payments[6:]])
    for query in start(context.speed_layer(once=True), project):
        query.awaitTermination()
    asked = [{"buyer_card": buyer, "seller_card": seller} for buyer, seller in PAIRS]
    answers = context.answers.features(project, asked)
    for pair, answer in zip(PAIRS, answers, strict=True):
        assert (dict(answer.values), answer.degraded) == (folded(payments, pair, answer.as_of), None)
    verified = verify_settled(context, project, None, steps)
    assert (verified.keys, verified.mismatches, verified.degraded) == (len(PAIRS), 0, 0)
    frame, count = lake_frame(context, project, context.lake.versions_read(spark, project), steps)
    assert count == len(PAIRS)
    for row in frame.collect():
        pair = (row["_key"].split("\x1f")[0], row["_key"].split("\x1f")[1])
        assert {name: row[name] for name in project.column_of} == folded(payments, pair, row["_time"])
    # The card is known under three names: as a payer, and in either role.
    erase_key(context, project, {"card": "b"}, steps)
    assert [each.values["buyer_n_7d"] for each in context.answers.features(project, asked)] == [6, 0, 0]
    erase_key(context, project, {"seller_card": "b"}, steps)
    left = context.lake.events(spark, project, project.sources["deals"]).select("id").collect()
    assert [row["id"] for row in left] == ["d2"]
