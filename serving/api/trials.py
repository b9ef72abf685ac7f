"""A version on trial: as shadow it answers nobody, as canary it answers a fixed share of the keys."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from anabranch.answers.requests import Asked
from anabranch.declare.projects import Project
from anabranch.stores.models.versions import Scorer
from anabranch.values.keys import key_text

SHADOW, CANARY = "shadow", "canary"


@dataclass(frozen=True, kw_only=True)
class LoadedTrial:
    """The version on trial; `share` of the keys is above 0 and at most 1."""

    kind: str
    share: float
    scorer: Scorer


def position(project: Project, key: str) -> float:
    """A key's place in [0, 1), the same on every server and in every trial: growing shares keep keys."""
    digest = hashlib.blake2b(f"{project.name}\x1f{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def scorers(
    project: Project, champion: Scorer, trial: LoadedTrial | None, asked: Sequence[Asked]
) -> list[Scorer]:
    """The version that answers each request: a canary for its share of the keys, else the champion."""
    if trial is None or trial.kind != CANARY:
        return [champion] * len(asked)
    share = trial.share
    return [
        trial.scorer
        if one.key is not None and position(project, key_text(project.keys, one.key)) < share
        else champion
        for one in asked
    ]
