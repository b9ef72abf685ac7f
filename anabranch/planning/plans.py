"""A plan: all that is told of a changed declaration, as one value. Nothing is started or written for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.planning.champion import (
    ChampionPlan,
    Measure,
    RecentLabel,
    affordable,
    fitness,
    metric_of,
    recent_labels,
    scored,
)
from anabranch.planning.changes import COMES, GOES, Changes
from anabranch.planning.samples import MOST_STEPS, Folding, Key, LakeSample, read_sample
from anabranch.planning.values import ValueChange, value_changes
from anabranch.planning.views import KEPT, ViewPlan, differs, seconds_anew
from anabranch.progress import Progress
from anabranch.stores.models.versions import Scorer
from anabranch.testing.rows import GivenEvents, feeds
from anabranch.values.keys import key_text, show_key
from anabranch.values.times import format_time


@dataclass(frozen=True, kw_only=True)
class ChangePlan:
    """What a declaration will do, `against` what it was compared with in words.

    `changes` are None where the meaning of the features that serve is not known. `values` are those as of
    `at` (microseconds) over `keys` sampled keys. `refused` counts events of the sample that landing would now
    send to quarantine. `served` is whether it is compared with what serves. `obstacles` are why a build
    would fail, `borrowers` sentences about other projects that use views, `notes` what could not be told,
    `steps` what to run.
    """

    project: str
    against: str
    changes: Changes | None
    views: Sequence[ViewPlan]
    values: Sequence[ValueChange] = ()
    keys: int = 0
    at: int | None = None
    refused: int = 0
    served: bool = True
    champion: ChampionPlan | None = None
    obstacles: Sequence[str] = ()
    borrowers: Sequence[str] = ()
    notes: Sequence[str] = ()
    steps: Sequence[str] = ()

    @property
    def changed(self) -> bool:
        """Whether anything would be another one than what serves."""
        return differs(self.changes, self.views)

    def with_steps(self) -> "ChangePlan":
        """The plan with the commands that carry it out, in order."""
        stored = self.served and self.changed
        stored = stored or any(view.becomes != KEPT for view in self.views)
        steps = [f"anabranch build {self.project}"] if stored else []
        champion = self.champion
        if champion is not None and (not champion.fits or champion.reads):
            steps.append(f"anabranch train {self.project}")
        return replace(self, steps=steps)

    @property
    def seconds(self) -> float | None:
        """How long views that are built anew take; None where it is not known."""
        return seconds_anew(self.views)

    def document(self) -> dict[str, Any]:
        """The plan as JSON."""
        changes = self.changes
        return {
            "project": self.project,
            "against": self.against,
            "changed": self.changed,
            "features": None if changes is None else [one.document() for one in changes.features],
            "same_features": None if changes is None else changes.same,
            "declaration": None if changes is None else [one.document() for one in changes.others],
            "views": [one.document() for one in self.views],
            "seconds": self.seconds,
            "values": [one.document() for one in self.values],
            "keys": self.keys,
            "at": None if self.at is None else format_time(self.at),
            "refused_events": self.refused,
            "champion": None if self.champion is None else self.champion.document(),
            "obstacles": list(self.obstacles),
            "borrowers": list(self.borrowers),
            "notes": list(self.notes),
            "next": list(self.steps),
        }


@dataclass(frozen=True, kw_only=True)
class SampledEvidence:
    """What a plan shows of real keys: values before and after, the champion's metric, and what is missing."""

    values: Sequence[ValueChange] = ()
    keys: int = 0
    at: int | None = None
    refused: int = 0
    champion: ChampionPlan | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two declarations over the same sampled events; `old` is None when nothing served before."""

    old: Project | None
    new: Project
    changes: Changes
    sample: LakeSample
    progress: Progress

    def evidence(
        self, keys: int, labels: int, scorer: Scorer | None, measure: Measure, now: int
    ) -> SampledEvidence:
        """Values of up to `keys` keys, and the champion's metric over up to `labels` labels.

        Values are as of the latest event in the lake, at most `now`: of windows of an hour nothing would be
        seen after a night without events.
        """
        sample, new = self.sample, self.new
        champion = None if scorer is None else fitness(new, scorer, self.changes)
        try:
            self.progress.step("keys and labels from the lake")
            found = sample.keys(new, keys)
            recent = [] if scorer is None else recent_labels(new, sample.labels(new, labels))
            asked: dict[str, Key] = {key_text(new.keys, key): key for key in found}
            asked |= {key_text(new.keys, one.key): one.key for one in recent}
            latest = sample.latest(new)
            at = now if latest is None else min(now, latest)
            self.progress.step(f"events of {len(asked):,} keys from the lake")
            events = sample.events([new, *([self._earlier] if self._earlier else [])], list(asked.values()))
            self.progress.step(f"{sum(map(len, events.values())):,} events by both declarations")
            sides = self._sides(events)
        except AnabranchError as error:
            sample.missing.append(f"values before and after are not shown: {error}")
            return SampledEvidence(champion=champion)
        values = self._values(found, at, sides)
        if champion is not None and scorer is not None and champion.fits:
            champion = self._judged(champion, scorer, measure, recent, sides)
        refused = len(sides.after.refused)
        return SampledEvidence(values=values, keys=len(found), at=at, refused=refused, champion=champion)

    def _sides(self, events: Mapping[str, Sequence[Mapping[str, Any]]]) -> "_Sides":
        """The events as both declarations read them, once where sources and keys are the same."""
        after, earlier = read_sample(self.new, events), self._earlier
        if earlier is None or feeds(earlier) == feeds(self.new):
            return _Sides(before=after, after=after)
        return _Sides(before=read_sample(earlier, events), after=after)

    def _values(self, keys: Sequence[Key], at: int, sides: "_Sides") -> list[ValueChange]:
        changed = [change for change in self.changes.features if change.before is None]
        names = [change.name for change in changed if change.kind != COMES]
        before = self._folded(self._earlier, sides.before, names, keys, at)
        names = [change.name for change in changed if change.kind != GOES]
        after = self._folded(self.new, sides.after, names, keys, at)
        kept = min(len(before), len(after))
        texts = [show_key(self.new.keys, key_text(self.new.keys, key)) for key in keys[:kept]]
        return value_changes(self.changes, texts, before[:kept], after[:kept])

    def _folded(
        self, project: Project | None, events: GivenEvents, names: Sequence[str], keys: Sequence[Key], at: int
    ) -> list[Mapping[str, Any]]:
        """The features as JSON, a mapping a key; fewer keys than given where they have too many events."""
        if project is None or not names:
            return [{} for _ in keys]
        which = "new" if project is self.new else "old"
        self.progress.step(f"{len(names)} features of {len(keys)} keys by the {which} declaration")
        try:
            folding = Folding(project, events, names)
        except AnabranchError as error:
            self.sample.missing.append(f"values by the {which} declaration: {error}")
            return []
        types = {name: column.type for name, column in project.column_of.items()}
        left = MOST_STEPS
        found: list[Mapping[str, Any]] = []
        for number, key in enumerate(keys):
            left -= folding.steps(key, at)
            if left < 0 and found:
                self.sample.missing.append(
                    f"only {number} of {len(keys)} sampled keys are shown: the others would take long"
                )
                break
            row = folding.values(key, at)
            found.append({name: types[name].to_json(value) for name, value in row.items()})
            self.progress.advance(number + 1, len(keys))
        return found

    def _judged(
        self,
        champion: ChampionPlan,
        scorer: Scorer,
        measure: Measure,
        labels: Sequence[RecentLabel],
        sides: "_Sides",
    ) -> ChampionPlan:
        if not labels:
            return replace(champion, unknown="the lake has no label yet")
        self.progress.step(f"{champion.metric} over {len(labels)} recent labels")
        old = self._earlier
        try:
            newer = Folding(self.new, sides.after, scorer.features)
            chosen = affordable(newer, labels)
            after = metric_of(measure, self.new, scorer, chosen, scored(newer, scorer, chosen))
            before = None
            if old is not None and {*scorer.features} <= {*old.inputs}:
                older = Folding(old, sides.before, scorer.features)
                before = metric_of(measure, self.new, scorer, chosen, scored(older, scorer, chosen))
        except AnabranchError as error:
            return replace(champion, unknown=str(error))
        unknown = "" if after is not None else f"all {len(chosen)} recent labels are of one class"
        return replace(champion, labels=len(chosen), before=before, after=after, unknown=unknown)

    @property
    def _earlier(self) -> Project | None:
        """The old declaration where its features can be computed for the new one's keys."""
        same = self.old is not None and {*self.old.keys} == {*self.new.keys}
        return self.old if same else None


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """The sampled events as the old and the new declaration read them."""

    before: GivenEvents
    after: GivenEvents
