"""A version that is tried on live requests: in shadow it answers nobody, as canary it answers a fixed share of the keys."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from anabranch.answers.requests import Asked
from anabranch.declare.projects import Project
from anabranch.stores.models.versions import Scorer
from anabranch.values.keys import key_text

SHADOW, CANARY = "shadow", "canary"
_WHOLE = 2**64


@dataclass(frozen=True, kw_only=True)
class LoadedTrial:
    """The version tried, and how; `share` of the keys is above 0 and at most 1."""

    kind: str
    share: float
    scorer: Scorer


def place_of(project: Project, key: str) -> float:
    """Where a key lies in [0, 1): the same for every server and every trial, so that a share that grows keeps the keys it had."""
    digest = hashlib.blake2b(f"{project.name}\x1f{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / _WHOLE


def scorers(
    project: Project, champion: Scorer, trial: LoadedTrial | None, asked: Sequence[Asked]
) -> list[Scorer]:
    """Who answers each: the champion, unless the key is one of a canary's. What has no key is the champion's."""
    if trial is None or trial.kind != CANARY:
        return [champion] * len(asked)
    share = trial.share
    return [
        trial.scorer
        if one.key is not None and place_of(project, key_text(project.keys, one.key)) < share
        else champion
        for one in asked
    ]
