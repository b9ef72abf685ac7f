"""A REST server on a real socket over stores in memory: ``python -m tests.servers.fake_rest PORT FILE [SETTINGS]``."""

import json
import sys
import threading
from pathlib import Path

from features.loading import load_project
from serving.app import Application
from serving.server import run
from serving.settings import ServingSettings
from tests.serving_fakes import PROJECTS, bench


def load() -> Application:
    """The application; what it published is written beside it when it stops."""
    found = bench(PROJECTS, load_project("heart_disease", (PROJECTS,)).model_features, _settings())
    found.store.stored[("p1",)] = {"age": 60}
    if len(sys.argv) > 3 and "stuck" in json.loads(sys.argv[3]):
        found.store.current = lambda *_: threading.Event().wait()  # type: ignore[method-assign, assignment]
    stop = found.app.stop

    def stop_and_tell() -> None:
        stop()
        messages = found.topics.messages.get("predictions.heart_disease", [])
        Path(sys.argv[2]).write_text(str(len(messages)))

    found.app.stop = stop_and_tell  # type: ignore[method-assign]
    return found.app


def _settings() -> ServingSettings:
    more = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    more.pop("stuck", None)
    if "shared" in more:
        more["shared"] = Path(more["shared"])
    return ServingSettings(**{"port": int(sys.argv[1]), "body_bytes": 10_000, **more})


if __name__ == "__main__":
    run(_settings(), load)
