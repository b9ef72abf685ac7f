"""Suites of expectations: what a file may contain, its errors, and the suite derived from a declaration."""

import json
from typing import Any

import pytest

from anabranch import Count, FeatureView, Label, Model, Project, Source
from anabranch.errors import MisuseError
from anabranch.events.conditions import measured
from anabranch.events.expectations import ROWS, Expectation, project_suite, read_suite, suite_text

SALES = Source(
    name="sales",
    id="id",
    time="at",
    schema="id STRING, shop STRING, town STRING, at TIMESTAMP, n INT, price DOUBLE, paid BOOLEAN",
)
VIEWS = (
    FeatureView(name="by_shop", source=SALES, key="shop", features={"n": Count()}),
    FeatureView(name="by_both", source=SALES, key=("shop", "town"), features={"m": Count()}),
)
PROJECT = Project(name="shops", views=VIEWS)


def read(kind: str, **given: Any) -> Expectation:
    more = {name: given.pop(name) for name in ("severity", "meta") if name in given}
    return read_suite(
        json.dumps({"name": "x", "expectations": [{"type": kind, "kwargs": given} | more]}),
        SALES,
        "sales.json",
    ).expectations[0]


def test_a_declaration_gives_a_suite_of_warnings_that_is_read_back_as_it_was_written() -> None:
    suite = project_suite(PROJECT, SALES)
    assert {each.severity for each in suite.expectations} == {"warning"}
    assert suite.rules == ()
    said = [(*each.columns, each.words) for each in suite.expectations]
    assert said == [
        ("at least 1",),
        ("id", "there"),
        ("at", "there"),
        ("shop", "there"),  # both views need it; no town is enough for one of them
        ("id", "a share of different values at least 0.9"),
        ("at", "between 1971-01-01T00:00:00Z and 2200-01-01T00:00:00Z"),
        ("price", "a finite number"),
    ]
    assert read_suite(suite_text("sales", suite), SALES, "sales.json").expectations == suite.expectations


def test_a_label_that_is_a_number_has_the_two_classes_that_its_metric_is_for() -> None:
    def suite(metric: str, target: str) -> list[str]:
        label = Label(source=SALES, key="shop", target=target)
        project = Project(name="shops", views=VIEWS[:1], label=label, model=Model(metric=metric))
        return [each.words for each in project_suite(project, SALES).rules]

    assert suite("roc_auc", "n") == ["one of 0, 1"]
    assert suite("rmse", "n") == suite("roc_auc", "n > 1") == []


def test_a_label_needs_its_key_too() -> None:
    label = Label(source=SALES, key=("shop", "town"), target="n > 1")
    project = Project(name="shops", views=VIEWS[1:], label=label, model=Model(trainer="xgboost"))
    assert [each.columns for each in project_suite(project, SALES).expectations if each.words == "there"] == [
        ("id",),
        ("at",),
        ("shop",),
        ("town",),
    ]


@pytest.mark.parametrize(
    ("kind", "kwargs", "words"),
    [
        (
            "expect_column_values_to_be_between",
            {"column": "n", "min_value": 0, "max_value": 120},
            "between 0 and 120",
        ),
        (
            "expect_column_values_to_be_between",
            {"column": "n", "min_value": 0, "strict_min": True},
            "above 0",
        ),
        (
            "expect_column_values_to_be_between",
            {"column": "n", "min_value": 0, "max_value": 1.5, "strict_max": True},
            "at least 0 and below 1.5",
        ),
        ("expect_column_values_to_be_in_set", {"column": "paid", "value_set": [True]}, "one of True"),
        ("expect_column_values_to_not_be_in_set", {"column": "shop", "value_set": ["", "-"]}, "none of , -"),
        (
            "expect_column_values_to_match_regex",
            {"column": "shop", "regex": "^s[0-9]+$"},
            "a match of ^s[0-9]+$",
        ),
        (
            "expect_column_value_lengths_to_be_between",
            {"column": "shop", "max_value": 9},
            "of a length at most 9",
        ),
        (
            "expect_column_pair_values_a_to_be_greater_than_b",
            {"column_A": "price", "column_B": "n", "or_equal": True},
            "at least n",
        ),
        ("expect_column_mean_to_be_between", {"column": "n", "min_value": 1}, "a mean at least 1"),
        ("expect_table_row_count_to_equal", {"value": 3}, "3"),
    ],
)
def test_an_expectation_says_in_words_what_it_expects(kind: str, kwargs: dict[str, Any], words: str) -> None:
    found = read(kind, **kwargs)
    assert (found.words, found.about_rows, found.quarantines) == (words, kind in ROWS, kind in ROWS)
    assert not read(kind, severity="warning", **kwargs).quarantines


WRONG: list[tuple[str, dict[str, Any], str]] = [
    (
        "expect_column_values_to_be_unique",
        {"column": "id"},
        "is not one that a load is measured for in its one pass: use expect_column",
    ),
    (
        "expect_column_values_to_be_between",
        {"column": "m", "min_value": 0},
        "column 'm' is no column: source 'sales' has id, shop",
    ),
    ("expect_column_values_to_be_between", {"min_value": 0}, "column None is no column"),
    ("expect_column_values_to_be_between", {"column": "n"}, "give min_value, max_value or both"),
    (
        "expect_column_values_to_be_between",
        {"column": "n", "min_value": "0"},
        "'0' is not a value of INT, which column 'n' is",
    ),
    ("expect_column_values_to_be_between", {"column": "n", "min_value": True}, "True is not a value of INT"),
    (
        "expect_column_values_to_be_between",
        {"column": "at", "min_value": "yesterday"},
        "'yesterday' is not a value of TIMESTAMP",
    ),
    (
        "expect_column_values_to_be_between",
        {"column": "n", "min_value": 0, "row_condition": "n > 1"},
        "has no argument 'row_condition' here: it has column",
    ),
    (
        "expect_column_values_to_be_between",
        {"column": "n", "min_value": 0, "mostly": 2},
        "mostly is 2: expected a share from 0 to 1",
    ),
    (
        "expect_column_values_to_be_between",
        {"column": "n", "min_value": 0, "severity": "bad"},
        "severity 'bad' is unknown: use critical, warning, info",
    ),
    ("expect_column_values_to_be_in_set", {"column": "n"}, "value_set is None: expected a list"),
    (
        "expect_column_values_to_be_in_set",
        {"column": "shop", "value_set": ["a", None]},
        "None is not a value of STRING",
    ),
    ("expect_column_values_to_match_regex", {"column": "shop", "regex": "("}, "'(' is not understood"),
    (
        "expect_column_values_to_not_match_regex",
        {"column": "shop", "regex": "^(a|b)*$"},
        "write [ab]* for (a|b)*",
    ),
    ("expect_column_values_to_match_regex", {"column": "n", "regex": "1"}, "only STRING can match a pattern"),
    ("expect_column_value_lengths_to_equal", {"column": "n", "value": 1}, "only STRING has a length"),
    (
        "expect_column_mean_to_be_between",
        {"column": "shop", "min_value": 1},
        "column 'shop' is STRING: expected a number",
    ),
    ("expect_table_row_count_to_equal", {"value": "3"}, "value is '3': expected a int"),
    ("expect_table_row_count_to_equal", {"value": 3, "mostly": 1}, "has no argument 'mostly' here"),
]


@pytest.mark.parametrize(("kind", "kwargs", "said"), WRONG)
def test_an_expectation_that_cannot_be_meant_is_told_with_its_place(
    kind: str, kwargs: dict[str, Any], said: str
) -> None:
    with pytest.raises(MisuseError) as raised:
        read(kind, **kwargs)
    assert str(raised.value).startswith("sales.json: expectation 1")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "sales.json is no JSON"),
        ("[]", "sales.json is no suite"),
        ('{"expectations": [1]}', "is not understood"),
    ],
)
def test_a_file_that_is_no_suite_is_told(text: str, said: str) -> None:
    with pytest.raises(MisuseError, match=said):
        read_suite(text, SALES, "sales.json")


def test_pairs_of_columns_whose_joined_names_are_alike_have_measures_of_their_own() -> None:
    schema = "id STRING, at TIMESTAMP, a INT, b_c INT, a_b INT, c INT"
    source = Source(name="pairs", id="id", time="at", schema=schema)
    pairs = [("a", "b_c"), ("a_b", "c")]
    given = [
        {"type": "expect_column_pair_values_to_be_equal", "kwargs": {"column_A": one, "column_B": other}}
        for one, other in pairs
    ]
    suite = read_suite(json.dumps({"name": "x", "expectations": given}), source, "pairs.json")
    row = {"rows": 9, "bad": 0, "missing_0": 3, "missing_1": 5, "0_unexpected": 1, "1_unexpected": 2}
    found = [measured(suite, row, number) for number in (0, 1)]
    assert [(one["missing"], one["unexpected"]) for one in found] == [(3, 1), (5, 2)]
