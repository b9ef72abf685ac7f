"""Which versions a process keeps loaded."""

import gc
import uuid
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from anabranch.errors import UnavailableError
from anabranch.settings import ModelsSettings
from anabranch.stores.models.connection import RetryPauses
from anabranch.stores.models.registry import Models
from anabranch.stores.models.versions import Scorer


@dataclass(frozen=True)
class Registry(Models):
    """Versions without files; `loads` are those that were loaded."""

    loads: list[str] = field(default_factory=list)

    def _load(self, project: str, version: str) -> Scorer:
        self.loads.append(version)
        scorer = object.__new__(Scorer)
        scorer.version = version
        return scorer


@pytest.fixture
def registry() -> Registry:
    return Registry(ModelsSettings(tracking_uri=f"sqlite:///{uuid.uuid4().hex}", artifact_root=""))


def test_a_version_is_loaded_once_however_often_and_by_whomever_it_is_asked_for(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: registry.scorer("shop", "1"), range(400)))
    assert registry.loads == ["1"]
    assert len({id(scorer) for scorer in found}) == 1
    assert registry.scorer("other", "1") is not found[0]


def test_versions_nobody_uses_any_more_go_and_those_in_use_stay(registry: Registry) -> None:
    used = [registry.scorer("shop", str(number)) for number in range(50)]
    passing = [weakref.ref(registry.scorer("shop", str(number))) for number in range(50, 300)]
    gc.collect()
    assert 0 < sum(1 for each in passing if each() is not None) <= 32
    assert [registry.scorer("shop", str(number)) for number in range(50)] == used
    assert len(registry.loads) == 300


def test_of_versions_nobody_uses_the_one_asked_for_again_and_again_stays(registry: Registry) -> None:
    for number in range(1, 200):
        registry.scorer("shop", "again")
        registry.scorer("shop", str(number))
    assert registry.loads.count("again") == 1


def test_what_did_not_answer_is_asked_again_only_after_a_pause() -> None:
    now, asked = [0.0], []

    def away() -> str:
        asked.append(now[0])
        raise UnavailableError("the store is away")

    pauses = RetryPauses(10.0, lambda: now[0])
    for moment in (0.0, 9.0, 10.0, 19.0):
        now[0] = moment
        with pytest.raises(UnavailableError, match="the store is away"):
            pauses.ask("shop", away)
    assert asked == [0.0, 10.0]
    assert pauses.failed("shop")
    assert pauses.ask("other", lambda: "answer") == "answer"
    now[0] = 20.0
    assert pauses.ask("shop", lambda: "answer") == "answer"
    assert not pauses.failed("shop")
