"""A real HDFS: files by WebHDFS without a JVM, artifacts of MLflow, and paths that are checked."""

import gzip
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hdfs import InsecureClient
from pyspark.sql import SparkSession

from anabranch import Count, FeatureView, Project, Source
from anabranch.errors import AnabranchError, MisuseError, UnavailableError
from anabranch.progress import Silent
from anabranch.settings import LakeSettings
from anabranch.stores.files.hdfs import Hdfs
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.artifacts import WebHdfsArtifacts
from batch.landing.ingest import ingest
from jobs.cli.main import main
from jobs.servers import embedded
from jobs.servers.server import accepts
from jobs.wiring.settings import Settings
from tests.conftest import free_ports
from tests.support.stores import stores


@pytest.fixture
def files(hdfs: Settings) -> Iterator[Hdfs]:
    """The HDFS with an empty folder /t."""
    found = Hdfs(hdfs.files)
    found.make_folder("/t")
    yield found
    found.remove("/t", recursive=True)


def names(files: Hdfs, path: str) -> list[str]:
    return [each.path for each in files.entries(path)]


def test_status_knows_hdfs_once_it_was_started(hdfs: Settings) -> None:
    states = {state.name: state for state in embedded.status(hdfs, lambda _: None)}
    assert (states["hdfs-namenode"].state, states["hdfs-datanode"].state) == ("running", "running")
    assert states["hdfs-namenode"].address == f"hdfs://{hdfs.files.namenode}"


def test_hdfs_keeps_its_files_when_it_is_started_again(hdfs: Settings, files: Hdfs, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("kept")
    files.put(tmp_path / "a.txt", "/t/a.txt", Silent())
    embedded.down(hdfs, ["hdfs"])
    assert not accepts(hdfs.servers.hdfs_port)
    embedded.up(hdfs, ["hdfs"])
    files.get("/t/a.txt", tmp_path / "b.txt", Silent())
    assert (tmp_path / "b.txt").read_text() == "kept"


def test_a_file_comes_back_as_it_was_put(files: Hdfs, tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000  # several chunks
    (tmp_path / "a file.bin").write_bytes(content)
    put = files.put(tmp_path / "a file.bin", "/t/deep/ä #1%20.bin", Silent())
    assert [(entry.path, entry.size) for entry in put] == [("/t/deep/ä #1%20.bin", len(content))]
    assert files.get("/t/deep/ä #1%20.bin", tmp_path, Silent()) == [tmp_path / "ä #1%20.bin"]
    assert (tmp_path / "ä #1%20.bin").read_bytes() == content


def test_a_folder_comes_back_as_it_was_put(files: Hdfs, tmp_path: Path) -> None:
    source = tmp_path / "rows"
    (source / "day=1").mkdir(parents=True)
    (source / "day=1" / "a.csv").write_text("a")
    (source / "b.csv").write_text("")
    files.put(source, "/t", Silent())  # a folder that is there takes it in
    assert names(files, "/t/rows") == ["/t/rows/b.csv", "/t/rows/day=1"]
    files.get("/t/rows", tmp_path / "back", Silent())
    assert {
        each.relative_to(tmp_path / "back").as_posix(): each.read_text()
        for each in (tmp_path / "back").rglob("*.csv")
    } == {"day=1/a.csv": "a", "b.csv": ""}


def test_what_is_there_is_replaced_only_when_asked_for_and_a_folder_never(
    files: Hdfs, tmp_path: Path
) -> None:
    local = tmp_path / "a.txt"
    local.write_text("old")
    files.put(local, "/t/a.txt", Silent())
    local.write_text("new")
    with pytest.raises(AnabranchError, match=r"/t/a\.txt exists already in HDFS: use --replace"):
        files.put(local, "/t/a.txt", Silent())
    with pytest.raises(AnabranchError, match="exists already on this machine: use --replace"):
        files.get("/t/a.txt", local, Silent())
    files.put(local, "/t/a.txt", Silent(), replace=True)
    files.get("/t/a.txt", tmp_path / "b.txt", Silent())
    assert (tmp_path / "b.txt").read_text() == "new"
    (tmp_path / "t").mkdir()
    files.make_folder("/t/t")
    with pytest.raises(AnabranchError, match="/t/t exists already in HDFS: remove it first"):
        files.put(tmp_path / "t", "/t", Silent(), replace=True)
    assert names(files, "/t") == ["/t/a.txt", "/t/t"]


class Interrupted(Silent):
    """Progress that ends the transfer after its first megabyte, as Ctrl-C would."""

    def advance(self, done: int, total: int | None, note: str = "") -> None:
        raise KeyboardInterrupt


def test_a_transfer_that_is_cut_off_leaves_nothing(files: Hdfs, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 3_000_000)
    with pytest.raises(KeyboardInterrupt):
        files.put(tmp_path / "big", "/t/big", Interrupted())
    assert names(files, "/t") == []
    files.put(tmp_path / "big", "/t/big", Silent())
    with pytest.raises(KeyboardInterrupt):
        files.get("/t/big", tmp_path / "back", Interrupted())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["big"]


def test_nothing_is_seen_under_its_name_before_all_of_it_is_there(files: Hdfs, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 3_000_000)
    seen: list[list[str]] = []

    class Looking(Silent):
        def advance(self, done: int, total: int | None, note: str = "") -> None:
            seen.append(names(Hdfs(files.settings), "/t"))

    files.put(tmp_path / "big", "/t/big", Looking())
    assert seen
    assert all("/t/big" not in entries for entries in seen)
    assert names(files, "/t") == ["/t/big"]


def test_a_folder_of_hdfs_lands_once(
    hdfs: Settings, files: Hdfs, spark: SparkSession, tmp_path: Path
) -> None:
    sales = Source(name="sales", id="id", time="at", schema="id STRING, shop STRING, at TIMESTAMP, n INT")
    project = Project(
        name="shops", views=(FeatureView(name="by_shop", source=sales, key="shop", features={"n": Count()}),)
    )
    lake, folder = Lake(LakeSettings(root=str(tmp_path / "lake"))), f"hdfs://{hdfs.files.namenode}/t/in"
    (tmp_path / "a.csv").write_text("id,shop,at,n\n1,a,2024-05-01T10:00:00Z,1\n2,a,2024-05-01T10:00:00Z,x\n")
    (tmp_path / "b.jsonl.gz").write_bytes(
        gzip.compress(b'{"id":"3","shop":"b","at":"2024-05-01T10:00:00Z","n":3}\n')
    )
    pq.write_table(
        pa.table({"id": ["4"], "shop": ["c"], "at": ["2024-05-01T10:00:00Z"], "n": [4]}),
        tmp_path / "c.parquet",
    )
    for name in ("a.csv", "b.jsonl.gz", "c.parquet"):
        files.put(tmp_path / name, f"/t/in/more/{name}", Silent())
    first, again = (
        ingest(stores(spark=spark, lake=lake), project, "sales", [folder], Silent()) for _ in range(2)
    )
    assert (first.rows, first.quarantined, first.skipped_files) == (3, 1, 0)
    assert (again.rows, again.quarantined, again.skipped_files) == (0, 0, 3)
    found = {
        row["id"]: (row["shop"], row["n"], row["_file"])
        for row in lake.events(spark, project, sales).collect()
    }
    assert found == {
        "1": ("a", 1, f"{folder}/more/a.csv"),
        "3": ("b", 3, f"{folder}/more/b.jsonl.gz"),
        "4": ("c", 4, f"{folder}/more/c.parquet"),
    }
    (tmp_path / "d.csv").write_text("id;shop;at;n\n")
    files.put(tmp_path / "d.csv", "/t/in/d.csv", Silent())
    with pytest.raises(AnabranchError, match=r"/t/in/d.csv .*the file has semicolons between its own"):
        ingest(stores(spark=spark, lake=lake), project, "sales", [folder], Silent())


def test_two_who_put_the_same_name_at_once_do_not_mix(files: Hdfs, tmp_path: Path) -> None:
    outcomes: list[str] = []

    def put(letter: str) -> None:
        (tmp_path / letter).write_text(letter * 2_000_000)
        try:
            files.put(tmp_path / letter, "/t/one", Silent())
            outcomes.append(letter)
        except AnabranchError:
            outcomes.append("refused")

    threads = [threading.Thread(target=put, args=(letter,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("refused") == 1
    files.get("/t/one", tmp_path / "one", Silent())
    assert (tmp_path / "one").read_text() == next(
        letter for letter in outcomes if letter != "refused"
    ) * 2_000_000
    assert names(files, "/t") == ["/t/one"]


def test_a_folder_with_files_is_removed_only_when_asked_for(files: Hdfs, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    files.put(tmp_path / "a", "/t/f/a", Silent())
    with pytest.raises(MisuseError, match="use --recursive"):
        files.remove("/t/f")
    files.remove("/t/f", recursive=True)
    assert names(files, "/t") == []
    with pytest.raises(AnabranchError, match="/t/f does not exist in HDFS"):
        files.remove("/t/f")
    with pytest.raises(MisuseError, match="root of HDFS"):
        files.remove("/", recursive=True)


@pytest.mark.parametrize(
    "path",
    ["data", "/a/../b", "/a/./b", "/a:b", "/a/#LATEST", "/a\nb", "s3a://bucket/a", "hdfs://elsewhere:9000/a"],
)
def test_a_path_that_is_not_plain_or_not_of_this_hdfs_is_misuse(settings: Settings, path: str) -> None:
    with pytest.raises(MisuseError, match=r"(is no plain path|does not begin with '/'|is not in the HDFS)"):
        Hdfs(settings.files).path(path)


def test_an_address_of_this_hdfs_is_a_path(settings: Settings) -> None:
    files = Hdfs(settings.files)
    assert [files.path(text) for text in (f"hdfs://{settings.files.namenode}/a//b/", "hdfs:///a", "/")] == [
        "/a/b",
        "/a",
        "/",
    ]


def test_an_hdfs_that_is_away_is_one_sentence(settings: Settings) -> None:
    away = Hdfs(replace(settings.files, webhdfs=f"http://127.0.0.1:{free_ports(1)[0]}"))
    with pytest.raises(
        UnavailableError,
        match=r"HDFS at http://127.0.0.1:\d+ does not answer: check files.webhdfs and that it runs",
    ):
        away.entries("/")


def test_files_of_the_command_line(
    hdfs: Settings,
    files: Hdfs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ANABRANCH__FILES__WEBHDFS", hdfs.files.webhdfs)
    (tmp_path / "a.csv").write_text("a,b\n")
    assert main(["files", "put", str(tmp_path / "a.csv"), "/t/a.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"files": ["/t/a.csv"], "bytes": 4}
    assert main(["files", "ls", "/t"]) == 0
    assert "/t/a.csv" in capsys.readouterr().out
    assert main(["files", "get", "/t/a.csv", str(tmp_path / "b.csv")]) == 0
    assert (tmp_path / "b.csv").read_text() == "a,b\n"
    assert main(["files", "rm", "/t/a.csv"]) == 0
    assert main(["files", "get", "/t/a.csv", str(tmp_path / "c.csv")]) == 1
    assert main(["files", "get", "t/a.csv", str(tmp_path / "c.csv")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: 't/a.csv' does not begin with '/'")


def test_artifacts_of_mlflow_in_hdfs_are_listed_fetched_and_deleted(
    hdfs: Settings, files: Hdfs, tmp_path: Path
) -> None:
    source = tmp_path / "model"
    (source / "deep").mkdir(parents=True)
    (source / "MLmodel").write_text("m")
    (source / "deep" / "data").write_text("d")
    artifacts = WebHdfsArtifacts(f"{hdfs.files.webhdfs.replace('http', 'webhdfs', 1)}/t/artifacts")
    artifacts.log_artifacts(str(source), "model")
    assert [(each.path, each.is_dir, each.file_size) for each in artifacts.list_artifacts("model")] == [
        ("model/MLmodel", False, 1),
        ("model/deep", True, None),
    ]
    fetched = Path(artifacts.download_artifacts("model", str(tmp_path)))  # type: ignore[no-untyped-call]
    assert {
        each.relative_to(fetched).as_posix(): each.read_text()
        for each in fetched.rglob("*")
        if each.is_file()
    } == {"MLmodel": "m", "deep/data": "d"}
    artifacts.delete_artifacts()
    assert InsecureClient(hdfs.files.webhdfs).status("/t/artifacts", strict=False) is None
