"""Keys as one text, there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch import Count, FeatureView, Project, Source
from anabranch.answers.problems import ProblemError
from anabranch.answers.requests import stored_key
from anabranch.errors import EventError
from anabranch.values.keys import SEPARATOR, key_text, key_values, read_key, show_key

BOTH = ("tailnum", "origin")
texts = st.text(min_size=1).filter(lambda text: SEPARATOR not in text)


@given(texts, texts)
def test_a_key_of_several_columns_comes_back_from_its_text(tailnum: str, origin: str) -> None:
    given_key = {"tailnum": tailnum, "origin": origin}
    assert key_values(BOTH, key_text(BOTH, given_key)) == given_key


@given(texts, texts, texts, texts)
def test_different_keys_have_different_texts(a: str, b: str, c: str, d: str) -> None:
    first, second = {"tailnum": a, "origin": b}, {"tailnum": c, "origin": d}
    assert (key_text(BOTH, first) == key_text(BOTH, second)) == (first == second)


def test_values_are_written_as_spark_casts_them() -> None:
    assert key_text(("n",), {"n": 7}) == "7"
    assert [key_text(("b",), {"b": value}) for value in (True, False)] == ["true", "false"]
    assert key_text(BOTH, {"origin": "EWR", "tailnum": "N1", "more": 3}) == f"N1{SEPARATOR}EWR"


@pytest.mark.parametrize("value", [None, "", {}, [], {"a": 1}])
def test_a_missing_part_of_a_key_is_named(value: object) -> None:
    with pytest.raises(EventError, match="key 'origin' is missing: give tailnum and origin"):
        key_text(BOTH, {"tailnum": "N1", "origin": value})


def test_the_separator_may_not_be_in_a_key() -> None:
    with pytest.raises(EventError, match=r"key 'tailnum' holds the control character U\+001F"):
        key_text(BOTH, {"tailnum": f"N{SEPARATOR}1", "origin": "EWR"})


def test_a_key_is_shown_as_it_is_typed() -> None:
    assert show_key(("tailnum",), "N1") == "N1"
    words = show_key(BOTH, key_text(BOTH, {"tailnum": "N1", "origin": "EWR"}))
    assert words == "tailnum=N1 origin=EWR"
    assert read_key(BOTH, words.split()) == {"tailnum": "N1", "origin": "EWR"}


@pytest.mark.parametrize(
    ("names", "words", "key"),
    [
        (("k",), ["a"], {"k": "a"}),
        (("k",), ["k=a"], {"k": "a"}),
        (("k",), ["a=b"], {"k": "a=b"}),
        (("k",), ["k=k=a"], {"k": "k=a"}),
        (("k",), ["k=k="], {"k": "k="}),
        (BOTH, ["origin=EWR", "tailnum=N=1"], {"tailnum": "N=1", "origin": "EWR"}),
    ],
)
def test_words_are_read_as_a_key(names: tuple[str, ...], words: list[str], key: dict[str, str]) -> None:
    assert read_key(names, words) == key


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("k",), []),
        (("k",), ["a", "b"]),
        (("k",), [""]),
        (("k",), ["k="]),
        (BOTH, ["N1", "EWR"]),
        (BOTH, ["tailnum=N1"]),
        (BOTH, ["tailnum=N1", "tailnum=N2"]),
    ],
)
def test_words_that_are_no_key_are_refused(names: tuple[str, ...], words: list[str]) -> None:
    with pytest.raises(EventError, match=f"{names[0]}|does not fit"):
        read_key(names, words)


def test_a_key_from_anywhere_is_stored_as_its_column_would_be_shown() -> None:
    source = Source(
        name="rooms",
        id="id",
        time="at",
        schema="id STRING, house STRING, room BIGINT, at TIMESTAMP",
        topic="rooms",
    )
    project = Project(
        name="rooms",
        views=(FeatureView(name="stays", source=source, key=("house", "room"), features={"n": Count()}),),
    )
    assert stored_key(read_key(project.keys, ["room=007", "house=007"]), project) == {
        "house": "007",
        "room": "7",
    }
    assert stored_key({"house": "a", "room": 7.0}, project) == {"house": "a", "room": "7"}
    with pytest.raises(ProblemError, match="key 'room' is missing"):
        stored_key({"house": "a", "room": ""}, project)


@pytest.mark.parametrize(
    ("kind", "stored", "forms"),
    [
        ("BIGINT", "7", (7, 7.0, "7", "007", "+7", " 7 ", "7.0", "0.7e1")),
        ("INT", "-7", (-7, "-07", "-7.")),
        ("BOOLEAN", "true", (True, "true", "TRUE", " T ", 1, "1", "yes")),
        ("BOOLEAN", "false", (False, "False", 0, "n")),
        ("DATE", "2024-05-01", ("2024-05-01", " 2024-05-01 ", "2024-05-01T23:30:00-05:00")),
        ("TIMESTAMP", "2024-05-01 10:00:00.5", ("2024-05-01T10:00:00.50Z", "2024-05-01 12:00:00.5+02:00")),
        ("TIMESTAMP", "2024-05-01 10:00:00", ("2024-05-01T10:00Z", "2024-05-01 10:00")),
        ("STRING", "007", ("007",)),
        ("STRING", "7", (7, "7")),
        ("STRING", "7.0", (7.0, "7.0")),  # as the lake has it, where a text is a text
        ("STRING", "1.0E10", (1e10,)),
        ("STRING", "true", (True,)),
        ("STRING", " x ", (" x ",)),
    ],
)
def test_a_key_has_one_text_however_it_is_asked_for(
    kind: str, stored: str, forms: tuple[object, ...]
) -> None:
    source = Source(name="rooms", id="id", time="at", schema=f"id STRING, room {kind}, at TIMESTAMP")
    view = FeatureView(name="stays", source=source, key="room", features={"n": Count()})
    project = Project(name="rooms", views=(view,))
    assert [stored_key({"room": form}, project)["room"] for form in forms] == [stored] * len(forms)
    for nothing in (None, "", *([" "] if kind != "STRING" else [])):
        with pytest.raises(ProblemError, match="key 'room' is missing"):
            stored_key({"room": nothing}, project)


def test_a_key_that_no_event_can_have_is_refused_and_not_unknown() -> None:
    source = Source(name="rooms", id="id", time="at", schema="id STRING, room BIGINT, at TIMESTAMP")
    view = FeatureView(name="stays", source=source, key="room", features={"n": Count()})
    project = Project(name="rooms", views=(view,))
    for wrong in ("seven", 7.5, "7,0", 2**63, "\u0667", True):
        with pytest.raises(ProblemError, match=r"key 'room': .* is not a BIGINT"):
            stored_key({"room": wrong}, project)
