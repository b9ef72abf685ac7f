"""No password leaves by an error, a log, a repr or a page."""

import logging
import pickle
from pathlib import Path

import pytest

from anabranch.answers.problems import ProblemError
from anabranch.errors import AnabranchError, SecretlessFormatter, UnavailableError, without_secrets
from anabranch.settings import ModelsSettings
from anabranch.stores.models.connection import RegistryConnection
from jobs.wiring.settings import load_settings
from tests.support.serving_fakes import PROJECTS, bench

URI = "postgresql://mlflow:s3cr:et@db.example:5432/mlflow"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"MLflow at {URI} is away", "MLflow at postgresql://mlflow:***@db.example:5432/mlflow is away"),
        ("https://:s3cret@a/b and http://u:p%40s@c", "https://:***@a/b and http://u:***@c"),
        ("jdbc:x?user=a&password=s3cret&ssl=1", "jdbc:x?user=a&password=***&ssl=1"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("webhdfs://me@node:9870/a and http://127.0.0.1:8100/x@y", None),
        ("the password is missing: set views.password", None),
    ],
)
def test_passwords_are_left_out_of_texts(text: str, shown: str | None) -> None:
    assert without_secrets(text) == (text if shown is None else shown)


def test_every_error_of_ours_is_without_them_also_after_a_journey_between_processes() -> None:
    for error in (AnabranchError(URI), UnavailableError(f"{URI} is away")):
        travelled = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        assert "s3cr" not in f"{error} {error!r} {travelled!r}"
    problem = ProblemError(503, "unavailable", URI)
    assert b"s3cr" not in problem.body()


def test_the_address_of_a_registry_shows_no_password_in_readiness(tmp_path: Path) -> None:
    heart = bench(PROJECTS, ("age",))
    connection = RegistryConnection(ModelsSettings(tracking_uri=URI))

    def roles(project: str) -> None:
        with connection.asking():
            raise OSError(f"cannot reach {URI}")

    heart.registry.roles = roles  # type: ignore[method-assign, assignment]
    heart.app.live.refresh()
    text = heart.raw("GET", "/readyz").body + heart.raw("GET", "/v1/projects").body
    assert b"db.example" in text
    assert b"s3cr" not in text


def test_settings_and_logs_show_none() -> None:
    secret = {
        "models.tracking_uri": URI,
        "spark.conf": "spark.a=s3cret",
        "files.webhdfs": "http://u:s3cr@h:1",
    }
    assert "s3cr" not in repr(load_settings({}, secret))
    record = logging.LogRecord("a", logging.ERROR, "a", 1, "at %s", (URI,), None)
    assert SecretlessFormatter().format(record) == "at postgresql://mlflow:***@db.example:5432/mlflow"
