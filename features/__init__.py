"""What a declaration is written with. Pure: importing it needs no JVM."""

from features.aggregates.base import Aggregate
from features.aggregates.counting import All, Any, Count, Histogram, Mean, Rate, Sum
from features.aggregates.order import BottomK, First, FirstK, Last, LastK, Max, Min, TopK
from features.aggregates.recency import DecayedMean, DecayedSum, TimeSince
from features.aggregates.sketches import ApproxDistinct, ApproxPercentile, Distinct, MostFrequent
from features.aggregates.spread import Correlation, Covariance, Kurtosis, Skewness, Slope, StdDev, Variance
from features.declaration import FeatureView, Label, OnWrite, Project, Source
from features.freshness import Freshness
from features.modelling import Gate, Member, Model, Online, Search, Slice
from features.watching import Watch

AGGREGATES: tuple[type[Aggregate], ...] = (
    Count,
    Sum,
    Mean,
    Rate,
    Histogram,
    Any,
    All,
    Min,
    Max,
    First,
    Last,
    FirstK,
    LastK,
    TopK,
    BottomK,
    Variance,
    StdDev,
    Skewness,
    Kurtosis,
    Covariance,
    Correlation,
    Slope,
    TimeSince,
    DecayedSum,
    DecayedMean,
    MostFrequent,
    Distinct,
    ApproxDistinct,
    ApproxPercentile,
)

__all__ = [
    "AGGREGATES",
    "Aggregate",
    "All",
    "Any",
    "ApproxDistinct",
    "ApproxPercentile",
    "BottomK",
    "Correlation",
    "Count",
    "Covariance",
    "DecayedMean",
    "DecayedSum",
    "Distinct",
    "FeatureView",
    "First",
    "FirstK",
    "Freshness",
    "Gate",
    "Histogram",
    "Kurtosis",
    "Label",
    "Last",
    "LastK",
    "Max",
    "Mean",
    "Member",
    "Min",
    "Model",
    "MostFrequent",
    "OnWrite",
    "Online",
    "Project",
    "Rate",
    "Search",
    "Skewness",
    "Slice",
    "Slope",
    "Source",
    "StdDev",
    "Sum",
    "TimeSince",
    "TopK",
    "Variance",
    "Watch",
]
