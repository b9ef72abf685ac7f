"""The command line told something wrong: one line that begins with "error: ", an exit code of 1 or 2, a traceback only with --debug."""

import json
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from anabranch.answers.features import Answer
from anabranch.declare.projects import Project
from jobs.cli.main import main
from jobs.wiring.context import Context
from tests.support.serving_fakes import NOW, SumScorer

GOOD = """
from anabranch import Count, FeatureView, Label, Model, Project, Source

flights = Source(name="flights", topic="flights", id="id", time="at", schema="id STRING, plane STRING, origin STRING, at TIMESTAMP, delay DOUBLE")
views = (
    FeatureView(name="by_plane", source=flights, key="plane", features={"flights": Count()}),
    FeatureView(name="by_origin", source=flights, key="origin", windows=("1d",), features={"departures": Count()}),
)
project = Project(
    name="flights", views=views, label=Label(source=flights, key=("plane", "origin"), target="delay > 15"), model=Model(trainer="logistic")
)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line it said, without its "error: "; fails when there is another."""
        found = [
            line for line in self.err.splitlines() if not re.match(r"\s+\d+\.\d s  ", line)
        ]  # steps are no errors
        assert len(found) == 1, self.err
        assert found[0].startswith("error: "), self.err
        assert "Traceback" not in self.out + self.err
        return found[0].removeprefix("error: ")


class Told:
    """The command line in a folder of declarations, with servers' addresses where nothing listens."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def declare(self, name: str, text: str) -> Path:
        path = self.folder / f"{name}.py"
        path.write_text(text, encoding="utf-8")
        return path

    def __call__(self, *words: object) -> Ended:
        code = main([str(word) for word in words])
        out, err = self.capsys.readouterr()
        return Ended(code, out, err)


@pytest.fixture
def told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Told]:
    folder = tmp_path / "declared"
    folder.mkdir()
    monkeypatch.setenv("ANABRANCH_PROJECTS", str(folder))
    monkeypatch.setenv("ANABRANCH__PATHS__DATA", str(tmp_path / "data"))
    monkeypatch.setattr("anabranch.stores.kafka.bus._PATIENCE_MS", 100)
    with (
        socket.socket() as held
    ):  # bound and not listening: nobody else can take the port, and it answers nobody
        held.bind(("127.0.0.1", 0))
        for name in ("KAFKA_PORT", "CASSANDRA_PORT"):
            monkeypatch.setenv(f"ANABRANCH__SERVERS__{name}", str(held.getsockname()[1]))
        found = Told(folder, capsys)
        found.declare("flights", GOOD)
        yield found


def test_an_unknown_project_is_told_with_those_there_are_and_where_was_searched(told: Told) -> None:
    ended = told("check", "trains")
    assert ended.code == 2
    assert ended.line.startswith("no project 'trains': there is heart_disease, flights (searched ")
    assert ended.line.endswith(f"{told.folder}): declare it in a file trains.py there")


BROKEN = {
    "column": (
        'key="plane"',
        'key="wing"',
        "source 'flights': key of view 'by_plane' 'wing' is no column: it has id, plane, origin, at, delay",
    ),
    "filter": (
        "Count()",
        'Count(where="late > 1")',
        "view 'by_plane', feature 'flights', where: no column 'late': the source has id",
    ),
    "window": (
        '"1d"',
        '"7w"',
        "view 'by_origin': window '7w' is not understood: write a whole number and s, m, h or d",
    ),
    "uneven window": (
        '"1d"',
        '"7m"',
        "view 'by_origin': window '7m' is no multiple of its hop 5m: choose another window",
    ),
    "names": (
        '"by_origin"',
        '"by_plane"',
        "project 'flights': view 'by_plane' is used twice: give each its own name",
    ),
    "key": (
        '("plane", "origin")',
        '"plane"',
        "key 'origin' of view 'by_origin' is not among the label's keys plane: add it to Label(key=...)",
    ),
    "trainer": (
        '"logistic"',
        '"magic"',
        "model: trainer 'magic' is unknown: use auto, xgboost, logistic, linear",
    ),
    "task": (
        '"logistic"',
        '"linear"',
        "model: trainer 'linear' cannot learn a class, which the metric asks for",
    ),
}


@pytest.mark.parametrize(
    ("old", "new", "said"), [pytest.param(*case, id=what) for what, case in BROKEN.items()]
)
def test_a_declaration_that_cannot_be_meant_is_told_in_one_line(
    told: Told, old: str, new: str, said: str
) -> None:
    told.declare("flights", GOOD.replace(old, new))
    ended = told("check", "flights", "--json")
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.line


def test_a_file_that_is_no_declaration_is_named(told: Told) -> None:
    for text, said in (
        ("x = 1", "has no value 'project': end it with project = Project(...)"),
        ("import nowhere", "does not load: ModuleNotFoundError: No module named 'nowhere'"),
        ("def broken(:", "does not load: SyntaxError"),
        (
            GOOD.replace('name="flights", views', 'name="trains", views'),
            "declares project 'trains': its name must be that of the file, 'flights'",
        ),
    ):
        path = told.declare("flights", text)
        ended = told("check", "flights")
        assert ended.code == 2
        assert ended.line.startswith(f"{path} {said}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("chekc", "flights"), "No such command 'chekc'"),
        (("--colour",), "No such option: --colour"),
        (("check",), "Missing argument 'PROJECT'"),
        (("check", "flights", "--jsno"), "No such option: --jsno"),
        (("check", "flights", "trains"), "Got unexpected extra argument"),
        (("verify", "flights", "--keys", "many"), "Invalid value for '--keys'"),
        (("features", "flights", "--out", "x"), "Missing option '--at'"),
        (("promote", "flights"), "Missing argument 'VERSION'"),
        (("keys", "add"), "Missing argument 'PROJECT'"),
    ],
)
def test_a_verb_or_option_that_does_not_exist_is_misuse(
    told: Told, words: tuple[str, ...], said: str
) -> None:
    ended = told(*words)
    assert ended.code == 2
    assert ended.line.startswith(said)
    groups = {
        "check": "check",
        "verify": "verify",
        "features": "features",
        "promote": "promote",
        "keys": "keys add",
    }
    command = f"anabranch {groups.get(words[0], '')}".rstrip()
    assert re.search(rf"(: s|\? S)ee '{command} --help'$", ended.line), ended.line


def test_without_a_verb_the_help_is_shown(told: Told) -> None:
    ended = told()
    assert (ended.code, ended.err) == (2, "")
    assert "Usage" in ended.out


def test_help_is_no_error(told: Told) -> None:
    assert told("--help").code == 0
    ended = told("answer", "--help")
    assert (ended.code, ended.err) == (0, "")
    assert "--at" in ended.out


@pytest.mark.parametrize("time", ["yesterday", "2024-13-01", "12:00", "1714564800"])
def test_a_time_that_is_none_is_misuse(told: Told, time: str) -> None:
    for words in (
        ("answer", "flights", "plane=N1", "origin=EWR", "--at", time),
        ("build", "flights", "--cut", time),
    ):
        ended = told(*words)
        assert ended.code == 2
        assert ended.line == f"time '{time}' is not ISO 8601: write for example 2024-05-01T12:00:00Z"


@pytest.mark.parametrize(
    "key",
    [
        ("N1",),
        ("plane=N1",),
        ("plane=N1", "airport=EWR"),
        ("plane=N1", "origin=EWR", "more=1"),
        ("plane=N1", "plane=N2"),
    ],
)
def test_a_key_that_does_not_fit_is_told_how_to_write_it(told: Told, key: tuple[str, ...]) -> None:
    ended = told("answer", "flights", *key)
    assert ended.code in (1, 2)
    assert ended.line == f"key '{' '.join(key)}' does not fit: write plane=VALUE origin=VALUE"


def test_an_empty_key_is_told(told: Told) -> None:
    ended = told("answer", "flights", "plane=", "origin=EWR")
    assert ended.code in (1, 2)
    assert ended.line == "key 'plane' is missing: give plane and origin"


def test_a_store_that_is_down_is_told_with_its_address(told: Told) -> None:
    for words in (("answer", "flights", "plane=N1", "origin=EWR"), ("rollback", "flights")):
        ended = told(*words)
        assert ended.code == 1
        assert re.match(
            r"Cassandra does not answer at 127\.0\.0\.1:\d+: start it with 'anabranch up', or set its address",
            ended.line,
        )


def test_a_bus_that_is_down_is_told_with_its_address(told: Told) -> None:
    rows = told.folder / "rows.csv"
    rows.write_text("id,plane,origin,at,delay\n1,N1,EWR,2013-01-01,5\n")
    ended = told("publish", "flights", "flights", rows)
    assert ended.code == 1
    assert re.match(
        r"Kafka at 127\.0\.0\.1:\d+ does not answer \(.*\): start it with 'anabranch up', or set its address",
        ended.line,
    )


def test_a_file_that_is_missing_is_named(told: Told) -> None:
    ended = told("publish", "flights", "flights", told.folder / "none.csv")
    assert ended.code in (1, 2)
    assert str(told.folder / "none.csv") in ended.line


def test_a_file_that_is_not_the_sources_is_told_with_what_it_lacks(told: Told) -> None:
    rows = told.folder / "rows.csv"
    rows.write_text("id,plane,origin,time,delay\n1,N1,EWR,2013-01-01,5\n")
    ended = told("publish", "flights", "flights", rows)
    assert ended.code == 1
    assert "lacks 'at' and has unknown 'time'" in ended.line


def test_an_unknown_source_is_told_with_those_there_are(told: Told) -> None:
    ended = told("publish", "flights", "planes", told.folder / "rows.csv")
    assert ended.code == 2
    assert ended.line == "project 'flights' has no source 'planes': it has flights"


def test_a_setting_that_does_not_exist_or_is_wrong_is_told_with_its_place(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH__TIME__SLOT", "often")
    ended = told("projects")
    assert ended.code == 2
    assert ended.line.startswith(
        "setting time.slot (environment ANABRANCH__TIME__SLOT) is 'often': expected "
    )


def test_debug_shows_the_traceback_and_the_line_wherever_it_stands(told: Told) -> None:
    for words in (("--debug", "check", "trains"), ("check", "trains", "--debug")):
        ended = told(*words)
        assert ended.code == 2
        assert "Traceback" in ended.err
        assert ended.err.splitlines()[-1].startswith("error: no project 'trains'")


def test_a_sound_declaration_is_checked_without_any_server(told: Told) -> None:
    ended = told("check", "flights", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert (found["project"], found["ok"], found["keys"]) == ("flights", True, ["plane", "origin"])
    assert [feature["name"] for feature in found["features"]] == ["flights", "departures_1d"]


def test_projects_of_every_folder_are_listed(told: Told) -> None:
    ended = told("projects", "--json")
    assert [each["name"] for each in json.loads(ended.out)["projects"]] == ["heart_disease", "flights"]


def test_a_declaration_to_begin_with_is_sound_and_never_written_over(told: Told) -> None:
    assert told("init", "my_things").code == 0
    assert json.loads(told("check", "my_things", "--json").out)["ok"] is True
    ended = told("init", "my_things")
    assert ended.code == 2
    assert "my_things.py exists already: choose another name, or edit it" in ended.line
    for name in ("Bad", "my-things", "2things", "my__things", "a" * 41):
        assert told("init", name).code == 2


def test_a_promotion_past_the_gate_needs_both_the_word_and_the_reason(told: Told) -> None:
    told.declare("flights", GOOD)
    for words in (["--force"], ["--reason", "because"], ["--force", "--reason", " "]):
        ended = told("promote", "flights", "1", *words)
        assert (ended.code, ended.out) == (2, "")
        assert "--force and --reason TEXT belong together" in ended.line


def test_a_suite_is_shown_written_to_be_edited_and_never_written_over(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = told.folder.parent / "quality"
    monkeypatch.setenv("ANABRANCH__QUALITY__SUITES", str(folder))
    shown = json.loads(told("quality", "flights", "flights", "--json").out)
    assert (shown["suite"], shown["mode"]) == ("derived from the declaration", "refuse")
    assert told("quality", "flights", "flights", "--write").code == 0
    path = folder / "flights" / "flights.json"
    assert json.loads(told("check", "flights", "--json").out)["suites"] == {"flights": str(path)}
    assert (
        json.loads(told("quality", "flights", "flights", "--json").out)["expectations"]
        == shown["expectations"]
    )
    ended = told("quality", "flights", "flights", "--write")
    assert (ended.code, ended.line) == (
        2,
        f"{path} exists already: edit it, or remove it to begin anew from the declaration",
    )
    path.write_text(
        '{"expectations": [{"type": "expect_column_values_to_be_between", "kwargs": {"column": "late", "min_value": 0}}]}'
    )
    ended = told("check", "flights")
    assert (ended.code, ended.line) == (
        2,
        f"{path}: expectation 1: column 'late' is no column: source 'flights' has id, plane, origin, at, delay",
    )
    path.rename(folder / "flights" / "planes.json")
    ended = told("check", "flights")
    assert (
        ended.code,
        "planes.json is the suite of no source: project 'flights' has flights" in ended.line,
    ) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("quality", "flights", "planes"), "project 'flights' has no source 'planes'"),
        (("quality", "flights", "--write"), "--write needs a source: give one of flights"),
        (("quarantine", "flights", "--source", "planes"), "project 'flights' has no source 'planes'"),
        (("quarantine", "flights", "--set", "delay=1"), "--set changes what is replayed: give --replay too"),
        (
            ("quarantine", "flights", "--replay", "--set", "delay"),
            "--set 'delay' is not understood: write COLUMN=EXPRESSION",
        ),
    ],
)
def test_quality_and_quarantine_told_something_wrong_start_nothing(
    told: Told, words: tuple[str, ...], said: str
) -> None:
    ended = told(*words)
    assert ended.code == 2
    assert ended.line.startswith(said)


def test_a_setting_of_the_gate_is_checked(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, expected in (
        ("MODE", "maybe", "one of off, warn, refuse"),
        ("REFUSE_ABOVE", "1.5", "a share, 0 to 1"),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(f"ANABRANCH__QUALITY__{name}", value)
            ended = told("projects")
        assert (ended.code, ended.line.endswith(f"expected {expected}")) == (2, True), ended.line


def test_a_model_cannot_go_back_where_there_is_no_champion_before(told: Told) -> None:
    ended = told("rollback", "flights", "--model")
    assert (ended.code, ended.line) == (
        2,
        "project 'flights' has no earlier champion to go back to: promote a version instead",
    )


class Store:
    """Answers and models: one plane is known, one version scores the number of its flights."""

    def features(
        self, project: Project, keys: Sequence[Mapping[str, object]], at: int | None
    ) -> list[Answer]:
        known = [key["plane"] == "N1" for key in keys]
        return [
            Answer({"plane": str(key["plane"])}, {"flights": 60 if one else 0}, NOW, known=one)
            for key, one in zip(keys, known, strict=True)
        ]

    def usable_champion(self, project: Project) -> str:
        return "3"

    def scorer(self, project: str, version: str) -> SumScorer:
        return SumScorer(version, ("flights",))


def test_answer_says_plainly_that_nothing_is_known_of_a_key_and_gives_no_score(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("answers", "models"):
        monkeypatch.setattr(Context, name, Store())
    known, unknown = (
        told("answer", "flights", "plane=N1", "origin=EWR"),
        told("answer", "flights", "plane=N9", "origin=EWR"),
    )
    assert (known.code, known.out.splitlines()[-1]) == (
        0,
        "score 0.0600, label 0 (model 3, batch None, from serving)",
    )
    said = (
        "neither batch nor stream knows this key: these are the features of no events, and there is no score"
    )
    assert (unknown.code, unknown.out.splitlines()[-1], "score 0" in unknown.out) == (0, said, False)
    found = [
        json.loads(told("answer", "flights", f"plane={plane}", "origin=EWR", "--json").out)
        for plane in ("N1", "N9")
    ]
    assert [(one["known"], one["score"], one["features"]) for one in found] == [
        (True, 0.06, {"flights": 60}),
        (False, None, {"flights": 0}),
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "without --every exactly one project is watched"),
        (["flights", "boats"], "without --every exactly one project is watched"),
        (["boats", "--every", "1h"], "boats"),
        (["flights", "--every", "often"], "--every 'often' is not understood"),
        (["flights", "--every", "1h", "--since", "2026-01-01"], "--every looks at the declared window"),
        (["--every", "1h", "--html", "page.html"], "writes a page of one named project"),
    ],
)
def test_a_schedule_of_looks_that_makes_no_sense_is_refused(told: Told, words: list[str], says: str) -> None:
    ended = told("watch", *words)
    assert ended.code == 2
    assert says in ended.line
