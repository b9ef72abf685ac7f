"""The declaration that a project without data begins from."""

TEMPLATE = '''"""{name}: say here what it is for."""

from anabranch import Count, FeatureView, Label, Last, Mean, Model, Project, Source

readings = Source(
    name="readings",
    topic="{name}-readings",
    id="reading_id",
    time="measured_at",
    schema="reading_id STRING, thing_id STRING, measured_at TIMESTAMP, value DOUBLE",
)
outcomes = Source(
    name="outcomes",
    topic="{name}-outcomes",
    id="outcome_id",
    time="decided_at",
    schema="outcome_id STRING, thing_id STRING, decided_at TIMESTAMP, bad BOOLEAN",
)

recent = FeatureView(
    name="recent",
    source=readings,
    key="thing_id",
    windows=("1h", "1d"),
    features={{
        "readings": Count(),
        "value_mean": Mean("value"),
        "high": Count(where="value > 100"),
        "value_last": Last("value"),
    }},
)

project = Project(
    name="{name}",
    views=(recent,),
    label=Label(source=outcomes, key="thing_id", target="bad"),
    model=Model(trainer="xgboost", metric="roc_auc"),
)
'''
