"""Views of other projects, found while a declaration is loaded."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from anabranch import Count, FeatureView, Project, Source, shared
from anabranch.declare.loading import load_project
from anabranch.errors import DeclarationError

OWNER = """
from anabranch import Count, FeatureView, Project, Source, Sum

payments = Source(
    name="payments", topic="payments", id="id", time="at",
    schema="id STRING, merchant STRING, amount DOUBLE, at TIMESTAMP",
)
features = {"paid": Sum("amount")}
risk = FeatureView(name="risk", source=payments, key="merchant", windows="1h", features=features)
project = Project(name="merchants", views=(risk,), shared_with=("fraud", "circle"))
"""
BORROWER = """
from anabranch import Count, FeatureView, Label, Model, Project, Source, shared

payments = Source(
    name="payments", topic="cards", id="id", time="at",
    schema="id STRING, card STRING, shop STRING, bad BOOLEAN, at TIMESTAMP",
)
seen = FeatureView(name="risk", source=payments, key="card", features={"n": Count()})
project = Project(
    name="fraud",
    views=(seen, shared("merchants", "risk").on(merchant="shop", prefix="shop")),
    label=Label(source=payments, key=("card", "shop"), target="bad"),
    model=Model(),
)
"""


def declare(folder: Path, **texts: str) -> tuple[Path]:
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return (folder,)


def test_a_view_of_another_project_has_its_owners_source_and_tables(tmp_path: Path) -> None:
    folders = declare(tmp_path, merchants=OWNER, fraud=BORROWER)
    project, owner = load_project("fraud", folders), load_project("merchants", folders)
    assert [column.name for column in project.columns] == ["n", "shop_paid_1h"]
    assert [view.full_name for view in project.views] == ["risk", "merchants.risk"]
    assert [view.feed for view in project.views] == ["payments", "merchants.payments"]
    # What is landed, streamed and built stays the owner's, even where names are the same.
    assert [source.topic for source in project.sources.values()] == ["cards"]
    assert [view.source.topic for view in project.own_views] == ["cards"]
    assert project.lenders == {"merchants": Project(name="merchants", views=owner.views)}
    assert project.views[1].fingerprint == owner.views[0].fingerprint


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'shared_with=("fraud", "circle")',
            "",
            "does not share view 'risk' with it: its owner consents by shared_with",
        ),
        (
            'shared_with=("fraud", "circle")',
            'shared_with="fraud"',
            "shared_with is 'fraud': write the names of projects",
        ),
        ('name="risk"', 'name="worth"', "project 'merchants' has no view 'risk' to share: it has worth"),
        (
            "merchant STRING",
            "merchant INT",
            "key 'shop' is INT in source 'merchants.payments', column 'merchant' and STRING in source 'payme",
        ),
        ("import Count", "import Counted", "shared('merchants', 'risk'): "),
    ],
)
def test_what_the_owner_does_not_give_is_an_error_of_one_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    folders = declare(tmp_path, merchants=OWNER.replace(old, new), fraud=BORROWER)
    with pytest.raises(DeclarationError) as caught:
        load_project("fraud", folders)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_owner_that_is_not_declared_is_an_error(tmp_path: Path) -> None:
    folders = declare(tmp_path, fraud=BORROWER)
    with pytest.raises(DeclarationError, match=r"shared\('merchants', 'risk'\): no project 'merchants'"):
        load_project("fraud", folders)


def test_projects_that_use_views_of_one_another_are_refused(tmp_path: Path) -> None:
    back = OWNER.replace("import Count", "import shared, Count").replace(
        "(risk,)", '(risk, shared("fraud", "risk"))'
    )
    folders = declare(tmp_path, merchants=back, fraud=BORROWER)
    for name, circle in {
        "fraud": "in a circle, fraud -> merchants -> fraud: ",
        "merchants": "in a circle, merchants -> fraud -> merchants: ",
    }.items():
        with pytest.raises(DeclarationError, match=circle):
            load_project(name, folders)
    declare(tmp_path, merchants=OWNER)
    assert load_project("fraud", folders).lenders  # what failed leaves nothing behind


def test_a_borrowed_view_is_shared_by_its_owner_alone(tmp_path: Path) -> None:
    third = """
from anabranch import Project, shared
project = Project(name="third", views=(shared("fraud", "risk"),))
"""
    text = BORROWER.replace('name="risk", source', 'name="seen", source')
    folders = declare(tmp_path, merchants=OWNER, fraud=text, third=third)
    with pytest.raises(
        DeclarationError, match=r"no view 'risk' to share: it uses 'merchants.risk' of another project"
    ):
        load_project("third", folders)


def test_outside_of_a_declarations_file_nothing_is_shared() -> None:
    with pytest.raises(DeclarationError, match="found when a declaration is loaded"):
        shared("merchants", "risk")


def test_the_same_view_may_be_borrowed_in_two_roles_beside_an_own_one() -> None:
    things = Source(name="things", id="id", time="at", schema="id STRING, who STRING, at TIMESTAMP")
    view = FeatureView(name="seen", source=things, key="who", features={"n": Count()})
    lent = Project(name="owner", views=(view,), shared_with=("user",)).lend("seen")
    user = Project(
        name="user", views=(view, lent.on(who="one", prefix="one"), lent.on(who="two", prefix="two"))
    )
    assert [name.full_name for name, _ in user.stored_views] == ["seen", "owner.seen"]
    assert user.own_views == (view,)
    assert user.keys == ("who", "one", "two")
    other = replace(view, features={"m": Count(where="who > 'a'")})
    changed = Project(name="owner", views=(other,), shared_with=("user",)).lend("seen")
    assert (
        replace(user, views=(view, changed)).fingerprint
        != replace(user, views=(view, lent.on(prefix="m"))).fingerprint
    )


def test_the_examples_on_the_page_of_sources_can_be_declared(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "sources.md").read_text(encoding="utf-8")
    section = page.split("## Views of other projects")[1].split("\n## ")[0]
    examples = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    folders = declare(tmp_path, **dict(zip(("deal_fraud", "merchants", "shop_fraud"), examples, strict=True)))
    assert [load_project(name, folders).name for name in ("deal_fraud", "shop_fraud")] == [
        "deal_fraud",
        "shop_fraud",
    ]
