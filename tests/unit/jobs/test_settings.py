"""Settings: precedence, kinds, what is derived, and errors that say where a value came from."""

import os
from pathlib import Path

import pytest

from anabranch.errors import MisuseError
from jobs.wiring.settings import ROOT, load_settings
from jobs.wiring.settings_values import SettingsError, duration


def test_the_shipped_file_alone_is_complete() -> None:
    settings = load_settings({})
    assert settings.data == ROOT / ".anabranch"
    assert settings.lake.root == str(ROOT / ".anabranch" / "lake")
    assert settings.jars == ROOT / ".anabranch" / "jars"
    assert settings.times.slot_seconds == 3600
    assert settings.times.slack_seconds == 172_800
    assert settings.times.future_skew_seconds == 300
    assert settings.bus.bootstrap_servers == f"127.0.0.1:{settings.servers.kafka_port}"
    assert (settings.views.hosts, settings.views.port) == (("127.0.0.1",), settings.servers.cassandra_port)
    assert settings.servers.kafka_embedded
    assert settings.servers.cassandra_embedded
    assert settings.models.tracking_uri.startswith("sqlite:///")
    assert settings.views.username is None
    assert settings.projects == (ROOT / "projects",)


def test_the_environment_wins_over_the_file_and_the_command_line_over_both() -> None:
    environ = {"ANABRANCH__SPEED__TRIGGER": "3 seconds", "ANABRANCH__TIME__SLOT": "30s"}
    assert load_settings(environ).speed.trigger == "3 seconds"
    settings = load_settings(environ, {"speed.trigger": "9 seconds"})
    assert settings.speed.trigger == "9 seconds"
    assert settings.times.slot_seconds == 30


def test_everything_made_moves_with_the_data_folder(tmp_path: Path) -> None:
    settings = load_settings({"ANABRANCH__PATHS__DATA": str(tmp_path)})
    places = (
        settings.lake.root,
        settings.speed.checkpoint_root,
        settings.models.artifact_root,
        str(settings.spark.warehouse),
        str(settings.jars),
    )
    assert all(place.startswith(str(tmp_path)) for place in places)
    assert str(tmp_path) in settings.models.tracking_uri


def test_a_url_is_a_lake_root_as_it_is() -> None:
    assert load_settings({}, {"paths.lake": "hdfs://name:8020/lake"}).lake.root == "hdfs://name:8020/lake"


def test_project_folders_of_the_environment_come_after_the_repositorys(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    settings = load_settings({"ANABRANCH_PROJECTS": os.pathsep.join(map(str, folders))})
    assert settings.projects == (ROOT / "projects", *folders)


def test_an_address_of_ones_own_is_not_embedded() -> None:
    settings = load_settings(
        {
            "ANABRANCH__BUS__BOOTSTRAP_SERVERS": "a:9092, b:9092",
            "ANABRANCH__VIEWS__HOSTS": "c,d",
            "ANABRANCH__VIEWS__PORT": "9043",
        }
    )
    assert settings.bus.bootstrap_servers == "a:9092,b:9092"
    assert (settings.views.hosts, settings.views.port) == (("c", "d"), 9043)
    assert not settings.servers.kafka_embedded
    assert not settings.servers.cassandra_embedded


def test_the_embedded_address_spelled_out_is_embedded() -> None:
    settings = load_settings(
        {},
        {
            "bus.bootstrap_servers": "127.0.0.1:5",
            "servers.kafka_port": 5,
            "views.hosts": "127.0.0.1",
            "views.port": 6,
            "servers.cassandra_port": 6,
        },
    )
    assert settings.servers.kafka_embedded
    assert settings.servers.cassandra_embedded


def test_no_secret_shows_in_a_representation_or_an_error() -> None:
    settings = load_settings(
        {"ANABRANCH__VIEWS__PASSWORD": "hush-1", "ANABRANCH__BUS__SECURITY": "sasl.password=hush-2"}
    )
    assert settings.views.password == "hush-1"
    assert settings.bus.security == {"sasl.password": "hush-2"}
    assert "hush" not in repr(settings)
    with pytest.raises(SettingsError) as caught:
        load_settings({"ANABRANCH__BUS__SECURITY": "hush-3"})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "ANABRANCH__SPEEED__TRIGGER",
            "x",
            ["unknown section 'speeed'", "speed", "settings.toml", "command line"],
        ),
        (
            "ANABRANCH__SPEED__TRIGGERS",
            "x",
            [
                "unknown setting speed.triggers",
                "trigger",
                "settings.toml",
                "environment ANABRANCH__SPEED__TRIGGERS",
            ],
        ),
        ("ANABRANCH__SPEED", "x", ["unknown setting speed."]),
        (
            "ANABRANCH__SERVING__PORT",
            "many",
            ["serving.port", "ANABRANCH__SERVING__PORT", "'many'", "1 to 65535"],
        ),
        ("ANABRANCH__SERVING__PORT", "0", ["1 to 65535"]),
        ("ANABRANCH__TIME__SLOT", "1 hour", ["time.slot", "'1 hour'", '"1h"']),
        ("ANABRANCH__VIEWS__KEYSPACE", "Bad-name", ["views.keyspace", "lower-case"]),
        ("ANABRANCH__SPARK__DRIVER_MEMORY", "plenty", ["driver_memory", "512m"]),
        ("ANABRANCH__SERVING__REFRESH_SECONDS", "nan", ["refresh_seconds", "above 0"]),
        ("ANABRANCH__VIEWS__HOSTS", " , ", ["views.hosts", "at least one"]),
    ],
)
def test_a_wrong_setting_gets_one_sentence_and_exit_code_2(name: str, value: str, told: list[str]) -> None:
    with pytest.raises(MisuseError) as caught:
        load_settings({name: value})
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    for part in told:
        assert part in str(caught.value)


def test_a_missing_setting_lists_every_place_that_was_searched(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[paths]\ndata = ""\n', encoding="utf-8")
    with pytest.raises(
        SettingsError,
        match=r"paths\.lake is missing.*settings\.toml.*ANABRANCH__PATHS__LAKE.*command line paths\.lake",
    ):
        load_settings({}, file=file)


@pytest.mark.parametrize("content", ["[paths", "data = 1\n"])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=str(file)):
        load_settings({}, file=file)


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("15m", 900), ("1h", 3600), ("2d", 172_800)])
def test_durations_are_seconds(text: str, seconds: int) -> None:
    assert duration(text) == seconds
