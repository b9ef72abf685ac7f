"""Security settings reach both clients, whichever of them a setting is spelled for."""

from typing import Any

import pytest
from confluent_kafka import KafkaError as NativeError
from confluent_kafka import Producer
from kafka.errors import KafkaError

from anabranch.settings import BusSettings
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.kafka.native import NativeConnection, _note_fatal, client
from anabranch.stores.kafka.publisher import Placement

TLS = {
    "security.protocol": "SASL_SSL",
    "sasl.mechanism": "SCRAM-SHA-512",
    "sasl.username": "me",
    "sasl.password": "secret",
}
NATIVE = {
    "ssl.ca.location": "/ca.pem",
    "ssl.certificate.location": "/own.pem",
    "ssl.key.location": "/own.key",
    "ssl.key.password": "hush",
}
PYTHON = {
    "ssl.cafile": "/ca.pem",
    "ssl.certfile": "/own.pem",
    "ssl.keyfile": "/own.key",
    "ssl.password": "hush",
}


@pytest.mark.parametrize("spelled", [NATIVE, PYTHON])
def test_both_clients_get_the_same_security(spelled: dict[str, str]) -> None:
    settings = BusSettings(bootstrap_servers="127.0.0.1:1", security={**TLS, **spelled})
    native = client(lambda wanted, **_: wanted, settings)
    assert {name: native[name] for name in (*TLS, *NATIVE)} == {**TLS, **NATIVE}
    python: dict[str, Any] = Bus(settings)._client(dict)
    assert python["security_protocol"] == "SASL_SSL"
    assert python["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (python["sasl_plain_username"], python["sasl_plain_password"]) == ("me", "secret")
    assert [python[name] for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password")] == list(
        NATIVE.values()
    )


def test_settings_that_only_java_knows_are_left_out() -> None:
    security = {**TLS, "ssl.truststore.location": "/x.jks", "sasl.jaas.config": "x"}
    settings = BusSettings(bootstrap_servers="127.0.0.1:1", security=security)
    assert isinstance(client(Producer, settings), Producer)
    assert "ssl_truststore_location" not in Bus(settings)._client(dict)


def test_java_gets_a_mechanism_by_either_name() -> None:
    security = {**{name: value for name, value in TLS.items() if name != "sasl.mechanism"}, **NATIVE}
    bus = Bus(BusSettings(bootstrap_servers="a:1", security={**security, "sasl.mechanisms": "SCRAM-SHA-512"}))
    options = bus.spark_options([])
    assert options["kafka.sasl.mechanism"] == "SCRAM-SHA-512"
    assert "scram.ScramLoginModule" in options["kafka.sasl.jaas.config"]
    assert options["kafka.ssl.key.password"] == "hush"
    assert "kafka.sasl.mechanisms" not in options


def test_a_client_that_met_a_fatal_error_is_spent_though_no_report_says_so() -> None:
    # librdkafka's own broker for tests, in this process
    settings = BusSettings(bootstrap_servers="127.0.0.1:1", security={"test.mock.num.brokers": "1"})
    connection, stored = NativeConnection(settings, 10.0), list[Placement]()
    assert connection.send([("topic", b"k", b"v")], stored, lambda: None) == ([], False)
    assert len(stored) == 1
    _note_fatal(connection._fatal, NativeError(NativeError._ALL_BROKERS_DOWN))
    assert connection.send([("topic", b"k", b"v")], None, lambda: None) == ([], False)
    _note_fatal(connection._fatal, NativeError(NativeError.UNKNOWN_PRODUCER_ID, "gone", True))
    assert connection.send([("topic", b"k", b"v")], None, lambda: None) == ([], True)
    connection.close(1)


def test_a_client_that_cannot_be_made_says_why_as_an_error_of_the_bus() -> None:
    security = {"security.protocol": "SSL", "ssl.ca.location": "/nowhere/ca.pem"}
    with pytest.raises(KafkaError, match=r"ssl\.ca\.location"):
        NativeConnection(BusSettings(bootstrap_servers="127.0.0.1:1", security=security), 1.0)
