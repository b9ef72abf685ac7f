"""A REST server on a real socket over stores in memory.

python -m tests.support.fake_rest PORT FILE [SETTINGS]
"""

import json
import sys
import threading
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from anabranch.answers.predict import Prediction
from anabranch.declare.loading import load_project
from anabranch.declare.projects import Project
from anabranch.stores.files.api_keys import ApiKeys
from serving.app import Application
from serving.http.access import Access, Issuer
from serving.http.messages import HttpRequest, Response
from serving.registration import Leaving
from serving.server import run
from serving.settings import ServingSettings
from tests.support.serving_fakes import NOW, PROJECTS, Bench, bench


def load(_: Leaving | None = None) -> Application:
    """The application; when it stops, FILE gets what it published and what refused calls changed."""
    serving = _settings()
    access = (
        Access(ApiKeys(Path(sys.argv[2]).parent / "keys.json").read, Issuer(), lambda: NOW)
        if serving.auth == "on"
        else None
    )
    found = bench(PROJECTS, load_project("heart_disease", (PROJECTS,)).model_features, serving, access)
    refused = watch(found)
    found.store.stored[("p1",)] = {"age": 60}
    if len(sys.argv) > 3 and "stuck" in json.loads(sys.argv[3]):
        found.store.current = lambda *_: threading.Event().wait()  # type: ignore[method-assign, assignment]
    stop = found.app.stop

    def stop_and_tell() -> None:
        stop()
        messages = {topic: len(each) for topic, each in found.topics.messages.items()}
        Path(sys.argv[2]).write_text(json.dumps({"messages": messages, **asdict(refused)}))

    found.app.stop = stop_and_tell  # type: ignore[method-assign]
    return found.app


@dataclass
class Refused:
    """Refused calls: how many, and which of them recorded, published or measured something."""

    refused: int = 0
    changing: list[str] = field(default_factory=list)


def watch(found: Bench) -> Refused:
    """Compare the stores before and after each refused call; calls must come one by one."""
    refused, handle, record = Refused(), found.app.handle, found.app.parts.service.record
    taken: list[str] = []

    def counting(project: Project, prediction: Prediction) -> None:
        taken.append(project.name)
        record(project, prediction)

    def state() -> tuple[object, ...]:
        # Predictions are counted when they are taken: they are published later, beside other calls.
        topics = dict(found.topics.messages)
        return (
            len(taken),
            {topic: len(each) for topic, each in topics.items() if not topic.startswith("predictions.")},
            len(found.kept),
        )

    async def watched(request: HttpRequest) -> Response:
        before = state()
        response = await handle(request)
        if response.status >= 400:
            refused.refused += 1
            if state() != before:
                refused.changing.append(
                    f"{request.method} {request.path} {request.body!r}: {response.status}"
                )
        return response

    found.app.handle = watched  # type: ignore[method-assign]
    found.app.parts.service.record = counting
    return refused


def _settings() -> ServingSettings:
    more = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    more.pop("stuck", None)
    if "shared" in more:
        more["shared"] = Path(more["shared"])
    return ServingSettings(**{"port": int(sys.argv[1]), "body_bytes": 10_000, **more})


if __name__ == "__main__":
    run(_settings(), load, partial(print, flush=True))
