"""The comparison of trainers on a project's training set by repeated k-fold, with the same folds for all.

A candidate that chooses or searches, such as `auto`, does so on each fold's training part alone (nested
validation), so its figure is what to expect on new keys. Parameters that were fixed beforehand with a look at
the same labels are not nested: their figures are optimistic, and the page says so.
"""

import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student
from threadpoolctl import threadpool_limits

from anabranch.declare.models import SMALLER_IS_BETTER, Model, Search
from anabranch.progress import Progress
from batch.evaluation.measures import measure
from batch.evaluation.splits import folds
from batch.trainers.registry import TRAINERS, learn
from batch.trainers.rows import TrainingRows

PLAIN = "plain logistic regression"
PLAIN_NUMBERS = "plain linear regression"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to learn under a name; `plain` ignores the declared categories."""

    name: str
    trainer: str
    params: tuple[tuple[str, object], ...] = ()
    plain: bool = False
    search: Search | None = None


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A candidate's metric on held-out folds: the mean, its 95% interval, seconds a training.

    The interval is by Nadeau and Bengio's corrected resampled t-test: folds of repeats share rows, so the
    plain standard error would be too small. `ahead` is the mean difference to the plain candidate on the same
    folds, turned so that larger is better.
    """

    name: str
    metric: str
    mean: float
    low: float
    high: float
    ahead: float
    ahead_low: float
    ahead_high: float
    seconds: float
    folds: int


def candidates(model: Model, task: str | None = None) -> list[Candidate]:
    """The plain model, the usual trainers of the task with their defaults, and the declared one.

    `task` is the project's; by default that of the metric alone.
    """
    task = task or model.task
    simple = "linear" if task == "number" else "logistic"
    weak = (("alpha", 1e-3),) if task == "number" else (("C", 1.0),)
    found = [
        Candidate(name=PLAIN_NUMBERS if task == "number" else PLAIN, trainer=simple, params=weak, plain=True)
    ]
    found += [
        Candidate(name=name, trainer=name)
        for name in (simple, "forest", "xgboost", "auto")
        if task in TRAINERS[name].tasks
    ]
    # Trainers on Spark's workers are too slow for hundreds of small fits.
    on_driver = ":" in model.trainer or TRAINERS[model.trainer].spread != "always"
    if on_driver and (model.trainer not in {one.trainer for one in found} or model.params or model.search):
        declared = tuple(model.params.items())
        found.append(
            Candidate(
                name=f"declared: {model.trainer}", trainer=model.trainer, params=declared, search=model.search
            )
        )
    return found


def evaluate_candidates(
    rows: TrainingRows,
    ways: Sequence[Candidate],
    progress: Progress,
    *,
    count: int = 10,
    repeats: int = 10,
    processes: int = 1,
) -> list[Quality]:
    """Every candidate on `repeats` times `count` folds.

    Raises AnabranchError when there are fewer keys than folds.
    """
    parts = fold_masks(rows, count, repeats)
    found = np.empty((len(ways), len(parts)))
    seconds = np.zeros(len(ways))
    # Processes are spawned, not forked: libraries that run threads do not survive a fork.
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_remember, initargs=(rows, tuple(ways), parts)
    ) as pool:
        # The long ones first, so that the last process does not work alone.
        order = [(way, part) for way in reversed(range(len(ways))) for part in range(len(parts))]
        waiting = {pool.submit(_one, way, part): (way, part) for way, part in order}
        for done, future in enumerate(as_completed(waiting), 1):
            way, part = waiting[future]
            found[way, part], took = future.result()
            seconds[way] += took
            progress.advance(done, found.size)
    return [
        quality(rows, way.name, found[i], found[0], float(seconds[i]) / len(parts), count)
        for i, way in enumerate(ways)
    ]


def fold_masks(rows: TrainingRows, count: int, repeats: int) -> list[NDArray[np.bool_]]:
    """The masks of the held-out rows of every fold of every repeat."""
    parts = []
    for repeat in range(repeats):
        fold = folds(rows.target, rows.groups, rows.task, count, rows.seed + 101 * repeat)
        parts += [fold == number for number in range(count)]
    return parts


def page(project: str, found: Sequence[Quality], repeats: int, count: int, rows: int) -> str:
    """The table as Markdown."""
    heads = [
        "candidate",
        found[0].metric,
        "95% interval",
        f"ahead of {found[0].name}",
        "95% interval",
        "seconds a training",
    ]
    lines = [
        f"# How well {project} can be learnt",
        "",
        f"{repeats} x {count} folds by key over {rows:,} labels.",
        "",
        "`auto` and a search choose on each fold's training part alone. Parameters declared after a look at",
        "these labels were not chosen inside the folds: the figure of such a candidate is optimistic.",
        "",
    ]
    lines += ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(cells(one)) + " |" for one in found]
    return "\n".join(lines) + "\n"


def cells(one: Quality) -> list[str]:
    """The cells of a candidate's row in the table."""
    interval, ahead = f"[{one.low:.4f}, {one.high:.4f}]", f"[{one.ahead_low:+.4f}, {one.ahead_high:+.4f}]"
    return [one.name, f"{one.mean:.4f}", interval, f"{one.ahead:+.4f}", ahead, f"{one.seconds:.2f}"]


_Work = tuple[TrainingRows, tuple[Candidate, ...], list[NDArray[np.bool_]]]
_work: dict[str, _Work] = {}  # in each process of the pool


def _remember(rows: TrainingRows, ways: tuple[Candidate, ...], parts: list[NDArray[np.bool_]]) -> None:
    warnings.simplefilter("ignore")
    threadpool_limits(1)  # a process a core is enough
    _work["all"] = (rows, ways, parts)


def _one(way: int, part: int) -> tuple[float, float]:
    rows, ways, parts = _work["all"]
    candidate, mask = ways[way], parts[part]
    learning = replace(rows.part(~mask), params=dict(candidate.params))
    if candidate.plain:
        learning = replace(learning, categories=())
    if candidate.trainer not in ("ensemble", "cascade"):
        learning = replace(learning, members=())
    started = time.monotonic()
    learnt = learn(candidate.trainer, learning, candidate.search)
    took = time.monotonic() - started
    return measure(rows.judged_by, rows.target[mask], learnt.scores(rows.matrix[mask])), took


def quality(
    rows: TrainingRows,
    name: str,
    found: NDArray[np.float64],
    plain: NDArray[np.float64],
    seconds: float,
    count: int,
) -> Quality:
    """The summary of a candidate's metric by fold (`found`) beside that of the plain candidate."""
    turned = -1.0 if rows.judged_by in SMALLER_IS_BETTER else 1.0
    low, high = _interval(found, count)
    ahead = turned * (found - plain)
    ahead_low, ahead_high = _interval(ahead, count)
    return Quality(
        name=name,
        metric=rows.judged_by,
        mean=float(found.mean()),
        low=low,
        high=high,
        ahead=float(ahead.mean()),
        ahead_low=ahead_low,
        ahead_high=ahead_high,
        seconds=seconds,
        folds=len(found),
    )


def _interval(found: NDArray[np.float64], count: int) -> tuple[float, float]:
    """The 95% interval by Student's t with the variance of Nadeau and Bengio (2003).

    That is (1 / n + test / train) times the variance of the folds.
    """
    if len(found) < 2:
        return float(found.mean()), float(found.mean())
    error = float(np.sqrt((1 / len(found) + 1 / (count - 1)) * found.var(ddof=1)))
    wide = float(student.ppf(0.975, len(found) - 1)) * error
    return float(found.mean()) - wide, float(found.mean()) + wide
