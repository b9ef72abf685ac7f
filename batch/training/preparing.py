"""From a training set in memory to rows for a trainer and held-out rows to judge the model on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anabranch.declare.models import Model
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.stores.models.inputs import ModelInput, model_inputs
from anabranch.stores.models.scoring import InputCoder, Matrix
from batch.evaluation.hindsight import Sights
from batch.evaluation.named_classes import check_named_classes, coded_targets
from batch.evaluation.splits import Split, split
from batch.trainers.rows import TrainingRows

KEY, TIME, TARGET, GROUP, SIGHT = "_key", "_time", "_target", "_group", "_sight"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A training set that is split and coded.

    `rows` train. `test` has the held-out rows with `_target`, `_group` and every feature column, `matrix`
    their coded inputs. `empty` names the features without any value. `sights` tell of the training and the
    held-out rows what had not arrived by their time; None of a training set that does not say it.
    """

    rows: TrainingRows
    test: pa.Table
    matrix: Matrix
    split: Split
    empty: tuple[str, ...]
    sights: tuple[Sights, Sights] | None = None

    @property
    def target(self) -> NDArray[np.float64]:
        """The targets of the held-out rows."""
        return coded_targets(self.test, self.rows.classes)

    @property
    def groups(self) -> NDArray[np.int64]:
        """The groups of the held-out rows: one number a key."""
        return np.asarray(self.test.column(GROUP).to_numpy(), dtype=np.int64)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The feature columns of the held-out rows."""
        return {
            name: values(self.test.column(name))
            for name in self.test.column_names
            if not name.startswith("_")
        }

    def example(self) -> dict[str, list[Any]]:
        """One made-up row for MLflow's input example: no row of real data is copied into a version."""
        return {
            given.name: _example(given, self.rows.matrix[:, i]) for i, given in enumerate(self.rows.inputs)
        }


def prepare(project: Project, model: Model, table: pa.Table, folders: tuple[Path, ...] = ()) -> Prepared:
    """Split and code a training set (as `training_set` makes it).

    Raises AnabranchError for labels or features that nothing can be learnt from.
    """
    table = in_order(table)
    found = classes_of(project, table)
    target, keys, groups = (
        coded_targets(table, found),
        np.array(table.column(KEY).to_pylist(), dtype=object),
        key_groups(table),
    )
    parts = split(model.split, keys, table.column(TIME).to_numpy(), target, project.task)
    # A class whose rows are all held out cannot be learnt.
    classes = tuple(name for place, name in enumerate(found) if (target[parts.train] == place).any())
    columns = feature_columns(project, table)
    inputs = tuple(given.learnt(columns[given.name][parts.train]) for given in model_inputs(project))
    matrix = InputCoder([given.described() for given in inputs]).matrix(columns)
    empty = check_empty(project, inputs, matrix[parts.train])
    test = table.filter(pa.array(parts.test)).append_column(GROUP, pa.array(groups[parts.test]))
    train = table.filter(pa.array(parts.train))
    rows = replace(
        training_rows(
            model, matrix[parts.train], coded_targets(train, classes), inputs, groups[parts.train], folders
        ),
        task=project.task,
        classes=classes,
    )
    return Prepared(
        rows=rows,
        test=held_out_rows(test),
        matrix=matrix[parts.test],
        split=parts,
        empty=empty,
        sights=sights_of(table.filter(pa.array(parts.train)), test),
    )


def held_out_rows(table: pa.Table) -> pa.Table:
    """The columns of held-out rows that judging needs."""
    return table.drop_columns([name for name in (KEY, TIME, SIGHT) if name in table.column_names])


def sights_of(train: pa.Table, test: pa.Table) -> tuple[Sights, Sights] | None:
    """What had not arrived by the time of training and held-out rows; None where the set does not say it."""
    if SIGHT not in train.column_names:
        return None
    return Sights(train.column(SIGHT)), Sights(test.column(SIGHT))


def in_order(table: pa.Table) -> pa.Table:
    """A training set sorted by key, time and target.

    Spark returns rows in any order; the same rows in the same order give the same model.
    """
    return table.sort_by([(KEY, "ascending"), (TIME, "ascending"), (TARGET, "ascending")])


def targets(table: pa.Table) -> NDArray[np.float64]:
    """The targets of a training set."""
    return np.asarray(table.column(TARGET).to_numpy(), dtype=np.float64)


def classes_of(project: Project, table: pa.Table) -> tuple[str | int, ...]:
    """The classes in a training set, in their order; none where the label has no several classes.

    Raises AnabranchError for one class, more than 100, or one that is not among the declared.
    """
    label = project.label
    if project.task != "classes" or label is None:
        return ()
    there = set(table.column(TARGET).to_pylist())
    declared = tuple(map(str, label.classes))
    check_named_classes(sorted(there), table.num_rows, declared)
    if label.classes:
        return tuple(name for name in label.classes if str(name) in there)
    return tuple(sorted(there)) if label.type.text else tuple(sorted(map(int, there)))


def key_groups(table: pa.Table) -> NDArray[np.int64]:
    """A number a row of a training set, the same for rows of one key."""
    keys = np.array(table.column(KEY).to_pylist(), dtype=object)
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def feature_columns(project: Project, table: pa.Table) -> dict[str, NDArray[Any]]:
    """The columns of a training set that the model reads."""
    return {name: values(table.column(name)) for name in project.model_features}


def training_rows(
    model: Model,
    matrix: Matrix,
    target: NDArray[np.float64],
    inputs: tuple[ModelInput, ...],
    groups: NDArray[np.int64] | None,
    folders: tuple[Path, ...] = (),
) -> TrainingRows:
    """Coded rows with the declaration's parameters of learning."""
    return TrainingRows(
        matrix=matrix,
        target=target,
        inputs=inputs,
        task=model.task,
        params=model.params,
        metric=model.metric,
        categories=model.categories,
        class_weight=model.class_weight,
        groups=groups,
        members=model.declared_members,
        folders=folders,
    )


def whole_set(
    project: Project, model: Model, table: pa.Table, folders: tuple[Path, ...] = ()
) -> TrainingRows:
    """Every row of a training set, for a validation with its own folds."""
    table = in_order(table)
    columns = feature_columns(project, table)
    inputs = tuple(given.learnt(columns[given.name]) for given in model_inputs(project))
    matrix = InputCoder([given.described() for given in inputs]).matrix(columns)
    check_empty(project, inputs, matrix)
    classes = classes_of(project, table)
    rows = training_rows(model, matrix, coded_targets(table, classes), inputs, key_groups(table), folders)
    return replace(rows, task=project.task, classes=classes)


def values(column: pa.ChunkedArray) -> NDArray[Any]:
    """Numbers with NaN for null, or texts with None."""
    if pa.types.is_floating(column.type):
        return np.asarray(column.to_numpy(), dtype=np.float64)
    return np.array(column.to_pylist(), dtype=object)


def check_empty(project: Project, inputs: tuple[ModelInput, ...], matrix: Matrix) -> tuple[str, ...]:
    """The features without any value; raises AnabranchError when all features are."""
    gone: NDArray[np.bool_] = np.asarray(np.isnan(matrix).all(axis=0))
    if gone.all():
        raise AnabranchError(
            f"no feature of project {project.name!r} has a value in any of {len(matrix)} training rows: "
            "check that events of "
            f"{', '.join(sorted({view.feed for view in project.views}))} are in the lake, "
            "of the labels' keys and from before the labels' times"
        )
    return tuple(given.name for given, none in zip(inputs, gone, strict=True) if none)


def _example(given: ModelInput, found: NDArray[np.float32]) -> list[Any]:
    if given.kind == "text":
        return [given.categories[0] if given.categories else None]
    known = found[np.isfinite(found)]
    return [float(np.median(known)) if len(known) else None]
