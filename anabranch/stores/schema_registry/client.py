"""A client of the schema registry. It runs in every process that reads or writes binary messages.

A schema of an id never changes, so each process asks for it once. Secrets go into the header of a request and
nowhere else: a client has none in its repr, its errors and the log, and follows no redirect with them.
"""

import base64
import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from cachetools import LRUCache, TTLCache

from anabranch.errors import AnabranchError, EventError, UnavailableError
from anabranch.events.decoders.schemas import AWAY, WriterSchema
from anabranch.settings import BusSettings

log = logging.getLogger(__name__)
_TIMEOUT = 5.0
_PAUSES = (0.2, 1.0)
"""Seconds between tries of one request."""
_LONGEST = 8 * 2**20
"""Bytes of an answer."""
_MOST_KEPT, _MOST_REFERENCES = 1000, 200
_UNKNOWN_SECONDS = 10.0
"""How long an id that the registry did not know is not asked for again."""
_LATEST_SECONDS = 30.0
_NO_SUCH_SCHEMA = (40401, 40402, 40403)
"""Confluent's codes for an unknown subject, version and schema."""
_AWAY = (429, 500, 502, 503, 504)

_lock = threading.RLock()
_known: LRUCache[tuple[str, int], WriterSchema] = LRUCache(_MOST_KEPT)
_unknown: TTLCache[tuple[str, int], str] = TTLCache(_MOST_KEPT, _UNKNOWN_SECONDS)
_latest: TTLCache[tuple[str, str], WriterSchema | None] = TTLCache(_MOST_KEPT, _LATEST_SECONDS)


class SchemaRegistryError(AnabranchError):
    """The schema registry refuses the client, or answers what no schema registry does."""


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_args: object, **_kwargs: object) -> None:
        return None


@dataclass(frozen=True)
class SchemaRegistry:
    """The registry at `bus.schema_registry`: several addresses with commas are tried in turn."""

    settings: BusSettings

    def by_id(self, number: int) -> WriterSchema:
        """The schema of that id, asked for once a process.

        Raises EventError for an id that the registry does not know, UnavailableError while it does not answer
        and SchemaRegistryError when it answers nonsense or refuses the client.
        """
        place = (self.settings.schema_registry, number)
        with _lock:
            if place in _known:
                return _known[place]
            unknown = _unknown.get(place)
            if unknown is not None:
                raise EventError(unknown)
            found = self._ask(f"/schemas/ids/{number}")
            if found is None:
                _unknown[place] = reason = (
                    f"unknown schema: the schema registry has none with the id {number}"
                )
                raise EventError(reason)
            _known[place] = schema = self._schema(number, found)
        log.info("schema id=%d kind=%s read from %s", number, schema.kind, self.address)
        return schema

    def latest(self, subject: str) -> WriterSchema | None:
        """The latest schema of the subject, at most half a minute old; None for an unknown subject."""
        place = (self.settings.schema_registry, subject)
        with _lock:
            if place not in _latest:
                found = self._ask(f"/subjects/{quote(subject, safe='')}/versions/latest")
                _latest[place] = None if found is None else self._schema(self._number(found, "id"), found)
            return _latest[place]

    @property
    def address(self) -> str:
        """Its addresses without secrets."""
        parts = (urlsplit(each) for each in self.settings.schema_registry.split(","))
        return ",".join(f"{each.scheme}://{each.netloc.rpartition('@')[2]}{each.path}" for each in parts)

    def _schema(self, number: int, found: Mapping[str, Any]) -> WriterSchema:
        texts: dict[str, str] = {}
        self._collect(found, texts, set())
        return WriterSchema(
            id=number,
            kind=str(found.get("schemaType") or "AVRO"),
            text=self._text(found),
            references=tuple(texts.values()),
        )

    def _collect(self, found: Mapping[str, Any], texts: dict[str, str], entered: set[str]) -> None:
        """Add the texts of the schemas that one refers to, each after those it refers to itself."""
        for each in found.get("references") or ():
            try:
                name, subject, version = str(each["name"]), str(each["subject"]), int(each["version"])
            except (KeyError, TypeError, ValueError):
                raise self._nonsense("a reference without name, subject and version") from None
            if name in entered:
                continue
            entered.add(name)
            if len(entered) > _MOST_REFERENCES:
                raise self._nonsense(f"a schema with more than {_MOST_REFERENCES} references")
            inner = self._ask(f"/subjects/{quote(subject, safe='')}/versions/{version}")
            if inner is None:
                raise EventError(
                    f"unknown schema: {subject} version {version}, which is referred to, does not exist"
                )
            self._collect(inner, texts, entered)
            texts[name] = self._text(inner)

    def _text(self, found: Mapping[str, Any]) -> str:
        text = found.get("schema")
        if not isinstance(text, str):
            raise self._nonsense("an answer without a schema")
        return text

    def _number(self, found: Mapping[str, Any], name: str) -> int:
        number = found.get(name)
        if not isinstance(number, int) or isinstance(number, bool):
            raise self._nonsense(f"an answer without {name}")
        return number

    def _ask(self, path: str) -> Mapping[str, Any] | None:
        """The answer to a GET; None where the registry says that there is no such thing."""
        reason = ""
        for pause in (*_PAUSES, None):
            for address in self.settings.schema_registry.split(","):
                try:
                    return self._answer(address.strip().rstrip("/"), path)
                except UnavailableError as error:
                    reason = str(error)
            if pause is not None:
                time.sleep(pause)
        raise UnavailableError(
            f"{AWAY}{self.address} does not answer ({reason}): start it, or set bus.schema_registry"
        )

    def _answer(self, address: str, path: str) -> Mapping[str, Any] | None:
        try:
            request = Request(_without_user(address) + path, headers=self._headers(address))
            with _opener().open(request, timeout=_TIMEOUT) as answer:
                return self._document(answer.read(_LONGEST + 1))
        except HTTPError as error:
            with error:
                self._check_refusal(error.code, error.read(_LONGEST))
                return None
        except (OSError, HTTPException) as error:
            raise UnavailableError(f"{type(error).__name__}: {getattr(error, 'reason', error)}") from None

    def _check_refusal(self, status: int, body: bytes) -> None:
        """Return where the registry says that there is no such thing; raise for any other refusal."""
        if status in _AWAY:
            raise UnavailableError(f"HTTP status {status}")
        if status in (401, 403):
            raise SchemaRegistryError(
                f"the schema registry at {self.address} refuses Anabranch (HTTP status {status}): set "
                "bus.schema_registry_user and bus.schema_registry_password, or bus.schema_registry_token"
            )
        if status == 404:
            try:
                code = json.loads(body)["error_code"]
            except (ValueError, KeyError, TypeError):
                code = None
            if code in _NO_SUCH_SCHEMA:
                return
        raise self._nonsense(f"HTTP status {status}")

    def _document(self, body: bytes) -> Mapping[str, Any]:
        if len(body) > _LONGEST:
            raise self._nonsense(f"more than {_LONGEST} bytes")
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            raise self._nonsense("no JSON") from None
        if not isinstance(found, dict):
            raise self._nonsense("no JSON object")
        return found

    def _nonsense(self, what: str) -> SchemaRegistryError:
        return SchemaRegistryError(
            f"{self.address} answered {what}, which is not the API of a schema registry: correct "
            "bus.schema_registry, with the path of the API if it has one (Apicurio: /apis/ccompat/v7)"
        )

    def _headers(self, address: str) -> dict[str, str]:
        headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        settings, within = self.settings, urlsplit(address)
        if settings.schema_registry_token:
            return {**headers, "Authorization": f"Bearer {settings.schema_registry_token}"}
        user = settings.schema_registry_user or within.username
        password = settings.schema_registry_password or within.password
        if user:
            pair = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
            return {**headers, "Authorization": f"Basic {pair}"}
        return headers


def forget() -> None:
    """Forget every schema that this process has read, as a new process would not know them."""
    with _lock:
        _known.clear()
        _unknown.clear()
        _latest.clear()


def _without_user(address: str) -> str:
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _opener() -> OpenerDirector:
    # Certificates are checked against the system's authorities (or those of SSL_CERT_FILE).
    return build_opener(_NoRedirects)
