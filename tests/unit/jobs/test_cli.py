"""Errors of the command line: one line, exit code 1 or 2, a traceback only with --debug."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from anabranch.answers.features import Answer
from anabranch.declare.loading import load_project
from anabranch.declare.projects import Project
from jobs.cli.main import app, main
from jobs.cli.options import AsJson, Name
from jobs.servers.embedded import NAMES, SERVERS
from jobs.show import result
from jobs.wiring.context import Context
from jobs.wiring.job import job
from jobs.wiring.settings import ROOT
from tests.support.serving_fakes import NOW, PROJECTS, SumScorer

GOOD = """
from anabranch import Count, FeatureView, Label, Model, Project, Source

columns = "id STRING, plane STRING, origin STRING, at TIMESTAMP, delay DOUBLE"
flights = Source(name="flights", topic="flights", id="id", time="at", schema=columns)
departures = {"departures": Count()}
views = (
    FeatureView(name="by_plane", source=flights, key="plane", features={"flights": Count()}),
    FeatureView(name="by_origin", source=flights, key="origin", windows=("1d",), features=departures),
)
project = Project(
    name="flights", views=views,
    label=Label(source=flights, key=("plane", "origin"), target="delay > 15"),
    model=Model(trainer="logistic"),
)
"""


@dataclass(frozen=True)
class Ended:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of standard error, without "error: "; fails when there is another."""
        found = [
            line for line in self.err.splitlines() if not re.match(r"\s+\d+\.\d s  ", line)
        ]  # steps are no errors
        assert len(found) == 1, self.err
        assert found[0].startswith("error: "), self.err
        assert "Traceback" not in self.out + self.err
        return found[0].removeprefix("error: ")


class CommandLine:
    """The command line over a folder of declarations, with addresses of servers where nothing listens."""

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
def anabranch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[CommandLine]:
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
        line = CommandLine(folder, capsys)
        line.declare("flights", GOOD)
        yield line


def test_an_unknown_project_is_reported_with_the_known_ones_and_the_folders_searched(
    anabranch: CommandLine,
) -> None:
    ended = anabranch("check", "trains")
    assert ended.code == 2
    assert ended.line.startswith("no project 'trains': there is card_fraud, heart_disease, ")
    assert ", flights (searched " in ended.line
    assert ended.line.endswith(f"{anabranch.folder}): declare it in a file trains.py there")


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
        "view 'by_origin': window '7m' is no multiple of its hop 5m: choose '5m' or '10m'",
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
        "model: trainer 'magic' is unknown: use your own 'module:function', or one of auto, xgboost",
    ),
    "task": (
        '"logistic"',
        '"linear"',
        "model: trainer 'linear' cannot learn a class, which the metric asks for",
    ),
}


@pytest.mark.parametrize(
    ("old", "new", "message"), [pytest.param(*case, id=what) for what, case in BROKEN.items()]
)
def test_a_wrong_declaration_is_refused_in_one_line(
    anabranch: CommandLine, old: str, new: str, message: str
) -> None:
    anabranch.declare("flights", GOOD.replace(old, new))
    ended = anabranch("check", "flights", "--json")
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.line


def test_a_file_that_is_not_a_declaration_is_named(anabranch: CommandLine) -> None:
    for text, message in (
        ("x = 1", "has no value 'project': end it with project = Project(...)"),
        ("import nowhere", "does not load: ModuleNotFoundError: No module named 'nowhere'"),
        ("def broken(:", "does not load: SyntaxError"),
        (
            GOOD.replace('name="flights", views', 'name="trains", views'),
            "declares project 'trains': its name must be that of the file, 'flights'",
        ),
    ):
        path = anabranch.declare("flights", text)
        ended = anabranch("check", "flights")
        assert ended.code == 2
        assert ended.line.startswith(f"{path} {message}")


@pytest.mark.parametrize(
    ("words", "message"),
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
    anabranch: CommandLine, words: tuple[str, ...], message: str
) -> None:
    ended = anabranch(*words)
    assert ended.code == 2
    assert ended.line.startswith(message)
    groups = {
        "check": "check",
        "verify": "verify",
        "features": "features",
        "promote": "promote",
        "keys": "keys add",
    }
    command = f"anabranch {groups.get(words[0], '')}".rstrip()
    assert re.search(rf"(: s|\? S)ee '{command} --help'$", ended.line), ended.line


def test_without_a_verb_the_help_is_shown(anabranch: CommandLine) -> None:
    ended = anabranch()
    assert (ended.code, ended.err) == (2, "")
    assert "Usage" in ended.out


def test_help_is_not_an_error(anabranch: CommandLine) -> None:
    assert anabranch("--help").code == 0
    ended = anabranch("answer", "--help")
    assert (ended.code, ended.err) == (0, "")
    assert "--at" in ended.out


@pytest.mark.parametrize("time", ["yesterday", "2024-13-01", "12:00", "1714564800"])
def test_a_malformed_time_is_misuse(anabranch: CommandLine, time: str) -> None:
    for words in (
        ("answer", "flights", "plane=N1", "origin=EWR", "--at", time),
        ("build", "flights", "--cut", time),
    ):
        ended = anabranch(*words)
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
def test_a_key_that_does_not_fit_is_refused_with_the_way_to_write_it(
    anabranch: CommandLine, key: tuple[str, ...]
) -> None:
    ended = anabranch("answer", "flights", *key)
    assert ended.code in (1, 2)
    assert ended.line == f"key '{' '.join(key)}' does not fit: write plane=VALUE origin=VALUE"


def test_an_empty_key_is_refused(anabranch: CommandLine) -> None:
    ended = anabranch("answer", "flights", "plane=", "origin=EWR")
    assert ended.code in (1, 2)
    assert ended.line == "key 'plane' is missing: give plane and origin"


def test_a_store_that_is_down_is_reported_with_its_address(anabranch: CommandLine) -> None:
    for words in (("answer", "flights", "plane=N1", "origin=EWR"), ("rollback", "flights")):
        ended = anabranch(*words)
        assert ended.code == 1
        assert re.match(
            r"Cassandra does not answer at 127\.0\.0\.1:\d+: start it with 'anabranch up', or set its",
            ended.line,
        )


def test_a_bus_that_is_down_is_reported_with_its_address(anabranch: CommandLine) -> None:
    rows = anabranch.folder / "rows.csv"
    rows.write_text("id,plane,origin,at,delay\n1,N1,EWR,2013-01-01,5\n")
    ended = anabranch("publish", "flights", "flights", rows)
    assert ended.code == 1
    assert re.match(
        r"Kafka at 127\.0\.0\.1:\d+ does not answer \(.*\): start it with 'anabranch up', or set its address",
        ended.line,
    )


def test_a_missing_file_is_named(anabranch: CommandLine) -> None:
    ended = anabranch("publish", "flights", "flights", anabranch.folder / "none.csv")
    assert ended.code in (1, 2)
    assert str(anabranch.folder / "none.csv") in ended.line


def test_a_file_of_another_source_is_refused_with_the_columns_it_lacks(anabranch: CommandLine) -> None:
    rows = anabranch.folder / "rows.csv"
    rows.write_text("id,plane,origin,time,delay\n1,N1,EWR,2013-01-01,5\n")
    ended = anabranch("publish", "flights", "flights", rows)
    assert ended.code == 1
    assert "lacks 'at' and has unknown 'time'" in ended.line


def test_an_unknown_source_is_reported_with_the_known_ones(anabranch: CommandLine) -> None:
    ended = anabranch("publish", "flights", "planes", anabranch.folder / "rows.csv")
    assert ended.code == 2
    assert ended.line == "project 'flights' has no source 'planes': it has flights"


def test_a_wrong_setting_is_reported_with_its_place(
    anabranch: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH__TIME__SLOT", "often")
    ended = anabranch("projects")
    assert ended.code == 2
    assert ended.line.startswith(
        "setting time.slot (environment ANABRANCH__TIME__SLOT) is 'often': expected "
    )


def test_debug_shows_the_traceback_and_the_line_wherever_it_stands(anabranch: CommandLine) -> None:
    for words in (("--debug", "check", "trains"), ("check", "trains", "--debug")):
        ended = anabranch(*words)
        assert ended.code == 2
        assert "Traceback" in ended.err
        assert ended.err.splitlines()[-1].startswith("error: no project 'trains'")


def test_a_sound_declaration_is_checked_without_any_server(anabranch: CommandLine) -> None:
    ended = anabranch("check", "flights", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert (found["project"], found["ok"], found["keys"]) == ("flights", True, ["plane", "origin"])
    assert [feature["name"] for feature in found["features"]] == ["flights", "departures_1d"]


def test_projects_of_every_folder_are_listed(anabranch: CommandLine) -> None:
    ended = anabranch("projects", "--json")
    names = [each["name"] for each in json.loads(ended.out)["projects"]]
    assert names[-1] == "flights"
    assert {"card_fraud", "heart_disease", "merchant_risk", "wine_origins"} < set(names)


def test_the_template_of_a_declaration_is_sound_and_never_overwritten(anabranch: CommandLine) -> None:
    assert anabranch("init", "my_things").code == 0
    assert json.loads(anabranch("check", "my_things", "--json").out)["ok"] is True
    ended = anabranch("init", "my_things")
    assert ended.code == 2
    assert "my_things.py exists already: choose another name (--name), or edit it" in ended.line
    for name in ("Bad", "my-things", "2things", "my__things", "a" * 41):
        assert anabranch("init", name).code == 2


def test_a_forced_promotion_needs_a_reason(anabranch: CommandLine) -> None:
    anabranch.declare("flights", GOOD)
    for words in (["--force"], ["--reason", "because"], ["--force", "--reason", " "]):
        ended = anabranch("promote", "flights", "1", *words)
        assert (ended.code, ended.out) == (2, "")
        assert "--force and --reason TEXT belong together" in ended.line


def test_a_suite_is_shown_and_written_but_never_overwritten(
    anabranch: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = anabranch.folder.parent / "quality"
    monkeypatch.setenv("ANABRANCH__QUALITY__SUITES", str(folder))
    shown = json.loads(anabranch("quality", "flights", "flights", "--json").out)
    assert (shown["suite"], shown["mode"]) == ("derived from the declaration", "refuse")
    assert anabranch("quality", "flights", "flights", "--write").code == 0
    path = folder / "flights" / "flights.json"
    assert json.loads(anabranch("check", "flights", "--json").out)["suites"] == {"flights": str(path)}
    assert (
        json.loads(anabranch("quality", "flights", "flights", "--json").out)["expectations"]
        == shown["expectations"]
    )
    ended = anabranch("quality", "flights", "flights", "--write")
    assert (ended.code, ended.line) == (
        2,
        f"{path} exists already: edit it, or remove it to begin anew from the declaration",
    )
    path.write_text(
        '{"expectations": [{"type": "expect_column_values_to_be_between", '
        '"kwargs": {"column": "late", "min_value": 0}}]}'
    )
    ended = anabranch("check", "flights")
    columns = "source 'flights' has id, plane, origin, at, delay: did you mean 'plane'?"
    assert ended.code == 2
    assert ended.line == f"{path}: expectation 1: column 'late' is no column: {columns}"
    path.rename(folder / "flights" / "planes.json")
    ended = anabranch("check", "flights")
    assert (
        ended.code,
        "planes.json is the suite of no source: project 'flights' has flights" in ended.line,
    ) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
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
def test_quality_and_quarantine_refuse_wrong_arguments_without_starting_anything(
    anabranch: CommandLine, words: tuple[str, ...], message: str
) -> None:
    ended = anabranch(*words)
    assert ended.code == 2
    assert ended.line.startswith(message)


def test_a_setting_of_the_gate_is_checked(anabranch: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, expected in (
        ("MODE", "maybe", "one of off, warn, refuse"),
        ("REFUSE_ABOVE", "1.5", "a share, 0 to 1"),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(f"ANABRANCH__QUALITY__{name}", value)
            ended = anabranch("projects")
        assert (ended.code, ended.line.endswith(f"expected {expected}")) == (2, True), ended.line


class Store:
    """Answers and models: one plane is known, one version scores the number of its flights."""

    def served(self, declared: Project) -> tuple[Project, None]:
        return declared, None

    def features(
        self,
        project: Project,
        keys: Sequence[Mapping[str, object]],
        at: int | None,
        events: Sequence[object] = (),
        manifest: object = None,
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


def test_an_unknown_key_is_answered_as_unknown_and_without_a_score(
    anabranch: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("answers", "models"):
        monkeypatch.setattr(Context, name, Store())
    known, unknown = (
        anabranch("answer", "flights", "plane=N1", "origin=EWR"),
        anabranch("answer", "flights", "plane=N9", "origin=EWR"),
    )
    assert (known.code, known.out.splitlines()[-1]) == (
        0,
        "score 0.0600, label 0 (model 3, batch None, from serving)",
    )
    message = (
        "neither the batch nor the stream has an event of this key within the windows: these are the "
        "features of no events, and there is no score (events of earlier: anabranch answer flights plane=N9 "
        "origin=EWR --at TIME)"
    )
    assert (unknown.code, unknown.out.splitlines()[-1], "score 0" in unknown.out) == (0, message, False)
    found = [
        json.loads(anabranch("answer", "flights", f"plane={plane}", "origin=EWR", "--json").out)
        for plane in ("N1", "N9")
    ]
    assert [(one["known"], one["score"], one["features"]) for one in found] == [
        (True, 0.06, {"flights": 60}),
        (False, None, {"flights": 0}),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "without --every exactly one project is watched"),
        (["flights", "boats"], "without --every exactly one project is watched"),
        (["boats", "--every", "1h"], "boats"),
        (["flights", "--every", "often"], "--every 'often' is not understood"),
        (["flights", "--every", "1h", "--since", "2026-01-01"], "--every looks at the declared window"),
        (["--every", "1h", "--html", "page.html"], "writes a page of one named project"),
    ],
)
def test_a_schedule_of_looks_that_contradicts_itself_is_refused(
    anabranch: CommandLine, words: list[str], message: str
) -> None:
    ended = anabranch("watch", *words)
    assert ended.code == 2
    assert message in ended.line


def test_a_further_verb_is_one_function(anabranch: CommandLine) -> None:
    def toy(name: Name, as_json: AsJson = False) -> None:
        """Answer with the name of a project."""
        with job() as context:
            result(as_json, {"project": context.project(name).name}, "done")

    app.command()(toy)
    try:
        assert json.loads(anabranch("toy", "flights", "--json").out) == {"project": "flights"}
        assert anabranch("toy", "flights").out == "done\n"
        assert anabranch("toy", "trains").line.startswith("no project 'trains'")
        assert anabranch("toy").line == "Missing argument 'PROJECT': see 'anabranch toy --help'"
    finally:
        app.registered_commands.pop()


def test_a_script_for_spark_submit_is_its_verb(tmp_path: Path) -> None:
    scripts = [path for path in (ROOT / "jobs").glob("*.py") if "import submitted" in path.read_text()]
    assert len(scripts) == 13
    verbs = {each.callback.__name__ for each in app.registered_commands if each.callback}
    assert {path.stem for path in scripts} <= verbs
    command = [sys.executable, str(ROOT / "jobs" / "verify.py")]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "error: Missing argument 'PROJECT': see 'anabranch verify --help'\n"


def test_what_a_command_writes_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        assert main(["--help"]) == 0
        (tmp_path / "made").write_text("")
        (tmp_path / "folder").mkdir()
    finally:
        os.umask(before)
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700


class Ready(BaseHTTPRequestHandler):
    """A server that is ready, and says nothing of it on standard error."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_status_tells_of_every_server_and_of_rest(
    anabranch: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("ANABRANCH__SERVING__PORT", str(port))
        ready = anabranch("status").out.splitlines()
        server.shutdown()
    others = ", ".join(name for name in SERVERS if name not in NAMES)
    assert [line.partition(":")[0] for line in ready] == [*NAMES, others, "rest"]
    assert ready[-1] == f"rest: running and ready at http://127.0.0.1:{port}"
    assert anabranch("status").out.splitlines()[-1] == f"rest: nothing answers at http://127.0.0.1:{port}"


def test_a_number_that_a_model_gives_has_no_label(
    anabranch: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SumScorer, "label", lambda _, scores: [None] * len(scores))
    for name in ("answers", "models"):
        monkeypatch.setattr(Context, name, Store())
    known = anabranch("answer", "flights", "plane=N1", "origin=EWR")
    assert known.out.splitlines()[-1].endswith("(model 3, batch None, from serving)")
    assert "label" not in known.out


def test_a_project_without_a_model_is_never_told_to_train() -> None:
    from jobs.cli.answers.asking import score_line
    from jobs.cli.river.channels import next_step

    trained = load_project("heart_disease", (PROJECTS,))
    plain = replace(trained, model=None, label=None)
    answered = {"score": None, "label": None, "model_version": None, "batch_version": 7, "layer": "serving"}
    assert next_step(trained) == "Next: anabranch train heart_disease"
    assert next_step(plain) == "Next: anabranch answer heart_disease KEY, or anabranch serve"
    assert score_line(trained, answered) == (
        "no model yet: anabranch train heart_disease (batch 7, from serving)"
    )
    assert score_line(plain, answered) == (
        "no score, because heart_disease declares no model (batch 7, from serving)"
    )
    assert score_line(trained, {**answered, "score": 0.25, "label": 1, "model_version": "2"}) == (
        "score 0.2500, label 1 (model 2, batch 7, from serving)"
    )
