"""Projects of a user's own, declared outside the repository, through every verb of the command line and no
change to the code.

One process runs the commands one after the other, as a user would; each test looks at what one of them said.
"""

import os
import random
import shutil
import statistics
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from anabranch.settings import ViewsSettings
from anabranch.stores.cassandra.measures import Measures
from anabranch.stores.models.registry import Models
from jobs.cli.models.training import _commit
from jobs.wiring.settings import ROOT, Settings
from tests.support.command_line import Commands, Said, write

FLIGHTS = '''"""Which departures will be late? By plane and by airport."""

from anabranch import Count, FeatureView, Label, Last, Max, Mean, Model, Project, Source, Sum

flights = Source(
    name="flights",
    topic="{name}",
    id="flight_id",
    time="departed_at",
    schema="flight_id STRING, tailnum STRING, origin STRING, departed_at TIMESTAMP, dest STRING, "
    "distance INT, dep_delay DOUBLE",
)
by_plane = FeatureView(
    name="by_plane",
    source=flights,
    key="tailnum",
    features={{"flights": Count(), "delay_mean": Mean("dep_delay"), "distance_total": Sum("distance"),
    "last_dest": Last("dest")}},
)
by_airport = FeatureView(
    name="by_airport",
    source=flights,
    key="origin",
    windows=("1d", "30d", "lifetime"),
    features={{"departures": Count(), "late": Count(where="dep_delay > 15"), "delay_max": Max("dep_delay")}},
)
project = Project(
    name="{name}",
    views=(by_plane, by_airport),
    label=Label(source=flights, key=("tailnum", "origin"), target="dep_delay > 15"),
    model=Model(trainer="logistic", metric="roc_auc"),
)
'''
HOUSES = '''"""What is a house worth? A number, from files alone."""

from anabranch import FeatureView, Label, Last, Model, Project, Source

offers = Source(name="offers", id="offer", time="at",
    schema="offer BIGINT, house INT, at DATE, area DOUBLE, kind STRING")
sales = Source(name="sales", id="sale", time="at", schema="sale BIGINT, house INT, at DATE, price DOUBLE")
view = FeatureView(name="house", source=offers, key="house",
    features={{"area": Last("area"), "kind": Last("kind")}})
project = Project(
    name="{name}", views=(view,), label=Label(source=sales, key="house", target="price"),
    model=Model(trainer="linear", metric="rmse", interval=0.9)
)
'''
DAY = timedelta(days=1)
ASKED = datetime(2013, 7, 1, 12, 0, tzinfo=UTC)
Row = dict[str, Any]


def some_flights(count: int) -> list[Row]:
    """Flights of 2013, a few delays unknown; some planes depart late more often."""
    chance = random.Random(5)
    rows = []
    for number in range(count):
        plane = chance.randrange(12)
        delay = None if chance.random() < 0.05 else round(chance.gauss(5 + 3 * plane, 20), 1)
        moment = datetime(2013, 1, 1, tzinfo=UTC) + timedelta(minutes=chance.randrange(365 * 24 * 60))
        rows.append(
            {
                "flight_id": f"f{number}",
                "tailnum": f"N{plane}",
                "origin": chance.choice(["EWR", "JFK", "LGA"]),
                "departed_at": moment.isoformat().replace("+00:00", "Z"),
                "dest": chance.choice(["BOS", "MIA", "LAX"]),
                "distance": chance.randrange(100, 3000),
                "dep_delay": delay,
            }
        )
    return rows


def recount(flights: Sequence[Row], tailnum: str, origin: str, at: datetime) -> Row:
    """The features of a plane and an airport as plain loops over rows."""
    known = [{**row, "at": datetime.fromisoformat(row["departed_at"])} for row in flights]
    known = sorted((row for row in known if row["at"] < at), key=lambda row: (row["at"], row["dest"]))
    plane = [row for row in known if row["tailnum"] == tailnum]
    delays = [row["dep_delay"] for row in plane if row["dep_delay"] is not None]
    found: Row = {
        "flights": len(plane),
        "delay_mean": statistics.fmean(delays) if delays else None,
        "distance_total": sum(row["distance"] for row in plane) if plane else None,
        "last_dest": plane[-1]["dest"] if plane else None,
    }
    airport = [row for row in known if row["origin"] == origin]
    midnight = {"hour": 0, "minute": 0, "second": 0, "microsecond": 0}
    tails = {
        "1d": (at - DAY).replace(minute=0, second=0, microsecond=0),
        "30d": (at - 30 * DAY).replace(**midnight),  # type: ignore[arg-type]
        "lifetime": None,
    }
    for name, tail in tails.items():
        inside = [row["dep_delay"] for row in airport if tail is None or row["at"] >= tail]
        there = [delay for delay in inside if delay is not None]
        found |= {
            f"departures_{name}": len(inside),
            f"late_{name}": sum(delay > 15 for delay in there),
            f"delay_max_{name}": max(there, default=None),
        }
    return found


def write_text(path: Path, text: str) -> Path:
    """The text as a file; returns its folder."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path.parent


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Flown:
    """The project of flights after all its commands: its rows and what was said."""

    name: str
    folder: Path
    first: list[Row]
    more: list[Row]
    said: Mapping[str, Said]
    environment: Mapping[str, str]
    views: ViewsSettings


@pytest.fixture(scope="module")
def flown(commands: Commands, servers: Settings) -> Flown:
    name = f"flights_{uuid.uuid4().hex[:8]}"
    folder, run = commands.folder, commands.run
    (folder / f"{name}.py").write_text(FLIGHTS.format(name=name))
    flights = some_flights(320)
    first, more = flights[:300], flights[300:]
    bad = [
        {**first[0], "flight_id": "bad1", "distance": "far"},
        {**first[0], "flight_id": "bad2", "tailnum": "", "origin": ""},
    ]
    asked = [
        {"tailnum": f"N{i}", "origin": o, "departed_at": ASKED.isoformat()}
        for i in range(13)
        for o in ("EWR", "LGA")
    ]
    run("projects", "projects", "--json")
    run("check", "check", name, "--json")
    run("ingest", "ingest", name, "flights", write(folder / "flights.csv", [*first, *bad]), "--json")
    run("quarantine", "quarantine", name, "--json")
    run("build", "build", name, "--json")
    run("train", "train", name, "--json")
    run("publish", "publish", name, "flights", write(folder / "more.csv", more), "--json")
    run("stream", "stream", name, "--once", "--json")
    run("answer", "answer", name, "tailnum=N3", "origin=EWR", "--json")
    run("answer at", "answer", name, "origin=EWR", "tailnum=N3", "--at", ASKED.isoformat(), "--json")
    run("answer of nobody", "answer", name, "tailnum=N999", "origin=XXX", "--json")
    run("answer of nobody, for people", "answer", name, "tailnum=N999", "origin=XXX")
    run("answer of a new plane", "answer", name, "tailnum=N999", "origin=EWR", "--json")
    run(
        "features",
        "features",
        name,
        "--at",
        write(folder / "asked.csv", asked),
        "--out",
        folder / "features",
        "--json",
    )
    run("score", "score", name, "--in", folder / "asked.csv", "--out", folder / "scores", "--json")
    run("verify", "verify", name, "--all", "--json")
    wanted = f"SELECT key FROM anabranch.{name}_scores WHERE tailnum = 'N3' AND origin = 'EWR'"
    run(
        "sql",
        "sql",
        f"SELECT tailnum, origin, flights, degraded FROM {name}_at(TABLE({wanted}), current_timestamp())",
        "--json",
    )
    run("build again", "build", name, "--json")
    run("rollback", "rollback", name, "--json")
    run("answer after rollback", "answer", name, "tailnum=N3", "origin=EWR", "--json")
    run("half a key", "answer", name, "tailnum=N3")
    run("watch", "watch", name, "--html", folder / "watched.html", "--json")
    run("history", "history", name, "--json")
    run("upkeep", "upkeep", name, "--dry-run", "--json")
    before = write_text(folder / "before" / f"{name}.py", FLIGHTS.format(name=name))
    run("plan of nothing", "plan", name, "--exit-code", "--json")
    changed = FLIGHTS.replace('where="dep_delay > 15"', 'where="dep_delay > 30"').replace(
        '"flights": C', '"legs": C'
    )
    write_text(folder / f"{name}.py", changed.format(name=name))
    run("plan", "plan", name, "--html", folder / "plan.html", "--json")
    run("plan, for people", "plan", name, "--exit-code")
    run("plan as Markdown", "plan", name, "--keys", 5, "--labels", 5, "--markdown")
    run("plan against a folder", "plan", name, "--against", before, "--keys", 0, "--labels", 0, "--json")
    write_text(folder / f"{name}.py", FLIGHTS.format(name=name))
    return Flown(name, folder, first, more, commands.said, commands.environment, servers.views)


def test_a_project_outside_the_repository_is_listed_and_checked(flown: Flown) -> None:
    assert flown.name in [each["name"] for each in flown.said["projects"].found["projects"]]
    checked = flown.said["check"].found
    assert (checked["ok"], checked["keys"]) == (True, ["tailnum", "origin"])
    assert [feature["name"] for feature in checked["features"]][:5] == [
        "flights",
        "delay_mean",
        "distance_total",
        "last_dest",
        "departures_1d",
    ]


def test_rows_of_a_file_land_and_bad_ones_go_to_quarantine(flown: Flown) -> None:
    assert {"rows": 300, "quarantined": 2, "skipped_files": 0}.items() <= flown.said["ingest"].found.items()
    reasons = flown.said["quarantine"].found["reasons"]
    assert reasons == {
        "flights: distance: '…' is not INT": 1,
        "flights: no key: tailnum or origin or tailnum and origin is missing": 1,
    }


def test_a_build_has_one_row_a_key_of_each_view(flown: Flown) -> None:
    built = flown.said["build"].found
    assert built["rows"] == {"by_plane": 12, "by_airport": 3}
    assert built["current_rows"] == len({(row["tailnum"], row["origin"]) for row in flown.first})


def test_a_model_is_trained_and_registered(flown: Flown) -> None:
    trained = flown.said["train"].found
    assert (trained["model_version"], trained["champion"]) == ("1", True)
    assert trained["rows"] == sum(row["dep_delay"] is not None for row in flown.first)
    assert 0 <= trained["metrics"]["roc_auc"] <= 1


def test_a_version_tells_the_batch_and_the_code_it_was_made_beside(flown: Flown, servers: Settings) -> None:
    tags = Models(servers.models).entry(flown.name, "1").tags
    assert tags["batch_version"] == str(flown.said["build"].found["batch_version"])
    assert tags.get("commit", "") == _commit()


def test_published_rows_are_in_the_answer_of_now(flown: Flown) -> None:
    assert flown.said["publish"].found["published"] == len(flown.more)
    assert flown.said["stream"].found["events"] == len(flown.more)  # one query reads them for both views
    answer = flown.said["answer"].found
    assert answer["features"] == pytest.approx(recount([*flown.first, *flown.more], "N3", "EWR", now()))
    assert (answer["model_version"], answer["degraded"], answer["layer"]) == ("1", False, "serving")
    assert 0 <= answer["score"] <= 1


def test_sql_finds_a_key_of_two_columns_and_merges_it(flown: Flown) -> None:
    expected = {
        "tailnum": "N3",
        "origin": "EWR",
        "flights": flown.said["answer"].found["features"]["flights"],
        "degraded": None,
    }
    assert flown.said["sql"].found == {"columns": list(expected), "rows": [expected], "complete": True}


def test_an_answer_of_the_past_equals_a_plain_recount(flown: Flown) -> None:
    answer = flown.said["answer at"].found
    expected = recount([*flown.first, *flown.more], "N3", "EWR", ASKED)
    assert expected["departures_30d"] > expected["departures_1d"]
    assert answer["features"] == pytest.approx(expected)
    assert (answer["as_of"], answer["degraded"]) == (ASKED.isoformat().replace("+00:00", "Z"), False)
    assert (answer["known"], answer["score"] is not None) == (True, True)


def test_a_key_never_seen_has_an_answer(flown: Flown) -> None:
    answer = flown.said["answer of nobody"].found
    assert answer["features"] == recount([], "N999", "XXX", now())
    assert (answer["known"], answer["score"], answer["label"], answer["degraded"]) == (
        False,
        None,
        None,
        False,
    )
    said = flown.said["answer of nobody, for people"]
    assert (said.code, "score 0." in said.out) == (0, False)
    assert "neither the batch nor the stream has an event of this key" in said.out


def test_a_plane_never_seen_is_known_by_its_airport(flown: Flown) -> None:
    answer = flown.said["answer of a new plane"].found
    assert answer["features"] == pytest.approx(recount([*flown.first, *flown.more], "N999", "EWR", now()))
    assert (answer["known"], 0 <= answer["score"] <= 1) == (True, True)


def test_features_of_rows_equal_a_plain_recount(flown: Flown) -> None:
    assert flown.said["features"].found["rows"] == 26
    rows = pq.read_table(flown.folder / "features").to_pylist()
    assert len(rows) == 26
    for row in rows:
        assert row.pop("departed_at").replace(tzinfo=UTC) == ASKED
        tailnum, origin = row.pop("tailnum"), row.pop("origin")
        assert row == pytest.approx(recount([*flown.first, *flown.more], tailnum, origin, ASKED))


def test_every_row_is_scored(flown: Flown) -> None:
    assert flown.said["score"].found["rows"] == 26
    rows = pq.read_table(flown.folder / "scores").to_pylist()
    assert len({(row["tailnum"], row["origin"]) for row in rows}) == 26
    assert all(
        0 <= row["score"] <= 1 and row["label"] in (0, 1) and row["model_version"] == "1" for row in rows
    )
    served = flown.said["answer"].found["score"]
    assert [row["score"] for row in rows if (row["tailnum"], row["origin"]) == ("N3", "EWR")] == [
        pytest.approx(served, abs=1e-6)
    ]


def test_what_is_served_equals_the_lake(flown: Flown) -> None:
    found = flown.said["verify"].found
    keys = {(row["tailnum"], row["origin"]) for row in [*flown.first, *flown.more]}
    assert (found["keys"], found["features"], found["mismatches"], found["degraded"]) == (len(keys), 13, 0, 0)


def test_rollback_serves_the_version_before_exactly(flown: Flown) -> None:
    first, second, back = (flown.said[name].found for name in ("build", "build again", "rollback"))
    assert second["batch_version"] > first["batch_version"] == back["batch_version"]
    answer = flown.said["answer after rollback"].found
    assert (answer["batch_version"], answer["model_version"]) == (first["batch_version"], "1")
    assert answer["features"] == pytest.approx(recount([*flown.first, *flown.more], "N3", "EWR", now()))


def test_a_build_looks_after_the_model_that_is_released_and_so_does_watch(flown: Flown) -> None:
    assert flown.said["build"].found["watch"] is None
    looked = flown.said["build again"].found["watch"]
    assert (looked["predictions"], looked["beyond"]) == (0, [])
    watched = flown.said["watch"].found
    assert (watched["champion"], sum(watched["predictions"].values())) == ("1", 0)
    assert flown.name in (flown.folder / "watched.html").read_text(encoding="utf-8")


def test_history_tells_the_loads_and_the_versions_that_serve(flown: Flown) -> None:
    found = flown.said["history"].found
    assert sum(each["rows"] or 0 for each in found["sources"]["flights"]["versions"]) == len(
        flown.first
    ) + len(flown.more)
    served = {role: entry["batch_version"] for role, entry in found["batches"].items()}
    assert served == {
        "current": flown.said["build"].found["batch_version"],
        "previous": flown.said["build again"].found["batch_version"],
    }


def test_a_dry_upkeep_says_what_it_would_do_and_does_nothing(flown: Flown) -> None:
    found = flown.said["upkeep"].found
    assert found["dry_run"] is True
    assert found["bytes_saved"] == 0
    assert all(each["before"] == each["after"] for each in found["tables"])
    assert len(found["tables"]) > 2


def test_a_plan_shows_what_a_changed_declaration_does_to_real_keys(flown: Flown) -> None:
    found = flown.said["plan"].found
    assert found["against"] == f"batch version {flown.said['build'].found['batch_version']}"
    assert {one["name"]: (one["change"], one["before"]) for one in found["features"]} == {
        **{f"late_{window}": ("changes", None) for window in ("1d", "30d", "lifetime")},
        "legs": ("renamed", "flights"),
    }
    assert (found["same_features"], found["changed"], found["refused_events"]) == (9, True, 0)
    assert (found["notes"], found["borrowers"]) == ([], [])
    (lifetime,) = [one for one in found["values"] if one["name"] == "late_lifetime"]
    rows = [*flown.first, *flown.more]
    late = {
        most: {
            origin: sum(
                row["origin"] == origin and row["dep_delay"] is not None and row["dep_delay"] > most
                for row in rows
            )
            for origin in ("EWR", "JFK", "LGA")
        }
        for most in (15, 30)
    }
    assert lifetime["differ"] == lifetime["keys"] == len({(row["tailnum"], row["origin"]) for row in rows})
    for one in lifetime["examples"]:
        origin = one["key"].rpartition("=")[2]
        assert (one["before"], one["after"]) == (late[15][origin], late[30][origin])


def test_a_plan_says_which_states_are_built_anew_and_how_long_that_takes(flown: Flown) -> None:
    found = flown.said["plan"].found
    views = {one["name"]: one for one in found["views"]}
    assert {name: one["becomes"] for name, one in views.items()} == {
        "by_plane": "kept",  # a name is no part of a state
        "by_airport": "built anew",
    }
    airport = views["by_airport"]
    assert (airport["rows"], airport["keys"]) == (len(flown.first) + len(flown.more), 3)
    assert 0.01 < airport["seconds"] == found["seconds"] < 600
    assert airport["restarts"] == flown.name
    rates = {
        one.slice: one.value for one in Measures(flown.views).latest(flown.name) if one.subject == "build"
    }
    assert rates.keys() == {"by_plane", "by_airport"}
    assert airport["seconds"] == pytest.approx(airport["rows"] / rates["by_airport"])


def test_a_plan_says_whether_the_champion_fits_and_what_its_metric_becomes(flown: Flown) -> None:
    champion = flown.said["plan"].found["champion"]
    assert (champion["version"], champion["fits"], champion["after"]) == ("1", False, None)
    assert "reads 'flights', which is declared no more: train again" in champion["why"]
    assert set(champion["reads"]) == {"late_1d", "late_30d", "late_lifetime"}


def test_a_plan_ends_as_ci_needs_it_and_is_told_as_tables_as_markdown_and_as_a_page(flown: Flown) -> None:
    people, nothing = flown.said["plan, for people"], flown.said["plan of nothing"]
    assert (people.code, nothing.code) == (3, 0)
    assert (nothing.found["changed"], nothing.found["next"], nothing.found["values"]) == (False, [], [])
    assert (
        "3 features change meaning, 1 feature is renamed, 9 stay the same, 1 view is built anew" in people.out
    )
    assert "where: dep_delay > 15 → dep_delay > 30" in people.out
    assert (
        people.out.splitlines()[-1]
        == f"Next: anabranch build {flown.name}, then anabranch train {flown.name}"
    )
    assert "| → | legs | renamed | was flights |" in flown.said["plan as Markdown"].out
    against = flown.said["plan against a folder"].found
    assert [one["name"] for one in against["features"]] == [
        one["name"] for one in flown.said["plan"].found["features"]
    ]
    assert (flown.folder / "plan.html").read_text(encoding="utf-8").count("<svg") == 3


def test_half_a_key_is_told_how_to_be_whole(flown: Flown) -> None:
    said = flown.said["half a key"]
    assert said.code in (1, 2)
    assert (
        said.err.strip().splitlines()[-1]
        == "error: key 'tailnum=N3' does not fit: write tailnum=VALUE origin=VALUE"
    )
    assert "Traceback" not in said.err


@pytest.mark.drill  # the cluster's river runs under spark-submit, and scripts of jobs/ by themselves
def test_a_job_script_runs_under_spark_submit(flown: Flown) -> None:
    submit = shutil.which("spark-submit", path=str(Path(sys.executable).parent))
    assert submit is not None
    path = f"{Path(sys.executable).parent}{os.pathsep}{flown.environment.get('PATH', '')}"
    done = subprocess.run(
        [
            submit,
            "--driver-memory",
            "1g",
            str(ROOT / "jobs" / "verify.py"),
            flown.name,
            "--keys",
            "5",
            "--json",
        ],
        cwd=flown.folder,
        env={**flown.environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    found = Said(done.returncode, done.stdout, done.stderr).found
    assert (found["keys"], found["mismatches"]) == (5, 0)


def test_a_number_is_learnt_from_files_alone(commands: Commands) -> None:
    name = f"houses_{uuid.uuid4().hex[:8]}"
    (commands.folder / f"{name}.py").write_text(HOUSES.format(name=name))
    chance = random.Random(3)
    houses = [(i, float(chance.randrange(40, 200)), chance.choice(["flat", "farm"])) for i in range(80)]
    offers = [
        {"offer": i, "house": i, "at": "2020-01-01", "area": area, "kind": kind} for i, area, kind in houses
    ]
    sales = [
        {"sale": i, "house": i, "at": "2020-02-01", "price": 1000 * area + (50_000 if kind == "farm" else 0)}
        for i, area, kind in houses
    ]
    commands.run(
        "ingest offers", "ingest", name, "offers", write(commands.folder / "offers.csv", offers), "--json"
    )
    commands.run(
        "ingest sales", "ingest", name, "sales", write(commands.folder / "sales.csv", sales), "--json"
    )
    trained = commands.run("train houses", "train", name, "--json").found
    assert trained["metrics"]["rmse"] < 5000
    assert 0 <= trained["metrics"]["interval_coverage"] <= 1
    built = commands.run("build houses", "build", name, "--json").found
    assert built["rows"] == {"house": 80}
    answer = commands.run("answer house", "answer", name, "7", "--json").found
    assert answer["features"] == {"area": houses[7][1], "kind": houses[7][2]}
    assert answer["score"] == pytest.approx(sales[7]["price"], rel=0.1)
    low, high = answer["interval"]
    assert low < answer["score"] < high
    assert high - low == pytest.approx(trained["metrics"]["interval_width"])
