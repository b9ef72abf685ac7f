"""The sections of the settings: each setting is a field of its section's dataclass.

The field declares name, type, default and help once; docs/settings.md is generated from them.
"""

from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from anabranch.settings import (
    AlertSettings,
    BusSettings,
    Duration,
    Expected,
    FileSettings,
    LineageSettings,
    Memory,
    ModelsSettings,
    NamesOrNone,
    NotConfigurable,
    Pairs,
    Port,
    PortOrNone,
    Positive,
    QualitySettings,
    TableSettings,
    TimeSettings,
    ViewsSettings,
    Whole,
)
from batch.settings import BuildSettings, ScoringSettings, TrainingSettings, UpkeepSettings
from serving.settings import ServingSettings

PREFIX = "ANABRANCH__"
LOOPBACK = "127.0.0.1"
EMBEDDED = "embedded"


def node_hosts(nodes: int) -> tuple[str, ...]:
    """The addresses of the embedded nodes: every node has one of its own, and all have the same ports."""
    return tuple(f"127.0.0.{number}" for number in range(1, nodes + 1))


def _odd(nodes: int) -> int:
    if nodes % 2 == 0:
        raise ValueError("not odd")  # of two, no majority is left when one is lost
    return nodes


_EXPECTED = {str: "text", bool: "true or false"}
Nodes = Annotated[int, Field(ge=1, le=3), AfterValidator(_odd), Expected("1 or 3")]


@dataclass(frozen=True, kw_only=True)
class PathSettings:
    """Where files lie. Relative paths start at the checkout."""

    data: str = ".anabranch"
    """The one folder that everything made lies in."""
    lake: str = ""
    """The Delta lake: a folder, or a URL (`hdfs://...`, `s3a://...`); empty: below `paths.data`."""
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
    conf: Pairs = field(default_factory=dict, repr=False, hash=False)
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
    """Port of the stream's own `/metrics` on 127.0.0.1; 0: a free one, which Prometheus is told."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The embedded servers. All listen on loopback alone, but for the gateway."""

    nodes: Nodes = 1
    """Nodes of Kafka and of Cassandra, each on an address of loopback; 3: the loss of one is survived."""
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
    registry_port: Port = 18_081
    """The schema registry, Apicurio, by Confluent's API."""
    registry_heap: Memory = "256m"
    """Heap of the schema registry."""
    airflow_port: Port = 18_082
    """Airflow's pages and API."""
    airflow_tasks: Positive = 2
    """Tasks that Airflow runs at the same time; each may be a Spark application."""
    postgres_port: Port = 15_432
    """PostgreSQL."""
    postgres_memory: Memory = "64m"
    """Memory that PostgreSQL's processes share for pages."""
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
    nginx_upstreams: NamesOrNone = ()
    """REST servers behind the gateway, one that is down left out; empty: those that say they are up."""
    nginx_rate: Positive = 1000
    """Requests a second, and at once, of one caller: an API key, a token, or an address without them."""
    nginx_address_rate: Positive = 5000
    """Requests a second of one address, whatever keys it sends: wide enough for several callers behind it."""
    nginx_tls_certificate: str = ""
    """PEM file of the gateway's certificate; empty: no TLS."""
    nginx_tls_key: str = ""
    """PEM file of the certificate's key."""
    prometheus_port: Port = 19_090
    """Prometheus."""
    alertmanager_port: Port = 19_094
    """Alertmanager."""
    exporter_port: Port = 19_095
    """The exporter: metrics of jobs, disks, Kafka and Cassandra."""
    prometheus_interval_seconds: Annotated[Duration, Field(validation_alias="prometheus_interval")] = 15
    """How often Prometheus scrapes and looks at its rules."""
    prometheus_days: Positive = 40
    """How long Prometheus keeps metrics: error budgets look back 30 days."""
    prometheus_megabytes: Positive = 2048
    """Disk for Prometheus' metrics; when it is full, the oldest go."""
    prometheus_key_file: str = ""
    """File with the API key (right `metrics`) that Prometheus asks REST servers with, where `auth` is on."""
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
    tables: TableSettings = TableSettings()
    quality: QualitySettings = QualitySettings()
    alerts: AlertSettings = AlertSettings()
    lineage: LineageSettings = LineageSettings()
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


def declared_settings() -> dict[str, dict[str, Setting]]:
    """Every setting by section and key, in the order of their declaration."""
    return {
        section: {each.key: each for each in _settings(section, info.annotation)}
        for section, info in DeclaredSettings.model_fields.items()
    }


def _settings(section: str, declared: Any) -> list[Setting]:
    hints = get_type_hints(declared, include_extras=True)
    settings = []
    for each in fields(declared):
        metadata = getattr(hints[each.name], "__metadata__", ())
        if any(isinstance(one, NotConfigurable) for one in metadata):
            continue
        aliases = [one.validation_alias for one in metadata if isinstance(one, FieldInfo)]
        key = next((alias for alias in aliases if isinstance(alias, str)), each.name)
        default = each.default if each.default_factory is MISSING else each.default_factory()
        settings.append(
            Setting(section=section, key=key, kind=hints[each.name], default=default, secret=not each.repr)
        )
    return settings


SETTINGS = declared_settings()
