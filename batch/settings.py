"""How builds behave; read from conf and the environment by jobs/wiring/settings.py alone."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Limits of what a build may change without being asked, and how much it looks at to tell."""

    increments: int = 8
    """The most increments a state is kept in; one more, and they are rewritten as one."""
    fewer_keys: float = 0.5
    """The share of keys by which a view may shrink against the version that serves."""
    nulls: float = 0.3
    """How far the share of values that are null may move."""
    drift: float = 0.5
    """How far a feature's deciles may move, as a share of their size: 0.5 is twice or half as much."""
    profiled_keys: int = 2000
    """Keys whose values are compared with the version that serves."""
    recomputed_keys: int = 20
    """Keys whose values are recomputed from the lake."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Where a training set is learnt from: in the memory of the process that trains, or on Spark's workers."""

    local_megabytes: int = 512
    """The largest training set that is brought into this process, at 8 bytes a number and 64 a text; learning takes several times as much."""

    @property
    def local_bytes(self) -> int:
        """The same in bytes."""
        return self.local_megabytes * 2**20


@dataclass(frozen=True, kw_only=True)
class UpkeepSettings:
    """How long what was replaced stays, and which files are too many."""

    history_seconds: int = 2_592_000
    """How long a version of a source's events can be read after it was replaced."""
    leftovers_seconds: int = 172_800
    """How long files of quarantine and states stay when nothing reads them any more: longer than any job runs."""
    quarantine_seconds: int = 31_536_000
    """Rows older than this leave quarantine."""
    small_files: int = 8
    """A folder of at least so many small files is compacted."""
    file_megabytes: int = 256
    """Files are compacted up to this size; those below half of it are small."""


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """How large the parts are that mass scoring finishes one by one: what is done again at most after it was killed."""

    part_rows: int = 1_000_000
    """Rows of a part of a Parquet or Delta data set; a row group is never divided."""
    part_megabytes: int = 256
    """Size of a part of files of other forms; a file is never divided."""
