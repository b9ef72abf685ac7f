"""What differs between two declarations: by meaning, whatever things are called."""

from dataclasses import replace
from typing import Any

import pytest

from anabranch import Count, Derived, FeatureView, Label, Max, Model, Project, Request, Source, Sum
from anabranch.planning.changes import compare, refused_columns
from anabranch.planning.views import SourceSize, ViewPlan, plan_views
from tests.support.serving_fakes import FakeManifest

payments = Source(
    name="payments",
    topic="payments",
    id="id",
    time="at",
    schema="id STRING, card STRING, shop STRING, amount DOUBLE, at TIMESTAMP",
)
spending = FeatureView(
    name="spending",
    source=payments,
    key="card",
    windows=("1h", "7d"),
    features={"spent": Sum("amount"), "payments": Count()},
)
ratio = {"ratio": Derived("spent_1h / nullif(spent_7d, 0)")}
OLD = Project(
    name="cards",
    views=(spending,),
    derived=ratio,
    label=Label(source=payments, key="card", target="amount > 10"),
    model=Model(metric="roc_auc"),
)
PLAIN = replace(OLD, derived={}, label=None, model=None)


def changed(**fields: Any) -> Project:
    """The project with the view's fields replaced, without what reads its features."""
    return replace(PLAIN, views=(replace(spending, **fields),))


def kinds(old: Project, new: Project) -> dict[str, str]:
    return {change.name: change.kind for change in compare(old, new).features}


def test_nothing_changes_against_itself() -> None:
    found = compare(OLD, replace(OLD, description="better words"))
    assert (found.all, found.same) == ((), 5)


def test_everything_comes_where_nothing_served() -> None:
    assert set(kinds_of_nothing := [one.kind for one in compare(None, OLD).features]) == {"comes"}
    assert len(kinds_of_nothing) == 5


def test_a_feature_of_one_meaning_under_another_name_is_renamed_and_so_is_what_reads_it() -> None:
    features = {"outgo": Sum("amount"), "payments": Count()}
    derived = {"part": Derived("outgo_1h / nullif(outgo_7d, 0)")}
    new = replace(OLD, views=(replace(spending, features=features),), derived=derived)
    found = compare(OLD, new)
    assert {change.name: change.before for change in found.features} == {
        "outgo_1h": "spent_1h",
        "outgo_7d": "spent_7d",
        "part": "ratio",
    }
    assert found.same == 2
    (view,) = planned(new)
    assert (view.becomes, view.rows) == ("kept", 0)  # states know no names


@pytest.mark.parametrize(
    ("fields", "name", "told"),
    [
        ({"features": {"spent": Max("amount"), "payments": Count()}}, "spent_1h", "aggregate: Sum → Max"),
        (
            {"features": {"spent": Sum("amount", where="amount > 1"), "payments": Count()}},
            "spent_1h",
            "where: none → amount > 1",
        ),
        (
            {"features": {"spent": Sum("amount * 2"), "payments": Count()}},
            "spent_7d",
            "argument: amount → amount * 2",
        ),
        ({"hop": "1m"}, "spent_1h", "hop: 5m → 1m"),
        ({"key": "shop"}, "spent_1h", "key: card → shop"),
        ({"source": replace(payments, topic="paid")}, "payments_1h", "topic: payments → paid"),
        (
            {"source": replace(payments, schema=payments.schema.replace("DOUBLE", "INT"))},
            "spent_1h",
            "type of amount: DOUBLE → INT",
        ),
    ],
)
def test_a_change_of_meaning_says_which_part(fields: dict[str, Any], name: str, told: str) -> None:
    found = {change.name: change for change in compare(PLAIN, changed(**fields)).features}
    assert found[name].kind == "changes"
    assert told in found[name].text


def test_a_derived_feature_changes_with_what_it_reads_though_its_text_does_not() -> None:
    features = {"spent": Sum("amount", where="amount > 1"), "payments": Count()}
    new = replace(changed(features=features), derived=ratio)
    found = {change.name: change for change in compare(OLD, new).features}
    assert found["ratio"].kind == "changes"
    assert "another meaning: spent_1h, spent_7d" in found["ratio"].text
    assert "payments_1h" not in found  # by column: that the view is built anew changes no other feature


def test_a_window_that_comes_leaves_the_other_features_alone() -> None:
    found = kinds(PLAIN, changed(windows=("60m", "7d", "1d")))
    # 60m means what 1h means.
    assert found == {
        "spent_60m": "renamed", "payments_60m": "renamed", "spent_1d": "comes", "payments_1d": "comes",
    }  # fmt: skip


def test_sources_request_label_and_model_are_compared_part_by_part() -> None:
    wider = replace(payments, schema=f"{payments.schema}, country STRING", format="csv")
    new = replace(
        OLD,
        views=(replace(spending, source=wider),),
        label=Label(source=wider, key="card", target="amount > 20"),
        model=Model(metric="log_loss"),
        request=Request(schema="channel STRING DEFAULT 'web'"),
    )
    found = {change.what: change for change in compare(OLD, new).others}
    assert found["source"].text == "format: json → csv; column country: none → STRING"
    assert found["request"].kind == "comes"
    assert found["label"].text == "target: amount > 10 → amount > 20"
    assert found["model"].parts["metric"] == ("roc_auc", "log_loss")
    assert compare(OLD, new).same == 5


def test_a_column_that_landing_will_refuse_is_told_before() -> None:
    schema = "id STRING, card BIGINT, amount DOUBLE, at TIMESTAMP, country STRING"
    new = changed(source=replace(payments, schema=schema))
    card, shop = refused_columns(compare(PLAIN, new))
    assert "source 'payments': column card (STRING) becomes BIGINT, which landing refuses" in card
    assert "column shop (STRING) goes, which landing refuses" in shop


def planned(new: Project, **given: Any) -> list[ViewPlan]:
    served = FakeManifest(
        project="cards",
        fingerprints={view.name: view.fingerprint for view in OLD.own_views},
        rows={"spending": 1000},
    )
    sizes = {"payments": SourceSize(rows=60_000, bytes=1_000_000, files=3)}
    more = {"sizes": sizes, "rates": {"": 2000.0}, "slack": 0, **given}
    return plan_views(new, OLD, served, **more)


def test_a_view_of_another_meaning_is_built_anew_at_the_rate_of_earlier_builds() -> None:
    new = changed(features={**spending.features, "top": Max("amount")})
    (view,) = planned(new)
    assert (view.becomes, view.rows, view.seconds, view.keys) == ("built anew", 60_000, 30.0, 1000)
    assert view.state_bytes_before is not None
    assert view.state_bytes is not None
    assert view.state_bytes > view.state_bytes_before
    assert (view.tiles, view.restarts) == (("1h", "5m"), "payments")
    (own,) = planned(new, rates={"": 2000.0, "spending": 6000.0})
    assert own.seconds == 10.0


def test_what_is_not_known_is_not_guessed() -> None:
    new = changed(features={**spending.features, "top": Max("amount")})
    (view,) = planned(new, rates={})
    assert (view.rows, view.seconds) == (60_000, None)
    (view,) = planned(new, sizes={})
    assert (view.rows, view.seconds) == (None, None)


def test_a_view_that_is_renamed_keeps_its_states_and_one_that_goes_is_told() -> None:
    (view,) = planned(changed(name="outgo"))
    assert (view.becomes, view.before, view.rows) == ("renamed", "spending", 0)
    other = FeatureView(name="by_shop", source=payments, key="shop", features={"all": Count()})
    made, gone = planned(replace(PLAIN, views=(other,)))
    assert (made.name, made.becomes) == ("by_shop", "built anew")
    assert (gone.name, gone.becomes, gone.keys) == ("spending", "goes", 1000)
