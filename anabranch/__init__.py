"""Anabranch: one declaration of features and a model for batch, stream and serving.

A project is a Python file `projects/<name>.py` (or in a folder of ANABRANCH_PROJECTS) with a value
`project`. This one, `card_fraud.py`, declares two sources, features over windows, a label and a model:

    from anabranch import Count, FeatureView, Label, Max, Model, Project, Source, Sum

    payments = Source(
        name="payments",
        topic="payments",
        id="payment_id",
        time="paid_at",
        schema="payment_id STRING, card STRING, amount DOUBLE, paid_at TIMESTAMP",
    )
    chargebacks = Source(
        name="chargebacks",
        topic="chargebacks",
        id="chargeback_id",
        time="claimed_at",
        schema="chargeback_id STRING, card STRING, fraud BOOLEAN, claimed_at TIMESTAMP",
    )
    spending = FeatureView(
        name="spending",
        source=payments,
        key="card",
        windows=("1h", "7d"),
        features={"spent": Sum("amount"), "largest": Max("amount"), "payments": Count(where="amount > 0")},
    )
    project = Project(
        name="card_fraud",
        views=(spending,),
        label=Label(source=chargebacks, key="card", target="fraud"),
        model=Model(metric="average_precision"),
    )

Its feature columns are `spent_1h`, `spent_7d`, `largest_1h` and so on. `anabranch build card_fraud` builds
their batch states, `anabranch train card_fraud` trains the model, `anabranch stream` keeps both current,
and `anabranch serve` answers over REST. Importing this package needs no JVM.
"""

from importlib import import_module
from typing import TYPE_CHECKING, cast

from anabranch.aggregates.base import Aggregate
from anabranch.aggregates.counting import All, Any, Count, Histogram, Mean, Rate, Sum
from anabranch.aggregates.distributions import ApproxDistinct, ApproxPercentile, Distinct, MostFrequent
from anabranch.aggregates.order import BottomK, First, FirstK, Last, LastK, Max, Min, TopK
from anabranch.aggregates.ranking import Top
from anabranch.aggregates.recency import DecayedMean, DecayedSum, TimeSince
from anabranch.aggregates.spread import Correlation, Covariance, Kurtosis, Skewness, Slope, StdDev, Variance
from anabranch.declare.derived import Derived, Request
from anabranch.declare.examples import Example
from anabranch.declare.models import Gate, Member, Model, Online, Search, Slice
from anabranch.declare.on_write import OnWrite
from anabranch.declare.operations import Freshness, Objectives, Schedule, Watch
from anabranch.declare.projects import Project
from anabranch.declare.sharing import shared
from anabranch.declare.sources import Label, Source
from anabranch.declare.views import FeatureView
from anabranch.declare.windows import Window, register_window
from anabranch.declare.wire_formats import register_format
from anabranch.errors import MisuseError
from anabranch.values.datatype import DataType
from anabranch.values.types import register_type

if TYPE_CHECKING:
    from anabranch.client import AsyncClient, Client
    from jobs.flows.river import River

AGGREGATES: tuple[type[Aggregate], ...] = (
    Count, Sum, Mean, Rate, Histogram, Any, All, Min, Max, First, Last, FirstK, LastK, TopK, BottomK,
    Variance, StdDev, Skewness, Kurtosis, Covariance, Correlation, Slope, TimeSince, DecayedSum,
    DecayedMean, MostFrequent, Distinct, ApproxDistinct, ApproxPercentile, Top,
)  # fmt: skip
"""All aggregates that Anabranch comes with."""

__all__ = [
    "AGGREGATES", "Aggregate", "All", "Any", "ApproxDistinct", "ApproxPercentile", "AsyncClient",
    "BottomK", "Client", "Correlation", "Count", "Covariance", "DataType", "DecayedMean", "DecayedSum",
    "Derived", "Distinct", "Example", "FeatureView", "First", "FirstK", "Freshness", "Gate", "Histogram",
    "Kurtosis", "Label", "Last", "LastK", "Max", "Mean", "Member", "Min", "Model", "MostFrequent",
    "Objectives", "OnWrite", "Online", "Project", "Rate", "Request", "Schedule", "Search", "Skewness",
    "Slice", "Slope", "Source", "StdDev", "Sum", "TimeSince", "Top", "TopK", "Variance", "Watch",
    "Window", "register_format", "register_type", "register_window", "shared",
]  # fmt: skip


def open(**settings: object) -> "River":  # noqa: A001 - read as anabranch.open
    """The river of this environment: ``anabranch.open()["card_fraud"].answer("c1")`` in a notebook or script.

    `settings` win over those in force: ``anabranch.open(**{"lake.root": "/data/lake"})``. It keeps one Spark
    session until it is closed. Raises MisuseError where the library is installed alone.
    """
    try:
        opened = import_module("jobs.flows.river").open_river
    except ModuleNotFoundError as error:
        raise MisuseError(
            f"there is no package {error.name!r} here, which a river needs: pip install 'anabranch[platform]'"
        ) from error
    return cast("River", opened(settings))


def __getattr__(name: str) -> object:
    """The clients, imported when they are named: a declaration needs no network."""
    if name in ("AsyncClient", "Client"):
        return getattr(import_module("anabranch.client"), name)
    raise AttributeError(f"module 'anabranch' has no attribute {name!r}")
