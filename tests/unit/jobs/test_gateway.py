"""Where the gateway sends requests, and where a server says that it is."""

import socket

from anabranch.stores.cassandra.replicas import Replica
from jobs.servers.gateway import chosen
from jobs.servers.nginx import configuration
from jobs.wiring.settings import load_settings
from serving.settings import ServingSettings, place_of


def replica(place: str, worker: str, *, ready: bool) -> Replica:
    """A worker of a server."""
    return Replica(place=place, worker=worker, ready=ready)


def test_requests_go_to_servers_that_are_ready_or_to_all_where_none_is() -> None:
    first, second = (replica("b:1", name, ready=False) for name in ("1", "2"))
    assert chosen([]) == []
    assert chosen([first, replica("a:1", "1", ready=False)]) == ["a:1", "b:1"]
    assert chosen([first, replica("a:1", "1", ready=True)]) == ["a:1"]
    # A server is ready with its first worker.
    assert chosen([first, second, replica("b:1", "3", ready=True)]) == ["b:1"]


def test_a_server_is_reached_where_it_listens_unless_it_says_where() -> None:
    assert place_of(ServingSettings(port=8101)) == "127.0.0.1:8101"
    assert place_of(ServingSettings(host="0.0.0.0")) == f"{socket.getfqdn()}:8100"  # noqa: S104
    assert place_of(ServingSettings(host="::", place="rest-1:80")) == "rest-1:80"


def test_the_gateway_of_callers_asks_the_second_nginx_unless_the_settings_name_servers() -> None:
    following = configuration(load_settings({}, {}))
    assert following.count("server unix:back.sock") == 3
    fixed = configuration(load_settings({}, {"servers.nginx_upstreams": "127.0.0.1:8100,rest-2:8100"}))
    assert "unix:" not in fixed
    assert "server rest-2:8100 max_fails=1 fail_timeout=1s;" in fixed
