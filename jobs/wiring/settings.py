"""The only reader of conf/ and of environment variables: both become frozen values for every layer.

Precedence: conf/settings.toml < environment `ANABRANCH__SECTION__KEY` < command line (`overrides`).
A setting is a field of the dataclass of its section, which declares name, type, default and help once.
"""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from anabranch.errors import MisuseError
from anabranch.settings import (
    BusSettings,
    Duration,
    Expected,
    FileSettings,
    LakeSettings,
    Memory,
    ModelsSettings,
    Names,
    NotConfigurable,
    Pairs,
    Port,
    PortOrNone,
    Positive,
    QualitySettings,
    StoreSettings,
    TimeSettings,
    ViewsSettings,
    Whole,
)
from batch.settings import BuildSettings, ScoringSettings, TrainingSettings, UpkeepSettings
from serving.settings import ServingSettings

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "conf" / "settings.toml"
PREFIX = "ANABRANCH__"
LOOPBACK = "127.0.0.1"
EMBEDDED = "embedded"
_EXPECTED = {str: "text", bool: "true or false"}


class SettingsError(MisuseError):
    """A setting is unknown, or its value is not one that it accepts."""


@dataclass(frozen=True, kw_only=True)
class PathSettings:
    """Where files lie. Relative paths start at the checkout."""

    data: str = ".anabranch"
    """The one folder that everything made lies in."""
    lake: str = ""
    """The Delta lake: a folder, or a URL that Spark can write (`hdfs://...`); empty: below `paths.data`."""
    checkpoints: str = ""
    """Checkpoints of the stream: a folder or a URL; empty: below `paths.data`."""
    jars: str = ""
    """The jars that `make setup` fetches; empty: below `paths.data`."""


@dataclass(frozen=True, kw_only=True)
class SparkSettings:
    """How a Spark session is started; under spark-submit what was submitted wins."""

    master: str = "local[2]"
    """Spark's master: this process, or a cluster such as `spark://...`."""
    driver_memory: Memory = "1g"
    """Heap of the driver."""
    shuffle_partitions: Positive = 4
    """Partitions of a shuffle in batch jobs."""
    conf: Pairs = field(default_factory=dict, hash=False)
    """Further properties of Spark (`spark.executor.memory=4g`); they win over conf/spark-defaults.conf."""


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """How the stream runs."""

    trigger: str = "0 seconds"
    """The pause between micro-batches; 0: the next begins as soon as one is done."""
    max_offsets_per_trigger: Whole = 100_000
    """The most messages that a micro-batch reads; 0: no limit."""
    partitions: Positive = 1
    """Partitions of the stream's state, fixed for the life of a checkpoint; more where one is too slow."""
    metrics_port: PortOrNone = 0
    """Port of the stream's own `/metrics` on 127.0.0.1; 0: none."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The embedded servers. All listen on 127.0.0.1 alone, but for the gateway."""

    kafka_port: Port = 19_092
    """Kafka, for clients."""
    kafka_controller_port: Port = 19_093
    """Kafka's controller."""
    kafka_heap: Memory = "256m"
    """Heap of Kafka."""
    cassandra_port: Port = 19_042
    """Cassandra, for clients."""
    cassandra_storage_port: Port = 17_000
    """Cassandra, between nodes."""
    cassandra_heap: Memory = "768m"
    """Heap of Cassandra."""
    hdfs_port: Port = 19_000
    """The NameNode's `hdfs://` address."""
    hdfs_http_port: Port = 19_870
    """WebHDFS."""
    hdfs_data_port: Port = 19_866
    """The DataNode, for blocks."""
    hdfs_data_http_port: Port = 19_864
    """The DataNode, for WebHDFS."""
    hdfs_data_ipc_port: Port = 19_867
    """The DataNode, for the NameNode."""
    hdfs_heap: Memory = "128m"
    """Heap of the NameNode, and of the DataNode."""
    spark_port: Port = 17_077
    """The Spark cluster's master; its workers take free ports."""
    spark_http_port: Port = 18_080
    """The master's page."""
    spark_worker_memory: Memory = "1g"
    """Memory for executors, of each of the two workers."""
    ignite_port: Port = 18_800
    """Ignite, for clients."""
    ignite_discovery_port: Port = 18_801
    """Ignite's discovery."""
    ignite_peer_port: Port = 18_802
    """Ignite, between nodes."""
    ignite_heap: Memory = "192m"
    """Heap of Ignite."""
    ignite_megabytes: Positive = 128
    """Memory for Ignite's entries, outside the heap; when it is full, the least recently used are evicted."""
    nginx_host: str = LOOPBACK
    """Address of the gateway; beyond loopback it starts only with TLS and with `serving.auth = "on"`."""
    nginx_port: Port = 8080
    """Port of the gateway."""
    nginx_upstreams: Names = ("127.0.0.1:8100", "127.0.0.1:8101")
    """The REST servers behind the gateway; one that is down is left out."""
    nginx_rate: Positive = 1000
    """Requests a second, and at once, of one caller: an API key, a token, or an address without them."""
    nginx_address_rate: Positive = 5000
    """Requests a second of one address, whatever keys it sends: wide enough for several callers behind it."""
    nginx_tls_certificate: str = ""
    """PEM file of the gateway's certificate; empty: no TLS."""
    nginx_tls_key: str = ""
    """PEM file of the certificate's key."""
    start_limit_seconds: Annotated[Duration, Field(validation_alias="start_limit")] = 120
    """A server that is not ready by then has failed."""


class DeclaredSettings(BaseSettings):
    """The sections of the settings."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        enable_decoding=False,  # text of the environment is no JSON; each type reads its own
        frozen=True,
        hide_input_in_errors=True,
        validate_default=False,
    )
    paths: PathSettings = PathSettings()
    time: TimeSettings = TimeSettings()
    bus: BusSettings = BusSettings()
    views: ViewsSettings = ViewsSettings()
    models: ModelsSettings = ModelsSettings()
    files: FileSettings = FileSettings()
    quality: QualitySettings = QualitySettings()
    build: BuildSettings = BuildSettings()
    training: TrainingSettings = TrainingSettings()
    scoring: ScoringSettings = ScoringSettings()
    upkeep: UpkeepSettings = UpkeepSettings()
    spark: SparkSettings = SparkSettings()
    speed: SpeedSettings = SpeedSettings()
    serving: ServingSettings = ServingSettings()
    servers: ServerSettings = ServerSettings()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting: where it is written, what it accepts and what it is by default."""

    section: str
    key: str
    kind: Any
    default: Any
    secret: bool

    @property
    def name(self) -> str:
        """Its name on the command line and in messages."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"{PREFIX}{self.section}__{self.key}".upper()

    @property
    def expected(self) -> str:
        """What it accepts, in words."""
        if get_origin(self.kind) is Literal:
            return f"one of {', '.join(get_args(self.kind))}"
        words = [each for each in getattr(self.kind, "__metadata__", ()) if isinstance(each, Expected)]
        return words[0] if words else _EXPECTED[self.kind]


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

    @property
    def kafka_embedded(self) -> bool:
        """Whether Kafka is ours; one of your own is never started, stopped or looked at."""
        return self.bus.bootstrap_servers == f"{LOOPBACK}:{self.servers.kafka_port}"

    @property
    def cassandra_embedded(self) -> bool:
        """Whether Cassandra is ours; one of your own is never started, stopped or looked at."""
        return (self.views.hosts, self.views.port) == ((LOOPBACK,), self.servers.cassandra_port)


def declared_settings() -> dict[str, dict[str, Setting]]:
    """Every setting by section and key, in the order of their declaration."""
    return {
        section: {each.key: each for each in _settings(section, info.annotation)}
        for section, info in DeclaredSettings.model_fields.items()
    }


def _settings(section: str, declared: Any) -> list[Setting]:
    hints = get_type_hints(declared, include_extras=True)
    found = []
    for each in fields(declared):
        metadata = getattr(hints[each.name], "__metadata__", ())
        if any(isinstance(one, NotConfigurable) for one in metadata):
            continue
        aliases = [one.validation_alias for one in metadata if isinstance(one, FieldInfo)]
        key = next((alias for alias in aliases if isinstance(alias, str)), each.name)
        default = each.default if each.default_factory is MISSING else each.default_factory()
        found.append(
            Setting(section=section, key=key, kind=hints[each.name], default=default, secret=not each.repr)
        )
    return found


SETTINGS = declared_settings()


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
    return _assembled(declared, variables.get("ANABRANCH_PROJECTS", ""))


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
                f"unknown section {section!r} of settings ({place}): sections are {', '.join(SETTINGS)}"
            )
        if key not in SETTINGS[section]:
            raise SettingsError(
                f"unknown setting {section}.{key} ({place}): "
                f"section {section} has {', '.join(SETTINGS[section])}"
            )
    return given


def _refused(setting: Setting, place: str, value: object) -> SettingsError:
    shown = "the value given" if setting.secret else repr(value)
    return SettingsError(f"setting {setting.name} ({place}) is {shown}: expected {setting.expected}")


def _assembled(declared: DeclaredSettings, project_folders: str) -> Settings:
    """Fill in empty places and the addresses of embedded servers."""
    data = (ROOT / declared.paths.data).resolve()
    servers = declared.servers
    files = declared.files
    if not files.webhdfs:
        webhdfs, namenode = f"http://{LOOPBACK}:{servers.hdfs_http_port}", f"{LOOPBACK}:{servers.hdfs_port}"
        files = replace(files, webhdfs=webhdfs, namenode=namenode)
    bus, views = declared.bus, declared.views
    if bus.bootstrap_servers == EMBEDDED:
        bus = replace(bus, bootstrap_servers=f"{LOOPBACK}:{servers.kafka_port}")
    if views.hosts == (EMBEDDED,):
        views = replace(views, hosts=(LOOPBACK,), port=servers.cassandra_port)
    further = (
        Path(part).expanduser().resolve() for part in project_folders.split(os.pathsep) if part.strip()
    )
    return Settings(
        data=data,
        jars=ROOT / declared.paths.jars if declared.paths.jars else data / "jars",
        checkpoints=_place(declared.paths.checkpoints, data / "checkpoints"),
        projects=(ROOT / "projects", *further),
        lake=LakeSettings(root=_place(declared.paths.lake, data / "lake")),
        files=files,
        bus=bus,
        views=views,
        models=_models(declared.models, data, files),
        times=declared.time,
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


def _models(models: ModelsSettings, data: Path, files: FileSettings) -> ModelsSettings:
    root = _place(models.artifact_root, data / "mlflow" / "artifacts")
    # MLflow's own way to hdfs:// needs Hadoop's native library on every machine; WebHDFS needs nothing.
    ours = f"hdfs://{files.namenode}/"
    if files.namenode and root.startswith(ours):
        scheme, _, address = files.webhdfs.partition(";")[0].partition("://")
        user = f"{files.user}@" if files.user else ""
        root = f"{'swebhdfs' if scheme == 'https' else 'webhdfs'}://{user}{address}/{root.removeprefix(ours)}"
    tracking = models.tracking_uri or f"sqlite:///{data}/mlflow/mlflow.db"
    return ModelsSettings(tracking_uri=tracking, artifact_root=root)
