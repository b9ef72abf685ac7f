"""Views in roles: one view that stands for several keys of a project, declared and checked."""

from dataclasses import replace

import pytest

from anabranch import Count, FeatureView, Label, Model, Project, Source, Sum
from anabranch.errors import DeclarationError

payments = Source(
    name="payments",
    topic="payments",
    id="id",
    time="at",
    schema="id STRING, card STRING, shop INT, amount DOUBLE, at TIMESTAMP",
)
transfers = Source(
    name="transfers",
    topic="transfers",
    id="id",
    time="at",
    schema="id STRING, buyer_card STRING, seller_card STRING, shop INT, fraud BOOLEAN, at TIMESTAMP",
)
spending = FeatureView(
    name="spending", source=payments, key="card", windows=("1h", "7d"), features={"spent": Sum("amount")}
)
LABEL = Label(source=transfers, key=("buyer_card", "seller_card"), target="fraud")
buyer = spending.on(card="buyer_card", prefix="buyer")
seller = spending.on(card="seller_card", prefix="seller")


def declared(*views: FeatureView, label: Label = LABEL) -> Project:
    return Project(name="deals", views=views, label=label, model=Model())


def test_a_view_in_two_roles_has_two_sets_of_columns_and_one_of_states() -> None:
    project = declared(buyer, seller)
    names = ["buyer_spent_1h", "buyer_spent_7d", "seller_spent_1h", "seller_spent_7d"]
    assert [column.name for column in project.columns] == names
    assert project.keys == ("buyer_card", "seller_card")
    assert project.own_views == (spending,) == project.views_of("payments")
    assert project.stored_views == ((spending, (0, 1)),)
    assert {view.fingerprint for view in project.views} == {spending.fingerprint}
    assert project.key_sets(payments) == (("card",),)


def test_without_a_label_the_project_is_asked_by_the_names_that_the_roles_give() -> None:
    project = Project(name="deals", views=(buyer, seller))
    assert project.keys == ("buyer_card", "seller_card")
    assert {name: str(kind) for name, kind in project.key_types.items()} == dict.fromkeys(
        project.keys, "STRING"
    )


def test_a_key_column_may_be_renamed_without_a_prefix() -> None:
    project = declared(spending.on(card="buyer_card"), label=replace(LABEL, key="buyer_card"))
    assert [column.name for column in project.columns] == ["spent_1h", "spent_7d"]
    assert project.key_columns_in(payments) == ("card",)
    assert project.key_columns_in(transfers) == ("buyer_card",)


def test_the_model_is_another_when_a_role_is() -> None:
    other = spending.on(card="seller_card", prefix="buyer")
    assert declared(buyer).fingerprint != declared(other).fingerprint
    assert declared(
        spending.on(prefix="buyer"), label=Label(source=payments, key="card", target="amount")
    ).views


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "on() changes nothing: give a key column"),
        ({"cart": "buyer_card"}, "'cart' is no key column: the view has card"),
        ({"card": ""}, "card='': give the name of a column of the project's key"),
        ({"card": 3}, "card=3: give the name of a column of the project's key"),
        ({"card": "buyer_card", "prefix": "Buyer"}, "prefix 'Buyer' is not a good name"),
    ],
)
def test_what_on_cannot_take_is_refused(columns: dict[str, str], message: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        spending.on(**columns)
    assert message in str(caught.value)


def test_two_key_columns_cannot_stand_for_one() -> None:
    pairs = replace(spending, key=("card", "shop"))
    with pytest.raises(DeclarationError, match="column 'card' is used twice"):
        pairs.on(shop="card")
    assert pairs.on(card="shop", shop="card").asked == ("shop", "card")


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ((spending.on(card="buyer_card"), spending.on(card="seller_card")), "give each use its own prefix"),
        ((buyer, buyer), "view 'spending' is used twice"),
        (
            (
                buyer,
                FeatureView(
                    name="rest", source=transfers, key="buyer_card", features={"buyer_spent_1h": Count()}
                ),
            ),
            "feature column 'buyer_spent_1h' is used twice",
        ),
        ((spending,), "key 'card' of view 'spending' is not among the label's keys buyer_card, seller_card"),
        ((spending.on(card="payer"),), 'say which of them it is with .on(card="...")'),
        ((buyer, replace(seller, features={"n": Count()})), "view 'spending' is used twice"),
    ],
)
def test_uses_that_clash_are_refused(views: tuple[FeatureView, ...], message: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        declared(*views)
    assert message in str(caught.value)


def test_a_role_of_another_type_than_the_labels_key_is_refused() -> None:
    shops = FeatureView(name="shops", source=payments, key="shop", features={"n": Count()})
    with pytest.raises(DeclarationError) as caught:
        declared(shops.on(shop="buyer_card", prefix="shop"))
    assert (
        "key 'buyer_card' is INT in source 'payments', column 'shop' and STRING in source 'transfers'"
        in str(caught.value)
    )
