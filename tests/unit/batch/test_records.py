"""Records of CSV are those of RFC 4180, however their lines are cut."""

import csv
import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.events.rows import LONGEST_EVENT
from batch.landing.records import ENDLESS, records

cells = st.lists(st.text(st.sampled_from('ab",\n\r é'), max_size=8), min_size=2, max_size=4)


def cut(text: str) -> list[bytes]:
    """The lines as Spark hands them over: without the line feeds, the last of which ends no empty line."""
    lines = text.encode().split(b"\n")
    return lines if lines[-1] else lines[:-1]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@given(rows=st.lists(cells, min_size=1, max_size=5))
def test_what_a_csv_writer_wrote_comes_back_row_by_row(ending: str, rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=ending)
    if any("\r" in cell for row in rows for cell in row):  # which the writer does not quote by itself
        writer = csv.writer(text, lineterminator=ending, quoting=csv.QUOTE_ALL)
    writer.writerows(rows)
    found = [record.decode() for record in records(cut(text.getvalue()))]
    assert [next(csv.reader(io.StringIO(record, newline=""))) for record in found] == rows


def test_only_a_quote_at_the_beginning_of_a_cell_opens_a_text() -> None:
    lines = [
        '1,5" pipe,x',
        '2,"a"b,c',
        '3,"back\\"slash",d',
        '4, "spaced" ,e',
        '5,"",f',
        '6,"open',
        'closed",g',
    ]
    found = [record.decode() for record in records(line.encode() for line in lines)]
    assert found == [*lines[:5], '6,"open\nclosed",g']


def test_carriage_returns_alone_end_rows_and_stay_within_quotes() -> None:
    assert list(records([b'1,a\r2,"b\rc"\r3,d\r'])) == [b"1,a", b'2,"b\rc"', b"3,d"]


def test_a_quote_that_is_never_closed_does_not_swallow_a_file() -> None:
    lines = [b'1,"a', *[b"x" * 1000] * (LONGEST_EVENT // 1000)]
    with pytest.raises(ValueError, match=ENDLESS):
        list(records(lines))
    assert list(records([b'1,"a', b"2,b"])) == [b'1,"a\n2,b']


def test_the_time_for_a_text_grows_with_its_length_alone() -> None:
    def seconds(pieces: list[bytes]) -> float:
        taken = []
        for _ in range(3):
            started = time.thread_time()
            assert len(list(records([b'1,"', *pieces, b'"']))) == 1
            taken.append(time.thread_time() - started)
        return min(taken)

    for piece in (b"x", b'""', b",", b'a""'):
        assert seconds([piece] * 40_000) < 100 * seconds([piece] * 2_000) + 0.05
