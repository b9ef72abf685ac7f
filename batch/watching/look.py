"""A look at a model after its release: labels that arrived later, drift, training/serving skew."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from anabranch.declare.models import Model
from anabranch.declare.projects import Project
from anabranch.declare.sources import Label
from anabranch.errors import AnabranchError, MisuseError
from anabranch.progress import Progress
from anabranch.stores.models.inputs import check_fits
from anabranch.stores.models.versions import Scorer
from anabranch.stores.opened import Stores
from anabranch.values.times import from_micros, now_micros, parse_time
from batch.building.current_rows import SUBJECT
from batch.evaluation.fairness import Fairness
from batch.evaluation.named_classes import class_codes
from batch.training.profile import FILE, Profile, read_profile
from batch.watching.drift import Drift, drifts, label_drift, score_drift
from batch.watching.findings import Findings
from batch.watching.outcomes import (
    Accuracy,
    JudgedPredictions,
    accuracies,
    fairness_by_version,
    judged,
)
from batch.watching.skew import Skew, skew
from batch.watching.trial_outcomes import TrialOutcome, trial_outcome

log = logging.getLogger(__name__)
MOST = 20_000
"""Predictions of a version, or current rows, that are compared: enough for shares to a hundredth."""
_PLACES = 1_000_000


def watch(stores: Stores, project: Project, progress: Progress, since: int | None = None) -> Findings:
    """Look at predictions and labels since `since` (microseconds; by default the declared window).

    Nothing is written. Raises MisuseError when the project has no model, or the model no champion.
    """
    started = time.monotonic()
    label, model = _watchable(project)
    champion = stores.models.champion(project.name)
    if champion is None:
        raise MisuseError(
            f"project {project.name!r} has no champion to look at: run 'anabranch train {project.name}' first"
        )
    horizon, window, period = project.watch.spans
    at = now_micros()
    first = at - window if since is None else since
    progress.step("predictions and their drift")
    predictions = (
        stores.lake.predictions(stores.spark, project, from_micros(first))
        .where("score IS NOT NULL AND model_version IS NOT NULL")
        .persist()
    )
    try:
        by_version = predictions.groupBy("model_version").count().collect()
        counts = {row["model_version"]: int(row["count"]) for row in by_version}
        look = _Look(stores, project, champion, counts)
        distributions, means = look.distributions(predictions) if counts else ({}, {})
        progress.step("labels that arrived later")
        by_label = look.judged(label, first, horizon) if counts else None
        accuracy, fair = ((), {}) if by_label is None else look.accuracy(model, by_label, period)
        outcome = None if by_label is None else look.trial(model, by_label)
        progress.step("answers recomputed from the lake")
        skew = look.skew(predictions) if counts else None
    finally:
        predictions.unpersist()
    progress.step("current rows")
    latest = stores.measures.latest(project.name)
    findings = Findings(
        project=project.name,
        metric=model.metric,
        at=at,
        since=first,
        champion=champion,
        predictions=counts,
        accuracy=accuracy,
        fairness=fair,
        trial=outcome,
        features={version: features for version, (features, _) in distributions.items()},
        scores={version: scores for version, (_, scores) in distributions.items()},
        labels=look.labels,
        means=means,
        current=look.current(),
        skew=skew,
        approximation={one.name: one for one in latest if one.subject == SUBJECT and one.version == champion},
        notes=(*look.notes, *_too_few(counts, project.watch.rows)),
        least=project.watch.rows,
    )
    seconds = time.monotonic() - started
    log.info("watched project=%s predictions=%s seconds=%.1f", project.name, sum(counts.values()), seconds)
    return findings


def _too_few(counts: Mapping[str, int], least: int) -> list[str]:
    return [
        f"version {version} has {count:,} predictions: its drift is judged from {least:,} on (Watch.rows)"
        for version, count in counts.items()
        if count < least
    ]


class _Look:
    """One look: versions and their profiles are loaded once; notes say what was left out and why."""

    def __init__(self, stores: Stores, project: Project, champion: str, counts: Mapping[str, int]) -> None:
        self.stores, self.project, self.champion, self.counts = stores, project, champion, counts
        none = "no predictions have landed: serve some, or run 'anabranch land'"
        self.notes: list[str] = [] if counts else [none]
        self.labels: dict[str, Drift] = {}
        self._scorers: dict[str, Scorer | None] = {}
        self._profiles: dict[str, Profile | None] = {}

    def scorer(self, version: str) -> Scorer | None:
        """The version; None when the registry does not have it any more."""
        if version not in self._scorers:
            try:
                self._scorers[version] = self.stores.models.scorer(self.project.name, version)
            except AnabranchError as error:
                self._scorers[version] = None
                self.notes.append(f"version {version} is left out: {error}")
        return self._scorers[version]

    def profile(self, version: str) -> Profile | None:
        """The profile of the version's training data; None when it was not recorded."""
        if version not in self._profiles:
            path = f"report/{FILE}"
            content = self.stores.models.files(self.project.name, version, [path]).get(path)
            self._profiles[version] = None if content is None else read_profile(content)
            if content is None:
                self.notes.append(
                    f"version {version} has no profile of its training data, so its drift is unknown: "
                    "train again to record one"
                )
        return self._profiles[version]

    def distributions(
        self, predictions: DataFrame
    ) -> tuple[dict[str, tuple[tuple[Drift, ...], Drift]], dict[str, float]]:
        """Drift of features and scores by version, and the mean score."""
        share = {version: int(min(1.0, MOST / count) * _PLACES) for version, count in self.counts.items()}
        limit = F.create_map(*[F.lit(each) for pair in share.items() for each in pair])[
            F.col("model_version")
        ]
        table = (
            predictions.where(F.pmod(F.xxhash64("prediction_id"), F.lit(_PLACES)) < limit)
            .select("model_version", "score", "label", "used")
            .toArrow()
        )
        versions = np.array(table.column("model_version").to_pylist(), dtype=object)
        labels = np.array(table.column("label").to_pylist(), dtype=object)
        scores, used = (
            table.column("score").to_numpy().astype(np.float64),
            np.array(table.column("used").to_pylist(), dtype=object),
        )
        found, means = {}, {}
        for version in self.counts:
            mine = np.asarray(versions == version)
            scorer = self.scorer(version)
            if not mine.any() or scorer is None:
                continue
            means[version] = float(scores[mine].mean())
            profile = self.profile(version)
            if profile is not None:
                rows = [json.loads(text) for text in used[mine].tolist()]
                found[version] = (self._drifts(profile, scorer, rows), score_drift(profile, scores[mine]))
                if profile.labels is not None:
                    places = class_codes(labels[mine].tolist(), scorer.classes)
                    self.labels[version] = label_drift(profile.labels, places)
        return found, means

    def current(self) -> tuple[Drift, ...]:
        """Drift of the current rows of every key."""
        scorer = self.scorer(self.champion)
        profile = None if scorer is None else self.profile(self.champion)
        if scorer is None or profile is None:
            return ()
        kept = [name for name in scorer.features if not self.project.asks((name,))]
        rows = self.stores.views.sample_features(self.project, kept, MOST) if kept else []
        found = self._drifts(profile, scorer, rows) if rows else ()
        return tuple(one for one in found if one.feature in kept)  # current rows have no request

    @staticmethod
    def _drifts(profile: Profile, scorer: Scorer, rows: Sequence[Mapping[str, Any]]) -> tuple[Drift, ...]:
        return tuple(
            drifts(
                profile,
                scorer.features,
                scorer.matrix({name: [row.get(name) for row in rows] for name in scorer.features}),
            )
        )

    def judged(self, label: Label, since: int, horizon: int) -> JudgedPredictions:
        """The predictions that labels judge."""
        found = judged(self.stores, self.project, label, since, horizon)
        if not len(found.score):
            self.notes.append("no label has arrived for a prediction yet")
        return found

    def trial(self, model: Model, found: JudgedPredictions) -> TrialOutcome | None:
        """The version on trial beside the champion, by the labels since the trial began."""
        trial = self.stores.models.roles(self.project.name).trial
        if trial is None:
            return None
        tried, champion = self.scorer(trial.version), self.scorer(self.champion)
        since = parse_time(trial.since)
        if tried is None or champion is None or since is None:
            return None
        if champion.classes or tried.classes:
            self.notes.append("labels do not compare a trial of several classes with the champion")
            return None
        outcome = trial_outcome(model.metric, found, champion, tried, since)
        if outcome is None:
            self.notes.append(f"no label has come since version {trial.version} is on trial")
        elif outcome.left_out:
            self.notes.append(
                f"{outcome.left_out} predictions do not record what version {trial.version} reads and say "
                "nothing of it"
            )
        return outcome

    def accuracy(
        self, model: Model, found: JudgedPredictions, period: int
    ) -> tuple[tuple[Accuracy, ...], dict[str, Fairness]]:
        """Accuracy of every version that labels judge, and its rates by slice."""
        thresholds = {
            version: scorer.threshold
            for version in self.counts
            if (scorer := self.scorer(version)) is not None
        }
        classes = {
            version: one.classes for version in thresholds if (one := self.scorer(version)) is not None
        }
        # Of several classes there are no rates of class 1.
        fair = {} if self.project.task == "classes" else fairness_by_version(model, found, thresholds)
        return tuple(accuracies(model, found, thresholds, period, classes)), fair

    def skew(self, predictions: DataFrame) -> Skew | None:
        """Skew of the champion, with the batch version that serves or the one before."""
        scorer, manifest = self.scorer(self.champion), self.stores.views.manifest(self.project.name)
        if scorer is None or manifest is None:
            return None
        try:
            check_fits(self.project, scorer.version, scorer.kinds)
        except MisuseError as error:
            self.notes.append(f"answers cannot be recomputed: {error}")
            return None
        for entry in filter(None, (manifest, manifest.previous)):
            found = skew(self.stores, self.project, scorer, entry, predictions)
            if found is not None and found.answers:
                return found
        self.notes.append("no answer of a known batch version could be recomputed")
        return None


def _watchable(project: Project) -> tuple[Label, Model]:
    if project.label is None or project.model is None:
        raise MisuseError(
            f"project {project.name!r} declares no model: there is nothing to watch after release"
        )
    return project.label, project.model
