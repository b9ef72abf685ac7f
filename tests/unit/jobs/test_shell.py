"""`anabranch shell` runs many verbs in one process; completion knows verbs, options and names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from jobs.cli.main import app, main
from jobs.cli.platform.completion import script
from jobs.cli.platform.shell import completions, run_lines
from jobs.wiring.job import close_kept, job, kept_open
from jobs.wiring.settings import ROOT

GROUP = get_command(app)


def test_lines_run_as_verbs_until_exit_and_errors_do_not_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[list[str]] = []

    def verb(words: list[str]) -> int:
        ran.append(words)
        return 1 if words[0] == "bad" else 0

    lines = ["check 'a b'  # a comment", "", "# nothing", "bad", "anabranch projects", "exit", "check never"]
    assert run_lines(lines, verb) == 0
    assert ran == [["check", "a b"], ["bad"], ["projects"]]
    assert run_lines(["projects", "bad"], verb) == 1
    assert run_lines(["check 'open"], verb) == 2
    assert run_lines(["serve"], verb) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        'error: "check \'open" is not understood: No closing quotation',
        "error: serve is no verb of a shell: run 'anabranch serve' beside it",
    ]


def test_a_pipe_of_verbs_gives_the_exit_code_of_the_last() -> None:
    lines = "projects --json\nchek\ncheck heart_disease --json\ncheck nothing\n"
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "shell"],
        input=lines,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert [line[:12] for line in ended.stdout.splitlines()] == ['{"projects":', '{"project": ']
    assert "Did you mean 'check'?" in ended.stderr
    assert "no project 'nothing'" in ended.stderr


def test_jobs_of_a_shell_share_one_context_until_settings_change(monkeypatch: pytest.MonkeyPatch) -> None:
    with kept_open():
        with job() as first, job() as second:
            assert first is second
        monkeypatch.setenv("ANABRANCH__SPEED__PARTITIONS", "3")
        with job() as third:
            assert third is not first
        close_kept()
        with job() as fourth:
            assert fourth is not third
    with job() as alone, job() as other:
        assert alone is not other


def test_the_prompt_completes_verbs_options_and_projects() -> None:
    assert {"check", "init", "exit"} <= set(completions(GROUP, [], ""))
    assert "--explain" in completions(GROUP, ["answer"], "--")
    assert "heart_disease" in completions(GROUP, ["check"], "")
    assert completions(GROUP, ["keys"], "") == ["add", "list", "revoke"]
    assert completions(GROUP, ["nothing"], "") == []


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["anabranch", "chec"], ["check"]),
        (["anabranch", "check", "heart"], ["heart_disease"]),
        (["anabranch", "check", "boa"], ["boats"]),
        (["anabranch", "answer", "--ex"], ["--explain"]),
        (["anabranch", "ingest", "heart_disease", "ex"], ["exams"]),
        (["anabranch", "keys", "re"], ["revoke"]),
        (["anabranch", "completion", ""], None),
    ],
    ids=lambda each: " ".join(each) if each else "files",
)
def test_bash_completes_words(tmp_path: Path, words: list[str], found: list[str] | None) -> None:
    (tmp_path / "boats.py").write_text("", encoding="utf-8")
    line = " ".join(f"'{word}'" for word in words)
    text = f"{script('bash', GROUP)}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _anabranch; "
    text += 'printf "%s\\n" "${COMPREPLY[@]}"'
    places = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "ANABRANCH_PROJECTS": str(tmp_path), "PATH": places}
    ended = subprocess.run(
        ["/bin/bash", "-c", text], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""
    assert found is None or ended.stdout.split() == found


def test_another_shell_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zhs"]) == 2
    assert "bash, zsh, fish: did you mean 'zsh'?" in capsys.readouterr().err
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        assert "anabranch" in capsys.readouterr().out
