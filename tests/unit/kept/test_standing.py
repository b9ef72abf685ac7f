"""By which declaration a version answers while another one is declared already."""

import json
import logging
from dataclasses import replace

import pytest

from anabranch import (
    Count,
    Derived,
    FeatureView,
    Freshness,
    Label,
    Model,
    Objectives,
    Project,
    Request,
    Source,
    Sum,
    Watch,
)
from anabranch.kept.standing import standing
from anabranch.kept.writing import written
from anabranch.stores.cassandra.manifest import Manifest
from tests.support.law import source

LABELS = Source(
    name="labels", id="id", time="at", schema="id INT, key STRING, other STRING, at TIMESTAMP, y DOUBLE"
)
VIEW = FeatureView(name="things", source=source, key="key", windows=("1h",), features={"n": Count()})
BUILT = Project(
    name="shop",
    views=(VIEW,),
    label=Label(source=LABELS, key="key", target="y > 0"),
    model=Model(features=("n_1h",)),
    derived={"twice": Derived("2 * n_1h")},
)


def manifest(project: Project | None) -> Manifest:
    """A version that was built with `project`; None: before declarations were kept."""
    return Manifest(
        project="shop", batch_version=1, cut=0, slack=0, built_at=0, fingerprints={}, tables={}, rows={},
        declaration=None if project is None else written(project),
    )  # fmt: skip


def test_an_unchanged_declaration_stands_itself() -> None:
    assert manifest(BUILT).meant(BUILT) is BUILT
    assert manifest(BUILT).kept == BUILT


def test_a_version_without_a_kept_declaration_is_meant_by_the_declared_one() -> None:
    assert manifest(None).meant(BUILT) is BUILT
    assert manifest(None).kept is None


@pytest.mark.parametrize(
    "change",
    [
        {"views": (replace(VIEW, features={"n": Count(), "x": Sum("x")}),)},
        {"views": (replace(VIEW, windows=("1h", "7d")),)},
        {"views": (replace(VIEW, name="renamed"),)},
        {"views": (replace(VIEW, features={"n": Count(where="x > 1")}),)},
        {"derived": {}},
        {"derived": {"twice": Derived("3 * n_1h")}},
        {"request": Request(schema="amount DOUBLE DEFAULT 0")},
    ],
)
def test_views_derived_features_and_the_request_stay_until_the_next_build(change: dict[str, object]) -> None:
    declared = replace(BUILT, **change)  # type: ignore[arg-type]
    assert manifest(BUILT).meant(declared) == BUILT
    assert manifest(declared).meant(BUILT) == declared  # and so after a rollback


def test_a_wider_source_is_read_at_once_and_changes_no_view() -> None:
    wider = replace(source, schema=f"{source.schema}, more INT")
    more = replace(VIEW, source=wider, features={"m": Sum("more")})
    declared = replace(BUILT, views=(more,), derived={}, model=Model(features=("m_1h",)))
    meant = manifest(BUILT).meant(declared)
    assert meant.views == (replace(VIEW, source=wider),)
    assert meant.views[0].fingerprint == VIEW.fingerprint
    narrow = replace(source, schema=source.schema.replace("key STRING", "key INT"))
    changed = replace(BUILT, views=(replace(VIEW, source=narrow),), label=None, model=None)
    assert manifest(BUILT).meant(changed) == BUILT


def test_another_model_that_fits_needs_no_build_and_one_that_does_not_fit_waits_for_it() -> None:
    fitting = replace(BUILT, model=Model(features=("twice",), metric="log_loss"), watch=Watch(rows=7))
    assert manifest(BUILT).meant(fitting) == fitting
    more = replace(BUILT, views=(replace(VIEW, windows=("1h", "7d")),), model=Model(features=("n_7d",)))
    assert manifest(BUILT).meant(more) == BUILT
    both = replace(more, freshness=Freshness(batch="1d"), description="new", owner="we", shared_with=("a",))
    both = replace(both, objectives=Objectives(p99="20ms"))
    told = replace(both, views=BUILT.views, model=BUILT.model)
    assert told == replace(
        BUILT,
        freshness=both.freshness,
        objectives=both.objectives,
        description="new",
        owner="we",
        shared_with=("a",),
    )
    assert manifest(BUILT).meant(both) == told


def test_a_model_that_is_added_serves_at_once_and_one_that_is_removed_until_the_next_build() -> None:
    plain = replace(BUILT, label=None, model=None)
    assert manifest(plain).meant(BUILT) == BUILT
    assert manifest(BUILT).meant(plain) == BUILT


def test_another_key_waits_for_the_next_build() -> None:
    both = replace(source, schema=f"{source.schema}, other STRING")
    view = replace(VIEW, source=both, key="other")
    declared = replace(BUILT, views=(view,), label=Label(source=LABELS, key="other", target="y > 0"))
    assert manifest(BUILT).meant(declared).keys == ("key",)


def test_a_text_that_cannot_be_read_leaves_the_declared_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert standing('{"format": 2}', BUILT) is BUILT
    assert "project shop: answers are by the declaration of now" in caplog.text


def test_the_entry_of_a_manifest_keeps_the_declaration() -> None:
    entry = json.loads(manifest(BUILT).entry())
    assert Manifest(**entry).declaration == written(BUILT)
