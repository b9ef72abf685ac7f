"""Which of three cultivars is a wine from? UCI's wine analyses, a label of three classes.

The measurements are real, the times are laid out by us (see data/README.md for both). A second analysis of a
wine changes its scores without anything being trained again.
"""

from anabranch import Count, FeatureView, Gate, Label, Last, Model, Project, Source

MEASURED = (
    "alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids",
    "nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280_od315", "proline",
)  # fmt: skip

analyses = Source(
    name="analyses",
    topic="wine-analyses",
    id="analysis_id",
    time="analysed_at",
    schema="analysis_id STRING, wine_id STRING, analysed_at TIMESTAMP, "
    + ", ".join(f"{name} DOUBLE" for name in MEASURED),
    description="Chemical analyses of wines, with the 13 measurements of the UCI Wine data",
)

origins = Source(
    name="origins",
    topic="wine-origins",
    id="origin_id",
    time="determined_at",
    schema="origin_id STRING, wine_id STRING, determined_at TIMESTAMP, cultivar STRING",
    description="From which cultivar a wine is",
)

latest = FeatureView(
    name="latest",
    source=analyses,
    key="wine_id",
    features={**{name: Last(name) for name in MEASURED}, "analyses": Count()},
    description="The latest value of each measurement",
)

project = Project(
    name="wine_origins",
    views=(latest,),
    label=Label(source=origins, key="wine_id", target="cultivar", description="The cultivar, by name"),
    model=Model(
        trainer="logistic",
        metric="log_loss",
        calibrate="sigmoid",
        features=MEASURED,
        gate=Gate(minimum=0.5),
        intended_use="An example of a label with three classes.",
        limits="178 wines of one region and year.",
    ),
    description="The cultivar of a wine by its chemical analysis",
)
