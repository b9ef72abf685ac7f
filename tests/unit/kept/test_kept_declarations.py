"""What is read from a kept declaration is what was declared: the same objects, the same fingerprints."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch import (
    AGGREGATES,
    Aggregate,
    Count,
    Derived,
    FeatureView,
    Freshness,
    Gate,
    Label,
    Last,
    Member,
    Model,
    Objectives,
    Online,
    OnWrite,
    Project,
    Request,
    Search,
    Slice,
    Source,
    Sum,
    Watch,
)
from anabranch.declare.loading import list_projects, load_project
from anabranch.declare.wire_formats import schemas_in
from anabranch.errors import DeclarationError
from anabranch.kept.reading import read
from anabranch.kept.writing import written
from tests.support.law import features_of, source

FOLDERS = [Path("projects"), Path("tests/bench/projects")]
DEALS = Source(
    name="deals",
    id="id",
    time="time",
    table="delta:/data/deals",
    topic="deals",
    schema="id STRING, buyer STRING, seller STRING, time TIMESTAMP, x DOUBLE, n INT, channel STRING",
)


def assert_kept(project: Project) -> None:
    """The text is JSON, and gives the same project, written alike, with the same fingerprints."""
    text = written(project)
    found = read(text)
    json.loads(text)
    assert found == replace(project, examples=())
    assert written(found) == text
    assert found.fingerprint == project.fingerprint
    for before, after in zip(project.views, found.views, strict=True):
        assert (after.fingerprint, after.promise, after.columns) == (
            before.fingerprint,
            before.promise,
            before.columns,
        )
        assert list(after.features) == list(before.features)
    assert (found.columns, found.inputs) == (project.columns, project.inputs)


@pytest.mark.parametrize("name", sorted(list_projects(FOLDERS)))
def test_every_project_of_the_repository(name: str) -> None:
    assert_kept(load_project(name, FOLDERS))


@pytest.mark.parametrize("windows", ["finite", "none"])
def test_every_aggregate_over_every_column(windows: str) -> None:
    texts = ("1h", "7d", "7d offset 7d", "month to date Europe/Berlin") if windows == "finite" else ()
    view = FeatureView(name="all", source=source, key="key", windows=texts, features=features_of(windows))
    assert {type(one) for one in view.features.values()} >= {
        kind for kind in AGGREGATES if kind.windows in ("any", windows)
    }
    assert_kept(Project(name="all", views=(view,)))


def test_all_that_a_project_can_declare() -> None:
    events = replace(
        source, format="debezium", wire_schema="micros", fields={"x": "a.b[0].x"}, explode=None, topic="t"
    )
    view = FeatureView(
        name="things", source=events, key="key", windows=("1h",), features={"n": Count()}, description="é"
    )
    risk = FeatureView(name="risk", source=source, key="key", features={"last": Last("x")})
    lent = Project(name="owner", views=(risk,), shared_with=("big",)).lend("risk")
    model = Model(
        metric="roc_auc",
        trainer="ensemble",
        members=("logistic", Member(trainer="xgboost", params={"depth": 3, "rates": [0.1, 0.2]})),
        features=("seller_n_1h", "ratio", "amount"),
        params={"alpha": 0.5, "deep": {"a": (1, 2), "b": [None, True]}, "bound": float("inf")},
        class_weight={0: 1, 1: 5.5},
        search=Search(trials=3, space={"depth": (2, 8), "kind": ["a", "b"], "rate": (0.001, 1.0, "log")}),
        slices=("amount", Slice(feature="ratio", bands=(0.5, 2))),
        gate=Gate(minimum=0.6, disparity=0.2, proof="not worse", tolerance=0.01),
        reasons={"ratio": "more than usual"},
        calibrate="isotonic",
        as_known=True,
    )
    assert_kept(
        Project(
            name="big",
            views=(
                view.on(key="buyer", prefix="buyer"),
                view.on(key="seller", prefix="seller"),
                lent.on(key="seller"),
            ),
            label=Label(source=DEALS, key=("buyer", "seller"), target="x > 0", description="won"),
            model=model,
            owner="we",
            objectives=Objectives(availability=0.99999, p99="50ms", freshness=Freshness(batch="1d")),
            watch=Watch(psi_above=0.2, retrain=True),
            score_on_write=(OnWrite(to="serving", table="/data/rows"),),
            shared_with=("others",),
            derived={"ratio": Derived("seller_n_1h / nullif(amount, 0)", description="of the two")},
            request=Request(schema="amount DOUBLE DEFAULT 1.5, channel STRING"),
        )
    )


def test_a_model_that_learns_online_and_classes_that_a_label_lists() -> None:
    view = FeatureView(name="deals", source=DEALS, key="buyer", features={"n": Count()})
    learning = Project(
        name="learning",
        views=(view,),
        label=Label(source=DEALS, key="buyer", target="x > 0"),
        model=Model(online=Online(rate=0.2)),
    )
    assert_kept(learning)
    label = Label(source=DEALS, key="buyer", target="n", classes=(3, 1, 2))
    model = Model(metric="log_loss", class_weight={1: 2.0, 2: 1.0, 3: 0.5})
    assert_kept(Project(name="classes", views=(view,), label=label, model=model))


_ALL = [(name, one) for windows in ("finite", "none") for name, one in features_of(windows).items()]
_SPANS = st.lists(
    st.sampled_from(
        ["15m", "1h", "12h", "7d", "30d", "1h offset 1h", "week to date", "day to date Asia/Kolkata"]
    ),
    min_size=1,
    max_size=4,
    unique=True,
)
_DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def declarations(draw: st.DrawFn) -> Project:
    """Random projects of two views, some of them in roles, with derived features, a label and a model."""
    chosen = draw(st.lists(st.sampled_from(_ALL), min_size=1, max_size=5, unique_by=lambda one: one[0]))
    finite = {name: one for name, one in chosen if one.windows != "none"}
    views = [
        FeatureView(name="life", source=source, key="key", features={"seen": Count(), **_lifelong(chosen)})
    ]
    if finite:
        hop = draw(st.sampled_from([None, "5m"]))
        spans = tuple(draw(_SPANS))
        views.append(
            FeatureView(name="spans", source=source, key="key", windows=spans, hop=hop, features=finite)
        )
    if draw(st.booleans()):
        views = [view.on(key="who", prefix=draw(st.sampled_from(["", "buyer"]))) for view in views]
    prefix = views[0].use.prefix
    seen = f"{prefix}_seen" if prefix else "seen"
    project = Project(
        name="random",
        views=tuple(views),
        derived=draw(st.sampled_from([{}, {"twice": Derived(f"2 * {seen}")}])),
        description=draw(st.text(max_size=10)),
    )
    if draw(st.booleans()):
        return project
    (key,) = project.keys
    labels = Source(name="labels", id="id", time="at", schema=f"id INT, {key} STRING, at DATE, y DOUBLE")
    params = draw(st.dictionaries(st.text(max_size=5), _DATA, max_size=3))
    label = Label(source=labels, key=key, target="y > 0")
    return replace(project, label=label, model=Model(features=(seen,), params=params))


def _lifelong(chosen: list[tuple[str, Aggregate]]) -> dict[str, Aggregate]:
    return {f"life_{name}": one for name, one in chosen if one.windows != "finite"}


@settings(max_examples=30, deadline=None)
@given(declarations())
def test_random_declarations(project: Project) -> None:
    assert_kept(project)


@dataclass(frozen=True, init=False)
class Doubled(Sum):
    """An author's own aggregate."""

    times: int = 2

    def __init__(self, argument: str, *, times: int = 2) -> None:
        super().__init__(argument)
        object.__setattr__(self, "times", times)


def own_project(**features: Aggregate) -> Project:
    """A project of one view."""
    return Project(
        name="own", views=(FeatureView(name="things", source=source, key="key", features=features),)
    )


def test_an_aggregate_of_an_authors_own_is_found_where_it_is_loaded() -> None:
    assert_kept(own_project(d=Doubled("x", times=3)))


def test_a_class_that_is_gone_is_named_and_nothing_is_imported() -> None:
    text = written(own_project(d=Doubled("x"))).replace(__name__, "antigravity")
    with pytest.raises(
        DeclarationError, match=r"uses 'antigravity:Doubled', which is not there: keep the class"
    ):
        read(text)
    assert "antigravity" not in sys.modules


def test_a_value_that_is_no_data_is_refused() -> None:
    project = Project(
        name="own",
        views=own_project(n=Count()).views,
        label=Label(source=source, key="key", target="x > 0"),
        model=Model(params={"objective": len}),
    )
    with pytest.raises(
        DeclarationError, match="project 'own', model, params: <built-in function len> cannot"
    ):
        written(project)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 99}, "has format 99"),
        ({"project": {"is": "Source"}}, "missing"),
        ({"project": 3}, "is no project"),
    ],
)
def test_a_text_that_is_none_of_ours_is_refused(change: Mapping[str, Any], says: str) -> None:
    text = json.dumps({**json.loads(written(own_project(n=Count()))), **change})
    with pytest.raises(DeclarationError, match=says):
        read(text)


def test_a_field_of_a_later_version_is_refused_and_one_it_lacks_has_its_default() -> None:
    found = json.loads(written(own_project(n=Count())))
    del found["project"]["shared_with"]
    assert read(json.dumps(found)).shared_with == ()
    found["project"]["colour"] = "red"
    with pytest.raises(DeclarationError, match="gives Project 'colour'"):
        read(json.dumps(found))


def test_the_file_of_a_schema_need_not_be_there_any_more(tmp_path: Path) -> None:
    (tmp_path / "things.avsc").write_text("{}")
    with schemas_in(tmp_path):
        fed = replace(source, format="avro", wire_schema="things.avsc")
    project = Project(
        name="own", views=(FeatureView(name="v", source=fed, key="key", features={"n": Count()}),)
    )
    text = written(project)
    (tmp_path / "things.avsc").unlink()
    assert read(text) == project
