"""The answer service: read stored features, add given ones, score, shape the answer, record the prediction.

Every way to ask calls it and adds what is its own: REST adds HTTP, score requests their topics, current rows
their table, tables of Spark SQL their schema, the command line the lake and the terminal.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from logging import getLogger
from typing import Any

from anabranch.answers.coalescing import Coalescer
from anabranch.answers.costs import StageCosts
from anabranch.answers.explaining import explanations
from anabranch.answers.features import Answer, Answers, Events
from anabranch.answers.predict import (
    Prediction,
    document,
    has_nothing_to_score,
    needs_store,
    predict,
    score_all,
    unknown_key,
)
from anabranch.answers.problems import ProblemError, of_error
from anabranch.answers.requests import Asked, Key
from anabranch.answers.spans import NOTHING, span
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError, UnavailableError
from anabranch.stores.breaker import Breaker
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.models.inputs import check_fits
from anabranch.stores.models.versions import ScoredRow, Scorer
from anabranch.values.times import now_micros

log = getLogger(__name__)
_MOST_SCORED = 100  # requests scored together; those of one caller are never split
_FAULTS = (AnabranchError, ValueError, ArithmeticError)
"""Errors of a model for values that it cannot take."""

Outcome = Prediction | ProblemError
_Scorable = tuple[Scorer, Asked, Answer | None]


def _forget(project: Project, prediction: Prediction) -> None:
    """Record nothing."""


@dataclass(frozen=True)
class Questions:
    """Requests to one project that are answered together, each by its version in `scorers`."""

    project: Project
    champion: Scorer
    asked: Sequence[Asked]
    scorers: Sequence[Scorer] = ()

    @cached_property
    def wanted(self) -> list[Key | None]:
        """The key to read for each request; None where no stored feature could change the score."""
        scorers = self.scorers or [self.champion] * len(self.asked)
        return [
            # The champion must be able to answer a canary's keys too, should the canary fail.
            one.key
            if needs_store(self.project, one, by)
            or (by is not self.champion and needs_store(self.project, one, self.champion))
            else None
            for one, by in zip(self.asked, scorers, strict=True)
        ]

    def reads(self, wanted: Sequence[Key | None]) -> tuple[list[Key], list[Events]]:
        """The keys to read, and the events that come with each; no events where none comes with any."""
        read: list[tuple[Key, Events]] = [
            (key, one.events) for key, one in zip(wanted, self.asked, strict=True) if key is not None
        ]
        events = [own for _, own in read] if any(own for _, own in read) else []
        return [key for key, _ in read], events

    def scorable(
        self, wanted: Sequence[Key | None], found: Iterable[Answer]
    ) -> list[_Scorable | ProblemError]:
        """Each request with its scorer and stored features, or the problem of an unknown key."""
        answers = iter(found)
        scorers = self.scorers or [self.champion] * len(self.asked)
        stored = [None if key is None else next(answers) for key in wanted]
        return [
            unknown_key(self.project, one.key, one.field)
            if one.key is not None and has_nothing_to_score(one, known)
            else (by, one, known)
            for by, one, known in zip(scorers, self.asked, stored, strict=True)
        ]


@dataclass
class AnswerService:
    """Answers questions to any project; `record` is called with each prediction.

    Methods that end in `_async` are for an event loop: concurrent callers are read and scored together.
    """

    answers: Answers
    record: Callable[[Project, Prediction], object] = _forget
    clock: Callable[[], int] = now_micros
    breaker: Breaker = field(default_factory=lambda: Breaker("Cassandra", failures=5, pause=1.0))
    costs: StageCosts = field(default_factory=StageCosts)
    _scoring: "Coalescer[tuple[Project, Scorer], _Scorable, Prediction]" = field(init=False)

    def __post_init__(self) -> None:
        self._scoring = Coalescer(self._score, most=_MOST_SCORED, name="score together")

    def features(
        self,
        project: Project,
        keys: Sequence[Mapping[str, object]],
        at: int | None = None,
        events: Sequence[Events] = (),
        manifest: Manifest | None = None,
    ) -> list[Answer]:
        """Merged features of keys, as of `at` or now, with the events that come with each.

        `manifest` as for `Answers.features`. Raises UnavailableError without the store.
        """
        return self.answers.features(project, keys, at, events, manifest)

    def describe(
        self,
        project: Project,
        stored: Answer,
        scorer: Scorer | None,
        *,
        requested: bool = False,
        explain: bool = False,
    ) -> dict[str, Any]:
        """The document of a key's features with its score and, with `explain`, its explanation.

        A key of which nothing is known has no score, nor has one of a model that needs the request, unless
        the values are `requested` ones: they include it.
        """
        scored: ScoredRow | None = None
        scorable = requested or scorer is None or not project.asks(scorer.features)
        if scorer is not None and stored.known and scorable:
            (scored,) = score_all(scorer, [stored.values])
        described = document(scorer.version if scorer else None, scored, stored, self.clock())
        if explain and scorer is not None and scored is not None:
            (described["explanation"],) = explanations(project, scorer, [stored.values], [scored.label])
        return described

    async def features_async(
        self,
        project: Project,
        keys: Sequence[Key],
        manifest: Manifest | None,
        events: Sequence[Events] = (),
    ) -> Sequence[Answer]:
        """Merged features as of now, with the events that come with each key.

        Without the store those of the cached batch parts, marked as degraded. Raises UnavailableError when
        the store is down and a part is not cached.
        """
        try:
            with self.breaker.calling():
                return await self.answers.answer(project, keys, manifest, events=events)
        except UnavailableError as error:
            return self.answers.last_known(project, keys, manifest, str(error), events=events)

    async def predict_async(self, questions: Questions, manifest: Manifest | None) -> list[Outcome]:
        """The outcome of each question, in order. Whatever the model raises is raised."""
        wanted = questions.wanted
        keys, events = questions.reads(wanted)
        with span("features", keys=len(keys)) if keys else NOTHING:
            found = await self.features_async(questions.project, keys, manifest, events) if keys else ()
        scorable = questions.scorable(wanted, found)
        scored: Sequence[Outcome] = await self._scoring.ask(
            (questions.project, questions.champion),
            [one for one in scorable if not isinstance(one, ProblemError)],
        )
        if any(one.explain for one in questions.asked):
            # In a thread: a sampled explanation takes milliseconds, in which others are answered.
            with span("explain"):
                scored = await asyncio.to_thread(explained, questions, scored)
        with span("log"):
            return self._recorded(questions.project, scorable, scored)

    def predict(self, questions: Questions, manifest: Manifest | None = None) -> list[Outcome]:
        """The outcome of each question, in order; a request that the model cannot take becomes a problem.

        Raises UnavailableError without the store: the questions can be asked again.
        """
        project, wanted = questions.project, questions.wanted
        try:
            keys, events = questions.reads(wanted)
            found = self.features(project, keys, events=events, manifest=manifest)
            scorable = questions.scorable(wanted, found)
        except UnavailableError:
            raise
        except AnabranchError as error:
            # Such as a view that was declared anew: requests that bring every feature can still be answered.
            problem = of_error(error)
            scorable = [
                (questions.champion, one, None) if key is None else problem
                for one, key in zip(questions.asked, wanted, strict=True)
            ]
        rest = [one for one in scorable if not isinstance(one, ProblemError)]
        scored = self._score_each(project, questions.champion, rest)
        return self._recorded(project, scorable, explained(questions, scored))

    async def _score(self, group: tuple[Project, Scorer], items: Sequence[_Scorable]) -> list[Prediction]:
        if not items:
            return []
        with span("predict", rows=len(items), model_version=group[1].version):
            since = self.costs.begin("score")
            scored = predict_by_version(*group, items, self.clock())
            self.costs.end("score", since, len(items))
            return scored

    def _score_each(
        self, project: Project, champion: Scorer, items: Sequence[_Scorable]
    ) -> Sequence[Outcome]:
        """Score all together, or one by one when that fails, so that one does not spoil the others."""
        if not items:
            return []
        try:
            return predict_by_version(project, champion, items, self.clock())
        except _FAULTS as error:
            if len(items) == 1:
                return [
                    ProblemError(500, "fault", f"the model of {project.name} failed at this request: {error}")
                ]
            return [outcome for one in items for outcome in self._score_each(project, champion, [one])]

    def _recorded(
        self, project: Project, scorable: Sequence[_Scorable | ProblemError], scored: Iterable[Outcome]
    ) -> list[Outcome]:
        """Outcomes in the order of the questions; each prediction is recorded."""
        rest = iter(scored)
        outcomes = [one if isinstance(one, ProblemError) else next(rest) for one in scorable]
        since = self.costs.begin("record")
        for outcome in outcomes:
            if isinstance(outcome, Prediction):
                self.record(project, outcome)
        self.costs.end("record", since, len(outcomes))
        return outcomes


def predict_by_version(
    project: Project, champion: Scorer, items: Sequence[_Scorable], now: int
) -> list[Prediction]:
    """Score requests, each by its own version, one call a version; where one fails the champion answers."""
    scorers, asked, stored = zip(*items, strict=True)
    if all(scorer is champion for scorer in scorers):
        return predict(project, champion, asked, stored, now)
    predictions: dict[int, Prediction] = {}
    for scorer in {id(scorer): scorer for scorer in scorers}.values():
        places = [place for place, one in enumerate(scorers) if one is scorer]
        part = [asked[place] for place in places], [stored[place] for place in places]
        try:
            scored = predict(project, scorer, *part, now)
        except AnabranchError:
            if scorer is champion:
                raise
            log.warning(
                "version %s of project %s failed as a canary: the champion answers",
                scorer.version,
                project.name,
                exc_info=True,
            )
            scored = predict(project, champion, *part, now)
        predictions |= dict(zip(places, scored, strict=True))
    return [predictions[place] for place in range(len(items))]


def explained(questions: Questions, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes with the explanations that were asked for, each by the version that answered.

    Where a version cannot explain its scores, a 409 problem takes the place of the prediction.
    """
    found = list(outcomes)
    asked = [
        (place, one) for place, one in enumerate(found) if isinstance(one, Prediction) and one.asked.explain
    ]
    for scorer in {one.version: one for one in (*questions.scorers, questions.champion)}.values():
        own = [(place, one) for place, one in asked if one.answer["model_version"] == scorer.version]
        if not own:
            continue
        try:
            rows, labels = [one.used for _, one in own], [one.answer["label"] for _, one in own]
            whys = explanations(questions.project, scorer, rows, labels)
        except _FAULTS as error:
            missing = isinstance(error, MisuseError)
            problem = ProblemError(
                409 if missing else 500, "not-explained" if missing else "fault", str(error)
            )
            for place, _ in own:
                found[place] = problem
            continue
        for (_, one), explanation in zip(own, whys, strict=True):
            one.answer["explanation"] = explanation
    return found


def fitting_scorer(project: Project, scorer: Scorer | None) -> Scorer:
    """`scorer`; raises a 503 problem without one, or when its inputs are declared otherwise now."""
    if scorer is None:
        detail = f"{project.name} has no champion: run 'anabranch train {project.name}'"
        raise ProblemError(503, "no-model", detail)
    try:
        check_fits(project, scorer.version, scorer.kinds)
    except MisuseError as error:
        raise ProblemError(503, "no-model", str(error)) from error
    return scorer
