"""Where the stores live, as frozen values.

The stores are handed these; they never read a file or an environment variable. jobs/wiring/settings.py fills them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class LakeSettings:
    """The Delta lake: raw events, quarantine and batch tables below one root (a folder or a URL Spark can write)."""

    root: str


@dataclass(frozen=True, kw_only=True)
class BusSettings:
    """Kafka. `security` holds the client's own keys as librdkafka/Java spell them, for example `security.protocol`."""

    bootstrap_servers: str
    security: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True, kw_only=True)
class ViewsSettings:
    """Cassandra: batch views, speed tiles, manifest and the analysts' tables in one keyspace.

    `replication` is used only when the keyspace is created. History of current rows: one row each `history_seconds`, kept for
    `history_ttl_days`; with 0 days none is written.
    """

    hosts: tuple[str, ...]
    port: int
    keyspace: str
    local_datacenter: str
    tile_ttl_days: int = 30
    measure_ttl_days: int = 400
    history_seconds: int = 3600
    history_ttl_days: int = 90
    replication: int = 1
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class ModelsSettings:
    """MLflow: the tracking and registry address, and where artifacts of a new experiment go."""

    tracking_uri: str
    artifact_root: str


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """HDFS as clients without a JVM reach it: the HTTP address of its NameNode (several, with ';' between, when it has a spare).

    `namenode` is the `host:port` of its `hdfs://` addresses, empty when it is not known; `user` empty is whoever runs the process.
    """

    webhdfs: str
    namenode: str = ""
    user: str = ""
    timeout_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class TimeSettings:
    """The lengths of section "Time" in the design, all in seconds.

    `slot_seconds`: one slot of arrival. `slack_seconds`: the longest a batch may be late before an answer is degraded.
    `future_skew_seconds`: how far event time may lie ahead of arrival. `dedup_horizon_seconds`: how long the speed layer
    remembers an event id.
    """

    slot_seconds: int = 3600
    slack_seconds: int = 172_800
    future_skew_seconds: int = 300
    dedup_horizon_seconds: int = 3600


@dataclass(frozen=True, kw_only=True)
class QualitySettings:
    """The quality gate. `mode` ``off``, ``warn`` or ``refuse`` a load of which more than the share `refuse_above` of rows is bad.

    `topic_mode` is that of messages, which wait in their topic and hold up what came after them for as long as they are
    refused. `suites`: a folder of <project>/<source>.json.
    """

    suites: str
    mode: str = "refuse"
    topic_mode: str = "warn"
    refuse_above: float = 0.5


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
