"""A version that is tried on live requests: in shadow it answers nobody, as canary it answers a fixed share of the keys."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from anabranch.answers.predict import Answer, Prediction, Scorer, predict
from anabranch.answers.requests import Asked
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.values.keys import key_text

log = logging.getLogger(__name__)
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


def predictions(
    project: Project,
    champion: Scorer,
    answering: Sequence[Scorer],
    asked: Sequence[Asked],
    stored: Sequence[Answer | None],
    now: int,
) -> list[Prediction]:
    """Score what was asked, each by its own version, one call a version. A tried version that fails leaves its answers to the champion."""
    if all(scorer is champion for scorer in answering):
        return predict(project, champion, asked, stored, now)
    found: dict[int, Prediction] = {}
    for scorer in {id(scorer): scorer for scorer in answering}.values():
        places = [place for place, one in enumerate(answering) if one is scorer]
        part = [asked[place] for place in places], [stored[place] for place in places]
        try:
            said = predict(project, scorer, *part, now)
        except AnabranchError:
            if scorer is champion:
                raise
            log.warning(
                "version %s of project %s failed as a canary: the champion answers",
                scorer.version,
                project.name,
                exc_info=True,
            )
            said = predict(project, champion, *part, now)
        found |= dict(zip(places, said, strict=True))
    return [found[place] for place in range(len(asked))]
