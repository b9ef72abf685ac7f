"""The edge bundle: a model version as a folder with which a device scores without Anabranch or a network.

    <folder>/model.onnx         the model
    <folder>/features.json      what it reads, in order, how values are coded, what a score means
    <folder>/run.py             scores rows with numpy and onnxruntime (edge_runner.py)
    <folder>/vectors_*.py       computes the derived features, of a project that has some
    <folder>/model_card.html    what it is for, how good it is, its limits
    <folder>/README.md          how a device uses all this
    <folder>/MANIFEST.json      project, version, declaration, and the SHA-256 of every other file

The same version gives the same bytes. A folder appears whole or not at all.
"""

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError
from anabranch.progress import Progress
from anabranch.stores import models as model_files
from anabranch.stores.files.hdfs import Hdfs
from anabranch.stores.files.objects import Objects, is_object
from anabranch.stores.models.inputs import check_fits
from anabranch.stores.models.registry import Models
from anabranch.stores.models.versions import ModelVersion
from anabranch.values import vectors
from anabranch.values.times import DAY

log = logging.getLogger(__name__)
MANIFEST = "MANIFEST.json"
KIND = "anabranch edge bundle"
_MODEL, _FEATURES, _CARD = "model.onnx", "features.json", "report/model_card.html"
RUNNER = Path(model_files.__file__).with_name(
    "edge_runner.py"
)  # a file, not a module: importing it opens a bundle
_ENCODING = {
    "number": "a number",
    "boolean": "true or false",
    "date": "ISO 8601, or days since 1970-01-01",
    "timestamp": "ISO 8601 (no zone means UTC), or microseconds since 1970-01-01",
    "text": "a text; one that is not among the categories is as good as missing",
}
_UNITS = {"date": DAY, "timestamp": 1}
"""What a time's number counts, in microseconds."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A bundle that was written: place, version, the SHA-256 of each file by name and of the manifest."""

    place: str
    version: str
    files: Mapping[str, str]
    sha256: str


def export(
    models: Models, project: Project, place: str, version: str | None, progress: Progress, hdfs: Hdfs
) -> Exported:
    """Write the bundle of `version` (the champion when None) to a folder of this machine, HDFS or S3.

    A bundle on this machine is replaced. Devices are informed of any other, which all of them find.
    Raises MisuseError for a folder with anything else in it, for a version without an ONNX form, and for a
    version whose ONNX form disagrees with the model.
    """
    scorer = models.scorer(project.name, version)
    check_fits(project, scorer.version, scorer.kinds)
    progress.step(f"version {scorer.version} of {project.name} as an edge bundle")
    files = bundle(models, project, scorer.version)
    manifest = files[MANIFEST]
    if place.startswith("hdfs://"):
        _to_hdfs(files, place, hdfs, progress)
        models.record_bundle(project.name, scorer.version, place, _digest(manifest))
    elif is_object(place):
        _to_objects(files, Objects(place))
        models.record_bundle(project.name, scorer.version, place, _digest(manifest))
    else:
        write_bundle(files, Path(place))
    log.info(
        "exported project=%s version=%s bytes=%d place=%s",
        project.name,
        scorer.version,
        sum(map(len, files.values())),
        place,
    )
    digests = {name: _digest(content) for name, content in files.items() if name != MANIFEST}
    return Exported(place=place, version=scorer.version, files=digests, sha256=_digest(manifest))


def bundle(models: Models, project: Project, version: str) -> dict[str, bytes]:
    """The bundle's files by name."""
    entry = models.entry(project.name, version)
    found = models.files(project.name, version, (_MODEL, _FEATURES, _CARD))
    described = json.loads(found[_FEATURES])
    _check(project, entry, found, str(described["native"]))
    files = {
        _MODEL: found[_MODEL],
        _FEATURES: _json(features(project, entry, described)),
        "run.py": RUNNER.read_bytes(),
        "model_card.html": found[_CARD],
        "README.md": _readme(project, entry).encode(),
        **(evaluator() if project.derived_columns else {}),
    }
    manifest = {
        "kind": KIND,
        "format": 1,
        "project": project.name,
        "model_version": version,
        "trained": entry.created,
        "declaration": entry.fingerprint,
        "lake_versions": dict(entry.lake_versions),
        "files": {
            name: {"sha256": _digest(content), "bytes": len(content)}
            for name, content in sorted(files.items())
        },
    }
    return {**files, MANIFEST: _json(manifest)}


def features(project: Project, entry: ModelVersion, described: Mapping[str, Any]) -> dict[str, Any]:
    """The bundle's features.json, from the version's own."""
    windows = {column.name: column.window for column in project.view_columns}
    listed = []
    for given in described["inputs"]:
        name, kind = given["name"], given["kind"]
        window = {"window": windows[name].name} if name in windows and windows[name].bounded else {}
        unit = {"unit": _UNITS[kind]} if kind in _UNITS else {}
        listed.append(
            {**given, "type": str(project.inputs[name]), "given_as": _ENCODING[kind], **unit, **window}
        )
    derived = _derived(project)
    named = dict.fromkeys(given["name"] for given in listed)
    target = project.label.target if project.label else ""
    label, meaning = _label(target, described)
    return {
        "format": 1,
        "project": project.name,
        "model_version": entry.version,
        "task": described["task"],
        "score": meaning,
        "label": label,
        **({"interval": described["interval"]} if "interval" in described else {}),
        "output": described["output"],
        "missing": (
            "null, NaN, an infinity, or left out: "
            "the model was trained with missing values and takes them as NaN"
        ),
        "matrix": "float32, one column a feature in this order; a text is its position among its categories",
        "keys": list(project.keys),
        "accepted": [*project.keys, *dict.fromkeys([*named, *derived["reads"], *derived["request"]])],
        "features": listed,
        **({"derived": derived} if project.derived_columns or project.request_columns else {}),
    }


def _label(target: str, described: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The entry `label` of the bundle's features.json, and what a score means."""
    if described["task"] == "number":
        return None, f"{target}, as a number"
    if described["task"] == "classes":
        return {"target": target, "classes": described["classes"]}, "the probability of the label"
    names = {"0": f"not ({target})", "1": target}
    label = {"target": target, "threshold": described["threshold"], "names": names}
    return label, "the probability of label 1"


def _derived(project: Project) -> dict[str, Any]:
    """How a device computes the derived features: a program, what it reads, and the request's defaults."""
    program = project.program if project.derived_columns else None
    types = project.inputs  # columns of the key are texts
    reads = [] if program is None else list(program.reads)
    return {
        "program": None if program is None else program.described,
        "expressions": {column.name: column.text for column in project.derived_columns},
        "reads": {name: _UNITS.get(types[name].model_kind) if name in types else None for name in reads},
        "required": [column.name for column in project.request_columns if column.required],
        "request": {column.name: column.default for column in project.request_columns},
    }


def write_bundle(files: Mapping[str, bytes], place: Path) -> None:
    """Write the files as the folder `place`, completely or not at all; an existing bundle is replaced."""
    _check_replaceable(place)
    draft = place.absolute().with_name(f".{place.absolute().name}-{uuid.uuid4().hex[:12]}")
    try:
        draft.mkdir(parents=True)
        for name, content in files.items():
            (draft / name).write_bytes(content)
        if place.exists():
            # A folder takes another's name only when that is empty: the old one steps aside first.
            old = draft.with_name(f"{draft.name}.old")
            place.rename(old)
            draft.rename(place)
            shutil.rmtree(old)
        else:
            draft.rename(place)
    except OSError as error:
        raise AnabranchError(
            f"the bundle cannot be written to {place} ({error}): check the folder and the space left"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check_replaceable(place: Path) -> None:
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    try:
        ours = json.loads((place / MANIFEST).read_text(encoding="utf-8"))["kind"] == KIND
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise MisuseError(
            f"{place} exists and is no edge bundle: give a new folder, an empty one, "
            "or one that 'anabranch export' wrote"
        )


def _to_hdfs(files: Mapping[str, bytes], place: str, hdfs: Hdfs, progress: Progress) -> None:
    if hdfs.entry(place) is not None:
        raise MisuseError(
            f"{place} exists already: a bundle in HDFS is not replaced, give each version a folder of its own"
        )
    with TemporaryDirectory(prefix="anabranch-bundle-") as folder:
        write_bundle(files, Path(folder) / "bundle")
        hdfs.put(Path(folder) / "bundle", place, progress)


def _to_objects(files: Mapping[str, bytes], store: Objects) -> None:
    """Write the manifest last: an object store has no rename of folders, and who finds it finds the rest."""
    if store.sizes():
        raise MisuseError(
            f"{store.place} exists already: a bundle in S3 is not replaced, give each version a place of its "
            "own"
        )
    with TemporaryDirectory(prefix="anabranch-bundle-") as folder:
        write_bundle(files, Path(folder) / "bundle")
        for name in [*(name for name in files if name != MANIFEST), MANIFEST]:
            store.put(Path(folder) / "bundle" / name, name)


def _check(project: Project, entry: ModelVersion, found: Mapping[str, bytes], native: str) -> None:
    name = f"version {entry.version} of {project.name!r}"
    if _MODEL not in found:
        raise MisuseError(
            f"{name} has no ONNX form: its model ({native}) has none that says the same; "
            "train with another trainer to take it to a device"
        )
    for check in entry.checks:
        if check.get("name") == "parity" and not check.get("passed"):
            raise MisuseError(
                f"{name} did not pass the check of parity ({check.get('said')}): "
                "a device would score otherwise; train again"
            )
    if _CARD not in found:
        raise AnabranchError(
            f"{name} has no model card in its report: train again, a device gets no model without one"
        )


def _readme(project: Project, entry: ModelVersion) -> str:
    return f"""# {project.name}, model version {entry.version}, for a device

{project.description or "No description is declared."}

    python -m pip install numpy onnxruntime     # Python 3.11 or later; nothing else is needed
    echo '{{}}' | python run.py                   # a row in which everything is missing
    python run.py rows.jsonl                    # one JSON object a line, or all in one array

Each answer is a line `{{"score": ..., "label": ..., "model_version": "{entry.version}"}}`; of several classes
it has `scores` by class too, of numbers with intervals `interval`.
A row names features of `features.json`; one that it leaves out is missing, and an unknown name is refused.
It may also have {", ".join(f"`{key}`" for key in project.keys)}, which {_of_keys(project)}.
{_of_derived(project)}`features.json` also describes how to code a row for `model.onnx` without Python.
`model_card.html` says what the model is for, how good it is and what it must not be used for.

`MANIFEST.json` has the SHA-256 of every file: compare them before you use a bundle. The Kafka topic
`models.{project.name}` announces new versions; its key `champion` holds the one to use.
"""


def _of_keys(project: Project) -> str:
    reads = project.program.reads if project.derived_columns else ()
    used = [name for name in project.keys if name in reads]
    return f"derived features read: {', '.join(used)}" if used else "is ignored"


def _of_derived(project: Project) -> str:
    columns, text = project.request_columns, ""
    if columns:
        must = ", ".join(f"`{one.name}`" for one in columns if one.required) or "none"
        text += f"Columns of the request are part of the row; required: {must}.\n"
    if project.derived_columns:
        shown = ", ".join(f"`{one.name}`" for one in project.derived_columns)
        text += f"Derived features ({shown}) are computed from the others, unless the row has them.\n"
    return text


def evaluator() -> dict[str, bytes]:
    """The modules that run programs, as files beside the runner, which import one another by name."""
    package = "anabranch.values.vectors."
    files = sorted(Path(vectors.__file__).parent.glob("[a-z]*.py"))
    return {
        f"vectors_{file.name}": file.read_text(encoding="utf-8").replace(package, "vectors_").encode()
        for file in files
    }


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
