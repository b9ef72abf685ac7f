"""How often are payments at a merchant disputed? Simulated disputes (see data/README.md).

The project has features alone. `card_fraud` uses its view: who judges disputes need not know about cards, and
the view is landed, streamed and built once.
"""

from anabranch import Count, FeatureView, Project, Source, Sum

disputes = Source(
    name="disputes",
    topic="merchant-disputes",
    id="dispute_id",
    time="opened_at",
    schema="dispute_id STRING, merchant STRING, amount DOUBLE, opened_at TIMESTAMP",
    description="Payments that their payers dispute, by merchant (simulated)",
)

merchants = FeatureView(
    name="merchants",
    source=disputes,
    key="merchant",
    windows="30d",
    features={"disputes": Count(), "disputed": Sum("amount")},
    description="Disputes of the last 30 days",
)

project = Project(
    name="merchant_risk",
    views=(merchants,),
    shared_with=("card_fraud",),
    description="Disputes by merchant, for projects that judge payments",
)
