"""Where the time of an answer goes: each stage alone, in one thread of this process."""

import asyncio
import json
import statistics
import time
from collections.abc import Callable

from anabranch.answers.features import Answers
from anabranch.answers.own_requests import event_values
from anabranch.answers.parts import Parts
from anabranch.answers.predict import predict
from anabranch.answers.requests import Asked, read_asked
from anabranch.events.event_schemas import event_example
from anabranch.events.json_values import encode
from anabranch.folds.merge import LABELS, BatchPart, merge, with_events
from anabranch.folds.packing import unpack_rows
from anabranch.stores.cassandra.views import Views
from anabranch.stores.models.registry import Models
from anabranch.values.times import format_time, now_micros
from tests.bench.report import Row, alone
from tests.bench.serving_data import River

RUNS = 1000


def micros(work: Callable[[], object], runs: int = RUNS) -> float:
    """Median microseconds of one run."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter_ns()
        work()
        seconds.append(time.perf_counter_ns() - started)
    return statistics.median(seconds) / 1000


def stage_rows(found: River) -> list[Row]:
    """One row a stage, in the order of an answer."""
    project, views = found.projects[0], Views(found.settings.views)
    (view,), manifest = project.views, views.manifest(project.name)
    scorer, now = Models(found.settings.models).scorer(project.name), now_micros()
    body, blob = json.dumps({"key": found.keys[0]}).encode(), found.parts[0].rows.tobytes()
    read = read_asked(body, project)
    asked = read if isinstance(read, Asked) else read[0]
    (stored,) = Answers(views).features(project, [{"key": found.keys[0]}])
    (prediction,) = predict(project, scorer, [asked], [stored], now)
    width = LABELS + view.layout.width

    def awaited(answers: Answers) -> float:
        answers.prepare(project, manifest)

        async def run() -> float:
            seconds = []
            for position in range(RUNS):
                key = {"key": found.keys[position % 100]}
                started = time.perf_counter_ns()
                await answers.answer(project, [key], manifest)
                seconds.append(time.perf_counter_ns() - started)
            return statistics.median(seconds) / 1000

        asyncio.run(run())
        return asyncio.run(run())

    given = {
        **event_example(view.source),
        view.keys[0]: found.keys[0],
        view.source.time: format_time(now - 1),
    }
    with_event = json.dumps({"key": found.keys[0], "event": {"source": view.source.name, "event": given}})
    (own,) = event_values(json.loads(with_event)["event"], project, {view.keys[0]: found.keys[0]}, now)
    known = with_events(view, (found.parts[0], found.fresh[0]), [own.row], [own.time])
    merging = micros(lambda: merge(view, found.parts[0], found.fresh[0], now))
    stages = {
        "read the request": micros(lambda: read_asked(body, project)),
        "read and merge, alone on the wire: batch part and tiles": awaited(Answers(views)),
        "read and merge, alone on the wire: tiles, the batch part cached": awaited(
            Answers(views, parts=Parts(10**8))
        ),
        "of that: decode the batch part": micros(lambda: BatchPart(0, 0, unpack_rows(blob, width))),
        "of that: merge and finish": merging,
        "an event of the question: read and judge it": micros(
            lambda: read_asked(with_event.encode(), project, now)
        )
        - micros(lambda: read_asked(body, project)),
        "an event of the question: its states": micros(
            lambda: with_events(view, (found.parts[0], found.fresh[0]), [own.row], [own.time])
        ),
        "an event of the question: merge it": micros(lambda: merge(view, *known, now)) - merging,
        "score under ONNX Runtime, inputs and label included": micros(
            lambda: predict(project, scorer, [asked], [stored], now)
        ),
        "write the answer": micros(lambda: encode(prediction.answer)),
    }
    return [alone(f"stage: {name}", value, "us") for name, value in stages.items()]
