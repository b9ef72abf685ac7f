"""The only reader of conf/ and of environment variables: both become frozen values, passed down to every layer.

Precedence: conf/settings.toml < environment `ANABRANCH__SECTION__KEY` < command line (the `overrides` of `load_settings`).
"""

import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anabranch.settings import (
    BusSettings,
    FileSettings,
    LakeSettings,
    ModelsSettings,
    QualitySettings,
    StoreSettings,
    TimeSettings,
    ViewsSettings,
)
from batch.settings import BuildSettings, ScoringSettings, TrainingSettings, UpkeepSettings
from jobs.wiring import settings_values as kind
from jobs.wiring.settings_values import Parser, SettingsError
from serving.settings import ServingSettings

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "conf" / "settings.toml"
PREFIX = "ANABRANCH__"
LOOPBACK = "127.0.0.1"
EMBEDDED = "embedded"


@dataclass(frozen=True, kw_only=True)
class SparkSettings:
    """How a Spark session is started; under spark-submit what was submitted wins. `conf` are further properties of Spark's own."""

    master: str
    driver_memory: str
    shuffle_partitions: int
    conf: Mapping[str, str] = field(hash=False)
    jars_folder: Path
    warehouse: Path
    logs: Path


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """How the stream runs: pause between micro-batches, where it keeps its place, and how much it reads at once."""

    trigger: str
    checkpoint_root: str
    max_offsets_per_trigger: int | None
    partitions: int
    metrics_port: int


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The embedded servers. One that is not embedded is yours: it is never started, stopped or looked at."""

    kafka_embedded: bool
    kafka_port: int
    kafka_controller_port: int
    kafka_heap: str
    cassandra_embedded: bool
    cassandra_port: int
    cassandra_storage_port: int
    cassandra_heap: str
    hdfs_port: int
    hdfs_http_port: int
    hdfs_data_port: int
    hdfs_data_http_port: int
    hdfs_data_ipc_port: int
    hdfs_heap: str
    spark_port: int
    spark_http_port: int
    spark_worker_memory: str
    ignite_port: int
    ignite_discovery_port: int
    ignite_peer_port: int
    ignite_heap: str
    ignite_megabytes: int
    nginx_host: str
    nginx_port: int
    nginx_upstreams: tuple[str, ...]
    nginx_rate: int
    nginx_address_rate: int
    nginx_tls_certificate: str
    nginx_tls_key: str
    start_limit_seconds: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that was configured. `data` is the one folder all that is made lies in, `jars` what `make setup` filled."""

    data: Path
    jars: Path
    projects: tuple[Path, ...]
    lake: LakeSettings
    files: FileSettings
    bus: BusSettings
    views: ViewsSettings
    models: ModelsSettings
    times: TimeSettings
    quality: QualitySettings
    build: BuildSettings
    training: TrainingSettings
    upkeep: UpkeepSettings
    scoring: ScoringSettings
    spark: SparkSettings
    speed: SpeedSettings
    serving: ServingSettings
    servers: ServerSettings

    @property
    def stores(self) -> StoreSettings:
        """What the stores are opened with."""
        return StoreSettings(
            lake=self.lake,
            bus=self.bus,
            views=self.views,
            models=self.models,
            files=self.files,
            times=self.times,
            quality=self.quality,
        )


_KEYS: dict[str, dict[str, Parser]] = {
    "paths": {"data": kind.text, "lake": kind.text, "checkpoints": kind.text, "jars": kind.text},
    "files": {
        "webhdfs": kind.text,
        "namenode": kind.text,
        "user": kind.text,
        "timeout_seconds": kind.seconds_fraction,
    },
    "time": {
        "slot": kind.duration,
        "slack": kind.duration,
        "future_skew": kind.duration,
        "dedup_horizon": kind.duration,
    },
    "build": {
        "increments": kind.positive,
        "fewer_keys": kind.share,
        "nulls": kind.share,
        "drift": kind.share,
        "profiled_keys": kind.whole,
        "recomputed_keys": kind.whole,
    },
    "bus": {"bootstrap_servers": kind.names, "security": kind.pairs},
    "views": {
        "hosts": kind.names,
        "port": kind.port,
        "keyspace": kind.identifier,
        "local_datacenter": kind.text,
        "replication": kind.positive,
        "username": kind.text,
        "password": kind.text,
        "tile_ttl_days": kind.positive,
        "measure_ttl_days": kind.positive,
        "history": kind.duration,
        "history_ttl_days": kind.whole,
    },
    "models": {"tracking_uri": kind.text, "artifact_root": kind.text},
    "quality": {
        "mode": kind.one_of("off", "warn", "refuse"),
        "topic_mode": kind.one_of("warn", "refuse"),
        "refuse_above": kind.share,
        "suites": kind.text,
    },
    "training": {"local_megabytes": kind.positive},
    "upkeep": {
        "history": kind.duration,
        "leftovers": kind.duration,
        "quarantine": kind.duration,
        "small_files": kind.positive,
        "file_megabytes": kind.positive,
    },
    "scoring": {"part_rows": kind.positive, "part_megabytes": kind.positive},
    "spark": {
        "master": kind.text,
        "driver_memory": kind.memory,
        "shuffle_partitions": kind.positive,
        "conf": kind.pairs,
    },
    "speed": {
        "trigger": kind.text,
        "max_offsets_per_trigger": kind.whole,
        "partitions": kind.positive,
        "metrics_port": kind.port_or_none,
    },
    "serving": {
        "host": kind.text,
        "port": kind.port,
        "workers": kind.positive,
        "auth": kind.one_of("off", "on"),
        "open": kind.boolean,
        "jwt_public_keys": kind.names_or_none,
        "jwt_issuer": kind.text,
        "jwt_audience": kind.text,
        "store_threads": kind.positive,
        "store_timeout_seconds": kind.seconds_fraction,
        "cache": kind.one_of("memory", "ignite"),
        "ignite_address": kind.text,
        "cache_bytes": kind.whole,
        "breaker_failures": kind.positive,
        "breaker_seconds": kind.seconds_fraction,
        "refresh_seconds": kind.seconds_fraction,
        "body_bytes": kind.positive,
        "bus_threads": kind.positive,
        "bus_timeout_seconds": kind.seconds_fraction,
        "prediction_buffer": kind.positive,
        "shadow_buffer": kind.positive,
        "drain_seconds": kind.seconds_fraction,
    },
    "servers": {
        "kafka_port": kind.port,
        "kafka_controller_port": kind.port,
        "kafka_heap": kind.memory,
        "cassandra_port": kind.port,
        "cassandra_storage_port": kind.port,
        "cassandra_heap": kind.memory,
        "hdfs_port": kind.port,
        "hdfs_http_port": kind.port,
        "hdfs_data_port": kind.port,
        "hdfs_data_http_port": kind.port,
        "hdfs_data_ipc_port": kind.port,
        "hdfs_heap": kind.memory,
        "spark_port": kind.port,
        "spark_http_port": kind.port,
        "spark_worker_memory": kind.memory,
        "ignite_port": kind.port,
        "ignite_discovery_port": kind.port,
        "ignite_peer_port": kind.port,
        "ignite_heap": kind.memory,
        "ignite_megabytes": kind.positive,
        "nginx_host": kind.text,
        "nginx_port": kind.port,
        "nginx_upstreams": kind.names,
        "nginx_rate": kind.positive,
        "nginx_address_rate": kind.positive,
        "nginx_tls_certificate": kind.text,
        "nginx_tls_key": kind.text,
        "start_limit": kind.duration,
    },
}
_SECRET = {("bus", "security"), ("views", "password")}


def load_settings(
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    file: Path = FILE,
) -> Settings:
    """The settings in force; `environ` None means this process's, `overrides` are `{"speed.trigger": "1 second"}`.

    Raises SettingsError (exit code 2) for an unknown section or key, a missing key and a value of the wrong kind.
    """
    environ = os.environ if environ is None else environ
    found = _Found()
    found.take_file(file)
    for name in sorted(environ):
        if name.startswith(PREFIX):
            section, _, key = name.removeprefix(PREFIX).lower().partition("__")
            found.take(section, key, environ[name], f"environment {name}")
    for name, value in (overrides or {}).items():
        section, _, key = name.partition(".")
        found.take(section, key, value, f"command line {name}")
    return _assemble(found, environ.get("ANABRANCH_PROJECTS", ""))


def spark_submitted() -> bool:
    """Whether spark-submit started this process, so that its JVM already runs."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def name_worker_python() -> None:
    """Make this very Python the one of Spark's workers, unless the environment names one."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


def java_program() -> str:
    """The java that embedded servers run on: that of JAVA_HOME, else the one on the path."""
    home = os.environ.get("JAVA_HOME", "")
    return str(Path(home) / "bin" / "java") if home else "java"


class _Found:
    """The values found so far; a later place wins over an earlier one."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], Any] = {}

    def take_file(self, file: Path) -> None:
        """Every value of a TOML file."""
        try:
            tables = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(
                f"the settings file {file} cannot be read ({error}): restore it from the repository or correct that line"
            ) from error
        for section, table in tables.items():
            if not isinstance(table, dict):
                raise SettingsError(
                    f"{section!r} in {file} stands outside a section: put it below one of {_sections()}"
                )
            for key, value in table.items():
                self.take(section, key, value, f"{file}")

    def take(self, section: str, key: str, value: object, place: str) -> None:
        """One value, checked; an error says where it came from and what would be right."""
        if section not in _KEYS:
            raise SettingsError(
                f"unknown section {section!r} of settings ({place}): sections are {_sections()}; {_searched(section, key)}"
            )
        if key not in _KEYS[section]:
            raise SettingsError(
                f"unknown setting {section}.{key} ({place}): section {section} has {', '.join(_KEYS[section])}; {_searched(section, key)}"
            )
        try:
            self.values[section, key] = _KEYS[section][key](value)
        except ValueError as error:
            shown = "the value given" if (section, key) in _SECRET else repr(value)
            raise SettingsError(f"setting {section}.{key} ({place}) is {shown}: expected {error}") from error

    def section(self, section: str) -> dict[str, Any]:
        """The values of a section by key; every key has one."""
        missing = [key for key in _KEYS[section] if (section, key) not in self.values]
        if missing:
            raise SettingsError(
                f"setting {section}.{missing[0]} is missing: give it a value; {_searched(section, missing[0])}"
            )
        return {key: self.values[section, key] for key in _KEYS[section]}


def _sections() -> str:
    return ", ".join(_KEYS)


def _searched(section: str, key: str) -> str:
    return f"searched: {FILE}, environment {PREFIX}{section.upper()}__{key.upper()}, command line {section}.{key}"


def _assemble(found: _Found, project_folders: str) -> Settings:
    paths, servers = found.section("paths"), found.section("servers")
    data = (ROOT / paths["data"]).resolve()
    jars = ROOT / paths["jars"] if paths["jars"] else data / "jars"
    bus, views = found.section("bus"), found.section("views")
    limit = servers.pop("start_limit")
    files = _files(found.section("files"), servers)
    kafka_here = bus["bootstrap_servers"] in ((EMBEDDED,), (f"{LOOPBACK}:{servers['kafka_port']}",))
    cassandra_here = views["hosts"] == (EMBEDDED,) or (views["hosts"], views["port"]) == (
        (LOOPBACK,),
        servers["cassandra_port"],
    )
    return Settings(
        data=data,
        jars=jars,
        projects=_project_folders(project_folders),
        lake=LakeSettings(root=_place(paths["lake"], data / "lake")),
        files=files,
        bus=BusSettings(
            bootstrap_servers=f"{LOOPBACK}:{servers['kafka_port']}"
            if kafka_here
            else ",".join(bus["bootstrap_servers"]),
            security=bus["security"],
        ),
        views=_views(views, servers["cassandra_port"] if cassandra_here else None),
        models=_models(found.section("models"), data, files),
        times=TimeSettings(**{f"{key}_seconds": value for key, value in found.section("time").items()}),
        quality=_quality(found.section("quality")),
        build=BuildSettings(**found.section("build")),
        training=TrainingSettings(**found.section("training")),
        upkeep=_upkeep(found.section("upkeep")),
        scoring=ScoringSettings(**found.section("scoring")),
        spark=SparkSettings(
            jars_folder=jars / "spark",
            warehouse=data / "warehouse",
            logs=data / "logs",
            **found.section("spark"),
        ),
        speed=_speed(found.section("speed"), _place(paths["checkpoints"], data / "checkpoints")),
        serving=_serving(found.section("serving"), servers["ignite_port"]),
        servers=ServerSettings(
            kafka_embedded=kafka_here, cassandra_embedded=cassandra_here, start_limit_seconds=limit, **servers
        ),
    )


def _place(given: str, default: Path) -> str:
    """A URL as it is, a path from the checkout, or the default."""
    if not given:
        return str(default)
    return given if "://" in given else str((ROOT / given).resolve())


def _project_folders(text: str) -> tuple[Path, ...]:
    further = (Path(part).expanduser().resolve() for part in text.split(os.pathsep) if part.strip())
    return (ROOT / "projects", *further)


def _views(section: dict[str, Any], embedded_port: int | None) -> ViewsSettings:
    section["username"], section["password"] = section["username"] or None, section["password"] or None
    if embedded_port is not None:
        section["hosts"], section["port"] = (LOOPBACK,), embedded_port
    return ViewsSettings(history_seconds=section.pop("history"), **section)


def _serving(section: dict[str, Any], ignite_port: int) -> ServingSettings:
    section["ignite_address"] = section["ignite_address"] or f"{LOOPBACK}:{ignite_port}"
    if not re.fullmatch(r".+:\d{1,5}", section["ignite_address"]):
        raise SettingsError(
            f"serving.ignite_address is {section['ignite_address']!r}: give the host and port of an Ignite node, such as ignite-1:10800"
        )
    return ServingSettings(**section)


def _files(section: dict[str, Any], servers: dict[str, Any]) -> FileSettings:
    if not section["webhdfs"]:
        section["webhdfs"], section["namenode"] = (
            f"http://{LOOPBACK}:{servers['hdfs_http_port']}",
            f"{LOOPBACK}:{servers['hdfs_port']}",
        )
    return FileSettings(**section)


def _models(section: dict[str, Any], data: Path, files: FileSettings) -> ModelsSettings:
    root = _place(section["artifact_root"], data / "mlflow" / "artifacts")
    # MLflow's own way to hdfs:// needs Hadoop's native library on every machine; WebHDFS needs nothing.
    ours = f"hdfs://{files.namenode}/"
    if files.namenode and root.startswith(ours):
        scheme, _, address = files.webhdfs.partition(";")[0].partition("://")
        user = f"{files.user}@" if files.user else ""
        root = f"{'swebhdfs' if scheme == 'https' else 'webhdfs'}://{user}{address}/{root.removeprefix(ours)}"
    return ModelsSettings(
        tracking_uri=section["tracking_uri"] or f"sqlite:///{data}/mlflow/mlflow.db", artifact_root=root
    )


def _upkeep(section: dict[str, Any]) -> UpkeepSettings:
    times = {f"{name}_seconds": section.pop(name) for name in ("history", "leftovers", "quarantine")}
    return UpkeepSettings(**times, **section)


def _quality(section: dict[str, Any]) -> QualitySettings:
    section["suites"] = str((ROOT / section["suites"]).resolve())
    return QualitySettings(**section)


def _speed(section: dict[str, Any], checkpoints: str) -> SpeedSettings:
    most = section.pop("max_offsets_per_trigger") or None
    return SpeedSettings(checkpoint_root=checkpoints, max_offsets_per_trigger=most, **section)
