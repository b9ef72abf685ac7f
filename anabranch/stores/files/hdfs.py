"""Files in HDFS from any machine, by WebHDFS, without a JVM or a Hadoop installation.

A transfer appears whole or not at all: it goes to a hidden name beside its target, is measured, and takes the
target's name by one rename.
"""

import getpass
import posixpath
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from anabranch.errors import AnabranchError, MisuseError, UnavailableError
from anabranch.progress import Progress
from anabranch.settings import FileSettings

_CHUNK = 1_048_576  # bytes held at once
_PATIENCE_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file or folder; `size` in bytes (a folder's own is 0), `changed` in milliseconds since 1970."""

    path: str
    folder: bool
    size: int
    changed: int
    owner: str


@dataclass(frozen=True)
class Hdfs:
    """One HDFS. Paths are absolute there, or whole `hdfs://` addresses of it."""

    settings: FileSettings

    def path(self, text: str) -> str:
        """The path that `text` names. Raises MisuseError for a relative path and for another HDFS."""
        path = text
        if "://" in text:
            url = urlparse(text)
            if url.scheme != "hdfs" or url.netloc not in ("", self.settings.namenode):
                ours = (
                    f"hdfs://{self.settings.namenode}"
                    if self.settings.namenode
                    else "none (set files.namenode)"
                )
                raise MisuseError(
                    f"{text} is not in the HDFS of the settings ({ours}): "
                    "give one of its addresses, or a path such as /data/events.csv"
                )
            path = text.split("://", 1)[1].removeprefix(url.netloc) or "/"
        if not path.startswith("/"):
            raise MisuseError(
                f"{text!r} does not begin with '/': "
                "name files in HDFS from the root, such as /data/events.csv"
            )
        # '#LATEST' means something else to the client; ':' is refused by HDFS itself.
        if any(part in ("..", ".") for part in path.split("/")) or re.search(r"[\x00-\x1f:]|#LATEST", path):
            raise MisuseError(
                f"{text!r} is no plain path: leave out '.', '..', ':', '#LATEST' and control characters"
            )
        return posixpath.normpath(path.replace("//", "/"))

    def entry(self, path: str) -> Entry | None:
        """The file or folder at `path`; None when there is none."""
        path = self.path(path)
        with self._asking(path):
            found = self._client.status(path, strict=False)
        return None if found is None else _entry(path, found)

    def entries(self, path: str) -> list[Entry]:
        """A folder's entries by name, or the file itself. Raises AnabranchError without one."""
        found = self._existing(path)
        if not found.folder:
            return [found]
        with self._asking(found.path):
            listed = self._client.list(found.path, status=True)
        return sorted(
            (_entry(posixpath.join(found.path, name), status) for name, status in listed),
            key=lambda entry: entry.path,
        )

    def put(self, local: Path, path: str, progress: Progress, *, replace: bool = False) -> list[Entry]:
        """Put a local file or folder into the folder `path`, or under this name. Returns the files.

        An existing file is replaced only with `replace`; a folder never is.
        """
        if not local.exists():
            raise MisuseError(f"there is no file or folder {local} on this machine: check the path")
        target = self._target(path, local.resolve().name)
        there = self.entry(target)
        folder = local.is_dir() or (there is not None and there.folder)
        if there is not None and (folder or not replace):
            remedy = "remove it first" if folder else "use --replace, or another name"
            raise AnabranchError(f"{target} exists already in HDFS: {remedy}")
        sources = [local] if local.is_file() else sorted(each for each in local.rglob("*") if each.is_file())
        below = ["" if local.is_file() else each.relative_to(local).as_posix() for each in sources]
        total = sum(each.stat().st_size for each in sources)
        progress.step(f"{len(sources)} files, {total:,} bytes, to {target}")
        draft = _draft(target)
        try:
            if local.is_dir():
                self._make_folder(draft)
            done = 0
            for source, name in zip(sources, below, strict=True):
                done = self._send(source, posixpath.join(draft, name).rstrip("/"), progress, done, total)
            self._rename(draft, target, replace=replace)
        except BaseException:
            self._forget(draft)
            raise
        return self._files_below(self._existing(target))

    def get(self, path: str, local: Path, progress: Progress, *, replace: bool = False) -> list[Path]:
        """Get a file or folder into the folder `local`, or under this name. Returns the files.

        An existing file is replaced only with `replace`; a folder never is.
        """
        found = self._existing(path)
        target = local / posixpath.basename(found.path) if local.is_dir() else local
        folder = found.folder or target.is_dir()
        if target.exists() and (folder or not replace):
            remedy = "give another name" if folder else "use --replace, or another name"
            raise AnabranchError(f"{target} exists already on this machine: {remedy}")
        files = self._files_below(found)
        total = sum(file.size for file in files)
        progress.step(f"{len(files)} files, {total:,} bytes, to {target}")
        draft = target.with_name(_draft(target.name))
        names = [Path(posixpath.relpath(file.path, found.path)) if found.folder else Path() for file in files]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if found.folder:
                draft.mkdir()
            done = 0
            for file, name in zip(files, names, strict=True):
                done = self._fetch(file, draft / name, progress, done, total)
            draft.replace(target)
        except OSError as error:
            raise AnabranchError(
                f"{target} cannot be written ({error}): check the folder and the space left"
            ) from error
        finally:
            if draft.is_dir():
                shutil.rmtree(draft)
            draft.unlink(missing_ok=True)
        return [target / name for name in names]

    def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file or an empty folder; with `recursive` a folder and everything in it."""
        found = self._existing(path)
        if found.path == "/":
            raise MisuseError("the root of HDFS is not removed: name what lies below it")
        if found.folder and not recursive and self.entries(found.path):
            raise MisuseError(f"{found.path} is a folder with files: use --recursive to remove them too")
        with self._asking(found.path):
            self._client.delete(found.path, recursive=recursive)

    def make_folder(self, path: str) -> None:
        """Make a folder and its parents, unless it exists."""
        self._make_folder(self.path(path))

    def _existing(self, path: str) -> Entry:
        found = self.entry(path)
        if found is None:
            raise AnabranchError(
                f"{self.path(path)} does not exist in HDFS: 'anabranch files ls' lists its files"
            )
        return found

    def _target(self, path: str, name: str) -> str:
        there = self.entry(path)
        return posixpath.join(there.path, name) if there is not None and there.folder else self.path(path)

    def _files_below(self, entry: Entry) -> list[Entry]:
        if not entry.folder:
            return [entry]
        return [file for below in self.entries(entry.path) for file in self._files_below(below)]

    def _send(self, source: Path, path: str, progress: Progress, done: int, total: int) -> int:
        size = 0

        def chunks() -> Iterator[bytes]:
            nonlocal size
            with source.open("rb") as content:
                while chunk := content.read(_CHUNK):
                    size += len(chunk)
                    yield chunk
                    progress.advance(done + size, total)

        try:
            with self._asking(path):
                self._client.write(path, data=chunks(), overwrite=True)
        except BaseException:
            self._await(path)
            raise
        there = self.entry(path)
        if there is None or there.size != size:
            arrived = 0 if there is None else there.size
            raise UnavailableError(
                f"{source} did not arrive whole in HDFS ({arrived:,} of {size:,} bytes): try again"
            )
        return done + size

    def _fetch(self, file: Entry, local: Path, progress: Progress, done: int, total: int) -> int:
        local.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        with (
            self._asking(file.path),
            local.open("wb") as content,
            self._client.read(file.path, chunk_size=_CHUNK) as chunks,
        ):
            for chunk in chunks:
                content.write(chunk)
                size += len(chunk)
                progress.advance(done + size, total)
        if size != file.size:
            raise UnavailableError(
                f"{file.path} did not arrive whole ({size:,} of {file.size:,} bytes): try again"
            )
        return done + size

    def _make_folder(self, path: str) -> None:
        with self._asking(path):
            self._client.makedirs(path)

    def _rename(self, source: str, target: str, *, replace: bool) -> None:
        with self._asking(target):
            # The client's own rename would move into a folder that has appeared meanwhile.
            options = "OVERWRITE" if replace else "NONE"
            self._client._rename(source, destination=target, renameoptions=options)  # noqa: SLF001

    def _await(self, path: str) -> None:
        """Wait until HDFS has created the file of a transfer that was cut off.

        HDFS creates it a moment after the request, and only then can it be removed.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        try:
            while self.entry(path) is None and time.monotonic() < deadline:
                time.sleep(0.05)
        except AnabranchError:
            return

    def _forget(self, draft: str) -> None:
        """Remove what a failed transfer left; an error here must not hide that of the transfer."""
        try:
            with self._asking(draft):
                self._client.delete(draft, recursive=True)
        except AnabranchError:
            return

    @property
    def _user(self) -> str:
        return self.settings.user or getpass.getuser()

    @cached_property
    def _client(self) -> Any:
        from hdfs import InsecureClient

        return InsecureClient(self.settings.webhdfs, user=self._user, timeout=self.settings.timeout_seconds)

    @contextmanager
    def _asking(self, path: str) -> Iterator[None]:
        from hdfs import HdfsError
        from requests import RequestException

        try:
            yield
        except HdfsError as error:
            text = (str(error.message or error).splitlines() or [""])[0]
            raise AnabranchError(
                f"HDFS refuses {path} ({text}): check the path and the rights of user {self._user!r}"
            ) from error
        except RequestException as error:
            away = "timed out" in str(error) or "refused" in str(error)
            why = "does not answer" if away else f"broke off ({type(error).__name__})"
            raise UnavailableError(
                f"HDFS at {self.settings.webhdfs} {why}: "
                "check files.webhdfs and that it runs (anabranch up --with hdfs)"
            ) from error


def file_settings(url: str) -> tuple[FileSettings, str]:
    """The HDFS and the path of an address `webhdfs://[user@]host:port/path`; `swebhdfs://` is over TLS."""
    parsed = urlparse(url)
    scheme = "https" if parsed.scheme == "swebhdfs" else "http"
    address = f"{scheme}://{parsed.netloc.rpartition('@')[2]}"
    return FileSettings(webhdfs=address, user=parsed.username or ""), parsed.path or "/"


def _draft(target: str) -> str:
    folder, name = posixpath.split(target)
    return posixpath.join(folder, f".{name}-{uuid.uuid4().hex[:12]}.part")


def _entry(path: str, status: dict[str, Any]) -> Entry:
    return Entry(
        path=path,
        folder=status["type"] == "DIRECTORY",
        size=int(status["length"]),
        changed=int(status["modificationTime"]),
        owner=str(status["owner"]),
    )
