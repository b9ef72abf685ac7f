"""Embedded servers of several nodes: what the settings make of them."""

from pathlib import Path

import pytest

from jobs.servers import embedded
from jobs.servers.server import write_configuration
from jobs.wiring.settings import SettingsError, load_settings


def test_three_nodes_are_named_to_clients_and_everything_is_kept_three_times(tmp_path: Path) -> None:
    found = load_settings({}, {"paths.data": str(tmp_path), "servers.nodes": 3})
    assert found.bus.bootstrap_servers == "127.0.0.1:19092,127.0.0.2:19092,127.0.0.3:19092"
    assert found.views.hosts == ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    assert found.views.replication == 3
    assert found.kafka_embedded
    assert found.cassandra_embedded
    made = [server for name in embedded.NAMES for make in embedded.SERVERS[name] for server in (make(found),)]
    assert [server.name for server in made if server.wanted] == [
        "kafka", "kafka-2", "kafka-3", "cassandra", "cassandra-2", "cassandra-3",
    ]  # fmt: skip
    assert len({(server.host, server.port) for server in made}) == 6
    assert len({server.home for server in made}) == 6


def test_one_node_is_what_it_was(tmp_path: Path) -> None:
    found = load_settings({}, {"paths.data": str(tmp_path)})
    assert (found.bus.bootstrap_servers, found.views.hosts) == ("127.0.0.1:19092", ("127.0.0.1",))
    assert found.views.replication == 1
    assert [state.name for state in embedded.status(found, tell=lambda _: None)] == ["kafka", "cassandra"]


@pytest.mark.parametrize("nodes", ["0", "2", "4", "many"])
def test_of_two_nodes_no_majority_is_left(nodes: str) -> None:
    with pytest.raises(SettingsError, match=r"servers\.nodes .* expected 1 or 3"):
        load_settings({"ANABRANCH__SERVERS__NODES": nodes}, {})


def test_every_name_of_a_configuration_is_given(tmp_path: Path) -> None:
    file = tmp_path / "made"
    hosts = {"host": "127.0.0.2", "port": 1, "data": tmp_path}
    write_configuration("cassandra.yaml", file, storage_port=2, seeds="127.0.0.1:2,127.0.0.2:2", **hosts)
    assert 'seeds: "127.0.0.1:2,127.0.0.2:2"' in file.read_text(encoding="utf-8")
    write_configuration(
        "kafka.properties", file, controller_port=2, node=2, voters="1@a:2,2@b:2", copies=3, majority=2,
        trusted="User:ANONYMOUS", **hosts,
    )  # fmt: skip
    text = file.read_text(encoding="utf-8")
    assert "min.insync.replicas=2\n" in text
    assert "listeners=PLAINTEXT://127.0.0.2:1,CONTROLLER://127.0.0.2:2\n" in text
