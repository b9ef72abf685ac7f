"""Declarations that contradict themselves raise errors when constructed."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

import anabranch as f
from anabranch import (
    Count,
    FeatureView,
    Gate,
    Label,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    Model,
    Project,
    Rate,
    Search,
    Slice,
    Source,
    Sum,
    register_format,
)
from anabranch.errors import DeclarationError, MisuseError
from anabranch.values.sql.expressions import columns_used, expression_type
from anabranch.values.times import DAY, HOUR, MINUTE, SECOND
from anabranch.values.types import parse_schema, parse_type
from projects.heart_disease import project as heart

SCHEMA = (
    "id STRING, who STRING, time TIMESTAMP, x DOUBLE, n BIGINT, d DECIMAL(12,2), big DECIMAL(38,2), "
    "s STRING, b BOOLEAN, raw BINARY, day DATE, score INT"
)
SOURCE: dict[str, Any] = {"name": "things", "topic": "things", "id": "id", "time": "time", "schema": SCHEMA}
things = Source(**SOURCE)


def source(**changed: Any) -> Source:
    """The source with something changed."""
    return Source(**{**SOURCE, **changed})


def view(aggregate: Any = None, **changed: Any) -> FeatureView:
    """A view of one feature with something changed."""
    given: dict[str, Any] = {
        "name": "seen",
        "source": things,
        "key": "who",
        "features": {"a": Count() if aggregate is None else aggregate},
    }
    return FeatureView(**{**given, **changed})


def project(*views: FeatureView, **changed: Any) -> Project:
    """A project with something changed."""
    label = Label(source=things, key="who", target="n > 0")
    return Project(
        **{"name": "sound", "views": views or (view(),), "label": label, "model": Model(), **changed}
    )


Case = tuple[Callable[[], object], str]
SOURCES: Mapping[str, Case] = {
    "name": (lambda: source(name="Things"), "source 'Things' is not a good name"),
    "topic": (
        lambda: source(topic="my topic"),
        "source 'things': topic 'my topic' is not a Kafka topic name",
    ),
    "dots": (lambda: source(topic=".."), "topic '..' is not a Kafka topic name"),
    "id": (lambda: source(id="nr"), "source 'things': id 'nr' is no column: it has id, who, time"),
    "time": (lambda: source(time="at"), "source 'things': time 'at' is no column"),
    "type of time": (
        lambda: source(time="n"),
        "source 'things': time 'n' is BIGINT: it must be TIMESTAMP or DATE",
    ),
    "empty": (lambda: source(schema=""), "schema part '' is not understood"),
    "no type": (
        lambda: source(schema="id STRING, time"),
        "schema part 'time' is not understood: write columns as 'name TYPE'",
    ),
    "twice": (
        lambda: source(schema="id STRING, ID INT, time DATE"),
        r"duplicate column 'ID' in the schema \(column 'id' differs in case only\)",
    ),
    "no part": (lambda: source(schema="id STRING,, time DATE"), "schema part '' is not understood"),
    "quote in a name": (
        lambda: source(schema="""id STRING, `a"b` INT, time DATE"""),
        "column 'a\"b' is not a good name: use up to 120 characters without backticks, double quotes",
    ),
    "space around a name": (
        lambda: source(schema="id STRING, `a ` INT, time DATE"),
        "no space at either end",
    ),
    "underscore": (
        lambda: source(schema="id STRING, _date DATE, time DATE"),
        "column '_date' begins with an underscore",
    ),
    "nested": (
        lambda: source(schema="id STRING, time DATE, tags ARRAY<SET>"),
        r"source 'things': column 'tags': type 'SET' is not supported: use TINYINT, SMALLINT.*"
        r"ARRAY<TYPE> or MAP<STRING, TYPE>",
    ),
    "map of numbers": (
        lambda: source(schema="id STRING, time DATE, m MAP<INT, STRING>"),
        "column 'm': type 'MAP<INT, STRING>': the names of a map are STRING",
    ),
    "nested without end": (
        lambda: source(schema=f"id STRING, time DATE, a {'ARRAY<' * 17}INT{'>' * 17}"),
        "has more than 16 levels: use fewer",
    ),
    "field of an odd name": (
        lambda: source(schema="id STRING, time DATE, s STRUCT<`a b`: INT>"),
        "'`a b`: INT' is no field: write fields as 'name: TYPE'",
    ),
    "fields of one name": (
        lambda: source(schema="id STRING, time DATE, s STRUCT<a: INT, A: INT>"),
        "duplicate field 'A': upper and lower case are one",
    ),
    "key of an array": (
        lambda: view(source=source(schema="id STRING, time DATE, who ARRAY<STRING>")),
        "key 'who' cannot be ARRAY<STRING>: use STRING",
    ),
    "id of a struct": (
        lambda: source(schema="id STRUCT<a: INT>, time DATE"),
        "id 'id' is STRUCT<a: INT>, which identifies nothing",
    ),
    "sum of an array": (
        lambda: view(Sum("tags"), source=source(schema="id STRING, time DATE, who INT, tags ARRAY<INT>")),
        r"Sum cannot take 'tags' of type ARRAY<INT>",
    ),
    "last of a map": (
        lambda: view(Last("m"), source=source(schema="id STRING, time DATE, who INT, m MAP<STRING, INT>")),
        r"Last cannot take 'm' of type MAP<STRING, INT>",
    ),
    "decimal": (
        lambda: source(schema="id STRING, time DATE, d DECIMAL(39,2)"),
        r"type 'DECIMAL\(39,2\)' is not supported",
    ),
    "scale": (
        lambda: source(schema="id STRING, time DATE, d DECIMAL(4,5)"),
        r"type 'DECIMAL\(4,5\)' is not supported",
    ),
    "length": (lambda: source(schema="id STRING, time DATE, n INT(3)"), r"type 'INT\(3\)' is not supported"),
}
VIEWS: Mapping[str, Case] = {
    "name": (lambda: view(name="a view"), "view 'a view' is not a good name"),
    "long name": (lambda: view(name="a" * 41), "is not a good name: use up to 40 small letters"),
    "no features": (lambda: view(features={}), "view 'seen' has no features: give at least one"),
    "feature's name": (lambda: view(features={"A": Count()}), "view 'seen': feature 'A' is not a good name"),
    "two underscores": (lambda: view(features={"a__b": Count()}), "feature 'a__b' is not a good name"),
    "no aggregate": (
        lambda: view("mean of x"),
        "feature 'a' is 'mean of x': it must be an aggregate such as",
    ),
    "a class": (lambda: view(Count), "feature 'a' is <class .*Count'>: it must be an aggregate"),
    "key": (lambda: view(key="whom"), "source 'things': key of view 'seen' 'whom' is no column"),
    "no key": (lambda: view(key=()), r"view 'seen': key \(\) must name one column or several different ones"),
    "key twice": (lambda: view(key=("who", "who")), "must name one column or several different ones"),
    "type of key": (
        lambda: view(key="x"),
        "view 'seen': key 'x' cannot be DOUBLE: use STRING, a whole number, DATE or BOOLEAN",
    ),
    "window twice": (lambda: view(windows=("1h", "1d", "1h")), "view 'seen': window '1h' is used twice"),
    "unknown window": (
        lambda: view(windows=("1w",)),
        "view 'seen': window '1w' is not understood: write a whole number and s, m, h or d",
    ),
    "window of nothing": (lambda: view(windows=("0h",)), "view 'seen': window '0h' is not understood"),
    "uneven window": (
        lambda: view(windows=("7m",)),
        "view 'seen': window '7m' is no multiple of its hop 5m: choose '5m' or '10m', or give",
    ),
    "uneven hop": (lambda: view(windows=("1h",), hop="7s"), "window '1h' is no multiple of its hop 7s"),
    "large hop": (
        lambda: view(windows=("1h",), hop="10m"),
        "hop '10m' is larger than the window '1h' may have: use 5m or less",
    ),
    "unknown hop": (lambda: view(windows=("1h",), hop="often"), "view 'seen': hop 'often' is not understood"),
    "hop of a lifetime": (lambda: view(hop="daily"), "view 'seen': hop 'daily' is not understood"),
    "kept word": (
        lambda: view(features={"as_of": Count()}),
        "view 'seen': feature 'as_of' is a reserved word of serving tables: rename it",
    ),
}
AGGREGATES: Mapping[str, Case] = {
    "column": (lambda: view(Sum("y")), "view 'seen', feature 'a': no column 'y': the source has id, who"),
    "table": (lambda: view(Sum("t.x")), "no column 't.x'"),
    "syntax": (lambda: view(Sum("x +")), r"feature 'a': 'x \+' is not a SQL expression"),
    "empty": (lambda: view(Sum(" ")), "Sum needs a column or SQL expression, not ' '"),
    "no text": (lambda: view(Sum(cast("str", 3))), "Sum needs a column or SQL expression, not 3"),
    "two": (lambda: view(Sum("x; n")), "'x; n' is not one SQL expression"),
    "semicolon": (
        lambda: view(Count(where="x > 1;")),
        "feature 'a', where: 'x > 1;' is not one SQL expression: write one, without semicolon",
    ),
    "comment": (lambda: view(Sum("x -- metres")), "'x -- metres' is not one SQL expression"),
    "aggregate": (lambda: view(Sum("sum(x)")), r"'sum\(x\)' is not a row expression"),
    "window function": (lambda: view(Sum("row_number() OVER (ORDER BY x)")), "is not a row expression"),
    "subquery": (lambda: view(Sum("(SELECT 1)")), "is not a row expression"),
    "unsteady": (
        lambda: view(Sum("x * rand()")),
        "changes from run to run: use only the event's own columns",
    ),
    "clock": (lambda: view(Sum("datediff(current_date(), day)")), "changes from run to run"),
    "text": (lambda: view(Sum("s")), "feature 'a': Sum cannot take 's' of type STRING: it takes numbers"),
    "least text": (
        lambda: view(Min("s")),
        "Min cannot take 's' of type STRING: it takes numbers, BOOLEAN, DATE and TIMESTAMP",
    ),
    "wide decimal": (lambda: view(Sum("big")), r"Sum cannot take 'big' of type DECIMAL\(38,2\)"),
    "no condition": (lambda: view(f.Any("x")), "Any cannot take 'x' of type DOUBLE: it takes BOOLEAN"),
    "frequent floats": (
        lambda: view(f.MostFrequent("x")),
        "MostFrequent cannot take 'x' of type DOUBLE: it takes STRING, whole numbers",
    ),
    "filter": (
        lambda: view(Count(where="x")),
        "feature 'a', where: 'x' is not a condition: write one such as",
    ),
    "column of a filter": (lambda: view(Count(where="y > 1")), "feature 'a', where: no column 'y'"),
    "second column": (lambda: view(f.Covariance("x", "y")), "no column 'y'"),
    "second column's type": (
        lambda: view(f.Correlation("x", "s")),
        "Correlation cannot take 's' of type STRING",
    ),
    "needs a window": (
        lambda: view(Rate()),
        "feature 'a': Rate needs a window of finite length: give its view windows=",
    ),
    "has no window": (
        lambda: view(f.DecayedSum("x", half_life="1d"), windows=("1h",)),
        r"DecayedSum has no window \(it forgets by its half-life\), but the view has '1h'",
    ),
    "fades within a tile": (
        lambda: view(f.DecayedSum("x", half_life="1m")),
        "feature 'a': DecayedSum fades too fast for states of 1d: give its view hop='500m' or less",
    ),
    "half-life": (
        lambda: f.DecayedMean("x", half_life="soon"),
        "DecayedMean: half_life 'soon' is not understood",
    ),
    "unit": (lambda: Rate(per="1w"), "Rate: per '1w' is not understood"),
    "unit of a trend": (lambda: f.Slope("x", per=""), "Slope: per '' is not understood"),
    "no edges": (
        lambda: f.Histogram("x", edges=()),
        r"Histogram: edges \(\) must be 1 to 64 numbers, each larger",
    ),
    "edges in disorder": (lambda: f.Histogram("x", edges=(2.0, 1.0)), "each larger than the one before"),
    "few": (lambda: LastK("x", 0), "LastK: k=0 must be a whole number from 1 to 32"),
    "many": (lambda: f.TopK("x", 33), "TopK: k=33 must be a whole number from 1 to 32"),
    "part": (lambda: f.FirstK("x", 2.5), "FirstK: k=2.5 must be a whole number"),  # type: ignore[arg-type]
    "distinct": (lambda: f.Distinct("x", most=0), "Distinct: most=0 must be a whole number from 1 to 10000"),
    "registers": (
        lambda: f.ApproxDistinct("x", log_size=3),
        "ApproxDistinct: log_size=3 must be a whole number from 4 to 21",
    ),
    "percentage": (
        lambda: f.ApproxPercentile("x", 95),
        "ApproxPercentile: percentage=95 must be a number from 0 to 1, such as 0.95",
    ),
    "size": (
        lambda: f.ApproxPercentile("x", 0.5, size=7),
        "ApproxPercentile: size=7 must be a whole number from 8 to 65535",
    ),
    "tracked": (lambda: f.MostFrequent("s", tracked=0), "MostFrequent: tracked=0 must be a whole number"),
}
PROJECTS: Mapping[str, Case] = {
    "name": (lambda: project(name="My Project"), "project 'My Project' is not a good name"),
    "no views": (lambda: Project(name="sound", views=()), "project 'sound' has no views: give at least one"),
    "label alone": (
        lambda: project(model=None),
        "project 'sound': a label and a model belong together: give both or neither",
    ),
    "model alone": (lambda: project(label=None), "a label and a model belong together"),
    "views alike": (
        lambda: project(view(), view(Mean("x"), features={"b": Mean("x")})),
        "project 'sound': view 'seen' is used twice",
    ),
    "columns alike": (
        lambda: project(view(), view(name="more")),
        "project 'sound': feature column 'a' is used twice",
    ),
    "columns alike by a window": (
        lambda: project(view(windows=("1h",)), view(name="more", features={"a_1h": Count()})),
        "feature column 'a_1h' is used twice",
    ),
    "sources alike": (
        lambda: project(view(), view(name="more", source=source(topic="others"), features={"b": Count()})),
        "project 'sound': two different sources are named 'things': rename one",
    ),
    "topics alike": (
        lambda: project(view(), view(name="more", source=source(name="others"), features={"b": Count()})),
        "project 'sound': topic 'things' is used twice",
    ),
    "own event of no view": (
        lambda: project(
            view(),
            label=Label(source=source(name="others", topic="o"), key="who", target="n", own_event=True),
        ),
        "label: own_event=True, and no view reads the label's source 'others': views read things",
    ),
    "own event of Spark": (
        lambda: project(
            view(Last("soundex(s)")),
            label=Label(source=things, key="who", target="n", own_event=True),
        ),
        "no question can bring an event of 'things': view 'seen': feature 'a'",
    ),
    "own event online": (
        lambda: project(
            label=Label(source=things, key="who", target="n > 0", own_event=True),
            model=Model(online=f.Online()),
        ),
        "the online model learns from answers, which may count the label's own event or not",
    ),
    "own event": (
        lambda: Label(source=things, key="who", target="n", own_event=cast("Any", "yes")),
        "label: own_event is 'yes': write True or False",
    ),
    "key of a view": (
        lambda: project(view(key="n")),
        r"key 'n' of view 'seen' is not among the label's keys who: add it to Label\(key=...\)",
    ),
    "kept key": (
        lambda: project(view(), label=Label(source=things, key=("who", "score"), target="n")),
        "key column 'score' is a reserved word of serving tables: rename it in the source",
    ),
    "feature named as the key": (
        lambda: project(view(features={"who": Count()})),
        "feature column 'who' is also a column of the key, 'who': rename",
    ),
    "model's feature": (
        lambda: project(model=Model(features=("a", "b"))),
        "project 'sound': model feature 'b' is in no view: there are a",
    ),
    "model's list": (
        lambda: project(view(LastK("x", 2)), model=Model(features=("a",))),
        "model feature 'a' is ARRAY<DOUBLE>, which no trainer takes",
    ),
    "model's bytes": (
        lambda: project(view(Last("raw"))),
        "model feature 'a' is BINARY, which no trainer takes",
    ),
    "lists alone": (lambda: project(view(LastK("x", 2))), "every feature is a list, which no trainer takes"),
    "metric": (lambda: Model(metric="auc"), "model: metric 'auc' is unknown: use roc_auc, average_precision"),
    "label's key": (lambda: Label(source=things, key="whom", target="n"), "key of label 'whom' is no column"),
    "label's target": (
        lambda: Label(source=things, key="who", target="y > 1"),
        "label, target: no column 'y'",
    ),
    "label's day": (
        lambda: Label(source=things, key="who", target="day"),
        "label, target: 'day' gives DATE: it must give a number, a text that names a class, or a condition",
    ),
    "label's one class": (
        lambda: Label(source=things, key="who", target="s", classes=("a", "a")),
        "label: classes lists 2 classes, 1 of them different: give 2 to 100 different ones",
    ),
    "label's 101 classes": (
        lambda: Label(source=things, key="who", target="n", classes=tuple(range(101))),
        "label: classes lists 101 classes, 101 of them different: give 2 to 100",
    ),
    "label's classes of another type": (
        lambda: Label(source=things, key="who", target="n", classes=("a", "b")),
        "'n' gives BIGINT: list whole numbers",
    ),
    "label's classes of a fraction": (
        lambda: Label(source=things, key="who", target="x", classes=(1, 2)),
        "'x' gives DOUBLE, and classes are listed: the target must give a text or a whole number",
    ),
    "label's classes in no list": (
        lambda: Label(source=things, key="who", target="s", classes=cast("Any", "ab")),
        "label: classes is 'ab': list texts or whole numbers",
    ),
    "metric of two classes": (
        lambda: project(label=Label(source=things, key="who", target="s"), model=Model(metric="f1")),
        "the label has several classes .'s' gives STRING., and the metric 'f1' is for two classes, 0 and 1: "
        "use Model.metric=.... of roc_auc, log_loss, accuracy, macro_f1",
    ),
    "metric of numbers": (
        lambda: project(
            label=Label(source=things, key="who", target="n", classes=(1, 2, 3)), model=Model(metric="rmse")
        ),
        "the label has several classes .classes are listed., and the metric 'rmse' is for numbers",
    ),
    "metric of classes": (
        lambda: project(label=Label(source=things, key="who", target="x"), model=Model(metric="macro_f1")),
        "the metric 'macro_f1' is for several classes, and 'x' gives DOUBLE",
    ),
    "weights of classes": (
        lambda: project(
            label=Label(source=things, key="who", target="s", classes=("a", "b")),
            model=Model(class_weight={"c": 2.0}),
        ),
        "class_weight names 'c', which is none of the label's classes a, b",
    ),
    "weights of names": (
        lambda: project(
            label=Label(source=things, key="who", target="b"), model=Model(class_weight={"c": 2.0})
        ),
        "and the label has two classes: give a weight above 0 for both",
    ),
    "classes learnt online": (
        lambda: project(label=Label(source=things, key="who", target="s"), model=Model(online=f.Online())),
        "the label has several classes: leave Model.online=.... out",
    ),
}


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        pytest.param(*case, id=f"{part}: {what}")
        for part, cases in {
            "source": SOURCES,
            "view": VIEWS,
            "aggregate": AGGREGATES,
            "project": PROJECTS,
        }.items()
        for what, case in cases.items()
    ],
)
def test_a_contradictory_declaration_raises_an_error_of_one_sentence(
    declare: Callable[[], object], said: str
) -> None:
    with pytest.raises(DeclarationError, match=said) as caught:
        declare()
    assert "\n" not in str(caught.value)
    assert ":" in str(caught.value)
    assert caught.value.exit_code == 2


def test_one_key_one_window_and_one_view_may_be_written_without_a_tuple() -> None:
    declared = view(Mean("x"), windows="1h")
    assert (declared.keys, declared.windows, [column.name for column in declared.columns]) == (
        ("who",),
        ("1h",),
        ["a_1h"],
    )
    assert project(declared).keys == ("who",)


def test_a_key_may_be_written_as_a_list() -> None:
    written: Any = ["who", "n"]
    declared, label = view(key=written), Label(source=things, key=written, target="n > 0")
    assert declared.keys == label.keys == ("who", "n")
    assert declared == view(key=("who", "n"))
    assert len({declared, label, project(declared, label=label)}) == 3


def test_a_declaration_cannot_be_changed() -> None:
    for frozen, name in (
        (things, "id"),
        (view(), "hop"),
        (Count(), "where"),
        (Model(), "metric"),
        (project(), "views"),
    ):
        with pytest.raises(AttributeError):
            setattr(frozen, name, None)


def test_without_a_label_the_key_consists_of_all_views_keys() -> None:
    found = Project(
        name="free", views=(view(), view(name="other", key=("n", "who"), features={"b": Count()}))
    )
    assert (found.keys, found.model_features) == (("who", "n"), ("a", "b"))


@pytest.mark.parametrize("kind", ["INT", "BIGINT", "DATE", "BOOLEAN"])
def test_a_key_column_of_two_types_is_refused_where_its_texts_would_never_meet(kind: str) -> None:
    others = source(name="others", topic="others", schema=f"id STRING, who {kind}, time TIMESTAMP")
    with pytest.raises(
        DeclarationError, match=f"key 'who' is STRING in source 'things' and {kind} in source"
    ):
        project(view(), view(name="other", source=others, features={"b": Count()}))


def test_whole_numbers_of_two_widths_are_one_key_and_columns_that_are_no_key_may_differ() -> None:
    wide = source(name="wide", topic="wide", schema="id STRING, n INT, who INT, time TIMESTAMP")
    other = view(name="other", source=wide, key="n", features={"b": Count()})
    for views in ((view(key="n"), other), (other, view(key="n"))):
        assert str(Project(name="mixed", views=views).key_types["n"]) == "BIGINT"


def test_without_a_choice_the_model_reads_every_feature_but_lists() -> None:
    found = project(view(features={"a": Count(), "few": LastK("x", 2), "last": Last("s")}))
    assert found.model_features == ("a", "last")
    assert project(
        view(features={"a": Count(), "b": Count()}), model=Model(features=("b",))
    ).model_features == ("b",)


def test_hops_are_as_fine_as_their_window_asks_for() -> None:
    found = view(windows=("15m", "11h", "12h", "11d", "12d", "400d", "lifetime"))
    assert [span.hop for span in found.spans] == [5 * MINUTE, 5 * MINUTE, HOUR, HOUR, DAY, DAY, DAY]
    assert found.tile == 5 * MINUTE
    assert view(windows=("90s",), hop="30s").tile == 30 * SECOND


def test_a_short_half_life_needs_a_small_hop() -> None:
    assert view(f.DecayedSum("x", half_life="1m"), hop="5m").tile == 5 * MINUTE


def test_windows_begin_on_a_hop_and_are_never_too_short() -> None:
    (span,) = view(windows=("1h",)).spans
    at = 100 * DAY + 7 * MINUTE + 1
    assert span.tail(at) == 100 * DAY - HOUR + 5 * MINUTE
    assert span.tail(100 * DAY + 5 * MINUTE) == 100 * DAY + 5 * MINUTE - HOUR
    assert span.tail(-1) == -HOUR - 5 * MINUTE
    assert view().spans[0].tail(at) is None


def test_a_window_with_an_offset_ends_on_a_hop_where_the_one_without_it_begins() -> None:
    plain, shifted, short = view(windows=("7d", "7d offset 7d", "1h  offset 90m")).spans
    at = 100 * DAY + 7 * MINUTE + 1
    assert (shifted.tail(at), shifted.head(at)) == (86 * DAY, plain.tail(at)) == (86 * DAY, 93 * DAY)
    assert (plain.head(at), short.head(at)) == (at, 99 * DAY + 22 * HOUR + 35 * MINUTE)
    assert view(windows=("7d offset 7d", "1h offset 90m")).column_names[:2] == (
        "a_7d_offset_7d",
        "a_1h_offset_90m",
    )
    assert view(windows=("30d offset 12h",), hop="12h").spans[0].hop == 12 * HOUR


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("offset 7d", "an offset stands between two durations"),
        ("7d offset", "an offset stands between two durations"),
        ("7d offset 1d offset 1d", "an offset stands between two durations"),
        ("7d shift 7d", "write a whole number and s, m, h or d"),
        ("7d offset -7d", "an offset is at least a hop, here 1h: write '7d' for the window that ends at"),
        ("7d offset 0d", "an offset is at least a hop, here 1h"),
        ("7d offset 0", "an offset is at least a hop, here 1h"),
        ("7d offset 1w", "offset '1w' is not understood"),
        ("1w offset 7d", "window '1w' is not understood"),
        ("7d offset 30m", "the offset '30m' is no multiple of the window's hop 1h"),
        ("30d offset 36h", "the offset '36h' is no multiple of the window's hop 1d"),
        ("36500d offset 1d", "reaches back too far: width and offset are 36500d together at most"),
        ("lifetime offset 7d", "has an offset but no width"),
        ("month to date offset 7d", "an offset stands between two durations"),
        ("to date", "write 'day to date', 'week to date' or 'month to date'"),
        ("year to date", "write 'day to date', 'week to date' or 'month to date'"),
        ("date", "write 'day to date', 'week to date' or 'month to date'"),
        ("month to date Europe / Berlin", "write 'day to date', 'week to date' or 'month to date'"),
        ("month to date Berlin", "unknown time zone 'Berlin': write one such as 'Europe/Berlin'"),
    ],
)
def test_a_window_that_cannot_be_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(DeclarationError, match=f"view .*: .*{re.escape(message)}"):
        view(windows=(text,))


FINGERPRINT_CHANGES: Mapping[str, FeatureView] = {
    "window": view(Sum("x"), windows=("1h",)),
    "offset": view(Sum("x"), windows=("7d offset 1h",)),
    "hop": view(Sum("x"), hop="1h"),
    "argument": view(Sum("n")),
    "filter": view(Sum("x", where="n > 0")),
    "aggregate": view(Max("x")),
    "key": view(Sum("x"), key="n"),
    "topic": view(Sum("x"), source=source(topic="others")),
    "id": view(Sum("x"), source=source(id="s")),
    "time": view(Sum("x"), source=source(time="day")),
    "type of a column that is read": view(
        Sum("x"), source=source(schema=SCHEMA.replace("x DOUBLE", "x FLOAT"))
    ),
}


@pytest.mark.parametrize("changed", FINGERPRINT_CHANGES.values(), ids=FINGERPRINT_CHANGES)
def test_the_fingerprint_changes_with_the_states(changed: FeatureView) -> None:
    assert changed.fingerprint != view(Sum("x")).fingerprint


def test_names_descriptions_and_columns_that_are_not_read_leave_the_fingerprint() -> None:
    plain = view(Sum("x"))
    wider = source(schema=SCHEMA.replace("raw BINARY", "raw STRING, more INT"), description="said")
    same = FeatureView(
        name="seen_too", source=wider, key="who", features={"another": Sum("x")}, description="said"
    )
    assert same.fingerprint == plain.fingerprint
    assert replace(plain, description="said") == replace(plain, description="said")


def test_a_projects_fingerprint_follows_its_label_and_model() -> None:
    found = {
        declared.fingerprint
        for declared in (
            project(),
            project(label=Label(source=things, key="who", target="n > 1")),
            project(label=Label(source=things, key="who", target="n > 0", own_event=True)),
            project(model=Model(metric="log_loss")),
            project(model=Model(params={"eta": 0.1})),
            project(view(features={"renamed": Count()})),
        )
    }
    assert len(found) == 6


def test_types_and_schemas_are_read_as_spark_writes_them() -> None:
    read = {
        column.name: str(column.type)
        for column in parse_schema(
            "a INTEGER, `b c` LONG, d NUMERIC(5, 2) NOT NULL, e VARCHAR(3) COMMENT 'x', f: DECIMAL"
        )
    }
    assert read == {"a": "INT", "b c": "BIGINT", "d": "DECIMAL(5,2)", "e": "STRING", "f": "DECIMAL(10,0)"}
    assert parse_type(" timestamp_ltz ").name == "TIMESTAMP"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("x", "DOUBLE"),
        ("X", "DOUBLE"),
        ("n > 0", "BOOLEAN"),
        ("n * 2", "BIGINT"),
        ("n / 2", "DOUBLE"),
        ("d", "DECIMAL(12,2)"),
        ("d * 2", "DECIMAL(14,2)"),
        ("d / 2", "DOUBLE"),
        ("upper(s)", "STRING"),
    ],
)
def test_expressions_are_typed_without_a_jvm(text: str, kind: str) -> None:
    assert str(expression_type(text, things.columns, "here")) == kind


def test_the_columns_of_an_expression_are_found() -> None:
    assert sorted(columns_used("CASE WHEN n > 0 THEN x + n ELSE coalesce(d, 'a;b--c') END")) == [
        "d",
        "n",
        "x",
    ]


def test_a_semicolon_or_dashes_in_a_text_are_only_text() -> None:
    assert view(Count(where="s = ';' OR s = '--'")).columns[0].name == "a"


def test_a_declaration_error_is_misuse() -> None:
    assert issubclass(DeclarationError, MisuseError)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"split": "random"}, "split 'random' is unknown: use time, key"),
        ({"categories": "sex"}, "tuples"),
        ({"class_weight": {0: 1.0}}, "class_weight is"),
        ({"class_weight": "balanced", "metric": "rmse"}, "for classes, but the metric 'rmse' is for numbers"),
        ({"trainer": "my:own:function"}, "no name of a function"),
        ({"trainer": "ensemble"}, "need them, others have none"),
        ({"members": ("logistic",)}, "need them, others have none"),
    ],
)
def test_a_contradictory_model_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        Model(**given)


def test_contradictory_gates_searches_and_slices_are_refused() -> None:
    with pytest.raises(DeclarationError, match=r"confidence is 0\.2"):
        Gate(confidence=0.2)
    with pytest.raises(DeclarationError, match=r"proof is 'better': use 'worse' or 'not worse'"):
        Gate(proof="better")
    with pytest.raises(
        DeclarationError, match=r"proof is 'not worse' and its tolerance 0: say how much worse is as good"
    ):
        Gate(proof="not worse")
    with pytest.raises(DeclarationError, match="must be above 0"):
        Gate(parity=0)
    with pytest.raises(DeclarationError, match="0 trials"):
        Search(trials=0)
    spaces: tuple[dict[str, object], ...] = (
        {"eta": (0.3, 0.1)},
        {"eta": (0.0, 0.1, "log")},
        {"eta": []},
        {"eta": 3},
    )
    for space in spaces:
        with pytest.raises(DeclarationError, match="search space 'eta'"):
            Search(space=space)
    with pytest.raises(DeclarationError, match="give bounds that grow"):
        Slice(feature="age", bands=(55, 40))
    with pytest.raises(DeclarationError, match="model slice 'agee' is in no view"):
        replace(heart, model=Model(slices=("agee",)))
    with pytest.raises(DeclarationError, match=r"category 'sex' is not among Model\(features"):
        replace(heart, model=Model(features=("age",), categories=("sex",)))


@pytest.mark.parametrize(
    ("label", "model", "task"),
    [
        ({"target": "b"}, {}, "class"),
        ({"target": "n"}, {}, "class"),
        ({"target": "n"}, {"metric": "mae"}, "number"),
        ({"target": "n"}, {"metric": "macro_f1"}, "classes"),
        ({"target": "n", "classes": (1, 2, 3)}, {"metric": "log_loss"}, "classes"),
        ({"target": "s"}, {}, "classes"),
        ({"target": "s", "classes": ["a", "b"]}, {"class_weight": {"a": 2}}, "classes"),
    ],
)
def test_a_label_names_classes_by_its_type_its_list_or_the_metric(
    label: dict[str, Any], model: dict[str, Any], task: str
) -> None:
    declared = project(label=Label(source=things, key="who", **label), model=Model(**model))
    assert (declared.task, "scores" in declared.results) == (task, task == "classes")


def test_what_changes_the_learning_changes_the_fingerprint_and_what_only_judges_does_not() -> None:
    prints = {
        replace(heart, model=model).fingerprint
        for model in (
            Model(),
            Model(categories=("cp",)),
            Model(split="key"),
            Model(class_weight="balanced"),
            Model(search=Search()),
        )
    }
    assert len(prints) == 5
    assert (
        replace(heart, model=Model(gate=Gate(minimum=0.9), slices=("sex",))).fingerprint
        == replace(heart, model=Model()).fingerprint
    )


def test_a_format_that_is_not_registered_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        DeclarationError, match="source 's': format 'xml' is unknown: register it, or use json, csv"
    ):
        Source(name="s", schema="id STRING, at TIMESTAMP", id="id", time="at", format="xml")


def test_a_registered_format_may_be_declared_and_keeps_its_decoder() -> None:
    register_format("knots", "sailing.ropes:KnotDecoder")
    register_format("knots", "sailing.ropes:KnotDecoder")  # a module may be imported again
    source = Source(name="s", schema="id STRING, at TIMESTAMP", id="id", time="at", format="knots")
    assert source.format == "knots"
    with pytest.raises(DeclarationError, match=r"has the decoder sailing\.ropes:KnotDecoder already"):
        register_format("knots", "sailing.ropes:Other")
    with pytest.raises(DeclarationError, match="write a lower-case name"):
        register_format("Knots", "sailing")
