"""What a declaration is written with. Pure: importing it needs no JVM."""

from anabranch.aggregates.base import Aggregate
from anabranch.aggregates.counting import All, Any, Count, Histogram, Mean, Rate, Sum
from anabranch.aggregates.distributions import ApproxDistinct, ApproxPercentile, Distinct, MostFrequent
from anabranch.aggregates.order import BottomK, First, FirstK, Last, LastK, Max, Min, TopK
from anabranch.aggregates.recency import DecayedMean, DecayedSum, TimeSince
from anabranch.aggregates.spread import Correlation, Covariance, Kurtosis, Skewness, Slope, StdDev, Variance
from anabranch.declare.freshness import Freshness
from anabranch.declare.labels import Label
from anabranch.declare.models import Gate, Member, Model, Online, Search, Slice
from anabranch.declare.projects import OnWrite, Project
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureView
from anabranch.declare.watch import Watch
from anabranch.declare.wire_formats import register_format

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
    "register_format",
]
