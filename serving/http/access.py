"""Callers and their rights, by API keys and JSON Web Tokens; the names that they may reach the server by.

A wrong credential is a 401 that says why, a missing right a 403. The rights of a token are its `scope`:
``heart_disease:predict *:catalogue``. A token is accepted when one of the issuer's public keys signed it;
algorithms with shared secrets, and none, are refused.
"""

import hashlib
import socket
import threading
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

import jwt
from cachetools import FIFOCache

from anabranch.answers.problems import ProblemError
from anabranch.stores.files.api_keys import ALL, ApiKey, parse
from anabranch.values.times import SECOND, format_time

_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_MOST_REMEMBERED = 4096


_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Hosts:
    """The names that a request's Host may have: loopback's, the one that is listened on, and `allowed`.

    A page of another origin whose name is made to lead here is refused by it. A server that listens on every
    address takes every address, which no such page has for a name, and the machine's own name.
    """

    def __init__(self, host: str, allowed: Iterable[str]) -> None:
        self._any, self._addresses = "*" in allowed, host in _WILDCARDS
        names = {*_LOOPBACK, host, *allowed, *((socket.gethostname(),) if self._addresses else ())}
        self._names = frozenset(name.lower() for name in names)

    def check(self, sent: str) -> None:
        """Raise a 421 problem unless `sent`, a name with or without a port, is ours; none at all passes."""
        name = _without_port(sent.strip().lower())
        if not (self._any or not name or name in self._names or (self._addresses and _is_address(name))):
            raise ProblemError(
                421,
                "wrong-host",
                f"{name[:100]!r} is not a name of this server: use its own, or have it added to "
                "serving.allowed_hosts",
            )


def _without_port(sent: str) -> str:
    if sent.startswith("["):
        return sent[1:].partition("]")[0]
    name, colon, port = sent.rpartition(":")
    return (name if colon and port.isdigit() and ":" not in name else sent).removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Caller:
    """An identified caller; rights by project, ``*`` for all."""

    name: str
    rights: Mapping[str, frozenset[str]]
    until: int | None = None

    def may(self, project: str, right: str) -> bool:
        """Whether the caller has a right for a project."""
        return right in self.rights.get(project, ()) or right in self.rights.get(ALL, ())

    def may_somewhere(self, right: str) -> bool:
        """Whether the caller has a right for any project."""
        return any(right in rights for rights in self.rights.values())

    def require(self, project: str, right: str) -> None:
        """Raise a 403 problem unless the caller has the right."""
        if not self.may(project, right):
            raise ProblemError(
                403,
                "forbidden",
                f"{self.name} has no right to {right} for {project[:100]}: ask for a key or token that has",
            )


NOBODY = Caller("nobody known", {})
"""The caller of an open path without good credentials."""


def sees(caller: Caller | None, project: str) -> bool:
    """Whether a caller may see a project; every caller may where none needs credentials (None)."""
    return caller is None or caller.may(project, "catalogue")


def only_seen(caller: Caller | None, by_project: Mapping[str, str]) -> dict[str, str]:
    """The entries of the projects that a caller may see."""
    return {name: text for name, text in by_project.items() if sees(caller, name)}


@dataclass(frozen=True, kw_only=True)
class Issuer:
    """The signer of tokens: its public keys in PEM, and the `iss` and `aud` that tokens must have, if any."""

    public_keys: tuple[str, ...] = field(default=(), repr=False)
    name: str = ""
    audience: str = ""


class Access:
    """Identifies callers by their credentials. `keys` reads the API keys by id; `refresh` rereads them."""

    def __init__(
        self, keys: Callable[[], Mapping[str, ApiKey]], issuer: Issuer, clock: Callable[[], int]
    ) -> None:
        self._read, self._issuer, self._clock = keys, issuer, clock
        self._keys: Mapping[str, ApiKey] = {}
        self._believed: FIFOCache[bytes, Caller] = FIFOCache(_MOST_REMEMBERED)
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Read the keys again: new ones are accepted, revoked ones no more."""
        self._keys = self._read()

    def identify(self, authorization: str, api_key: str) -> Caller:
        """The caller, by ``Authorization: Bearer ...`` or ``X-API-Key``; raises a 401 problem."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        sent = api_key or token
        if not sent:
            raise _unauthorized("no credentials: send 'Authorization: Bearer KEY' with an API key or a token")
        parts = parse(sent)
        return self._by_token(sent) if parts is None else self._by_key(*parts)

    def identify_reader(self, authorization: str, api_key: str) -> Caller:
        """The caller of a page: a browser sends the credential as the password of ``Basic``."""
        scheme, _, sent = authorization.partition(" ")
        if scheme.lower() == "basic":
            authorization = f"Bearer {_password(sent)}"
        try:
            return self.identify(authorization, api_key)
        except ProblemError as problem:
            problem.headers = (
                ("www-authenticate", 'Basic realm="anabranch: an API key as the password", charset="UTF-8"'),
            )
            raise

    def _by_key(self, ident: str, secret: str) -> Caller:
        key = self._keys.get(ident)
        if key is None or not key.proves(secret):
            raise _unauthorized("the API key is unknown or was revoked: ask for a new one")
        if key.expires is not None and key.expires <= self._clock():
            raise _unauthorized(f"the API key expired at {format_time(key.expires)}: ask for a new one")
        return Caller(f"key {ident}", {key.project: frozenset(key.rights)})

    def _by_token(self, token: str) -> Caller:
        name = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        with self._lock:
            known = self._believed.get(name)
        if known is None or (known.until or 0) <= self._clock():
            known = self._verified(token)
            with self._lock:
                self._believed[name] = known
        return known

    def _verified(self, token: str) -> Caller:
        if not self._issuer.public_keys:
            raise _unauthorized(
                "the credential is no API key, and this server accepts no tokens: "
                "send 'Authorization: Bearer anb_...'"
            )
        error: Exception = ValueError("no key was tried")
        for public in self._issuer.public_keys:
            try:
                claims = jwt.decode(
                    token,
                    public,
                    algorithms=list(_ALGORITHMS),
                    audience=self._issuer.audience or None,
                    issuer=self._issuer.name or None,
                    options={"require": ["exp"], "verify_aud": bool(self._issuer.audience)},
                )
            except (jwt.InvalidSignatureError, jwt.InvalidKeyError, jwt.InvalidAlgorithmError) as wrong:
                error = wrong  # another key of the issuer may have signed it
                continue
            except (jwt.PyJWTError, ValueError) as wrong:  # text that is not even Unicode is a ValueError
                error = wrong
                break
            return _caller(claims)
        raise _unauthorized(_REASONS.get(type(error), "the token cannot be read")) from error


_REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "the token has expired: get a new one",
    jwt.ImmatureSignatureError: "the token is not valid yet",
    jwt.InvalidSignatureError: "the token was not signed by an issuer that this server trusts",
    jwt.InvalidKeyError: "the token was not signed by an issuer that this server trusts",
    jwt.InvalidAlgorithmError: "the token was not signed with a public-key algorithm of a trusted issuer",
    jwt.InvalidIssuerError: "the token is of another issuer",
    jwt.InvalidAudienceError: "the token is for another audience",
    jwt.MissingRequiredClaimError: "the token lacks a claim: exp, or iss or aud where the server needs it",
}


def _caller(claims: Mapping[str, object]) -> Caller:
    rights: dict[str, set[str]] = {}
    for word in str(claims.get("scope", "")).split():
        project, colon, right = word.partition(":")
        if colon:
            rights.setdefault(project, set()).add(right)
    until = int(float(str(claims["exp"])) * SECOND)
    return Caller(
        f"the token of {str(claims.get('sub', 'nobody'))[:100]}",
        {project: frozenset(names) for project, names in rights.items()},
        until,
    )


def _password(sent: str) -> str:
    try:
        return b64decode(sent.strip(), validate=True).decode().partition(":")[2].strip()
    except ValueError:
        return ""


def _unauthorized(detail: str) -> ProblemError:
    problem = ProblemError(401, "unauthorized", detail)
    problem.headers = (("www-authenticate", 'Bearer realm="anabranch"'),)
    return problem
