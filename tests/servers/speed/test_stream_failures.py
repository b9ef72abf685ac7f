"""One process, two projects, one of which fails on an event: it is given up with a reason, the other stays
exact.

The first test scrapes the process as Prometheus does, and compares the gauges with what was published.
"""

import json
import re
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pyspark.sql import SparkSession

from anabranch.values.times import format_time, now_micros
from jobs.servers.processes import wait_until
from jobs.wiring.settings import Settings
from tests.conftest import free_ports
from tests.support.stream_rig import PATIENCE, Rig

BROKEN = '''
"""Readings of which one cannot be folded."""
from anabranch import FeatureView, Mean, Project, Source

class Share(Mean):
    """An aggregate from outside whose own SQL fails: what a declaration writes cannot."""

    def over(self, kind):
        return Mean(f"100 / {{self.text}}").over(kind)

SCHEMA = "id STRING, thing STRING, at TIMESTAMP, x BIGINT"
readings = Source(name="readings", topic="{name}", id="id", time="at", schema=SCHEMA)
shares = FeatureView(name="shares", source=readings, key="thing", features={{"share": Share("x")}})
project = Project(name="{name}", views=(shares,))
'''


@pytest.fixture(scope="module")
def rig(servers: Settings, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder, broken, (port,) = tmp_path_factory.mktemp("rig"), f"broken_{uuid.uuid4().hex[:8]}", free_ports(1)
    (folder / f"{broken}.py").write_text(BROKEN.format(name=broken), encoding="utf-8")
    found = Rig(servers, folder, also=(broken,), environment={"ANABRANCH__SPEED__METRICS_PORT": str(port)})
    found.context.spark = spark
    yield found
    if found.process is not None and found.process.poll() is None:
        found.kill()


def shown(rig: Rig) -> Mapping[tuple[str, str], float]:
    """The gauges of the process by project and figure, lag over all partitions; {} before it listens."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    try:
        with urlopen(
            f"http://127.0.0.1:{rig.environment['ANABRANCH__SPEED__METRICS_PORT']}/metrics", timeout=5
        ) as answer:
            text = answer.read().decode()
    except OSError:
        return found
    for sample in (
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "project" in sample.labels
    ):
        found[sample.labels["project"], sample.name.removeprefix("anabranch_stream_")] += sample.value
    return found


def test_a_query_that_fails_for_good_is_given_up_and_the_others_stay_exact(rig: Rig) -> None:
    (broken,) = rig.also
    rig.start()
    rig.publish(rig.events(30))
    rig.assert_exact()
    rig.context.bus.publish(
        broken,
        [(None, json.dumps({"id": "b0", "thing": "t0", "at": format_time(now_micros()), "x": 0}).encode())],
    )
    assert wait_until(
        lambda: re.search(rf"{broken}\.readings .* FAILED: .*DIVIDE_BY_ZERO", rig.said()) is not None,
        PATIENCE,
    ), rig.state()
    rig.publish(rig.events(30))
    rig.assert_exact()

    def caught_up() -> bool:
        found = shown(rig)
        return (rig.name, "lag") in found and (found[rig.name, "events"], found[rig.name, "lag"]) == (
            rig.count,
            0,
        )

    assert wait_until(caught_up, PATIENCE), shown(rig)
    found = shown(rig)
    assert {name: found[broken, name] for name in ("running", "failed", "restarts", "events")} == {
        "running": 0,
        "failed": 1,
        "restarts": 2,
        "events": 0,
    }
    assert {name: found[rig.name, name] for name in ("running", "failed", "restarts")} == {
        "running": 1,
        "failed": 0,
        "restarts": 0,
    }
    # Its state: an id an event, and tiles; slots are of two seconds, so some have closed and some have not.
    assert found[rig.name, "state_rows"] > 0
    assert found[rig.name, "state_bytes"] > 0
    assert found[rig.name, "open_slots"] >= 1
    assert found[rig.name, "seconds"] > 0
    assert rig.stop() == 1
    assert re.search(
        rf"^error: given up: {broken}\.readings \(.*DIVIDE_BY_ZERO.*\): correct the cause",
        rig.said(),
        re.MULTILINE,
    ), rig.said()


def test_a_drain_empties_the_other_projects_and_then_ends_with_the_error(rig: Rig) -> None:
    (broken,) = rig.also
    rig.publish(rig.events(20))
    before = len(rig.said())
    assert rig.command("stream", "--once", "--json", broken, rig.name).wait(PATIENCE) == 1, rig.said()[
        before:
    ]
    said = rig.said()[before:]
    assert not rig.differences(rig.expected())
    (reported,) = [json.loads(line) for line in said.splitlines() if line.startswith('{"projects"')]
    assert reported["events"] == 20
    assert list(reported["failed"]) == [f"{broken}.readings"]
    assert f"error: given up: {broken}.readings (" in said
