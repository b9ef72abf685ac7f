"""Aggregates by category: the names of their columns, what is refused, and what each of them counts."""

from typing import Any

import pytest

from anabranch import AGGREGATES, Aggregate, Count, DecayedSum, FeatureView, Last, Mean, Source, Sum
from anabranch.errors import DeclarationError
from anabranch.folds.merge import merge
from anabranch.testing import oracle
from anabranch.testing.states import batch_part, tiles
from anabranch.values.times import HOUR
from serving.api.catalogue import aggregate_text
from tests.support.law import ARGUMENTS, START, Event, scale_of, source

payments = Source(
    name="payments",
    topic="payments",
    id="id",
    time="at",
    schema="id STRING, card STRING, at TIMESTAMP, amount DOUBLE, kind STRING, shop BIGINT, small TINYINT, "
    "day DATE, raw BINARY",
)


def view(aggregate: Aggregate, *windows: str, **more: Aggregate) -> FeatureView:
    """A view with the feature `spent`."""
    return FeatureView(
        name="seen", source=payments, key="card", windows=windows, features={"spent": aggregate, **more}
    )


def test_a_column_for_each_category_and_one_for_all_others_in_each_window() -> None:
    seen = view(Sum("amount", by="kind", among=("food", "travel")), "1h", "7d", n=Count())
    assert seen.column_names == (
        "spent_1h_food",
        "spent_1h_travel",
        "spent_1h_other",
        "spent_7d_food",
        "spent_7d_travel",
        "spent_7d_other",
        "n_1h",
        "n_7d",
    )
    assert {str(column.type) for column in seen.columns[:6]} == {"DOUBLE"}


def test_without_windows_the_category_follows_the_feature_and_a_role_stands_before() -> None:
    seen = view(Sum("amount", by="kind", among=("food",))).on(card="buyer", prefix="buyer")
    assert seen.column_names == ("buyer_spent_food", "buyer_spent_other")


@pytest.mark.parametrize(
    ("among", "names"),
    [
        (("Food", "eating out", "café", "Straße!"), ("food", "eating_out", "cafe", "strasse")),
        ({"japanese": "食べ物", "nothing": ""}, ("japanese", "nothing")),
        (("it's", 'a "b" \\ c'), ("it_s", "a_b_c")),
    ],
)
def test_texts_are_named_by_their_letters_or_by_the_author(among: Any, names: tuple[str, ...]) -> None:
    seen = view(Count(by="kind", among=among))
    assert seen.column_names == tuple(f"spent_{name}" for name in (*names, "other"))


def test_whole_numbers_are_categories_of_whole_numbers() -> None:
    seen = view(Count(by="shop", among=(0, -7, 2**62)))
    assert [column.category for column in seen.columns] == ["0", "minus_7", str(2**62), "other"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"by": "kind"}, "needs categories"),
        ({"among": ("food",)}, "needs by="),
        ({"by": "kind", "among": "food"}, "give categories"),
        ({"by": "kind", "among": {"food", "x"}}, "give categories"),
        ({"by": "kind", "among": ("a b", "a_b")}, "'a b' and 'a_b' are both named 'a_b'"),
        ({"by": "kind", "among": ("Food", "food")}, "both named 'food'"),
        ({"by": "kind", "among": ("食べ物",)}, "name it yourself"),
        ({"by": "kind", "among": ("",)}, "name it yourself"),
        ({"by": "kind", "among": ("x" * 41,)}, "name it yourself"),
        ({"by": "kind", "among": ("other",)}, "named 'other'"),
        ({"by": "kind", "among": {"Food": "food"}}, "not a good name"),
        ({"by": "kind", "among": {"a": "food", "b": "food"}}, "duplicate category"),
        ({"by": "kind", "among": (True,)}, "no text and no whole number"),
        ({"by": "kind", "among": (1.5,)}, "no text and no whole number"),
        ({"by": "kind", "among": tuple(map(str, range(101)))}, "101 categories, at most 100"),
        ({"by": "kind", "among": (1,)}, "1 is no STRING"),
        ({"by": "shop", "among": ("food",)}, "'food' is no BIGINT"),
        ({"by": "small", "among": (128,)}, "128 is no TINYINT"),
        ({"by": "amount", "among": (1,)}, "by='amount' is DOUBLE"),
        ({"by": "day", "among": ("2024-05-01",)}, "by='day' is DATE"),
        ({"by": "raw", "among": ("a",)}, "by='raw' is BINARY"),
        ({"by": "sort", "among": ("a",)}, "'sort'"),
        ({"by": "kind", "among": ("a",), "where": "amount"}, "is not a condition"),
    ],
)
def test_categories_that_cannot_be_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        view(Sum("amount", **given))
    assert said in str(raised.value), raised.value


def test_an_unknown_argument_is_refused() -> None:
    wrong: dict[str, Any] = {"were": "amount > 0"}
    with pytest.raises(TypeError, match="unexpected keyword argument 'were'"):
        Sum("amount", **wrong)


def test_a_category_is_no_other_feature() -> None:
    with pytest.raises(DeclarationError, match="'spent_food' is used twice"):
        view(Sum("amount", by="kind", among=("food",)), spent_food=Count())


@pytest.mark.parametrize("kind", AGGREGATES, ids=lambda kind: kind.__name__)
def test_every_aggregate_has_one_by_category(kind: Any) -> None:
    more = dict(ARGUMENTS.get(kind.__name__, {}))
    more |= {"other": "x"} if kind.__name__ in ("Covariance", "Correlation") else {}
    column = "b" if kind.takes == "BOOLEAN" else "n"
    windows = () if kind.windows == "none" else ("1h",)
    seen = FeatureView(
        name="seen",
        source=source,
        key="key",
        windows=windows,
        features={"f": kind(column, by="s", among=("a", "b"), **more)},
    )
    assert [column.category for column in seen.columns] == ["a", "b", "other"]
    cut = START + HOUR
    events = [
        Event(
            id=f"e{i}", key="k", time=START + i * 60 * 10**6, arrival=cut + i, n=i, x=i * i / 7, b=i > 6, s=s
        )
        for i, s in enumerate(["a", "a", "b", None, "c", "a", "", "b", "c", "a", "a", "b"])
    ]
    for found in (
        merge(seen, None, tiles(seen, events), cut + HOUR // 2),
        merge(seen, batch_part(seen, events, cut + HOUR // 4), None, cut + HOUR // 2),
    ):
        expected = oracle.answer(seen, events, "k", cut + HOUR // 2)
        assert all(
            oracle.close(expected[name], value, scale_of(seen.features["f"], events))
            for name, value in found.values.items()
        )


def test_the_fingerprint_of_states_changes_with_the_categories_and_not_with_their_names() -> None:
    named = view(Count(by="kind", among={"a": "food", "b": "travel"}), "1h")
    renamed = view(Count(by="kind", among={"x": "food", "y": "travel"}), "1h")
    changed = view(Count(by="kind", among={"a": "food", "b": "trips"}), "1h")
    assert named.fingerprint == renamed.fingerprint != changed.fingerprint
    assert named.promise != renamed.promise
    plain = Count().meaning()
    assert plain == "Count(argument='1', where=None)"  # what earlier versions said of it


def test_a_column_is_described_with_its_one_category() -> None:
    seen = view(Mean("amount", by="kind", among=("food",), where="amount > 0"), last=Last("kind"))
    assert [aggregate_text(seen, column) for column in seen.columns] == [
        "Mean('amount', where='amount > 0', by='kind'): 'food'",
        "Mean('amount', where='amount > 0', by='kind'): none of the others",
        "Last('kind')",
    ]


def test_a_fading_sum_by_category_still_needs_a_view_without_windows() -> None:
    with pytest.raises(DeclarationError, match="has no window"):
        view(DecayedSum("amount", half_life="1d", by="kind", among=("food",)), "1h")
