"""Addresses of tables that stay where they lie: three kinds, and no password is ever repeated."""

from typing import Any

import pytest

from anabranch import Source
from anabranch.declare.tables import TableAddress, read_address
from anabranch.errors import DeclarationError


def source(table: object) -> Source:
    given: dict[str, Any] = {"table": table}
    return Source(name="history", id="id", time="at", schema="id STRING, at TIMESTAMP", **given)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("delta:/data/history/", TableAddress(kind="delta", place="/data/history")),
        ("delta:s3a://bucket/history", TableAddress(kind="delta", place="s3a://bucket/history")),
        ("parquet:/data/exports", TableAddress(kind="parquet", place="/data/exports")),
        (
            "jdbc:postgresql://db:5432/shop#public.payments?column=no",
            TableAddress(
                kind="jdbc", place="jdbc:postgresql://db:5432/shop", table="public.payments", column="no"
            ),
        ),
    ],
)
def test_an_address_has_a_kind_and_a_place(text: str, address: TableAddress) -> None:
    assert read_address(text) == address
    assert source(text).table == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/data/history", "is no address of a table"),
        ("csv:/data/history", "is no address of a table"),
        ("delta:", "is no address of a table"),
        (7, "is no address of a table"),
        ("delta:data/history", "is a relative path"),
        ("iceberg:prod.shop.payments", "is no address of a table"),
        ("jdbc:postgresql://db/shop#payments", "COLUMN grows"),
        ("jdbc:postgresql://db/shop?column=no", "COLUMN grows"),
        ("jdbc:postgresql://db/shop#pay ments?column=no", "COLUMN grows"),
        ("jdbc:postgresql://db/shop#payments?column=no) --", "COLUMN grows"),
    ],
)
def test_what_is_no_address_is_told_with_the_source_and_the_forms(text: object, told: str) -> None:
    with pytest.raises(DeclarationError, match=told) as raised:
        source(text)
    assert "source 'history'" in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "jdbc:postgresql://db/shop?user=me&password=hunter2#payments?column=no",
        "jdbc:postgresql://me:hunter2@db/shop#payments?column=no",
        "jdbc:sqlserver://db;Password=hunter2#payments?column=no",
        "postgresql://me:hunter2@db/shop",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        source(text)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"table": "delta:/data/history", "topic": "news"}, "is told apart by an id"),
        (
            {"topic": "news", "explode": "items", "fields": {"at": "items.at"}},
            "give the column of the message's id",
        ),
    ],
)
def test_what_needs_an_id_says_so(more: dict[str, Any], told: str) -> None:
    given: dict[str, Any] = {"name": "history", "time": "at", "schema": "id STRING, at TIMESTAMP", **more}
    with pytest.raises(DeclarationError, match=told):
        Source(id=None, **given)
    alone = {name: value for name, value in given.items() if name not in ("topic", "explode", "fields")}
    assert Source(id=None, **alone).identity == "_identity"
    assert Source(id="id", **alone).identity == "id"
