"""How far a topic has been landed, as its checkpoint says: damaged files are named, with what to do."""

from types import SimpleNamespace
from typing import Any

import pytest

from anabranch import Count, FeatureView, Project, Source
from anabranch.errors import AnabranchError
from batch.landing import topics

SALES = Source(name="sales", topic="sales", id="id", time="at", schema="id STRING, shop STRING, at TIMESTAMP")
PROJECT = Project(
    name="shops", views=(FeatureView(name="by_shop", source=SALES, key="shop", features={"n": Count()}),)
)
WHOLE = 'v1\n{"batchWatermarkMs":0}\n{"sales":{"0":42}}'


@pytest.mark.parametrize("text", ["", "v1", WHOLE[:-4], 'v1\n{}\n{"sales":{"zero":42}}', WHOLE])
def test_a_damaged_checkpoint_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(topics, "_checkpoint", lambda *_: "/lake/sales")
    monkeypatch.setattr(topics, "file_names", lambda *_: ["0", "3", ".3.crc"])
    monkeypatch.setattr(topics, "read_text", lambda *_: text)
    stores: Any = SimpleNamespace(spark=None, bus=SimpleNamespace(read_as=str))
    if text == WHOLE:
        assert topics.landed_offsets(stores, PROJECT, SALES) == {0: 42}
        return
    with pytest.raises(AnabranchError, match=r"topic 'sales' .* /lake/sales/offsets/3 is missing or damaged"):
        topics.landed_offsets(stores, PROJECT, SALES)
