"""The files in docker/, as far as they can be judged without a container engine."""

import configparser
import json
import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import typer
import yaml  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, generate_latest

from jobs.cli.main import app
from jobs.monitoring.configuration import alertmanager_document
from jobs.monitoring.dashboards import BOARDS, board_document
from jobs.monitoring.rules import rule_groups
from jobs.servers.exporter import MachineFigures
from jobs.wiring.settings import ROOT, load_settings
from serving.api.metrics import MeasuredValues, ServingMetrics
from speed.progress import StreamMetrics
from tests.conftest import free_ports

DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
BUILT = {name: service for name, service in SERVICES.items() if service["image"].startswith("anabranch:")}
OURS = {name: service for name, service in BUILT.items() if "entrypoint" not in service}
AIRFLOW = {name: service for name, service in BUILT.items() if "entrypoint" in service}
ADDRESS = re.compile(r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b")


def texts(value: Any) -> list[str]:
    """Every text in a document."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in texts(each)]
    return [text for each in value for text in texts(each)] if isinstance(value, list) else [str(value)]


def version_of(artifact: str) -> str:
    """The version in which the embedded server is fetched."""
    found = re.search(rf"<artifactId>{artifact}</artifactId>\s*<version>([^<]+)</version>", poms())
    assert found, artifact
    return found[1]


def poms() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "conf" / "jars").rglob("pom.xml"))


@pytest.mark.parametrize("name", OURS)
def test_a_command_of_ours_is_one_that_the_command_line_takes(name: str) -> None:
    verb, *arguments = OURS[name]["command"]
    group = typer.main.get_command(app)
    commands: dict[str, Any] = vars(group)["commands"]
    assert verb in commands
    commands[verb].make_context(verb, list(arguments))


@pytest.mark.parametrize("name", OURS)
def test_settings_of_ours_are_settings(name: str) -> None:
    given = {key: value for key, value in OURS[name]["environment"].items() if key.startswith("ANABRANCH__")}
    settings = load_settings(given, {})
    assert settings.bus.bootstrap_servers in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert settings.views.hosts == ("127.0.0.1",)


def test_everything_listens_on_this_machine_alone() -> None:
    assert {service["network_mode"] for service in SERVICES.values()} == {"host"}
    assert not any("ports" in service for service in SERVICES.values())
    assert set(ADDRESS.findall("\n".join(texts(COMPOSE)))) == {"127.0.0.1"}
    asked = {
        "cassandra": ("CASSANDRA_RPC_ADDRESS", "CASSANDRA_LISTEN_ADDRESS"),
        "kafdrop": ("SERVER_ADDRESS",),
        "grafana": ("GF_SERVER_HTTP_ADDR",),
    }
    for name, keys in asked.items():
        assert {SERVICES[name]["environment"][key] for key in keys} == {"127.0.0.1"}
    assert "--web.listen-address=127.0.0.1:9090" in SERVICES["prometheus"]["command"]
    alertmanager = SERVICES["alertmanager"]["command"]
    assert {"--web.listen-address=127.0.0.1:9094", "--cluster.listen-address="} <= set(alertmanager)
    assert "listen_addresses=127.0.0.1" in SERVICES["postgres"]["command"]
    assert SERVICES["airflow"]["command"][1:3] == ["--host", "127.0.0.1"]
    for name in ("airflow-scheduler", "airflow-triggerer"):
        assert "--skip-serve-logs" in SERVICES[name]["command"]


def test_no_password_stands_in_the_files() -> None:
    secrets = {
        key: value
        for service in SERVICES.values()
        for key, value in service.get("environment", {}).items()
        if re.search("PASSWORD|SECRET|TOKEN", key)
    }
    assert secrets
    assert all(re.fullmatch(r"\$\{\w+:\?.+\}", value) for value in secrets.values())


def test_every_service_has_its_limits_and_ours_no_rights() -> None:
    for name, service in SERVICES.items():
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    for service in BUILT.values():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    for name in ("postgres", "prometheus", "alertmanager"):
        service = SERVICES[name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["user"] not in ("root", "0"), name
    assert "USER anabranch" in (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    assert "/healthz" in OURS["serve"]["healthcheck"]["test"][-1]


def test_images_have_versions_and_servers_those_that_are_embedded() -> None:
    images = {name: service["image"].rpartition(":") for name, service in SERVICES.items()}
    assert all(re.match(r"v?\d+\.\d+", version) for _, _, version in images.values())
    assert images["kafka"][2] == version_of("kafka_2.13")
    assert images["cassandra"][2] == version_of("cassandra-all")
    assert {images[name][2].removesuffix("-airflow") for name in BUILT} == {
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    }


def test_what_keeps_running_says_whether_it_is_well() -> None:
    lasting = {name for name, service in SERVICES.items() if service.get("restart") != "no"}
    silent = {name for name in lasting if "healthcheck" not in SERVICES[name]}
    assert silent == {"stream", "trainer", "watch", "kafdrop"}


def test_airflow_runs_as_the_embedded_one_does() -> None:
    embedded = configparser.RawConfigParser()
    embedded.read(ROOT / "conf" / "airflow.cfg")
    assert set(AIRFLOW) == {
        "airflow-migrate", "airflow", "airflow-scheduler", "airflow-dags", "airflow-triggerer"
    }  # fmt: skip
    for service in AIRFLOW.values():
        given = {name: text for name, text in service["environment"].items() if name.startswith("AIRFLOW__")}
        for name, text in given.items():
            _, section, option = name.lower().split("__")
            known = embedded.get(section, option)
            assert "$" in known or known == text, name
        assert service["environment"]["ANABRANCH_PROGRAMS"] == "/srv/anabranch/.venv/bin"
        assert service["build"]["args"] == {"WITH": "airflow"}
    assert re.search(r'make setup WITH="\$WITH"', (DOCKER / "Dockerfile").read_text(encoding="utf-8"))


def test_kafka_keeps_the_promises_that_the_embedded_one_keeps() -> None:
    of_one_node = {"${copies}": "1", "${majority}": "1", "${node}": "1"}
    embedded = {
        name: of_one_node.get(value, value)
        for name, value in (line.split("=", 1) for line in lines(ROOT / "conf" / "kafka.properties"))
        if value in of_one_node or "$" not in value
    }
    given = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in SERVICES["kafka"]["environment"].items()
    }
    assert {
        "log.message.timestamp.type",
        "auto.create.topics.enable",
        "min.insync.replicas",
    } <= given.keys() & embedded.keys()
    assert {name: given[name] for name in given.keys() & embedded.keys()} == {
        name: embedded[name] for name in given.keys() & embedded.keys()
    }


def lines(file: Path) -> list[str]:
    return [
        line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    ]


def test_mounted_files_and_named_volumes_are_there() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            place = re.sub(r"\$\{\w+:-(.+?)\}", r"\1", mount).partition(":")[0]
            made_when_missing = place == "./files" or place in COMPOSE["volumes"]
            assert made_when_missing or (place.startswith(".") and (DOCKER / place).exists()), mount
    dockerfile = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    assert "make setup" in dockerfile
    assert re.search(r"^setup:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    environment = dict(re.findall(r"(ANABRANCH__\w+)=(\S+)", dockerfile))
    assert load_settings(environment, {}).data == Path("/var/lib/anabranch")


def test_dashboard_and_alerts_ask_for_figures_that_are_shown() -> None:
    shown = families(ServingMetrics(MeasuredValues(lambda _: ())).text().decode())
    (port,) = free_ports(1)
    stream = StreamMetrics(port)
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        shown |= families(answer.read().decode())
    stream.close()
    registry = CollectorRegistry()
    registry.register(MachineFigures(DOCKER))
    shown |= families(generate_latest(registry).decode())
    rules = yaml.safe_load((DOCKER / "prometheus" / "rules.yaml").read_text(encoding="utf-8"))
    asked = [text for board in BOARDS for graph in board.graphs for text in graph.queries.values()]
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    shown |= {rule["record"] for group in rules["groups"] for rule in group["rules"] if "record" in rule}
    names = {name for text in asked for name in re.findall(r"anabranch[_:][\w:]+", text)}
    assert len(names) > 10
    assert names <= shown


def test_dashboards_are_those_that_are_declared() -> None:
    folder = DOCKER / "grafana" / "dashboards"
    written = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")}
    assert written == {board.uid: board_document(board) for board in BOARDS}, "run 'make dashboards'"
    for board in written.values():
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(set(places)) == len(places)
        assert {panel["datasource"]["uid"] for panel in board["panels"]} == {"prometheus"}
        assert all(
            target["expr"] and target["legendFormat"]
            for panel in board["panels"]
            for target in panel["targets"]
        )


def families(text: str) -> set[str]:
    """Names that a scrape brings, with those of histograms' parts."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M):
        found |= (
            {name, *(f"{name}_{part}" for part in ("bucket", "sum", "count"))}
            if kind == "histogram"
            else {name}
        )
    return found


def test_prometheus_asks_where_the_services_show_their_figures() -> None:
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    command = OURS["serve"]["command"]
    assert targets["rest"] == [f"127.0.0.1:{command[command.index('--port') + 1]}"]
    assert targets["stream"] == [
        f"127.0.0.1:{OURS['stream']['environment']['ANABRANCH__SPEED__METRICS_PORT']}"
    ]
    (rules,) = config["rule_files"]
    written = yaml.safe_load((DOCKER / "prometheus" / rules).read_text(encoding="utf-8"))
    assert written == rule_groups(), "run 'make dashboards'"
    (alertmanager,) = config["alerting"]["alertmanagers"]
    assert alertmanager["static_configs"][0]["targets"] == ["127.0.0.1:9094"]
    sent = yaml.safe_load((DOCKER / "prometheus" / "alertmanager.yaml").read_text(encoding="utf-8"))
    assert sent == alertmanager_document(()), "run 'make dashboards'"
    sources = yaml.safe_load(
        (DOCKER / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text(encoding="utf-8")
    )
    assert sources["datasources"][0]["url"] == "http://127.0.0.1:9090"
