"""Verification finds a value that was changed by hand in Cassandra, in a batch table and in a tile."""

import re
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
from pyspark.sql import SparkSession

from anabranch.declare.views import FeatureView
from anabranch.progress import Silent
from anabranch.states.sums import ExactTotal
from anabranch.stores.cassandra.tables import tiles_table
from anabranch.values.times import now_micros
from batch.building.publication import latest_cut
from batch.building.verification import Verified, verify
from jobs.flows.building import build_project
from jobs.servers.processes import wait_until
from jobs.show import Steps
from jobs.wiring.settings import Settings
from speed.streams import start
from tests.support.stream_rig import PATIENCE, Rig

LATER = count(10**9, 10**9)


@pytest.fixture(scope="module")
def rig(servers: Settings, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """Twenty events of five keys in a batch version, and ten more in tiles."""
    rig = Rig(servers, tmp_path_factory.mktemp("verified"))
    rig.context.spark = spark
    rig.publish(rig.events(20))
    published = now_micros()
    assert wait_until(lambda: latest_cut(servers.times, now_micros()) > published, 30)
    build_project(rig.context, rig.project, None, Steps())
    rig.publish(rig.events(10))
    for query in start(rig.context.speed_layer(once=True), rig.project):
        query.awaitTermination()
    rig.assert_verified()
    return rig


@pytest.fixture
def batch_table(rig: Rig) -> Iterator[str]:
    """The batch table of totals, in which the total of t1 is one too much."""
    manifest = rig.context.views.manifest(rig.project.name)
    assert manifest is not None
    table = manifest.tables["ever"]
    yield from changed(rig, table, "states", "key = 't1'")


@pytest.fixture
def tile(rig: Rig) -> Iterator[str]:
    """A tile of totals of t2 whose sum is one too much."""
    table = tiles_table(rig.project.name, view(rig, "ever"))
    rows = rig.context.views.session.execute(f"SELECT slot, tile_start FROM {table} WHERE key = 't2'")
    slot, start = max((row.slot, row.tile_start) for row in rows)  # earlier slots may lie before the cut
    where = f"key = 't2' AND slot = {slot} AND tile_start = {start}"
    yield from changed(rig, table, "state", where)


def changed(rig: Rig, table: str, column: str, where: str) -> Iterator[str]:
    """Add one to the sum in a row's states, and take it back at the end."""
    session = rig.context.views.session
    stored = session.execute(f"SELECT {column} FROM {table} WHERE {where}").one()[0]
    numbers = np.frombuffer(stored, dtype="<f8").copy()
    layout = view(rig, "ever").layout
    (total,) = [block for block in layout.blocks if isinstance(block, ExactTotal)]
    numbers[layout.slices[total].stop - 1 - layout.width] += 1  # the lowest limb of the sum
    # Tiles carry write times of their own: each change by hand must come after all before it.
    update = f"UPDATE {table} USING TIMESTAMP %s SET {column} = %s WHERE {where}"
    session.execute(update, (now_micros() + next(LATER), numbers.tobytes()))
    yield table
    session.execute(update, (now_micros() + next(LATER), stored))


def view(rig: Rig, name: str) -> FeatureView:
    return next(each for each in rig.project.views if each.name == name)


def verified(rig: Rig) -> Verified:
    return verify(rig.context, rig.context.answers, rig.project, None, Silent())


def is_one_too_much(rig: Rig, found: Verified, key: str) -> bool:
    """Is the total of the key, and with it the derived spread, reported as one too much?"""
    total, example = rig.expected()[key]["total"], found.features["total"].example or ""
    lake_and_served = [int(number) for number in re.findall(r"\d+", example.partition(": ")[2])]
    return example.startswith(f"total of {key}: ") and lake_and_served == [total, total + 1]


def test_a_value_changed_in_a_batch_table_is_found_with_its_key_and_feature(
    rig: Rig, batch_table: str
) -> None:
    found = verified(rig)
    assert (found.keys, found.mismatches, found.features["spread"].mismatches) == (5, 2, 1)
    assert is_one_too_much(rig, found, "t1"), found


def test_a_value_changed_in_a_tile_is_found_with_its_key_and_feature(rig: Rig, tile: str) -> None:
    found = verified(rig)
    assert (found.keys, found.mismatches, found.features["spread"].mismatches) == (5, 2, 1)
    assert is_one_too_much(rig, found, "t2"), found


def test_the_command_names_a_changed_value_and_exits_with_1(rig: Rig, batch_table: str) -> None:
    assert rig.command("verify", rig.name, "--all").wait(PATIENCE) == 1
    assert "2 served values differ from the lake, for example total of t1: lake " in rig.said()


def test_values_that_nobody_changed_are_right(rig: Rig) -> None:
    assert verified(rig).mismatches == 0
