"""Settings: precedence, accepted values, derived values, and errors that name where a value came from."""

import os
import re
from pathlib import Path

import pytest

from anabranch.errors import MisuseError
from anabranch.settings import read_duration, show_duration
from jobs.wiring.sections import SETTINGS, Setting
from jobs.wiring.settings import ROOT, SettingsError, load_settings
from jobs.wiring.settings_page import PAGE, page_with_tables


def test_the_defaults_alone_are_complete() -> None:
    settings = load_settings({})
    assert settings.data == ROOT / ".anabranch"
    assert settings.lake.root == str(ROOT / ".anabranch" / "lake")
    assert settings.jars == ROOT / ".anabranch" / "jars"
    assert settings.times.slot_seconds == 3600
    assert settings.times.slack_seconds == 172_800
    assert settings.times.future_skew_seconds == 300
    assert settings.bus.bootstrap_servers == f"127.0.0.1:{settings.servers.kafka_port}"
    assert (settings.views.hosts, settings.views.port) == (("127.0.0.1",), settings.servers.cassandra_port)
    assert settings.kafka_embedded
    assert settings.cassandra_embedded
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
        settings.checkpoints,
        settings.models.artifact_root,
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
    assert not settings.kafka_embedded
    assert not settings.cassandra_embedded


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
    assert settings.kafka_embedded
    assert settings.cassandra_embedded


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
    ("name", "value", "parts"),
    [
        (
            "ANABRANCH__SPEEED__TRIGGER",
            "x",
            ["unknown section 'speeed'", "speed", "environment ANABRANCH__SPEEED__TRIGGER"],
        ),
        (
            "ANABRANCH__SPEED__TRIGGERS",
            "x",
            [
                "unknown setting speed.triggers",
                "trigger",
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
def test_a_wrong_setting_gets_one_sentence_and_exit_code_2(name: str, value: str, parts: list[str]) -> None:
    with pytest.raises(MisuseError) as caught:
        load_settings({name: value})
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("content", ["[paths", "data = 1\n"])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=str(file)):
        load_settings({}, file=file)


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("15m", 900), ("1h", 3600), ("2d", 172_800)])
def test_durations_are_seconds(text: str, seconds: int) -> None:
    assert read_duration(text) == seconds
    assert show_duration(seconds) == text


def test_a_value_of_the_file_is_used_and_a_wrong_one_is_refused_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[time]\nslot = "15m"\n[serving]\nport = 8200\n', encoding="utf-8")
    settings = load_settings({}, file=file)
    assert (settings.times.slot_seconds, settings.serving.port) == (900, 8200)
    assert settings.times.slack_seconds == load_settings({}).times.slack_seconds
    file.write_text("[time]\nslot = 15\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=rf"time\.slot \({file}\) is 15: expected a duration such as"):
        load_settings({}, file=file)


def test_a_field_that_the_program_sets_is_no_setting() -> None:
    with pytest.raises(SettingsError, match=r"unknown setting serving\.shared"):
        load_settings({"ANABRANCH__SERVING__SHARED": "run/shared"})


@pytest.mark.parametrize(
    "setting",
    [each for section in SETTINGS.values() for each in section.values()],
    ids=lambda each: each.name,
)
def test_every_setting_accepts_its_own_default_and_refuses_nonsense_in_words(setting: Setting) -> None:
    if isinstance(setting.default, int | float):
        shown = show_duration(int(setting.default)) if "duration" in setting.expected else setting.default
        load_settings({setting.variable: str(shown).lower()})
        with pytest.raises(SettingsError, match=re.escape(f"is 'nonsense!': expected {setting.expected}")):
            load_settings({setting.variable: "nonsense!"})
    assert setting.expected


def test_the_page_of_settings_is_the_declared_ones() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == page_with_tables(page), "run: python -m jobs.wiring.settings_page"
    assert "| `slot` | `1h` | a duration such as" in page
