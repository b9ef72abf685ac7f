"""The DAGs of Airflow: every round that `anabranch schedule --json` tells of.

Airflow alone imports this file, in an environment of its own where nothing of Anabranch is installed:
commands run in the checkout, with the programs of its environment or of ANABRANCH_PROGRAMS.
"""

import json
import os
import signal
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.apache.kafka.triggers.await_message import AwaitMessageTrigger
from airflow.sdk import DAG, Asset, AssetWatcher, BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(os.environ.get("ANABRANCH_PROGRAMS", ROOT / ".venv" / "bin"))
_MISUSE = 2
_STOP_SECONDS = 30.0


class CommandOperator(BaseOperator):  # type: ignore[misc]
    """Runs a command; what it prints last as JSON on standard output is the task's result.

    Exit code 2 is misuse, which no retry heals. A stopped task stops the command and all that it started.
    """

    def __init__(self, *, command: list[str], takes: str, backfill: list[str], **given: Any) -> None:
        super().__init__(**given)
        self.command, self.takes, self.backfill = command, takes, backfill
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> Any:
        words = list(self.command)
        if self.takes:
            version = context["ti"].xcom_pull(task_ids=self.takes)["model_version"]
            words = [word.replace("{version}", version) for word in words]
        if str(context["dag_run"].run_type) == "backfill":
            time = context["logical_date"].strftime("%Y-%m-%dT%H:%M:%SZ")
            words += [word.replace("{time}", time) for word in self.backfill]
        self.log.info("%s", " ".join(words))
        return self._run(words)

    def _run(self, words: list[str]) -> Any:
        path = os.pathsep.join([str(PROGRAMS), os.environ.get("PATH", os.defpath)])
        variables = {name: text for name, text in os.environ.items() if not name.startswith("AIRFLOW")}
        variables |= {"PATH": path, "SPARK_CONF_DIR": str(ROOT / "conf"), "PYTHONUTF8": "1"}
        self._process = subprocess.Popen(
            [str(PROGRAMS / words[0]), *words[1:]],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        shown = threading.Thread(target=self._show, args=(self._process.stderr,), daemon=True)
        shown.start()
        last = self._show(self._process.stdout)
        code = self._process.wait()
        shown.join()
        if code == _MISUSE:
            raise AirflowFailException(f"{' '.join(words)} is misuse: the lines above say why")
        if code != 0:
            raise RuntimeError(f"{' '.join(words)} ended with exit code {code}")
        try:
            return json.loads(last)
        except ValueError:
            return None

    def _show(self, lines: Any) -> str:
        last = ""
        for line in lines:
            last = line.rstrip()
            self.log.info("%s", last)
        return last

    def on_kill(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)


class GateOperator(BaseOperator):  # type: ignore[misc]
    """Skips what comes after it when the gate refused the version that `takes` registered."""

    def __init__(self, *, takes: str, **given: Any) -> None:
        super().__init__(**given)
        self.takes = takes

    def execute(self, context: Any) -> Any:
        found = context["ti"].xcom_pull(task_ids=self.takes)
        for check in found["gate"]:
            self.log.info(
                "%s: %s (%s)", check["name"], "passed" if check["passed"] else "refused", check["said"]
            )
        if not all(check["passed"] for check in found["gate"]):
            raise AirflowSkipException(f"version {found['model_version']} is not promoted: {found['reason']}")
        return found["model_version"]


def rounds() -> list[dict[str, Any]]:
    """The rounds as data; raises RuntimeError, which Airflow shows as an import error."""
    command = [str(PROGRAMS / "anabranch"), "schedule", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    found = json.loads(done.stdout.splitlines()[-1])
    for name, why in found["broken"].items():
        print(f"project {name} has no DAGs: {why}")
    return list(found["rounds"])


def dag_of(described: dict[str, Any]) -> DAG:
    """The DAG of a round."""
    schedule: Any = described["schedule"]
    if described["asset"]:
        trigger = AwaitMessageTrigger(topics=[described["asset"]], poll_interval=1)
        schedule = [
            Asset(described["asset"], watchers=[AssetWatcher(name=described["asset"], trigger=trigger)])
        ]
    links = "\n".join(f"- [{name}]({link})" for name, link in described["links"].items())
    dag = DAG(
        dag_id=described["name"],
        schedule=schedule,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        description=described["about"],
        doc_md=f"{described['about']}\n\n{links}",
        tags=["anabranch", described["kind"], *filter(None, [described["project"]])],
        default_args={"retries": 2, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": True},
    )
    for task in described["tasks"]:
        about = f"May be tried again: {task['retried']}.\n\n{links}"
        given: dict[str, Any] = {"task_id": task["name"], "dag": dag, "doc_md": about, "takes": task["takes"]}
        operator: BaseOperator = (
            CommandOperator(command=task["command"], backfill=task["backfill"], **given)
            if task["command"]
            else GateOperator(**given)
        )
        for before in task["after"]:
            operator.set_upstream(dag.get_task(before))
    return dag


for each in rounds():
    globals()[each["name"]] = dag_of(each)
