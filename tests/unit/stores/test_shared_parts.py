"""Batch parts as entries of a shared cache."""

import asyncio
import time

import numpy as np
import pytest

from anabranch.errors import MisuseError
from anabranch.folds.merge import BatchPart
from anabranch.stores.ignite.shared_parts import SharedParts, decoded, encoded
from tests.conftest import free_ports


def test_a_part_survives_encoding_and_decoding() -> None:
    for extras in ([], [[b"sketch", None, b""], [None, None, b"\x00"]]):
        part = BatchPart(
            1_700_000_000_000_000, 3_600, np.array([[1.0, np.nan, -np.inf], [2.0, 0.0, 5e-324]]), extras
        )
        found = decoded(encoded(part))
        assert found is not None
        assert (found.cut, found.slack, list(found.extras)) == (part.cut, part.slack, extras)
        assert found.rows.tobytes() == part.rows.tobytes()
    empty = decoded(encoded(BatchPart(1, 2, np.empty((0, 7)))))
    assert empty is not None
    assert empty.rows.shape == (0, 7)


def test_a_value_that_is_not_an_entry_decodes_to_none() -> None:
    for value in (None, b"", b"short", "text", encoded(BatchPart(1, 2, np.ones((2, 3))))[:-5]):
        assert decoded(value) is None


def test_a_node_that_is_down_is_called_once_and_then_left_alone() -> None:
    shared = SharedParts(f"127.0.0.1:{free_ports(1)[0]}")
    started = time.monotonic()
    for _ in range(1_000):
        assert asyncio.run(_fetch(shared)) == {}
    shared.offer("k", BatchPart(1, 2, np.ones((1, 3))))
    assert shared.done == {"shared_hits": 0, "shared_misses": 0, "shared_failures": 1, "shared_dropped": 1}
    assert time.monotonic() - started < 5


async def _fetch(shared: SharedParts) -> object:
    return await shared.fetch(["k"])


def test_a_missing_client_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.stores.ignite.shared_parts.find_spec", lambda _: None)
    with pytest.raises(MisuseError, match="uv sync --extra ignite"):
        SharedParts("127.0.0.1:10800")
