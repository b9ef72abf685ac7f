"""The only reader of conf/ and of environment variables: both become frozen values for every layer.

Precedence: conf/settings.toml < environment `ANABRANCH__SECTION__KEY` < command line (`overrides`).
A setting is a field of the dataclass of its section, which declares name, type, default and help once.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Any

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)

from anabranch.errors import MisuseError, without_secrets
from anabranch.settings import FileSettings, LakeSettings, LineageSettings, ModelsSettings, StoreSettings
from anabranch.values.names import listed
from batch.settings import BuildSettings, ScoringSettings, TrainingSettings, UpkeepSettings
from jobs.wiring.sections import (
    EMBEDDED,
    LOOPBACK,
    PREFIX,
    SETTINGS,
    DeclaredSettings,
    ServerSettings,
    Setting,
    SparkSettings,
    SpeedSettings,
    node_hosts,
)
from serving.settings import ServingSettings

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "conf" / "settings.toml"


class SettingsError(MisuseError):
    """A setting is unknown, or its value is not one that it accepts."""


@dataclass(frozen=True, kw_only=True)
class Settings(StoreSettings):
    """The settings in force: empty places are filled in, and addresses of embedded servers are real ones."""

    data: Path
    jars: Path
    checkpoints: str
    projects: tuple[Path, ...]
    build: BuildSettings
    training: TrainingSettings
    upkeep: UpkeepSettings
    scoring: ScoringSettings
    spark: SparkSettings
    speed: SpeedSettings
    serving: ServingSettings
    servers: ServerSettings
    lineage: LineageSettings

    @property
    def kafka_embedded(self) -> bool:
        """Whether Kafka is ours; one of your own is never started, stopped or looked at."""
        return self.bus.bootstrap_servers == _brokers(self.servers)

    @property
    def cassandra_embedded(self) -> bool:
        """Whether Cassandra is ours; one of your own is never started, stopped or looked at."""
        hosts = node_hosts(self.servers.nodes)
        return (self.views.hosts, self.views.port) == (hosts, self.servers.cassandra_port)


def load_settings(
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    file: Path = FILE,
) -> Settings:
    """The settings in force; `environ` None is that of this process, `overrides` are `{"time.slot": "1m"}`.

    Raises SettingsError (exit code 2) for an unknown section or key and for a value that is not accepted.
    """
    variables = os.environ if environ is None else environ
    overrides = {} if overrides is None else overrides
    try:
        from_file = TomlConfigSettingsSource(DeclaredSettings, file)
    except (OSError, TOMLDecodeError) as error:
        raise SettingsError(
            f"the settings file {file} cannot be read ({error}): correct that line or restore the file"
        ) from error
    given = _given(from_file.toml_data, file, variables, overrides)

    class Loaded(DeclaredSettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            from_environment = EnvSettingsSource(settings_cls)
            from_environment.env_vars = {name.lower(): text for name, text in variables.items()}
            return init_settings, from_environment, from_file

    command_line: dict[str, Any] = {}
    for name, value in overrides.items():
        section, _, key = name.partition(".")
        command_line.setdefault(section, {})[key] = value
    try:
        declared = Loaded(**command_line)
    except ValidationError as error:
        section, key = (str(part) for part in error.errors()[0]["loc"][:2])
        raise _refused(SETTINGS[section][key], *given[section, key]) from None
    parent = variables.get("OPENLINEAGE_PARENT_ID", "")
    return _assembled(declared, variables.get("ANABRANCH_PROJECTS", ""), parent)


def settings_in_force(
    environ: Mapping[str, str] | None = None, *, file: Path = FILE
) -> list[tuple[str, str, str]]:
    """Every setting with its value, as text without secrets, and where that comes from: ``default``, the
    settings' file or a variable of the environment.

    Raises SettingsError as `load_settings` does.
    """
    variables = os.environ if environ is None else environ
    load_settings(variables, file=file)
    tables = TomlConfigSettingsSource(DeclaredSettings, file).toml_data
    given = _given(tables, file, variables, {})
    found = []
    for section, settings in SETTINGS.items():
        for key, setting in settings.items():
            place, value = given.get((section, key), ("default", setting.default))
            shown = "***" if setting.secret and value else without_secrets(str(value))
            found.append((setting.name, shown, place))
    return found


def spark_submitted() -> bool:
    """Whether spark-submit started this process, so that its JVM already runs."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def name_worker_python() -> None:
    """Make this very Python the one of Spark's workers, unless the environment names one."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


@contextmanager
def spark_arguments(words: str) -> Iterator[None]:
    """Have Spark's launcher take these arguments in the block, before those of the environment."""
    before = os.environ.get("PYSPARK_SUBMIT_ARGS")
    os.environ["PYSPARK_SUBMIT_ARGS"] = f"{words} {before or 'pyspark-shell'}"
    try:
        yield
    finally:
        del os.environ["PYSPARK_SUBMIT_ARGS"]
        if before is not None:
            os.environ["PYSPARK_SUBMIT_ARGS"] = before


def password_file(data: Path) -> Path:
    """The file with the passwords of the embedded PostgreSQL, as PostgreSQL's clients read it."""
    return data / "postgres" / "passwords"


def database_uri(name: str, data: Path, port: int) -> str:
    """The address of a database of the embedded PostgreSQL, without a secret: it names the password file."""
    return f"postgresql+psycopg://{name}@{LOOPBACK}:{port}/{name}?passfile={password_file(data)}"


def java_program() -> str:
    """The java that embedded servers run on: that of JAVA_HOME, else the one on the path."""
    home = os.environ.get("JAVA_HOME", "")
    return str(Path(home) / "bin" / "java") if home else "java"


def _given(
    tables: Mapping[str, Any], file: Path, environ: Mapping[str, str], overrides: Mapping[str, object]
) -> dict[tuple[str, str], tuple[str, object]]:
    """The winning place and its value, by section and key; raises SettingsError for an unknown setting."""
    given: dict[tuple[str, str], tuple[str, object]] = {}
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise SettingsError(
                f"{section!r} in {file} stands outside a section: put it below one of {', '.join(SETTINGS)}"
            )
        given |= {(section, key): (str(file), value) for key, value in table.items()}
    for name in sorted(environ):
        if name.startswith(PREFIX):
            section, _, key = name.removeprefix(PREFIX).lower().partition("__")
            given[section, key] = (f"environment {name}", environ[name])
    for name, value in overrides.items():
        section, _, key = name.partition(".")
        given[section, key] = (f"command line {name}", value)
    for (section, key), (place, _) in given.items():
        if section not in SETTINGS:
            raise SettingsError(
                f"unknown section {section!r} of settings ({place}): "
                f"{listed(section, SETTINGS, 'sections are')}"
            )
        if key not in SETTINGS[section]:
            raise SettingsError(
                f"unknown setting {section}.{key} ({place}): "
                f"{listed(key, SETTINGS[section], f'section {section} has')}"
            )
    return given


def _refused(setting: Setting, place: str, value: object) -> SettingsError:
    shown = "the value given" if setting.secret else repr(value)
    return SettingsError(f"setting {setting.name} ({place}) is {shown}: expected {setting.expected}")


def _assembled(declared: DeclaredSettings, project_folders: str, parent: str) -> Settings:
    """Fill in empty places and the addresses of embedded servers."""
    data = (ROOT / declared.paths.data).resolve()
    servers = declared.servers
    files = declared.files
    if not files.webhdfs:
        webhdfs, namenode = f"http://{LOOPBACK}:{servers.hdfs_http_port}", f"{LOOPBACK}:{servers.hdfs_port}"
        files = replace(files, webhdfs=webhdfs, namenode=namenode)
    bus, views = declared.bus, declared.views
    if bus.bootstrap_servers == EMBEDDED:
        bus = replace(bus, bootstrap_servers=_brokers(servers))
    if bus.schema_registry == EMBEDDED:
        address = f"http://{LOOPBACK}:{servers.registry_port}/apis/ccompat/v7"
        bus = replace(bus, schema_registry=address)
    if views.hosts == (EMBEDDED,):
        copies = max(views.replication, servers.nodes)
        hosts = node_hosts(servers.nodes)
        views = replace(views, hosts=hosts, port=servers.cassandra_port, replication=copies)
    further = (
        Path(part).expanduser().resolve() for part in project_folders.split(os.pathsep) if part.strip()
    )
    return Settings(
        data=data,
        jars=ROOT / declared.paths.jars if declared.paths.jars else data / "jars",
        checkpoints=_place(declared.paths.checkpoints, data / "checkpoints"),
        projects=(ROOT / "projects", *further),
        lake=LakeSettings(root=_place(declared.paths.lake, data / "lake"), tables=declared.tables),
        files=files,
        bus=bus,
        views=views,
        models=_models(declared.models, data, files, servers.postgres_port),
        times=declared.time,
        alerts=declared.alerts,
        lineage=replace(declared.lineage, parent=parent),
        quality=replace(declared.quality, suites=str((ROOT / declared.quality.suites).resolve())),
        build=declared.build,
        training=declared.training,
        upkeep=declared.upkeep,
        scoring=declared.scoring,
        spark=declared.spark,
        speed=declared.speed,
        serving=_serving(declared.serving, servers.ignite_port),
        servers=servers,
    )


def _brokers(servers: ServerSettings) -> str:
    return ",".join(f"{host}:{servers.kafka_port}" for host in node_hosts(servers.nodes))


def _place(text: str, default: Path) -> str:
    """A URL as it is, a path from the checkout, or the default."""
    if not text:
        return str(default)
    return text if "://" in text else str((ROOT / text).resolve())


def _serving(serving: ServingSettings, ignite_port: int) -> ServingSettings:
    address = serving.ignite_address or f"{LOOPBACK}:{ignite_port}"
    if not re.fullmatch(r".+:\d{1,5}", address):
        raise SettingsError(
            f"serving.ignite_address is {address!r}: expected host and port of an Ignite node, "
            "such as ignite-1:10800"
        )
    return replace(serving, ignite_address=address)


def _models(models: ModelsSettings, data: Path, files: FileSettings, port: int) -> ModelsSettings:
    root = _place(models.artifact_root, data / "mlflow" / "artifacts")
    # MLflow's own way to hdfs:// needs Hadoop's native library on every machine; WebHDFS needs nothing.
    ours = f"hdfs://{files.namenode}/"
    if files.namenode and root.startswith(ours):
        scheme, _, address = files.webhdfs.partition(";")[0].partition("://")
        user = f"{files.user}@" if files.user else ""
        root = f"{'swebhdfs' if scheme == 'https' else 'webhdfs'}://{user}{address}/{root.removeprefix(ours)}"
    tracking = models.tracking_uri or f"sqlite:///{data}/mlflow/mlflow.db"
    if tracking == EMBEDDED:
        tracking = database_uri("mlflow", data, port)
    return ModelsSettings(tracking_uri=tracking, artifact_root=root)
