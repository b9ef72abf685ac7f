"""The serving table as input and output of scoring: scores never replace what was written later."""

import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from anabranch.declare.loading import load_project
from anabranch.errors import MisuseError
from anabranch.progress import Silent
from anabranch.settings import LakeSettings, ModelsSettings
from anabranch.stores.cassandra.views import Views
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.registry import Models
from anabranch.values.times import now_micros
from batch.scoring.data_sets import score_data_set
from batch.scoring.parts import ScoringOrder
from jobs.wiring.settings import Settings
from tests.spark.batch.test_mass_scoring import DECLARATION, learn
from tests.support.stores import stores_with

pytestmark = pytest.mark.usefixtures("servers")
EMPTY: dict[str, Any] = {
    "pages": 3,
    "spent": 2.5,
    "member": True,
    "town": "Oslo",
    "joined": None,
    "seen": None,
}


def test_scores_go_into_the_serving_table_and_come_from_it(
    settings: Settings, spark: SparkSession, tmp_path: Path
) -> None:
    name = f"masses_{uuid.uuid4().hex[:6]}"
    (tmp_path / f"{name}.py").write_text(DECLARATION.replace('name="masses"', f'name="{name}"'))
    project = load_project(name, (tmp_path,))
    views, lake = Views(settings.views), Lake(LakeSettings(root=str(tmp_path / "lake")))
    models = Models(
        ModelsSettings(
            tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_root=str(tmp_path / "artifacts")
        )
    )
    version = learn(models, project)
    opened = stores_with(settings, spark=spark, lake=lake, models=models, views=views)

    def run(source: str, out: str) -> int:
        return score_data_set(opened, project, ScoringOrder(source=source, out=out), Silent()).rows

    with pytest.raises(
        MisuseError, match=f"the serving table {name}_current does not exist: run 'anabranch build {name}'"
    ):
        run("serving", str(tmp_path / "out"))
    views.ensure_current(project)
    versions = {
        "score": None,
        "label": None,
        "model_version": None,
        "batch_version": 1,
        "as_of": None,
        "layer": "batch",
    }
    rows = [{"key": f"w{i}", "who": f"w{i}", **EMPTY, "pages": i, **versions} for i in range(50)]
    views.write_current(name, rows, now_micros())
    assert run("serving", str(tmp_path / "out")) == 50
    found = {row["who"]: row for row in spark.read.parquet(str(tmp_path / "out")).collect()}
    assert {row["model_version"] for row in found.values()} == {version}

    # w7 is written again, with a later time than the scoring has.
    views.write_current(name, [{**rows[7], "score": 0.125}], now_micros() + 10**9)
    assert run(f"{name}_current", "serving") == 50
    for key in ("w3", "w49"):
        current = views.current(project, key)
        assert current is not None
        assert (current["score"], current["label"], current["model_version"]) == (
            found[key]["score"],
            found[key]["label"],
            version,
        )
        assert (current["pages"], current["batch_version"]) == (int(key[1:]), 1)
    late = views.current(project, "w7")
    assert late is not None
    assert late["score"] == 0.125

    # A data set's scores reach the keys that it has; a row without a key is left out.
    columns = {"who": ["w3", "new", None], **{name: [value] * 3 for name, value in EMPTY.items()}}
    kinds = {"joined": pa.date32(), "seen": pa.timestamp("us", "UTC")}
    pq.write_table(
        pa.table({name: pa.array(values, kinds.get(name)) for name, values in columns.items()}),
        tmp_path / "rows.parquet",
    )
    assert run(str(tmp_path / "rows.parquet"), "serving") == 2
    fresh = views.current(project, "new")
    assert fresh is not None
    assert (fresh["who"], fresh["model_version"]) == ("new", version)
    assert not (tmp_path / "lake" / name / "scoring" / "serving").exists()
