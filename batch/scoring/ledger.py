"""The ledger of a mass scoring: a folder beside the result from which a killed run resumes.

.<out>-scoring/
  run.json              the identity of the run: another order starts anew
  rows/                 the rows with their features, where these had to be attached first; complete or absent
  plan.json             the parts, as they were first planned
  scored/part-*.parquet finished rows
  done/<part>           a part of several files is finished, with the number of its rows
  sent/<part>           a part has been written into the serving table
"""

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from anabranch.stores.files.filesystems import (
    file_names,
    hadoop,
    hadoop_child,
    hadoop_exists,
    read_text,
    write_text,
)
from batch.scoring.parquet import Part

_NOTES, _PLAN = "run.json", "plan.json"
_LONGEST_NOW = 86_400
"""Seconds within which an interrupted run with features as of now may be resumed."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The parts of a run: row groups, which workers read themselves (`by_groups`), or whole files."""

    by_groups: bool
    parts: tuple[Part, ...]


class ScoringRun:
    """The folder of one scoring, which began at `moment` (microseconds).

    A folder of the same `identity` is resumed; of a `moving` one, whose input may change, for a day at most.
    """

    def __init__(
        self, spark: SparkSession, folder: str, identity: Mapping[str, object], *, moving: bool
    ) -> None:
        self.spark, self.folder = spark, folder
        found = _notes(spark, folder)
        age = time.time() - int(found.get("moment", 0)) / 1e6
        self.resumed = found.get("identity") == json.loads(json.dumps(identity)) and (
            not moving or age < _LONGEST_NOW
        )
        if not self.resumed:
            self.drop()
            found = {
                "identity": dict(identity),
                "moment": time.time_ns() // 1000,
                "id": uuid.uuid4().hex[:12],
            }
            write_text(spark, self.path(_NOTES), json.dumps(found))
        self.moment, self.id = int(found["moment"]), str(found["id"])

    @property
    def scored(self) -> str:
        """The folder of finished rows; without a scheme when it is local."""
        return self.path("scored")

    @property
    def has_staged(self) -> bool:
        """Whether `staged` has written the rows."""
        system, place = hadoop(self.spark, self.path("rows"))
        return hadoop_exists(system, place)

    def staged(self, rows: DataFrame) -> str:
        """The folder with `rows` written as Parquet, once."""
        folder, unfinished = self.path("rows"), self.path("rows.unfinished")
        if not self.has_staged:
            rows.write.mode("overwrite").parquet(unfinished)
            system, place = hadoop(self.spark, folder)
            system.rename(hadoop(self.spark, unfinished)[1], place)
        return folder

    def plan(self, make: Callable[[], Plan]) -> Plan:
        """The stored plan; `make` makes it in the first process of the run."""
        if _PLAN not in file_names(self.spark, self.folder):
            write_text(self.spark, self.path(_PLAN), json.dumps(asdict(make())))
        found = json.loads(read_text(self.spark, self.path(_PLAN)))
        parts = tuple(
            Part(
                number=part["number"],
                rows=part["rows"],
                pieces=tuple((path, tuple(groups)) for path, groups in part["pieces"]),
            )
            for part in found["parts"]
        )
        system, place = hadoop(self.spark, self.scored)
        system.mkdirs(place)
        return Plan(by_groups=found["by_groups"], parts=parts)

    def missing(self, plan: Plan) -> list[Part]:
        """Parts that are not finished."""
        if plan.by_groups:
            # Row groups are local. To list them through Hadoop takes as long as to score some thousand rows.
            finished = {path.name for path in Path(self.scored).iterdir()}
        else:
            finished = set(file_names(self.spark, self.path("done")))
        return [part for part in plan.parts if part.name not in finished]

    def rows(self, plan: Plan) -> int:
        """Rows of the finished parts."""
        if plan.by_groups:
            missing = {part.number for part in self.missing(plan)}
            return sum(part.rows for part in plan.parts if part.number not in missing)
        return sum(
            int(read_text(self.spark, self.path(f"done/{name}")))
            for name in file_names(self.spark, self.path("done"))
        )

    def keep(self, part: Part, write: Callable[[str], int]) -> int:
        """Finish a part of several files: `write` writes into a folder and returns the number of rows."""
        system, unfinished = hadoop(self.spark, self.path(f"{part.name}.unfinished"))
        system.delete(unfinished, True)
        rows = write(unfinished.toString())
        stem = part.name.removesuffix(".parquet")
        # Files of an earlier attempt at this part.
        for name in file_names(self.spark, self.scored):
            if name.startswith(f"{stem}-"):
                system.delete(hadoop(self.spark, f"{self.scored}/{name}")[1], False)
        for name in file_names(self.spark, unfinished.toString()):
            system.rename(
                hadoop_child(self.spark, unfinished, name),
                hadoop(self.spark, f"{self.scored}/{stem}-{name}")[1],
            )
        system.delete(unfinished, True)
        self.note(f"done/{part.name}", str(rows))
        return rows

    def note(self, name: str, text: str) -> None:
        """Write a note below the folder."""
        system, place = hadoop(self.spark, self.path(name))
        system.mkdirs(place.getParent())
        write_text(self.spark, self.path(name), text)

    def noted(self, folder: str) -> set[str]:
        """Names of the notes in a folder of the run."""
        return set(file_names(self.spark, self.path(folder)))

    def drop(self) -> None:
        """Delete the folder."""
        system, place = hadoop(self.spark, self.folder)
        system.delete(place, True)

    def path(self, name: str) -> str:
        """A path below the folder."""
        return f"{self.folder}/{name}"


def folder_beside(spark: SparkSession, out: str) -> str:
    """The folder of the run that writes `out`: beside it, so that the last step is a rename, not a copy."""
    _, place = hadoop(spark, out)
    return plain(hadoop_child(spark, place.getParent() or place, f".{place.getName()}-scoring").toString())


def plain(path: str) -> str:
    """A local path without its scheme, as programs other than Spark expect it; other URLs unchanged."""
    return "/" + path.removeprefix("file:").lstrip("/") if path.startswith("file:") else path


def plan_files(files: Sequence[tuple[str, int]], megabytes: int) -> Plan:
    """Parts of whole files (path, bytes) in order, each up to a size unless a single file is larger."""
    parts: list[Part] = []
    pieces: list[str] = []
    size = 0
    for path, more in files:
        if pieces and size + more > megabytes * 2**20:
            parts.append(_files_part(len(parts), pieces))
            pieces, size = [], 0
        pieces.append(path)
        size += more
    return Plan(by_groups=False, parts=(*parts, _files_part(len(parts), pieces)))


def _files_part(number: int, paths: Sequence[str]) -> Part:
    return Part(number=number, rows=0, pieces=tuple((path, ()) for path in paths))


def _notes(spark: SparkSession, folder: str) -> dict[str, Any]:
    found: dict[str, Any] = (
        json.loads(read_text(spark, f"{folder}/{_NOTES}")) if _NOTES in file_names(spark, folder) else {}
    )
    return found
