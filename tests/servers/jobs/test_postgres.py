"""The embedded PostgreSQL: closed to strangers; MLflow's registry in it, moved to a newer schema, backed up
and restored as docs/operations.md says.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import psycopg
import pytest

from anabranch.errors import AnabranchError
from anabranch.stores.models.connection import RegistryConnection
from anabranch.stores.models.registry import Models
from jobs.servers import embedded
from jobs.servers.postgres import postgres_server, program
from jobs.servers.processes import read_record
from jobs.servers.server import ServerError
from jobs.wiring.sections import LOOPBACK
from jobs.wiring.settings import Settings, database_uri, load_settings, password_file
from tests.conftest import free_ports
from tests.support.heart_table import trained_heart
from tests.support.sockets import listening

TEN = [f"heart_{number}" for number in range(10)]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Settings]:
    """A PostgreSQL of these tests alone, in a folder that the user who runs it can enter."""
    folder = Path(tempfile.mkdtemp(prefix="anabranch-postgres-"))
    folder.chmod(0o711)
    (port,) = free_ports(1)
    settings = load_settings(
        {},
        {"paths.data": str(folder), "servers.postgres_port": port, "models.tracking_uri": "embedded"},
    )
    try:
        embedded.up(settings, ["postgres"])
        yield settings
    finally:
        embedded.down(settings, ["postgres"])
        shutil.rmtree(folder)


def connected(
    settings: Settings, role: str, database: str, **more: str
) -> "psycopg.Connection[tuple[object, ...]]":
    return psycopg.connect(
        host=LOOPBACK,
        port=settings.servers.postgres_port,
        user=role,
        dbname=database,
        **{"passfile": str(password_file(settings.data)), **more},  # type: ignore[arg-type]
    )


def test_it_listens_on_loopback_alone_and_not_as_root(postgres: Settings) -> None:
    record = read_record(postgres.data / "run" / "postgres.json")
    assert record is not None
    assert set(listening(record.pid)) == {LOOPBACK}
    owner = Path(f"/proc/{record.pid}").stat().st_uid
    assert owner != 0
    if os.geteuid() == 0:
        assert pwd.getpwuid(owner).pw_name in ("postgres", "nobody")


def test_nobody_enters_without_the_generated_password_of_the_role(postgres: Settings) -> None:
    file = password_file(postgres.data)
    assert file.stat().st_mode & 0o777 == 0o600
    secrets = [line.rpartition(":")[2] for line in file.read_text(encoding="utf-8").split()]
    assert len(set(secrets)) == 3
    assert all(len(secret) == 32 for secret in secrets)
    with connected(postgres, "mlflow", "mlflow") as open_one:
        assert open_one.execute("SELECT current_user").fetchone() == ("mlflow",)
    none = str(postgres.data / "none")
    for given in ({"passfile": none}, {"passfile": none, "password": "mlflow"}, {"password": secrets[0]}):
        with pytest.raises(psycopg.OperationalError, match="password"):
            connected(postgres, "mlflow", "mlflow", **given)
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        connected(postgres, "mlflow", "airflow")


def test_no_password_stands_in_a_command_line_or_a_log(postgres: Settings) -> None:
    secrets = [line.rpartition(":")[2] for line in password_file(postgres.data).read_text().split()]
    record = read_record(postgres.data / "run" / "postgres.json")
    assert record is not None
    shown = Path(f"/proc/{record.pid}/cmdline").read_text() + Path(f"/proc/{record.pid}/environ").read_text()
    shown += (postgres.data / "logs" / "postgres.log").read_text(encoding="utf-8") + repr(postgres)
    shown += postgres.models.tracking_uri
    assert not [secret for secret in secrets if secret in shown]
    assert not (postgres.data / "postgres" / "password").exists()


def test_a_registry_in_it_is_backed_up_and_restored(postgres: Settings) -> None:
    models = Models(postgres.models)
    assert trained_heart(postgres.models, "heart_kept") == "1"
    models.promote("heart_kept", "1")
    kept = models.list("heart_kept")
    environment = os.environ | {"PGPASSFILE": str(password_file(postgres.data))}
    place = ["-h", LOOPBACK, "-p", str(postgres.servers.postgres_port), "-U", "mlflow"]
    dump = str(postgres.data / "mlflow.dump")
    subprocess.run(
        [program("pg_dump"), *place, "--format=custom", f"--file={dump}", "mlflow"],
        env=environment,
        check=True,
    )
    RegistryConnection(postgres.models).client.delete_registered_model("heart_kept")
    assert models.list("heart_kept") == []
    subprocess.run(
        [
            program("pg_restore"),
            *place,
            "--clean",
            "--if-exists",
            "--single-transaction",
            "-d",
            "mlflow",
            dump,
        ],
        env=environment,
        check=True,
    )
    assert models.list("heart_kept") == kept
    assert models.champion("heart_kept") == "1"
    assert trained_heart(postgres.models, "heart_kept") == "2"  # sequences go on where they were


@pytest.mark.drill
def test_a_schema_of_an_older_mlflow_is_moved_by_its_command_and_refused_before(postgres: Settings) -> None:
    import sqlalchemy
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    with connected(postgres, "anabranch", "postgres") as administrator:
        administrator.autocommit = True
        administrator.execute("CREATE DATABASE older OWNER mlflow")
    uri = database_uri("mlflow", postgres.data, postgres.servers.postgres_port).replace("/mlflow?", "/older?")
    configuration = _get_alembic_config(uri)  # type: ignore[no-untyped-call]
    newest = ScriptDirectory.from_config(configuration).get_current_head()
    engine = sqlalchemy.create_engine(uri)
    Base.metadata.create_all(engine)
    command.upgrade(configuration, f"{newest}-3")
    move = [sys.executable, "-m", "mlflow", "db", "upgrade", uri]
    subprocess.run(move, check=True, capture_output=True)
    read, mark = (
        sqlalchemy.text("SELECT version_num FROM alembic_version"),
        sqlalchemy.text("UPDATE alembic_version SET version_num = '17e22815139b'"),
    )
    with engine.begin() as session:
        assert session.execute(read).scalar() == newest
        session.execute(mark)
    connection = RegistryConnection(replace(postgres.models, tracking_uri=uri))
    with pytest.raises(AnabranchError, match=r"out-of-date database schema.*mlflow db upgrade"):  # noqa: SIM117
        with connection.asking():
            connection.client.search_registered_models()
    engine.dispose()


@pytest.mark.drill
def test_ten_projects_train_at_once(postgres: Settings) -> None:
    with ProcessPoolExecutor(max_workers=10, mp_context=get_context("spawn")) as pool:
        versions = list(pool.map(trained_heart, [postgres.models] * 20, TEN * 2))
    assert sorted(versions) == ["1"] * 10 + ["2"] * 10
    for name in TEN:
        assert {entry.version for entry in Models(postgres.models).list(name)} == {"1", "2"}


def test_a_folder_that_its_user_cannot_enter_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    settings = load_settings({}, {"paths.data": str(closed / "data")})
    if os.geteuid() != 0:
        assert postgres_server(settings).command()[0] == program("postgres")
        return
    with pytest.raises(ServerError, match=r"cannot enter .*chmod o\+x"):
        postgres_server(settings).command()
