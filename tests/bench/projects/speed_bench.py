"""What the benchmark of the stream declares: one topic, two views with windows and for life, a model; `sent`
carries the publisher's clock.
"""

from anabranch import Count, FeatureView, Label, Last, Max, Mean, Model, Project, Source, Sum

readings = Source(
    name="readings",
    topic="speed-bench",
    id="id",
    time="at",
    schema="id STRING, thing STRING, at TIMESTAMP, x DOUBLE, sent BIGINT",
)
recent = FeatureView(
    name="recent",
    source=readings,
    key="thing",
    windows=("1h", "1d", "7d"),
    features={
        "n": Count(),
        "mean": Mean("x"),
        "top": Max("x"),
        "high": Count(where="x > 60"),
        "sent": Max("sent"),
    },
)
lifelong = FeatureView(
    name="lifelong",
    source=readings,
    key="thing",
    features={"events": Count(), "total": Sum("x"), "newest": Last("x")},
)
project = Project(
    name="speed_bench",
    views=(recent, lifelong),
    label=Label(source=readings, key="thing", target="x > 50"),
    model=Model(),
)
