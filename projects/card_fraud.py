"""Is a payment by card a fraud? All events are simulated (see data/README.md), so its scores mean nothing.

It shows features as people state them: windows that end before the answer, features by category, derived
features, columns that come with the question, a view of another project, and the event itself. A payment is
judged when it is made, so a question brings it as its event, and the features of the answer count it. In
training they count it too, since an outcome's time is a second after its payment.
"""

from anabranch import (
    Count,
    Derived,
    Example,
    FeatureView,
    Gate,
    Label,
    Last,
    Max,
    Model,
    Project,
    Request,
    Source,
    Sum,
    shared,
)

payments = Source(
    name="payments",
    topic="card-payments",
    id="payment_id",
    time="paid_at",
    schema="payment_id STRING, card STRING, merchant STRING, category STRING, amount DOUBLE, "
    "paid_at TIMESTAMP",
    description="Payments by card (simulated)",
)

outcomes = Source(
    name="outcomes",
    topic="card-outcomes",
    id="outcome_id",
    time="decided_at",
    schema="outcome_id STRING, card STRING, merchant STRING, amount DOUBLE, channel STRING, fraud BOOLEAN, "
    "decided_at TIMESTAMP",
    description="Whether a payment was a fraud, as of a second after it, when it was let through (simulated)",
)

hours = FeatureView(
    name="hours",
    source=payments,
    key="card",
    windows=("1h", "1d"),
    features={"spent": Sum("amount"), "payments": Count(), "largest": Max("amount")},
    description="Payments of the last hour and day",
)

weeks = FeatureView(
    name="weeks",
    source=payments,
    key="card",
    windows=("7d", "7d offset 7d"),
    features={"spent": Sum("amount"), "payments": Count()},
    description="Payments of the last week, and of the week before",
)

kinds = FeatureView(
    name="kinds",
    source=payments,
    key="card",
    windows="7d",
    features={"kind": Sum("amount", by="category", among=("food", "travel"))},
    description="What the last week's money was spent for",
)

latest = FeatureView(
    name="latest",
    source=payments,
    key="card",
    features={"last_paid": Last("paid_at")},
    description="The time of the latest payment",
)

INPUTS = (
    "spent_1h", "payments_1h", "largest_1d", "spent_7d", "payments_7d", "jump", "growth", "burst",
    "travel_share", "night", "disputes_30d", "disputed_30d", "amount", "channel",
)  # fmt: skip

PAID = (
    ("p1", "2024-05-03T10:00:00Z", "food", 30.0),
    ("p2", "2024-05-05T18:00:00Z", "fuel", 50.0),
    ("p3", "2024-05-14T09:00:00Z", "food", 20.0),
    ("p4", "2024-05-15T11:30:00Z", "travel", 300.0),
    ("p2", "2024-05-15T11:40:00Z", "fuel", 99.0),  # a copy by its id, which does not count
)
DISPUTED = (
    ("d1", "2024-05-10T08:00:00Z", "m1", 80.0),
    ("d2", "2024-04-01T08:00:00Z", "m1", 70.0),  # more than 30 days ago
    ("d3", "2024-05-10T08:00:00Z", "m2", 60.0),
)
GIVES = {
    "spent_1h": 300, "payments_1h": 1, "largest_1d": 300, "spent_7d": 320, "payments_7d": 2,
    "spent_7d_offset_7d": 80, "payments_7d_offset_7d": 2, "kind_7d_food": 20, "kind_7d_travel": 300,
    "kind_7d_other": None, "last_paid": "2024-05-15T11:30:00Z", "disputes_30d": 1, "disputed_30d": 80,
    "usual": 40, "jump": 7.5, "growth": 4, "burst": 0.5, "travel_share": 0.9375, "night": False,
}  # fmt: skip

example = Example(
    name="a payment of 300 after weeks of small ones",
    events=[
        *(
            {"source": "payments", "card": "c1", "merchant": "m1",
             "payment_id": number, "paid_at": at, "category": category, "amount": amount}
            for number, at, category, amount in PAID
        ),
        *(
            {"source": "merchant_risk.disputes",
             "dispute_id": number, "opened_at": at, "merchant": merchant, "amount": amount}
            for number, at, merchant, amount in DISPUTED
        ),
    ],
    key={"card": "c1", "merchant": "m1"},
    at="2024-05-15T12:00:00Z",
    request={"amount": 300.0, "channel": "web"},
    gives=GIVES,
)  # fmt: skip

project = Project(
    name="card_fraud",
    views=(hours, weeks, kinds, latest, shared("merchant_risk", "merchants")),
    request=Request(schema="amount DOUBLE, channel STRING DEFAULT 'shop'"),
    derived={
        "usual": Derived(
            "spent_7d_offset_7d / nullif(payments_7d_offset_7d, 0)",
            description="what a payment of the week before the last one came to",
        ),
        "jump": Derived("amount / nullif(usual, 0)", description="the payment by what is usual"),
        "growth": Derived("spent_7d / nullif(spent_7d_offset_7d, 0)"),
        "burst": Derived("payments_1h / nullif(payments_7d, 0)", description="the last hour by the week"),
        "travel_share": Derived("kind_7d_travel / nullif(spent_7d, 0)"),
        "night": Derived("hour(last_paid) < 6", description="between midnight and 6, UTC"),
    },
    label=Label(source=outcomes, key=("card", "merchant"), target="fraud", description="A fraud"),
    model=Model(
        trainer="logistic",
        metric="roc_auc",
        features=INPUTS,
        gate=Gate(minimum=0.7),
        reasons={
            "jump": "far more than this card pays at a time",
            "burst": "many payments within an hour",
            "disputes_30d": "payments at this merchant are often disputed",
        },
        intended_use="An example of features that count the event which is asked about.",
        limits="Payments, disputes and frauds are simulated.",
    ),
    owner="payments",
    description="Frauds among payments by card; simulated",
    examples=(example,),
)
