"""The flow of a plan: what is declared against what serves. It starts no JVM and writes nothing."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from anabranch.declare.loading import load_project
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.planning.changes import compare, refused_columns
from anabranch.planning.plans import ChangePlan, Comparison, SampledEvidence
from anabranch.planning.samples import LakeSample
from anabranch.planning.views import BUILD, RATE, SourceSize, plan_views
from anabranch.progress import Progress
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.models.versions import Scorer
from anabranch.values.times import SECOND, now_micros
from batch.evaluation.measures import measure
from jobs.wiring.context import Context


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Over how many `keys` and `labels` a plan is made; `against` is a folder with another declaration."""

    keys: int = 100
    labels: int = 300
    against: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What a declaration is compared with: the manifest, its declaration, and both in words."""

    manifest: Manifest | None
    project: Project | None
    text: str


def plan_project(context: Context, project: Project, options: PlanOptions, progress: Progress) -> ChangePlan:
    """What the declaration will do to what serves."""
    notes: list[str] = []
    progress.step("what serves")
    served = _served(context, project, options, notes)
    sample = LakeSample(context.settings.lake.root, notes)
    views = plan_views(
        project,
        served.project,
        served.manifest,
        sizes=_sizes(sample, project),
        rates=_rates(context, project, notes),
        slack=context.settings.times.slack_seconds * SECOND,
    )
    known = served.project is not None or served.manifest is None
    changes = compare(served.project, project) if known else None
    scorer = _champion(context, project, notes)
    evidence = SampledEvidence()
    if changes is not None and changes.all:
        comparison = Comparison(
            old=served.project, new=project, changes=changes, sample=sample, progress=progress
        )
        evidence = comparison.evidence(options.keys, options.labels, scorer, measure, now_micros())
    plan = ChangePlan(
        project=project.name,
        against=served.text,
        changes=changes,
        views=views,
        values=evidence.values,
        keys=evidence.keys,
        at=evidence.at,
        refused=evidence.refused,
        served=options.against is None,
        champion=evidence.champion,
        obstacles=[*(refused_columns(changes) if changes else []), *_lenders(context, project, notes)],
        borrowers=_borrowers(context, project, notes),
        notes=notes,
    )
    return plan.with_steps()


def _served(context: Context, project: Project, options: PlanOptions, notes: list[str]) -> Baseline:
    """What serves, or the declaration in a folder beside the states that serve."""
    if options.against is None:
        manifest = context.views.manifest(project.name)
        if manifest is None:
            return Baseline(manifest=None, project=None, text="nothing, as no batch version serves yet")
        text, kept = f"batch version {manifest.batch_version}", _kept(manifest, notes)
        return Baseline(manifest=manifest, project=kept, text=text)
    old = load_project(project.name, [options.against])
    try:
        manifest = context.views.manifest(project.name)
    except AnabranchError as error:
        notes.append(f"which states serve: {error}")
        manifest = None
    return Baseline(manifest=manifest, project=old, text=f"the declaration in {options.against}")


def _kept(manifest: Manifest, notes: list[str]) -> Project | None:
    """The declaration that a batch version was built by; None, with a note, where it cannot be had."""
    why = "does not keep the declaration it was built by"
    try:
        kept = manifest.kept
    except AnabranchError as error:
        kept, why = None, f"keeps a declaration that cannot be read ({error})"
    if kept is None:
        notes.append(
            f"batch version {manifest.batch_version} {why}: its views are compared, its features are not "
            "(--against FOLDER compares with a declaration)"
        )
    return kept


def _sizes(sample: LakeSample, project: Project) -> dict[str, SourceSize]:
    """What the sources have in the lake; none for one that Spark alone can count."""
    found = {}
    for name, source in project.sources.items():
        try:
            files = sample.table(project, source).files
        except AnabranchError as error:
            sample.missing.append(f"how many events source {name!r} has: {error}")
            continue
        if source.table is None:
            found[name] = SourceSize(
                rows=sum(file.count for file in files),
                bytes=sum(file.size for file in files),
                files=len(files),
            )
    return found


def _rates(context: Context, project: Project, notes: list[str]) -> dict[str, float]:
    """Events a second at which earlier builds read every event, by view, and "" for their median."""
    try:
        latest = context.measures.latest(project.name)
    except AnabranchError as error:
        notes.append(f"how long builds take: {error}")
        return {}
    found = {one.slice: one.value for one in latest if (one.subject, one.name) == (BUILD, RATE)}
    return {**found, "": median(found.values())} if found else {}


def _champion(context: Context, project: Project, notes: list[str]) -> Scorer | None:
    if project.model is None:
        return None
    try:
        version = context.models.champion(project.name)
        return None if version is None else context.models.scorer(project.name, version)
    except AnabranchError as error:
        notes.append(f"the champion: {error}")
        return None


def _borrowers(context: Context, project: Project, notes: list[str]) -> list[str]:
    """A sentence for each use of a view by another project that the declaration changes or takes away."""
    now = {view.name: view.promise for view in project.own_views}
    lines: list[str] = []
    for borrower in project.shared_with:
        try:
            manifest = context.views.manifest(borrower)
        except AnabranchError as error:
            notes.append(f"what project {borrower!r} borrows: {error}")
            return lines
        for name, noted in (manifest.shared if manifest is not None else {}).items():
            owner, _, view = name.partition(".")
            if owner == project.name and noted["promise"] != now.get(view):
                what = "goes" if view not in now else "changes"
                lines.append(
                    f"project {borrower!r} borrows view {view!r}, which {what}: anabranch build {borrower}"
                )
    return lines


def _lenders(context: Context, project: Project, notes: list[str]) -> list[str]:
    """A sentence for each borrowed view that its owner has not built as it is declared now."""
    lines: list[str] = []
    for view in (view for view, _ in project.stored_views if view.use.owner is not None):
        try:
            manifest = context.views.manifest(str(view.use.owner))
        except AnabranchError as error:
            notes.append(f"view {view.full_name!r}: {error}")
            return lines
        if manifest is None or manifest.fingerprints.get(view.name) != view.fingerprint:
            why = "never built" if manifest is None else "declared anew since its last build"
            lines.append(
                f"view {view.full_name!r} is of project {view.use.owner!r} and was {why}: "
                f"anabranch build {view.use.owner} comes first"
            )
    return lines
