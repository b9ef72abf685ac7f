"""How builds, training, upkeep and mass scoring behave; filled by jobs/wiring/settings.py."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from anabranch.settings import Duration, Positive, Share, Whole


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """How far a build may move from the version that serves before it is refused, and what is checked."""

    increments: Positive = 8
    """The most increments a state is kept in; one more, and they are rewritten as one."""
    fewer_keys: Share = 0.5
    """The largest share of its keys that a view may lose."""
    nulls: Share = 0.3
    """How far the share of null values of a feature may move."""
    drift: Share = 0.5
    """How far the deciles of a feature may move, as a share of their size: 0.5 is twice or half as much."""
    profiled_keys: Whole = 2000
    """Keys whose values are compared with the version that serves."""
    recomputed_keys: Whole = 20
    """Keys whose values are recomputed from the lake before a version is published."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Whether a model learns in the memory of the process that trains or on Spark's workers."""

    local_megabytes: Positive = 512
    """The largest training set, at 8 bytes a number and 64 a text, that the training process loads itself.

    Learning takes several times as much. Larger sets are left to Spark's workers."""

    @property
    def local_bytes(self) -> int:
        """`local_megabytes` in bytes."""
        return self.local_megabytes * 2**20


@dataclass(frozen=True, kw_only=True)
class UpkeepSettings:
    """How long replaced data stays, and when files are compacted."""

    history_seconds: Annotated[Duration, Field(validation_alias="history")] = 2_592_000
    """How long a version of a source's events can be read after it was replaced."""
    leftovers_seconds: Annotated[Duration, Field(validation_alias="leftovers")] = 172_800
    """How long files of quarantine and states stay once nothing reads them: longer than any job runs."""
    quarantine_seconds: Annotated[Duration, Field(validation_alias="quarantine")] = 31_536_000
    """Rows older than this leave quarantine."""
    small_files: Positive = 8
    """A folder of at least this many small files is compacted."""
    file_megabytes: Positive = 256
    """Files are compacted up to this size; those below half of it are small."""


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """The size of the parts that mass scoring finishes singly; a killed run repeats unfinished ones."""

    part_rows: Positive = 1_000_000
    """Rows of a part of a Parquet or Delta data set; a row group is never divided."""
    part_megabytes: Positive = 256
    """Size of a part of files of other formats; a file is never divided."""
