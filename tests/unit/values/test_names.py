"""Names of users' columns: each is refused by its declaration, or means itself wherever it is written."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlglot.dialects.spark import Spark

from anabranch import Count, FeatureView, Max, Project, Source
from anabranch.declare.names import RESERVED
from anabranch.errors import DeclarationError
from anabranch.events.rows import LAKE_COLUMNS
from anabranch.stores.cassandra.current_rows import current_columns
from anabranch.stores.lake.light import stored_name
from anabranch.values.names import LONGEST_NAME, folded, listed, nearest, quoted
from anabranch.values.sql.expressions import columns_used, expression_type
from anabranch.values.types import BIGINT
from tests.support.names import ODD, ONCE_OURS, internal_names

SQL_WORDS = sorted({word.lower() for word in Spark.Tokenizer.KEYWORDS if word.isidentifier()})
CQL_WORDS = ("add", "allow", "apply", "batch", "infinity", "key", "keyspace", "nan", "primary", "schema")
REFUSED = (
    "a`b",
    'a"b',
    "line\nbreak",
    "tab\t",
    "",
    " a",
    "a ",
    "a" * 121,
    "\x1f",
    "The Key",
    "_any",
    "\ud800",
)
WORDS = tuple(dict.fromkeys([*ODD, *ONCE_OURS, *internal_names(), *SQL_WORDS, *CQL_WORDS, *LAKE_COLUMNS]))


def declared(name: str) -> Project:
    """A project whose source has a column of the name, as a value and as the key; raises DeclarationError."""
    source = Source(
        name="things",
        topic="things",
        id="the id",
        time="the time",
        schema=f"`the id` STRING, `the time` TIMESTAMP, {quoted(name)} BIGINT, `the key` STRING",
    )
    values = FeatureView(name="values", source=source, key="the key", features={"f": Max(quoted(name))})
    keyed = FeatureView(name="keyed", source=source, key=("the key", name), features={"n": Count()})
    return Project(name="named", views=(values, keyed))


def is_refused(name: str) -> bool:
    """Whether the name is refused, in a sentence that tells it; else it is the column's in every text."""
    try:
        project = declared(name)
    except DeclarationError as error:
        refusal = str(error)
    else:
        assert_itself(project, name)
        return False
    assert repr(name[:LONGEST_NAME])[1:-1] in refusal or "schema part" in refusal
    return True


def assert_itself(project: Project, name: str) -> None:
    """The name means the users' column."""
    source = project.sources["things"]
    assert [column.name for column in source.columns] == ["the id", "the time", name, "the key"]
    assert columns_used(quoted(name)) == (name,)
    assert expression_type(quoted(name), source.columns, "test") == BIGINT
    assert str(project.column_of["f"].type) == "BIGINT"
    assert not name.startswith("_")
    assert name.lower() not in RESERVED
    assert not re.search(r"[ ,;{}()\n\t=]", stored_name(name))
    assert '"' not in name  # of CQL's quotes
    assert list(current_columns(project))[:2] == ["the key", name]
    assert json.loads(json.dumps({name: 1}, ensure_ascii=True)) == {name: 1}


def test_words_of_sql_and_ours_are_refused_or_mean_the_users_column() -> None:
    assert {name for name in WORDS if is_refused(name)} == {
        *LAKE_COLUMNS, "q=1", "a,b", *(name for name in WORDS if name in RESERVED)
    }  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_no_layer_could_write_is_refused(name: str) -> None:
    assert is_refused(name)


@given(name=st.text(min_size=1, max_size=12) | st.sampled_from(WORDS).map(str.upper))
def test_any_name_is_refused_or_means_the_users_column(name: str) -> None:
    is_refused(name)


@given(names=st.sets(st.text("ab %,;={}()5", min_size=1, max_size=6), min_size=2, max_size=2))
def test_different_names_are_stored_under_different_ones(names: set[str]) -> None:
    one, other = names
    assert stored_name(one) != stored_name(other)


@pytest.mark.parametrize("name", ["start", "a.b", "Größe", "event_micros", "flight-number", "a:b"])
def test_most_names_are_stored_as_they_are(name: str) -> None:
    assert stored_name(name) == name


def test_odd_names_are_stored_as_in_an_address() -> None:
    assert stored_name("Unit Price (EUR)") == "Unit%20Price%20%28EUR%29"
    assert stored_name("50%") == "50%25"


def test_names_that_spark_takes_for_one_are_one() -> None:
    assert folded("ſtart") == folded("START") == folded("start")
    assert folded("İ") == folded("i")
    assert folded("ß") != folded("ss")


@pytest.mark.parametrize("word", ["select", "order", "token", "start", "null", "end"])
def test_words_are_names_of_everything_that_a_project_declares(word: str) -> None:
    source = Source(name=word, topic=word, id="id", time="at", schema="id STRING, at TIMESTAMP, k STRING")
    features = {word: Count()}
    view = FeatureView(name=word, source=source, key="k", windows=("1h", "lifetime"), features=features)
    project = Project(name=word, views=(view,))
    assert [column.name for column in project.columns] == [f"{word}_1h", f"{word}_lifetime"]


@pytest.mark.parametrize("name", ["shop_events", "shop_events_eu"])
def test_a_project_has_no_name_whose_tables_in_spark_would_be_those_of_anothers_events(name: str) -> None:
    with pytest.raises(DeclarationError, match="as the events of a project 'shop': leave out '_events'"):
        Project(name=name, views=declared("x").views)


@pytest.mark.parametrize("name", ["key=x", "a,b"])
def test_a_key_column_has_no_sign_that_divides_written_keys(name: str) -> None:
    with pytest.raises(DeclarationError, match="cannot be in a key, where '=' and ',' divide columns"):
        declared(name)


def test_an_error_about_an_unknown_name_suggests_the_nearest() -> None:
    assert listed("amuont", ["card", "amount"]) == "it has card, amount: did you mean 'amount'?"
    assert listed("AMOUNT", ["Amount", "card"]) == "it has Amount, card: did you mean 'Amount'?"
    assert listed("xyz", ["card"], "there are") == "there are card"
    assert listed("xyz", []) == "it has none"
    assert nearest(None, ["card"]) is None
