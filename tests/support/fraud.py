"""A project with derived features and a request: payments by card, and what comes with a question."""

from anabranch import (
    Count,
    Derived,
    FeatureView,
    Label,
    Last,
    Model,
    Project,
    Request,
    Source,
    Sum,
)

payments = Source(
    name="payments",
    topic="payments",
    id="payment_id",
    time="paid_at",
    schema="payment_id STRING, card INT, amount DOUBLE, shop STRING, paid_at TIMESTAMP",
)
chargebacks = Source(
    name="chargebacks",
    topic="chargebacks",
    id="chargeback_id",
    time="claimed_at",
    schema="chargeback_id STRING, card INT, amount DOUBLE, fraud BOOLEAN, claimed_at TIMESTAMP",
)
spending = FeatureView(
    name="spending",
    source=payments,
    key="card",
    windows=("1h", "7d"),
    features={"spent": Sum("amount"), "payments": Count()},
)
latest = FeatureView(
    name="latest",
    source=payments,
    key="card",
    features={"last_shop": Last("shop"), "last_paid": Last("paid_at")},
)
DERIVED = {
    "share": Derived("ratio / 2"),
    "ratio": Derived("spent_1h / nullif(spent_7d, 0)"),
    "jump": Derived("amount / nullif(spent_7d, 0)"),
    "by_web": Derived("channel = 'web' AND hour(last_paid) < 6"),
    "odd_card": Derived("card % 2 = 1"),
    "shop_name": Derived("concat(upper(substring(last_shop, 1, 2)), '-', card)"),
}
fraud = Project(
    name="fraud",
    views=(spending, latest),
    request=Request(schema="amount DOUBLE, channel STRING DEFAULT 'web'"),
    derived=DERIVED,
    label=Label(source=chargebacks, key="card", target="fraud"),
    model=Model(
        features=(
            "spent_1h",
            "spent_7d",
            "ratio",
            "share",
            "jump",
            "by_web",
            "odd_card",
            "amount",
            "channel",
        ),
        trainer="logistic",
    ),
)
