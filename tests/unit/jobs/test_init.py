"""`anabranch init FILE`: types, id, time, key and label are guessed and said, and what is written holds."""

import gzip
import json
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anabranch.declare.loading import load_project
from anabranch.testing import check_example
from jobs.cli.declarations.guessing import guess_type
from jobs.cli.main import main

PAYMENTS = "payment_id,card,paid_at,amount,kind,is_fraud\n" + "".join(
    f"p{n},c{n % 3},2024-05-0{1 + n // 10}T{n % 10:02}:00:00Z,{n}.5,{'food' if n % 2 else 'rent'},"
    f"{str(n % 7 == 0).lower()}\n"
    for n in range(30)
)


@pytest.fixture
def begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """Runs init on a file with this content; what it says as JSON, or its error. Each example must hold."""
    folder = tmp_path / "projects"
    folder.mkdir()
    monkeypatch.setenv("ANABRANCH_PROJECTS", str(folder))

    def run(name: str, content: str | bytes, *options: str) -> dict[str, Any]:
        file = tmp_path / name
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        code = main(["init", str(file), "--json", *options])
        out, err = capsys.readouterr()
        if code:
            assert not list(folder.iterdir()), "a refused file leaves nothing behind"
            return {"code": code, "error": err}
        value: dict[str, Any] = json.loads(out)
        project = load_project(value["project"], [folder])
        assert value["examples"] == len(project.examples) == 1
        assert not check_example(project, project.examples[0])
        return {**value, "text": Path(value["file"]).read_text(encoding="utf-8")}

    return run


Begin = Callable[..., dict[str, Any]]


def test_a_file_of_events_gives_a_declaration_that_its_own_example_proves(begin: Begin) -> None:
    found = begin("payments.csv", PAYMENTS)
    assert (found["id"], found["time"], found["key"], found["label"]) == (
        "payment_id",
        "paid_at",
        ["card"],
        "is_fraud",
    )
    assert found["types"] == {
        "payment_id": "STRING",
        "card": "STRING",
        "paid_at": "TIMESTAMP",
        "amount": "DOUBLE",
        "kind": "STRING",
        "is_fraud": "BOOLEAN",
    }
    assert {"events_1d", "amount_sum_1d", "amount_mean_7d", "amount_last_7d", "by_kind_1d_food"} <= {
        *found["features"]
    }
    assert "own_event=True" in found["text"]
    assert not [name for name in found["features"] if "fraud" in name]


def test_the_verb_tells_why_and_what_comes_next(
    begin: Begin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin("payments.csv", PAYMENTS)
    assert main(["init", str(tmp_path / "payments.csv"), "--name", "others", "--label", "none"]) == 0
    out = capsys.readouterr().out
    assert "different in every row, and named so" in out
    assert "3 different values, 10.0 rows each, and named so" in out
    assert f"Next: anabranch ingest others others {tmp_path}/payments.csv" in out
    assert main(["test", "others", str(tmp_path / "payments.csv")]) == 0
    assert main(["init", str(tmp_path / "payments.csv")]) == 2
    assert "exists already" in capsys.readouterr().err


ROWS = "2024-05-01T00:00:00Z,a\n2024-05-01T01:00:00Z,a\n2024-05-01T02:00:00Z,b\n"
HUGE = f"at,user,t\n{ROWS.replace(',a', ',a,' + 'x' * 200_000).replace(',b', ',b,')}"
BODY = {"user": "u", "n": {"x": 0.5}}
NESTED = "".join(
    json.dumps({"_id": f"e{n}", "at": f"2024-05-01T0{n}:00:00", "body": BODY, "tags": ["a"]}) + "\n"
    for n in range(4)
)
SOUND: Mapping[str, tuple[str, str | bytes, tuple[str, ...], Mapping[str, Any]]] = {
    "no id": ("e.csv", f"at,user\n{ROWS}", (), {"id": None, "key": ["user"]}),
    "reserved words": (
        "select.csv",
        "order,group,timestamp,null\n1,a,2024-05-01,2\n2,a,2024-05-02,3\n3,b,2024-05-03,4\n",
        ("--key", "group"),
        {
            "time": "timestamp",
            "types": {"order": "BIGINT", "group": "STRING", "timestamp": "DATE", "null": "BIGINT"},
        },
    ),
    "names that are no identifiers": (
        "odd names.csv",
        "At When,user-id,Größe %,2nd\n2024-05-01,u1,1.5,3\n2024-05-02,u1,2.5,4\n2024-05-03,u2,2.5,4\n",
        (),
        {"key": ["user-id"], "time": "At When"},
    ),
    "names that no source can have": (
        "e.csv",
        f",_user, user\n1,{ROWS.splitlines()[0]}\n2,{ROWS.splitlines()[1]}\n",
        ("--key", "user_2"),
        {"time": "user", "types": {"column_1": "BIGINT", "user": "TIMESTAMP", "user_2": "STRING"}},
    ),
    "a byte order mark": ("e.csv", f"\ufeffat,user\n{ROWS}".encode(), (), {"time": "at"}),
    "semicolons": ("e.csv", f"at;user\n{ROWS.replace(',', ';')}", (), {"key": ["user"]}),
    "latin letters": ("e.csv", f"at,user\n{ROWS}".replace("b", "ü").encode("latin-1"), (), {"key": ["user"]}),
    "gzip": ("e.csv.gz", gzip.compress(f"at,user\n{ROWS}".encode()), (), {"project": "e", "key": ["user"]}),
    "codes with zeros": (
        "e.csv",
        "at,user,zip\n2024-05-01,u,00123\n2024-05-02,u,12345\n2024-05-03,v,12345\n",
        (),
        {"types": {"at": "DATE", "user": "STRING", "zip": "STRING"}},
    ),
    "a huge cell": ("e.csv", HUGE, (), {"key": ["user"]}),
    "a row of other length": ("e.csv", f"at,user\n{ROWS}2024-05-02\n", (), {"key": ["user"]}),
    "one row a key": (
        "exams.csv",
        "exam_id,patient_id,at,rate,disease\n"
        "e1,p1,2024-05-01,60,0\ne2,p2,2024-05-02,70,1\ne3,p3,2024-05-03,80,0\n",
        (),
        {
            "id": "exam_id",
            "key": ["patient_id"],
            "label": "disease",
            "features": ["events", "rate_mean", "rate_last"],
        },
    ),
    "nested JSON": (
        "e.jsonl",
        NESTED,
        ("--key", "body_user"),
        {
            "types": {
                "id": "STRING",
                "at": "TIMESTAMP",
                "body_user": "STRING",
                "body_n_x": "DOUBLE",
                "tags": "STRING",
            }
        },
    ),
    "a JSON array": (
        "e.json",
        json.dumps([{"at": "2024-05-01", "user": "u", "v": 1}] * 3),
        ("--key", "user"),
        {},
    ),
    "a name that is Python's": ("class.csv", f"at,user\n{ROWS}", (), {"source": "class_events"}),
    "a label of several classes": (
        "e.csv",
        "at,user,species\n" + "".join(f"2024-05-{n + 1:02},u{n % 4},{'abc'[n % 3]}\n" for n in range(24)),
        ("--label", "species"),
        {"label": "species"},
    ),
}


@pytest.mark.parametrize("case", SOUND)
def test_odd_files_are_read(begin: Begin, case: str) -> None:
    name, content, options, expected = SOUND[case]
    found = begin(name, content, *options)
    assert found.get("error") is None
    assert {key: found[key] for key in expected} == expected


def test_how_a_csv_is_written_goes_into_the_command_that_lands_it(begin: Begin) -> None:
    text = f"at;user ;_x\n{ROWS.replace(',', ';').replace(chr(10), ';ü' + chr(10))}"
    found = begin("e.csv", text.encode("cp1252"), "--key", "user")
    assert found["ingest"].endswith("e.csv --delimiter ';' --encoding cp1252 --header at,user,x")


FAULTS: Mapping[str, tuple[str, str | bytes, tuple[str, ...], str]] = {
    "empty": ("e.csv", "", (), "has no rows"),
    "a header alone": ("e.csv", "at,user\n", (), "has no rows"),
    "no time": ("e.csv", "a,user\n1,u\n2,u\n", (), "no column is a time"),
    "days first": ("e.csv", "date,user\n31.12.2024,u\n01.01.2025,u\n", (), "'31.12.2024' are not ISO 8601"),
    "seconds since 1970": ("e.csv", "ts,user\n1714564800,u\n1714564801,u\n", (), "'ts': seconds since 1970"),
    "no key": ("e.csv", "at,x\n2024-05-01,1.5\n2024-05-02,2.5\n", (), "name one with --key: at, x"),
    "an unknown key": ("e.csv", f"at,user\n{ROWS}", ("--key", "usr"), "did you mean 'user'?"),
    "an unknown label": ("e.csv", f"at,user\n{ROWS}", ("--label", "bad"), "no column"),
    "a time that is none": ("e.csv", f"at,user\n{ROWS}", ("--time", "user"), "--time 'user' is STRING"),
    "UTF-16": ("e.csv", f"at,user\n{ROWS}".encode("utf-16"), (), "is UTF-16"),
    "no JSON": ("e.jsonl", "{broken\n", (), "cannot be read"),
    "no objects": ("e.jsonl", "1\n2\n", (), "event 1 is no JSON object"),
    "no gzip": ("e.csv.gz", "at,user", (), "cannot be read"),
    "another file": ("e.xlsx", "PK", (), "read from files named"),
    "no name": ("1.csv", f"at,user\n{ROWS}", (), "name it with --name"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_file_that_gives_no_declaration_is_one_clear_error(begin: Begin, case: str) -> None:
    name, content, options, told = FAULTS[case]
    found = begin(name, content, *options)
    assert found["code"] == 2
    assert told in found["error"]
    assert found["error"].count("\n") == 1


def test_parquet_brings_its_own_types(begin: Begin, tmp_path: Path) -> None:
    table = pa.table(
        {
            "at": [datetime(2024, 5, day, tzinfo=UTC) for day in (1, 2, 3)],
            "account": ["a", "a", "b"],
            "balance": pa.array([Decimal("1.50"), Decimal("2.25"), None], pa.decimal128(12, 2)),
            "day": [date(2024, 5, 1)] * 3,
            "tags": [["x"], [], None],
            "ok": [True, False, None],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    found = begin("accounts.parquet", (tmp_path / "rows.parquet").read_bytes())
    assert found["types"] == {
        "at": "TIMESTAMP",
        "account": "STRING",
        "balance": "DECIMAL(12,2)",
        "day": "DATE",
        "tags": "ARRAY<STRING>",
        "ok": "BOOLEAN",
    }
    assert found["time"] == "at"


def test_a_few_values_of_another_type_are_errors_in_the_data() -> None:
    values: list[Any] = [str(n) for n in range(40)] + [None, "n/a"]
    kind, why, odd = guess_type(values)
    assert (str(kind), why, odd) == ("BIGINT", "40 of 41 values are", [(42, "n/a")])
    assert str(guess_type(["1", "x", "2"])[0]) == "STRING"
    assert str(guess_type([True, False])[0]) == "BOOLEAN"
    assert str(guess_type([True, 3])[0]) == "STRING"
    assert str(guess_type(["1.0", "2"])[0]) == "DOUBLE"
    assert str(guess_type([None, None])[0]) == "STRING"
