"""Settings as frozen values: name, type, default and help of each are declared here and nowhere else.

Layers receive these values; they never read a file or an environment variable. jobs/wiring/settings.py fills
and checks them. Constructing one in code checks nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}


class Expected(str):
    """What a setting accepts, in the words of an error and of the documentation."""

    __slots__ = ()


class NotConfigurable:
    """Marks a field that the program sets itself; no file and no variable can."""


def read_duration(value: object) -> int:
    """Seconds of a duration such as "90s", "15m", "1h" or "2d"."""
    match = re.fullmatch(r"([1-9]\d*)([smhd])", value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("not a duration")
    return int(match[1]) * _UNITS[match[2]]


def show_duration(seconds: int) -> str:
    """A duration as it is written in settings, in the largest unit that divides it."""
    unit = next(unit for unit, length in _UNITS.items() if seconds % length == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


def _read_names(value: object) -> object:
    """Names with commas between them as a list; a list as it is."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _read_addresses(value: object) -> object:
    """A list of addresses as one text."""
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _read_pairs(value: object) -> object:
    """Text of the form "key=value,key=value" as a table; a table as it is."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError("not pairs")
    return {key.strip(): text.strip() for key, _, text in pairs}


Whole = Annotated[int, Field(ge=0), Expected("a whole number")]
Positive = Annotated[int, Field(gt=0), Expected("a whole number above 0")]
Port = Annotated[int, Field(ge=1, le=65_535), Expected("a port, 1 to 65535")]
PortOrNone = Annotated[int, Field(ge=0, le=65_535), Expected("a port, 1 to 65535, or 0 for none")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), Expected("a number above 0")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), Expected("a share, 0 to 1")]
Duration = Annotated[
    int, BeforeValidator(read_duration), Expected('a duration such as "90s", "15m", "1h" or "2d"')
]
Memory = Annotated[str, Field(pattern=r"^[1-9]\d*[mg]$"), Expected('a memory size such as "512m" or "2g"')]
Identifier = Annotated[
    str,
    Field(pattern=r"^[a-z][a-z0-9_]{0,47}$"),
    Expected("a name of lower-case letters, digits and _, starting with a letter"),
]
OptionalText = Annotated[str | None, AfterValidator(lambda text: text or None), Expected("text")]
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(_read_names),
    Field(min_length=1),
    Expected("at least one name, in a list or with commas in between"),
]
NamesOrNone = Annotated[
    tuple[str, ...],
    BeforeValidator(_read_names),
    Expected("a list of names, or names with commas in between"),
]
WebhookAddresses = Annotated[
    tuple[Annotated[str, Field(pattern=r"^((slack|alertmanager)\+)?https?://[^\s/]+(/\S*)?$")], ...],
    BeforeValidator(_read_names),
    Field(max_length=16),
    Expected("at most 16 addresses: https://..., slack+https://... or alertmanager+http://host:port"),
]
Addresses = Annotated[
    str,
    BeforeValidator(_read_addresses),
    AfterValidator(lambda text: ",".join(part.strip() for part in text.split(",") if part.strip())),
    Field(min_length=1),
    Expected("at least one host:port, with commas in between"),
]
Pairs = Annotated[
    Mapping[str, str], BeforeValidator(_read_pairs), Expected('a table of text, or "key=value,key=value"')
]


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """Databases whose tables are read where they lie (`Source(table="jdbc:...")`)."""

    username: OptionalText = None
    """User name of the databases."""
    password: OptionalText = field(default=None, repr=False)
    """Password of the user; set it in the environment, not in a file."""
    properties: Pairs = field(default_factory=dict, repr=False, hash=False)
    """Further properties of Spark's JDBC source and the driver (`fetchsize=10000,ssl=true`)."""


@dataclass(frozen=True, kw_only=True)
class LakeSettings:
    """The Delta lake: raw events, quarantine and batch tables below one root, a folder or a URL.

    `tables` is for the users' tables that are read where they lie.
    """

    root: str
    tables: TableSettings = field(default_factory=TableSettings)


@dataclass(frozen=True, kw_only=True)
class BusSettings:
    """Kafka."""

    bootstrap_servers: Addresses = "embedded"
    """Addresses of your Kafka, such as `kafka-1:9092,kafka-2:9092`; `embedded`: `anabranch up` starts one."""
    security: Pairs = field(default_factory=dict, repr=False, hash=False)
    """Client properties of your Kafka as librdkafka or Java spell them, such as `security.protocol=SSL`."""
    producer: Literal["librdkafka", "kafka-python"] = "librdkafka"
    """What publishes messages; librdkafka takes a twelfth of the processor time."""
    schema_registry: Annotated[
        str,
        Field(pattern=r"^(embedded|https?://[^,\s]+(\s*,\s*https?://[^,\s]+)*)?$"),
        Expected("an http:// or https:// address, several with commas, or embedded"),
    ] = field(default="", repr=False)
    """Your schema registry, by Confluent's API; `embedded`: that of `anabranch up --with registry`."""
    schema_registry_user: OptionalText = None
    """User name, where your schema registry asks for one."""
    schema_registry_password: OptionalText = field(default=None, repr=False)
    """Password of that user; set it in the environment, not in a file."""
    schema_registry_token: OptionalText = field(default=None, repr=False)
    """Bearer token for your schema registry instead of a user; set it in the environment, not in a file."""


@dataclass(frozen=True, kw_only=True)
class ViewsSettings:
    """Cassandra: batch views, speed tiles, manifest and the analysts' tables in one keyspace."""

    hosts: Names = ("embedded",)
    """Contact points of your Cassandra; `embedded`: `anabranch up` starts one."""
    port: Port = 9042
    """Port of your Cassandra; the embedded one listens on `servers.cassandra_port`."""
    keyspace: Identifier = "anabranch"
    """The keyspace that holds every table; created when missing."""
    local_datacenter: str = "datacenter1"
    """The data centre whose nodes are asked."""
    tile_ttl_days: Positive = 30
    """How long speed tiles are kept: longer than you would ever roll back."""
    measure_ttl_days: Positive = 400
    """How long measured values (drift, accuracy, skew) are kept."""
    history_seconds: Annotated[Duration, Field(validation_alias="history")] = 3600
    """Of each period of this length, the last current row of a key is kept as its history."""
    history_ttl_days: Whole = 90
    """How long the history of current rows is kept; 0: none is written."""
    replication: Positive = 1
    """Replication factor of the keyspace; used only when it is created."""
    driver: Literal["acsylla", "cassandra-driver"] = "acsylla"
    """What the REST server reads states with; acsylla takes a fifth of the processor time."""
    username: OptionalText = None
    """User name, where your Cassandra asks for one."""
    password: OptionalText = field(default=None, repr=False)
    """Password of the user; set it in the environment, not in a file."""


@dataclass(frozen=True, kw_only=True)
class ModelsSettings:
    """MLflow: the tracking and registry address, and where artifacts of a new experiment go."""

    tracking_uri: str = field(default="", repr=False)
    """Your MLflow server or its database; `embedded`: that of `anabranch up --with postgres`; empty: a SQLite
    file below `paths.data`."""
    artifact_root: str = field(default="", repr=False)
    """Folder or URL for the artifacts of new experiments; empty: a folder below `paths.data`."""


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """HDFS for clients without a JVM: `anabranch files` and models. Spark needs none of these."""

    webhdfs: str = field(default="", repr=False)
    """HTTP address of your NameNode (`http://namenode:9870`), several with `;`; empty: the embedded one."""
    namenode: str = ""
    """`host:port` of the NameNode's `hdfs://` addresses; that of the embedded one is known."""
    user: str = ""
    """User name for HDFS; empty: the user who runs the process."""
    timeout_seconds: Seconds = 60.0
    """How long an HTTP call may take."""


@dataclass(frozen=True, kw_only=True)
class TimeSettings:
    """The lengths of time that the merge of batch and stream stands on."""

    slot_seconds: Annotated[Duration, Field(validation_alias="slot")] = 3600
    """One slot of arrival; a cut is a multiple of it."""
    slack_seconds: Annotated[Duration, Field(validation_alias="slack")] = 172_800
    """The longest a batch may be late before answers are `degraded`."""
    future_skew_seconds: Annotated[Duration, Field(validation_alias="future_skew")] = 300
    """An event whose time is further ahead of its arrival goes to quarantine."""
    dedup_horizon_seconds: Annotated[Duration, Field(validation_alias="dedup_horizon")] = 3600
    """How long the stream remembers an event id; a batch remembers for ever."""

    @property
    def ahead_seconds(self) -> int:
        """How far ahead of now a broker may stamp: less than what the stream's watermark stays behind."""
        return min(self.future_skew_seconds, self.dedup_horizon_seconds)


@dataclass(frozen=True, kw_only=True)
class QualitySettings:
    """The quality gate that every load passes before it becomes visible."""

    suites: str = "conf/quality"
    """Folder of `<project>/<source>.json`; a source without a file is judged by its declaration."""
    mode: Literal["off", "warn", "refuse"] = "refuse"
    """What happens to a load with too many bad rows: `refuse` or `warn`; `off`: no suite judges any row."""
    topic_mode: Literal["warn", "refuse"] = "warn"
    """The mode for messages; refused messages hold up their topic until someone decides."""
    refuse_above: Share = 0.5
    """The share of bad rows above which a load has too many."""


@dataclass(frozen=True, kw_only=True)
class AlertSettings:
    """Where alerts are sent besides the topic `alerts.<project>`."""

    webhooks: WebhookAddresses = field(default=(), repr=False)
    """Addresses that alerts are posted to, with commas; set them in the environment, as they are secrets."""


@dataclass(frozen=True, kw_only=True)
class LineageSettings:
    """Events of OpenLineage, which say of every job what it read and wrote."""

    to: Literal["off", "file", "http"] = "file"
    """`file`: one a month in `lineage` of the data folder; `http`: an endpoint, the file where it fails."""
    url: str = field(default="", repr=False)
    """Address of the endpoint for `http`, such as `http://marquez:5000`; `/api/v1/lineage` is added."""
    key: OptionalText = field(default=None, repr=False)
    """Bearer token for the endpoint; set it in the environment, not in a file."""
    namespace: Identifier = "anabranch"
    """The namespace of the jobs."""
    timeout_seconds: Seconds = 2.0
    """How long a job waits for the endpoint."""
    parent: Annotated[str, NotConfigurable()] = ""
    """``namespace/job/run id`` of what started this process: the environment's OPENLINEAGE_PARENT_ID."""


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """What the stores of a process are opened with."""

    lake: LakeSettings
    bus: BusSettings
    views: ViewsSettings
    models: ModelsSettings
    files: FileSettings
    times: TimeSettings
    quality: QualitySettings
    alerts: AlertSettings = AlertSettings()
