"""What a declaration is written with. Pure: importing it needs no JVM."""

from features.aggregates import Aggregate, Count, First, Last, Max, Mean, Min, StdDev, Sum, Variance
from features.declaration import FeatureView, Label, Model, Project, Source

AGGREGATES: tuple[type[Aggregate], ...] = (Count, Sum, Mean, Min, Max, Variance, StdDev, First, Last)

__all__ = [
    "AGGREGATES", "Aggregate", "Count", "FeatureView", "First", "Label", "Last", "Max", "Mean", "Min", "Model", "Project", "Source", "StdDev",
    "Sum", "Variance",
]  # fmt: skip
