"""API keys in one file: which caller has which rights to which project.

Only hashes of secrets are kept; a key is shown once, when it is made.

    anb_<id>_<secret>      what a caller sends; the id names the entry, the secret (256 random bits) proves it

The file is replaced whole, readable by its owner only. Several servers may share it; each looks at it again
and again.
"""

import fcntl
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from anabranch.errors import AnabranchError, MisuseError
from anabranch.values.names import listed

ALL = "*"
RIGHTS = ("predict", "features", "scores", "events", "why", "catalogue", "metrics")
"""The rights that a key can have."""
READING = ("predict", "features", "scores", "catalogue")
"""The rights of a key by default."""


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """One entry: times in microseconds; `project` may be ``*``."""

    id: str
    project: str
    rights: tuple[str, ...]
    name: str
    created: int
    expires: int | None
    hash: str = field(repr=False)

    def proves(self, secret: str) -> bool:
        """Whether `secret` is this key's, compared in constant time."""
        return hmac.compare_digest(self.hash, _hash(secret))


@dataclass(frozen=True)
class ApiKeys:
    """The keys of one file."""

    file: Path

    def read(self) -> Mapping[str, ApiKey]:
        """Every key by its id; raises AnabranchError when the file is damaged."""
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
            return {
                entry["id"]: ApiKey(**{**entry, "rights": tuple(entry["rights"])}) for entry in found["keys"]
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AnabranchError(
                f"the file of API keys {self.file} cannot be read ({type(error).__name__}): "
                "restore it, or remove it and make keys anew"
            ) from error

    def add(
        self,
        project: str,
        now: int,
        *,
        rights: Sequence[str] = READING,
        name: str = "",
        expires: int | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key; returns its entry and the text to send, which is not kept anywhere."""
        unknown = [right for right in rights if right not in RIGHTS]
        if unknown or not rights:
            given = "".join(unknown[:1])
            raise MisuseError(f"right {given!r} is unknown: {listed(given, RIGHTS, 'rights are')}")
        secret, ident = secrets.token_urlsafe(32), secrets.token_hex(4)
        entry = ApiKey(
            id=ident,
            project=project,
            rights=tuple(rights),
            name=name,
            created=now,
            expires=expires,
            hash=_hash(secret),
        )
        with self._changing():
            self._write([*self.read().values(), entry])
        return entry, f"anb_{ident}_{secret}"

    def revoke(self, project: str, ident: str) -> None:
        """Revoke a key of the project. Raises MisuseError when the project has no such key."""
        with self._changing():
            known = self.read()
            if ident not in known or known[ident].project != project:
                raise MisuseError(
                    f"project {project!r} has no key {ident!r}: 'anabranch keys list {project}' shows them"
                )
            self._write([entry for entry in known.values() if entry.id != ident])

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time: of two at once, one would be lost and a revoked key could come back."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, entries: Sequence[ApiKey]) -> None:
        draft = self.file.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(
            json.dumps({"keys": [asdict(entry) for entry in entries]}, indent=1), encoding="utf-8"
        )
        draft.replace(self.file)


def parse(text: str) -> tuple[str, str] | None:
    """The id and the secret of a key as a caller sends it; None for a text of another form."""
    parts = text.split("_", 2)
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == "anb" else None


def _hash(secret: str) -> str:
    # The secret is random and long: there is nothing to guess, so a slow hash would only slow answers.
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
