"""The notebooks run as they are shipped, over what the river of heart_disease left."""

from collections.abc import Iterator

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from jobs.wiring.settings import ROOT
from tests.support.commands import environment_of
from tests.support.heart_river import PATIENT, Lived

NOTEBOOKS = ROOT / "notebooks"


@pytest.fixture(scope="module")
def client(lived: Lived, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookClient]:
    """One kernel for both notebooks, as the settings of this run are its environment: a JVM is started
    once.
    """
    settings, folder = lived.context.settings, tmp_path_factory.mktemp("jupyter")
    environment = {
        **environment_of(settings),
        "PYTHONPATH": str(ROOT),
        **{
            name: str(folder / name.lower())
            for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")
        },
    }
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        empty = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
        found = NotebookClient(
            empty, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
        )
        with found.setup_kernel():
            yield found


def run(client: NotebookClient, name: str) -> str:
    """Everything that the notebook's cells say; raises CellExecutionError for one that fails."""
    client.nb = nbformat.read(NOTEBOOKS / name, as_version=4)  # type: ignore[no-untyped-call]
    client.reset_execution_trackers()
    for number, cell in enumerate(client.nb.cells):
        client.execute_cell(cell, number)
    return "\n".join(said(output) for cell in client.nb.cells for output in cell.get("outputs", ()))


def said(output: NotebookNode) -> str:
    data = output.get("data", {})
    return (
        str(output.get("text", ""))
        + str(data.get("text/plain", ""))
        + ("[picture]" if "image/png" in data else "")
    )


def test_analyst_queries_runs_over_the_real_data(client: NotebookClient, lived: Lived) -> None:
    told = run(client, "analyst_queries.ipynb")
    for expected in ("anabranch.heart_disease_current", "at risk", "[picture]", PATIENT, "score=", "layer='"):
        assert expected in told, told
    assert f"{lived.answer['features']['readings_7d']}" in told


def test_ad_hoc_training_registers_a_version_that_does_not_serve(
    client: NotebookClient, lived: Lived
) -> None:
    told = run(client, "ad_hoc_training.ipynb")
    assert "303 labels, 0 left out" in told
    assert "[picture]" in told
    models = lived.context.models
    newest = models.list("heart_disease")[0]
    assert newest.version != lived.demo.trained.version == models.champion("heart_disease")
    assert newest.metrics["roc_auc"] > 0.7
    assert f"version {newest.version}" in told
