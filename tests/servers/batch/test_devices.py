"""Devices learn of versions on a real Kafka and find their bundles in a real HDFS."""

import json
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from anabranch import FeatureView, Label, Last, Model, Project, Source
from anabranch.errors import MisuseError
from anabranch.progress import Silent
from anabranch.settings import BusSettings, ModelsSettings
from anabranch.stores.files.hdfs import Hdfs
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.models.registry import Models
from batch.release.announcing import announce
from batch.release.exporting import MANIFEST, export
from batch.release.promotion import promote
from batch.training.job import TrainingJob, TrainingSet
from batch.training.train import fit_and_log
from jobs.wiring.settings import Settings
from tests.conftest import free_ports
from tests.servers.stores.test_bus import read
from tests.support.edge import device, scored
from tests.support.stores import stores

pytestmark = pytest.mark.usefixtures("servers")
visits = Source(
    name="visits", id="id", time="at", schema="id STRING, who STRING, at TIMESTAMP, pages DOUBLE, bought INT"
)
seen = FeatureView(name="seen", source=visits, key="who", features={"pages": Last("pages")})


@pytest.fixture
def shop() -> Project:
    label = Label(source=visits, key="who", target="bought > 0")
    return Project(
        name=f"shop_{uuid.uuid4().hex[:8]}", views=(seen,), label=label, model=Model(trainer="logistic")
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    return Models(
        ModelsSettings(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "artifacts"))
    )


def train(models: Models, shop: Project, bus: Bus) -> str:
    """Train through the gate; every version is as good as the last."""
    random = np.random.default_rng(5)
    pages = random.normal(0, 1, 120)
    columns = {
        "_key": [f"w{i:03d}" for i in range(120)],
        "_time": np.arange(120) * 1_000_000,
        "_target": (pages > 0).astype(float),
        "pages": pages,
    }
    given = TrainingSet(table=pa.table(columns), lake_versions={"visits": 1})
    job = TrainingJob(project=shop, announce=True)
    return fit_and_log(stores(models=models, bus=bus), job, given).version


def news(bus: Bus, shop: Project) -> list[dict[str, Any]]:
    return [
        {"key": (key or b"").decode(), **json.loads(value or b"")}
        for _, _, key, value, _, _ in read(bus, f"models.{shop.name}")
    ]


def test_training_promotion_and_rollback_are_announced_in_order_and_an_absent_broker_fails_none_of_them(
    models: Models, bus: Bus, shop: Project
) -> None:
    assert train(models, shop, bus) == "1"
    nobody = Bus(BusSettings(bootstrap_servers=f"127.0.0.1:{free_ports(1)[0]}"))
    started = time.monotonic()
    assert train(models, shop, nobody) == "2"
    assert models.champion(shop.name) == "2"
    models.promote(shop.name, "1")
    found = announce(models, nobody, shop)
    assert (found.sent, "the next promotion informs them" in found.why) == (0, True)
    assert time.monotonic() - started < 30
    assert [one["model_version"] for one in news(bus, shop)] == ["1"]
    assert models.rollback(shop.name) == "2"
    assert (announce(models, bus, shop).sent, announce(models, bus, shop).sent) == (3, 0)
    messages = news(bus, shop)
    assert [(one["key"], one["alias"], one["model_version"], one["previous"]) for one in messages] == [
        ("champion", "champion", "1", None),
        ("champion", "champion", "2", "1"),
        ("champion", "champion", "1", "2"),
        ("champion", "champion", "2", "1"),
    ]
    assert {(one["project"], one["fingerprint"]) for one in messages} == {(shop.name, shop.fingerprint)}
    assert [one["at"] for one in messages] == sorted(one["at"] for one in messages)


def test_the_topic_keeps_the_last_word_about_each_alias(models: Models, bus: Bus, shop: Project) -> None:
    train(models, shop, bus)
    admin = KafkaAdminClient(bootstrap_servers=bus.settings.bootstrap_servers)
    try:
        found = admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, f"models.{shop.name}", {"cleanup.policy": None})]
        )
    finally:
        admin.close()
    assert found["topic"][f"models.{shop.name}"]["cleanup.policy"]["value"] == "compact"


def test_news_that_could_not_be_sent_for_long_stay_few_and_keep_the_newest(
    models: Models, shop: Project
) -> None:
    nobody = Bus(BusSettings(bootstrap_servers=f"127.0.0.1:{free_ports(1)[0]}"))
    train(models, shop, nobody)
    train(models, shop, nobody)
    for _ in range(10):
        promote(models, shop, "1")
        promote(models, shop, "2")
    waiting = models.roles(shop.name).news
    assert len(waiting) <= 8
    assert (waiting[-1]["model_version"], waiting[-1]["previous"]) == ("2", "1")


def test_a_champions_bundle_in_hdfs_is_announced_and_fetched_by_a_device(
    models: Models, bus: Bus, shop: Project, hdfs: Settings, tmp_path: Path
) -> None:
    files = Hdfs(hdfs.files)
    version = train(models, shop, bus)
    address = f"hdfs://{hdfs.files.namenode}/bundles/{shop.name}/{version}"
    exported = export(models, shop, address, None, Silent(), files)
    assert announce(models, bus, shop).sent == 1
    message = news(bus, shop)[-1]
    assert message["bundle"] == {"address": address, "manifest_sha256": exported.sha256}
    with pytest.raises(MisuseError, match="exists already: a bundle in HDFS is not replaced"):
        export(models, shop, address, None, Silent(), files)
    files.get(message["bundle"]["address"], tmp_path / "bundle", Silent())
    assert (
        json.loads((tmp_path / "bundle" / MANIFEST).read_text())["model_version"] == message["model_version"]
    )
    (answer,) = scored(tmp_path / "bundle", device(tmp_path / "device"), [{"pages": 2.0}])
    assert answer["score"] == pytest.approx(models.scorer(shop.name).score({"pages": [2.0]})[0], abs=1e-6)
    elsewhere = replace(files, settings=replace(files.settings, webhdfs="http://127.0.0.1:1"))
    with pytest.raises(Exception, match="does not answer"):
        export(models, shop, f"{address}-2", None, Silent(), elsewhere)
