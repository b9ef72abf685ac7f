"""Prometheus and Alertmanager for real: every rule is tried by promtool, fires, and reaches a webhook."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, start_http_server

from anabranch.declare.operations import Objectives
from anabranch.settings import AlertSettings
from anabranch.stores.cassandra.measures import Measure
from anabranch.stores.webhooks.addresses import WATCH_ALERT
from anabranch.stores.webhooks.sending import Webhooks
from anabranch.values.times import SECOND, from_micros, now_micros
from batch.watching.alerts import ThresholdCheck, notice
from jobs.monitoring.dashboards import BOARDS
from jobs.monitoring.rules import ALERTS, rule_groups
from jobs.monitoring.runs import Noted, keep_run
from jobs.monitoring.targets import announced, write_targets
from jobs.servers import embedded
from jobs.servers.exporter import MachineFigures
from jobs.servers.processes import read_record, wait_until
from jobs.servers.prometheus import prepare_alertmanager, prepare_prometheus, program
from jobs.wiring.settings import Settings, load_settings
from serving.api.budgets import KeptCounts
from serving.api.metrics import MeasuredValues, ServingMetrics
from serving.api.promises import ChannelFreshness
from speed.progress import Snapshot, StreamMetrics
from tests.conftest import free_ports
from tests.support.sockets import listening
from tests.support.tried_rules import TRIED
from tests.support.webhooks import Received, receiver, shown

RULES = "rules.yaml"


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rules in force, which promtool accepts."""
    folder = tmp_path_factory.mktemp("rules")
    (folder / RULES).write_text(yaml.safe_dump(rule_groups()), encoding="utf-8")
    promtool("check", folder / RULES)
    return folder


def promtool(what: str, file: Path) -> None:
    done = subprocess.run(
        [program("promtool"), what, "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_fires_when_it_should_and_not_otherwise(rules: Path) -> None:
    assert set(TRIED) == {one.name for one in ALERTS}
    tests = []
    for alert in ALERTS:
        tried = TRIED[alert.name]
        at_once = alert.wait == "0s" and not tried.rate
        for series, found in (
            (tried.fires, {"0s": at_once, tried.at: True}),
            (tried.fine, {tried.at: False}),
        ):
            firing = f'count(ALERTS{{alertname="{alert.name}",alertstate="firing"}})'
            expected = [
                {"expr": firing, "eval_time": at, "exp_samples": [{"labels": "{}", "value": 1}] * fires}
                for at, fires in found.items()
            ]
            tests.append(
                {
                    "name": f"{alert.name}: {series}",
                    "interval": "1m",
                    "input_series": [{"series": name, "values": values} for name, values in series.items()],
                    "promql_expr_test": expected,
                }
            )
    document = {"rule_files": [RULES], "evaluation_interval": "1m", "tests": tests}
    (rules / "tests.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    promtool("test", rules / "tests.yaml")


def query(settings: Settings, text: str) -> list[Any]:
    """The result of an instant query."""
    address = f"http://127.0.0.1:{settings.servers.prometheus_port}/api/v1/query?query={quote(text)}"
    with urlopen(address, timeout=5) as answer:
        found = json.load(answer)
    assert found["status"] == "success"
    return list(found["data"]["result"])


def queries() -> list[str]:
    """Every query of every dashboard."""
    return [text for board in BOARDS for graph in board.graphs for text in graph.queries.values()]


def draw(settings: Settings, folder: Path) -> None:
    """Pictures of what the dashboards' queries give, for the documentation."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    end, port = time.time(), settings.servers.prometheus_port
    for board in BOARDS:
        rows = -(-len(board.graphs) // 3)
        figure, axes = plt.subplots(rows, 3, figsize=(13, 2.6 * rows), squeeze=False, layout="constrained")
        for axis, graph in zip(axes.flat, board.graphs, strict=False):
            for text in graph.queries.values():
                span = f"start={end - 25}&end={end}&step=1"
                address = f"http://127.0.0.1:{port}/api/v1/query_range?query={quote(text)}&{span}"
                with urlopen(address, timeout=5) as answer:
                    series = json.load(answer)["data"]["result"]
                for one in series:
                    points = [(float(at) - end, float(value)) for at, value in one["values"]]
                    axis.plot(*zip(*points, strict=True), linewidth=1.5)
            axis.set_title(graph.title, fontsize=9)
            axis.set_ylabel(graph.unit, fontsize=8)
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
        for axis in list(axes.flat)[len(board.graphs) :]:
            axis.axis("off")
        figure.savefig(folder / f"{board.uid}.png", dpi=80)
        plt.close(figure)


def standing(settings: Settings) -> dict[str, list[Any]]:
    """The alerts that Alertmanager has, by name."""
    with urlopen(f"http://127.0.0.1:{settings.servers.alertmanager_port}/api/v2/alerts", timeout=5) as answer:
        found = json.load(answer)
    return {
        name: [one for one in found if one["labels"]["alertname"] == name]
        for name in {one["labels"]["alertname"] for one in found}
    }


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Received]]:
    """Prometheus, Alertmanager and the exporter, up; Kafka and Cassandra are not. Alerts go to a receiver."""
    ports = free_ports(5)
    names = ("prometheus_port", "alertmanager_port", "exporter_port", "kafka_port", "cassandra_port")
    with receiver() as hook:
        settings = load_settings(
            {},
            {
                "paths.data": str(tmp_path_factory.mktemp("monitored")),
                "servers.prometheus_interval": "1s",
                "alerts.webhooks": hook.url,
                **{f"servers.{name}": port for name, port in zip(names, ports, strict=True)},
            },
        )
        try:
            embedded.up(settings, ["prometheus"])
            # The same rules without their waits.
            prepare_prometheus(settings, waits=False)
            prepare_alertmanager(settings, waits=False)
            for name in ("prometheus", "alertmanager"):
                record = read_record(settings.data / "run" / f"{name}.json")
                assert record is not None
                os.kill(record.pid, signal.SIGHUP)
            yield settings, hook
        finally:
            embedded.down(settings, ["prometheus"])


@contextmanager
def everything_wrong(settings: Settings) -> Iterator[Callable[[], None]]:
    """What servers and jobs show when everything is wrong; calling it lets time pass for them."""
    measures = [
        Measure(
            project="p",
            subject="alerts",
            name="psi",
            slice="age",
            version="3",
            at=from_micros(now_micros()),
            value=1.0,
        )
    ]
    measured = MeasuredValues(lambda _: measures)
    measured.look(["p"])
    rest = ServingMetrics(measured)
    rest.promise("p", Objectives(availability=0.999))
    rest.show_stores({}, {"bus": True})
    rest.model.labels("p", "3").set(1)
    rest.batch_cut.labels("p").set(time.time() - 3 * 86_400)
    rest.show_freshness("p", {"batch": ChannelFreshness(promised=SECOND, behind=9 * SECOND, state="missed")})
    registry = CollectorRegistry()
    # The figures of a disk that is nearly full: filling one is nobody's test.
    registry.register(MachineFigures(settings.data / "full", usage=lambda _: (100, 95, 5)))
    full, _ = start_http_server(0, addr="127.0.0.1", registry=registry)
    stream = StreamMetrics(0)
    snapshot = Snapshot(project="p", source="s", running=False, failure="it failed", lost=3)
    for failed in (False, True):
        keep_run(Noted(verb="build", data=settings.data, projects=["p"]), failed=failed)
    lag = 200_000

    def pass_time() -> None:
        nonlocal lag
        lag += 1000
        stream.show([replace(snapshot, lag={0: lag}), replace(snapshot, source="waits", failure=None)])
        rest.answered("/v1/projects/{project}/predict", "p", 503, time.perf_counter())
        rest.degraded.labels("p").inc()
        rest.compared.labels("p", "shadow", "same").inc()
        rest.dropped.labels("full").inc()

    pass_time()
    (closed,) = free_ports(1)
    with ExitStack() as stack:
        stack.callback(stream.close)
        stack.callback(full.server_close)
        stack.callback(full.shutdown)
        place = stack.enter_context(shown(rest.text))
        stack.enter_context(announced(settings.data, "stream", "p", stream.place))
        write_targets(settings.data, "rest", "test", [place, f"127.0.0.1:{closed}"])
        write_targets(settings.data, "exporter", "full", [f"127.0.0.1:{full.server_port}"])
        write_targets(settings.data, "stream", "killed", [f"127.0.0.1:{closed}"])
        yield pass_time


def test_all_of_them_listen_on_loopback_alone_and_secrets_are_for_their_owner(
    monitored: tuple[Settings, Received],
) -> None:
    settings, hook = monitored
    for make in embedded.SERVERS["prometheus"]:
        record = read_record(settings.data / "run" / f"{make(settings).name}.json")
        assert record is not None
        assert set(listening(record.pid)) <= {"127.0.0.1", "::ffff:127.0.0.1"}
    configuration = settings.data / "alertmanager" / "alertmanager.yaml"
    assert hook.url in configuration.read_text(encoding="utf-8")
    assert configuration.stat().st_mode & 0o077 == 0
    assert not (settings.data / "exporter" / "given.json").exists()


def test_every_alert_fires_and_reaches_the_webhook_and_one_that_watch_sent_too_is_the_same(
    monitored: tuple[Settings, Received], request: pytest.FixtureRequest
) -> None:
    settings, hook = monitored
    wanted = {one.name for one in ALERTS}
    with everything_wrong(settings) as pass_time:

        def told() -> set[str]:
            return {alert["labels"]["alertname"] for body in hook.bodies for alert in body["alerts"]}

        def fired() -> bool:
            time.sleep(0.25)
            pass_time()
            return told() | ({WATCH_ALERT} & standing(settings).keys()) == wanted

        assert wait_until(fired, 60), (wanted - told(), sorted(standing(settings)))
        # Watch brings its own alerts to the webhooks, so Alertmanager does not.
        assert told() == wanted - {WATCH_ALERT}
        check = ThresholdCheck(
            what="psi", which="age", version="3", value=0.5, threshold=0.2, crossed=True, news="raised"
        )
        alertmanager = f"alertmanager+http://127.0.0.1:{settings.servers.alertmanager_port}"
        sender = Webhooks(AlertSettings(webhooks=(alertmanager, hook.url)))
        (before,) = standing(settings)[WATCH_ALERT]
        assert sender.send([notice("p", now_micros(), check)]) == []
        (after,) = standing(settings)[WATCH_ALERT]
        assert after["fingerprint"] == before["fingerprint"]
        assert after["annotations"]["summary"] != ""
        # What a server shows of its budget is what Prometheus has counted.
        counts = KeptCounts(f"http://127.0.0.1:{settings.servers.prometheus_port}")
        recorded = query(settings, "anabranch:objective_missed:ratio1h")
        assert [(one["metric"]["objective"], float(one["value"][1])) for one in recorded] == [
            ("availability", 1.0)
        ]
        counts.look()
        assert counts.latest is not None
        missing = [text for text in queries() if not query(settings, text)]
        assert missing == []
        folder = request.config.getoption("--pictures")
        if folder is not None:
            draw(settings, Path(folder))
    (own,) = [body for body in hook.bodies if "what" in body]
    assert (own["project"], own["what"], own["which"]) == ("p", "psi", "age")
    sent = [alert for body in hook.bodies if body is not own for alert in body["alerts"]]
    summaries = [alert["annotations"]["summary"] for alert in sent]
    assert not [text for text in summaries if "{{" in text or "<no value>" in text or "  " in text]
