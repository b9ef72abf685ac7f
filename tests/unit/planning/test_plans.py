"""A plan over a lake that is written by hand: values before and after, the champion, and how it is told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anabranch.declare.loading import load_project
from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.planning import samples
from anabranch.planning.changes import compare
from anabranch.planning.plans import ChangePlan, Comparison
from anabranch.planning.report import bars, lines, markdown, page, summary, tables
from anabranch.planning.samples import LakeSample
from anabranch.planning.views import plan_views
from anabranch.progress import Silent
from anabranch.stores.lake.light import LightTable
from anabranch.testing import fold
from anabranch.values.times import format_time, to_micros
from batch.evaluation.measures import measure
from tests.support.light_lake import HandMadeTable, moment
from tests.support.serving_fakes import FakeManifest, SumScorer

DECLARATION = """
from anabranch import Count, Derived, FeatureView, Label, Model, Project, Source, Sum

visits = Source(name="visits", id="id", time="at",
    schema="id STRING, who BIGINT, town STRING, at TIMESTAMP, pages INT")
by_who = FeatureView(name="by_who", source=visits, key="who", windows=("3h", "lifetime"),
    features={"seen": Sum("pages"%s), "visits": Count()})
by_town = FeatureView(name="by_town", source=visits, key=("town",), windows=("6h",),
    features={"in_town": Count()})
project = Project(name="shop", views=(by_who, by_town),
    derived={"share": Derived("seen_3h / nullif(seen_lifetime, 0)")},
    label=Label(source=visits, key=("who", "town"), target="pages > 5"),
    model=Model(features=("seen_3h", "in_town_6h")))
"""
NOW = to_micros(moment(24))


def visit(number: int, who: int, town: str, hour: float, pages: int) -> dict[str, Any]:
    """A visit at an hour of the day, which came with a file a little later."""
    return {
        "id": f"v{number}", "who": who, "town": town, "at": moment(hour), "pages": pages,
        "_arrival": moment(hour + 0.1), "_file": f"day-{number}.csv", "_offset": number,
    }  # fmt: skip


VISITS = [
    [visit(n, n % 5, ("Oslo", "Bergen")[n % 2], n / 10, n % 11) for n in range(1, 60)],
    [visit(n, n % 5, ("Oslo", "Bergen")[n % 2], n / 10, n % 11) for n in range(60, 100)],
    [visit(99, 1, "Oslo", 11, 10)],  # a copy, which came later
]


def declared(folder: Path, where: str = "") -> Project:
    folder.mkdir(exist_ok=True)
    (folder / "shop.py").write_text(DECLARATION % where, encoding="utf-8")
    return load_project("shop", [folder])


@pytest.fixture
def compared(tmp_path: Path) -> Comparison:
    made = HandMadeTable(tmp_path / "lake" / "shop" / "events" / "visits")
    for number, rows in enumerate(VISITS):
        made.add(f"part-{number}.parquet", rows)
    old, new = declared(tmp_path / "old"), declared(tmp_path / "new", ', where="pages > 5"')
    sample = LakeSample(str(tmp_path / "lake"), [])
    return Comparison(old=old, new=new, changes=compare(old, new), sample=sample, progress=Silent())


def planned(compared: Comparison, keys: int = 100) -> ChangePlan:
    scorer = SumScorer("3", ("seen_3h", "in_town_6h"))
    scorer.task, scorer.threshold = "class", 0.5
    found = compared.evidence(keys, 20, scorer, measure, NOW)
    views = plan_views(
        compared.new,
        compared.old,
        FakeManifest(fingerprints={view.name: view.fingerprint for view in compared.old.own_views})
        if compared.old
        else None,
        sizes={},
        rates={},
        slack=0,
    )
    return ChangePlan(
        project="shop", against="batch version 7", changes=compared.changes, views=views, values=found.values,
        keys=found.keys, at=found.at, champion=found.champion, notes=compared.sample.missing,
    ).with_steps()  # fmt: skip


def test_values_before_and_after_are_what_the_plain_definition_gives(compared: Comparison) -> None:
    plan = planned(compared)
    assert plan.keys == 10
    assert plan.at is not None
    assert format_time(plan.at).startswith("2024-05-01T11:00")  # the latest event, not now
    changed = {one.name: one for one in plan.values}
    assert list(changed) == ["seen_3h", "seen_lifetime", "share"]
    given = [
        {name: row[name] for name in ("id", "who", "town", "at", "pages")}
        for row in (row for rows in VISITS for row in rows)
    ]
    sides = {}
    for who in range(5):
        for town in ("Oslo", "Bergen"):
            key, at = {"who": who, "town": town}, format_time(plan.at)
            old, new = (fold(project, given, key, at) for project in (compared.old, compared.new) if project)
            sides[f"who={who} town={town}"] = (old, new)
    for name, one in changed.items():
        differ = [key for key, (old, new) in sides.items() if old[name] != new[name]]
        assert one.differ == len(differ)
        assert one.before is not None
        missing = sum(old[name] is None for old, _ in sides.values()) / 10
        assert one.before.missing == pytest.approx(missing)
        for text, before, after in one.examples:
            assert [before, after] == pytest.approx([side[name] for side in sides[text]])
    assert changed["seen_lifetime"].differ == 10
    assert sum(changed["seen_lifetime"].counts_after) == 10


def test_the_champion_fits_and_its_metric_is_that_of_features_strictly_before_each_label(
    compared: Comparison,
) -> None:
    champion = planned(compared).champion
    assert champion is not None
    assert (champion.fits, champion.reads, champion.labels) == (True, ("seen_3h",), 20)
    rows = sorted((row for rows in VISITS[:2] for row in rows), key=lambda row: row["at"])
    given = [{name: row[name] for name in ("id", "who", "town", "at", "pages")} for row in rows]
    expected = []
    for project in (compared.old, compared.new):
        assert project is not None
        truth, scores = [], []
        for row in rows[-20:]:
            key = {"who": row["who"], "town": row["town"]}
            found = fold(project, given, key, row["at"])
            scores.append((found["seen_3h"] or 0) + found["in_town_6h"])
            truth.append(float(row["pages"] > 5))
        expected.append(measure("roc_auc", np.array(truth), np.array(scores, dtype=float)))
    assert [champion.before, champion.after] == pytest.approx(expected)


def test_a_champion_that_reads_what_goes_does_not_fit(compared: Comparison, tmp_path: Path) -> None:
    text = (DECLARATION % "").replace('"seen"', '"read"').replace("seen_", "read_")
    (tmp_path / "new" / "shop.py").write_text(text, encoding="utf-8")
    new = load_project("shop", [tmp_path / "new"])
    renamed = Comparison(
        old=compared.old, new=new, changes=compare(compared.old, new), sample=compared.sample,
        progress=Silent(),
    )  # fmt: skip
    plan = planned(renamed)
    assert plan.champion is not None
    assert not plan.champion.fits
    assert "reads 'seen_3h', which is declared no more: train again" in plan.champion.why
    assert plan.steps == ["anabranch build shop", "anabranch train shop"]
    assert plan.values == []  # a renamed feature has the values that it had
    assert "2 features are renamed, 4 stay the same" in summary(plan)  # the share of them is the same


def test_a_plan_is_told_in_a_terminal_in_markdown_as_json_and_as_a_page(compared: Comparison) -> None:
    plan = planned(compared)
    by_title = {each.title.partition(" ")[0]: each for each in tables(plan)}
    assert list(by_title) == ["Features", "Views", "Values", "Examples", "Champion:"]
    assert by_title["Features"].rows[0] == ("~", "seen_3h", "changes", "where: none → pages > 5")
    assert "→" in str(by_title["Values"].rows[0][-1])
    assert summary(plan) == (
        "shop against batch version 7: 3 features change meaning, 3 stay the same, 1 view is built anew"
    )
    text = markdown(plan)
    assert "| ~ | seen_3h | changes | where: none → pages > 5 |" in text
    assert "anabranch build shop" in text
    found = plan.document()
    assert (found["changed"], found["same_features"], len(found["values"])) == (True, 3, 3)
    assert found["views"][0]["becomes"] == "built anew"
    html = page(plan)
    assert html.count("<svg") == 3
    assert "seen_lifetime: changes" in html


def test_nothing_that_changes_needs_nothing(compared: Comparison) -> None:
    assert compared.old is not None
    same = Comparison(
        old=compared.old, new=compared.old, changes=compare(compared.old, compared.old),
        sample=compared.sample, progress=Silent(),
    )  # fmt: skip
    plan = planned(same)
    assert (plan.changed, plan.steps, plan.values) == (False, [], [])
    assert summary(plan) == "shop: nothing changes against batch version 7"


def test_what_only_spark_reads_is_said_and_the_rest_is_told(compared: Comparison) -> None:
    away = Comparison(
        old=compared.old, new=compared.new, changes=compared.changes,
        sample=LakeSample("hdfs://node/lake", []), progress=Silent(),
    )  # fmt: skip
    plan = planned(away)
    assert (plan.values, plan.changed) == ((), True)
    assert "which only Spark reads" in lines(plan)[0]
    assert plan.champion is not None
    assert plan.champion.fits
    with pytest.raises(MisuseError, match="only Spark reads"):
        away.sample.keys(compared.new, 3)


def test_fewer_keys_may_be_asked_for_and_they_are_always_the_same(compared: Comparison) -> None:
    assert compared.sample.keys(compared.new, 3) == compared.sample.keys(compared.new, 3)
    assert len(compared.sample.keys(compared.new, 3)) == 3
    assert planned(compared, keys=0).values == []


def test_a_copy_that_came_first_with_another_key_is_the_event(compared: Comparison, tmp_path: Path) -> None:
    keys = [{"who": "1", "town": "Oslo"}]
    before = {row["id"] for row in compared.sample.events([compared.new], keys)["visits"]}
    assert {"v96", "v98"} <= before  # of the town
    table = LightTable(str(tmp_path / "lake" / "shop" / "events" / "visits"), "at")
    assert len(table.files) == 3
    earlier = {**visit(98, 7, "Rome", 1, 1), "_arrival": moment(0.5)}
    again = HandMadeTable(tmp_path / "again" / "shop" / "events" / "visits")
    for number, rows in enumerate([*VISITS, [earlier]]):
        again.add(f"part-{number}.parquet", rows)
    sample = LakeSample(str(tmp_path / "again"), [])
    assert before - {row["id"] for row in sample.events([compared.new], keys)["visits"]} == {"v98"}


def test_what_is_more_than_is_read_is_the_oldest_and_is_told(
    compared: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "MOST_EVENTS", 10)
    found = planned(compared)
    assert found.keys == 10
    assert found.notes == ["of source 'visits' only the newest 10 events of the sampled keys were read"]


def test_counts_are_drawn_as_blocks() -> None:
    assert bars([0, 1, 4, 8]) == "·▁▄█"
    assert bars([]) == ""
