"""A new user's project: from an empty folder and a CSV to an explained answer over REST, in ten commands.

Its verbs run in one `anabranch shell`, which starts one JVM for all of them.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.wiring.settings import ROOT, Settings
from tests.e2e.conftest import running
from tests.support.command_line import write
from tests.support.commands import environment_of
from tests.unit.stores.test_light_registry import HEAVY

VERBS = """
init {file} --json
test card_payments {file} --json
ingest card_payments card_payments {file} --json
build card_payments --json
train card_payments --json
answer card_payments c1 --explain --json
"""
LIGHT = (
    "import json, sys; from jobs.cli.main import main; code = main(sys.argv[2:]); "
    "print(json.dumps([code, [each for each in json.loads(sys.argv[1]) if each in sys.modules]]))"
)


def payments(folder: Path) -> Path:
    """Simulated payments of the last days by 40 cards, frauds among the large ones."""
    drawn, now = random.Random(11), datetime.now(UTC).replace(microsecond=0)
    rows = []
    for number in range(1200):
        amount = round(drawn.expovariate(1 / 40), 2)
        rows.append(
            {
                "payment_id": f"p{number}",
                "card": f"c{number % 40}",
                "paid_at": (now - timedelta(minutes=4 * (1200 - number))).isoformat(),
                "amount": amount,
                "kind": drawn.choice(["food", "rent", "travel"]),
                "is_fraud": str(drawn.random() < (0.8 if amount > 80 else 0.05)).lower(),
            }
        )
    return write(folder / "card_payments.csv", rows)


@pytest.fixture(scope="module")
def first(
    servers: Settings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Any], Mapping[str, str]]:
    folder = tmp_path_factory.mktemp("first")
    file = payments(folder)
    environment = {**os.environ, **environment_of(servers), "ANABRANCH_PROJECTS": str(folder)}
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "shell"],
        input=VERBS.format(file=file),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = [json.loads(line) for line in ended.stdout.splitlines()]
    assert (ended.returncode, len(said)) == (0, 6), ended.stderr[-4000:]
    return folder, said, environment


def test_verbs_of_one_shell_make_an_explained_answer(
    first: tuple[Path, list[Any], Mapping[str, str]],
) -> None:
    begun, proven, landed, built, trained, answered = first[1]
    assert (begun["key"], begun["label"], begun["examples"]) == (["card"], "is_fraud", 1)
    assert (proven["ok"], proven["law"]["events"]) == (True, 1200)
    assert (landed["rows"], landed["quarantined"]) == (1200, 0)
    assert built["rows"] == {"recent": 40}
    assert trained["champion"] is True
    assert answered["score"] is not None
    assert set(answered["explanation"]["contributions"]) == set(begun["features"])


def test_the_answer_over_rest_is_explained(
    first: tuple[Path, list[Any], Mapping[str, str]], servers: Settings
) -> None:
    folder, said, _ = first
    with running(replace(servers, projects=(*servers.projects, folder))) as address:
        asked = {"key": "c1", "explain": True}
        found = httpx.post(f"{address}/v1/projects/card_payments/predict", json=asked, timeout=30).json()
    assert found["score"] == pytest.approx(said[-1]["score"], abs=0.2)
    assert set(found["explanation"]["contributions"]) == set(said[0]["features"])


@pytest.mark.parametrize(
    ("words", "spared"),
    # PyArrow imports pandas where it makes arrays from lists.
    [(["answer", "card_payments", "c1", "--explain"], set()), (["why", "card_payments", "c1"], {"pandas"})],
)
def test_an_answer_from_serving_imports_nothing_heavy(
    first: tuple[Path, list[Any], Mapping[str, str]], words: list[str], spared: set[str]
) -> None:
    heavy = [name for name in HEAVY if name not in spared]
    ended = subprocess.run(
        [sys.executable, "-c", LIGHT, json.dumps(heavy), *words],
        cwd=ROOT,
        env=first[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(ended.stdout.splitlines()[-1]) == [0, []], ended.stderr
