"""What reads text from outside takes time in proportion to its length: twice the text, twice the time."""

import re
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from anabranch.answers.requests import decode, path_key
from anabranch.declare.loading import load_project
from anabranch.errors import AnabranchError, without_secrets
from anabranch.stores.files.api_keys import parse
from anabranch.stores.queries import reason_of
from anabranch.values.types import parse_type, type_names
from batch.landing.explained import explained
from batch.quality.reasons import explain
from serving.api.routing import Router
from serving.routes import ROUTES
from tests.support.serving_fakes import PROJECTS

LENGTH = 8000
NOISE = 0.005  # seconds: below it nobody waits, whatever the growth
PARTS = (
    "1",
    ".",
    "1.",
    "e",
    "1e",
    "-",
    " ",
    "2024-05-01 ",
    "T12:00",
    ":",
    "'",
    "=",
    "a=",
    "_",
    "File a:",
    "/x",
)
TEXTS = [
    (before, part, after)
    for part in PARTS
    for before, after in (("", ""), ("", "!"), ("2024-05-01", "!"), ("1.", "!"))
]
ROUTER = Router(ROUTES)
PROJECT = load_project("heart_disease", (PROJECTS,))
READERS: dict[str, Callable[[str], object]] = {
    **{name: parse_type(name).fault for name in type_names()},
    "a body": lambda text: decode(b'{"a": "' + text.replace("\\", "").replace('"', "").encode() + b'"}'),
    "a number in a body": lambda text: decode(b"[" + text.encode() + b"]"),
    "a key in a path": lambda text: path_key(text, PROJECT),
    "a path": lambda text: ROUTER.find("/v1/projects/" + text),
    "an API key": parse,
    "an error": without_secrets,
    "an error of a query": lambda text: reason_of(ValueError(text)),
    "an error of a load": lambda text: explained(ValueError(text), "a load"),
    "a reason of quarantine": explain,
}


def seconds(read: Callable[[str], object], text: str) -> float:
    taken = []
    for _ in range(3):
        started = time.thread_time()
        with suppress(AnabranchError):  # refused: that is an answer as well
            read(text)
        taken.append(time.thread_time() - started)
        if taken[-1] < NOISE:
            break
    return min(taken)


def grows(read: Callable[[str], object], text: tuple[str, str, str], length: int = LENGTH) -> bool:
    before, part, after = text
    once, twice = (f"{before}{part * (n // len(part))}{after}" for n in (length, 2 * length))
    return seconds(read, twice) > 3 * seconds(read, once) + NOISE


@pytest.mark.parametrize("what", READERS)
def test_reading_takes_time_in_proportion_to_the_text(what: str) -> None:
    assert [text for text in TEXTS if grows(READERS[what], text)] == []


def test_a_pattern_that_tries_every_split_is_found() -> None:
    quadratic = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
    assert grows(quadratic.fullmatch, ("", "1", "!"), 2000)
