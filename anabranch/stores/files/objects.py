"""Files in S3 without a JVM, by Arrow's client: model files and edge bundles.

Addresses are `s3a://bucket/path`, as Spark has them. Credentials, region and endpoint are those of the
environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL), which Spark reads too.
An object store has no rename: each file appears whole, a folder file by file.
"""

import posixpath
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pyarrow import fs

from anabranch.errors import MisuseError, UnavailableError

SCHEME = "s3a"
_CHUNK = 1_048_576  # bytes held at once


def is_object(place: str) -> bool:
    """Whether an address is of an object store that this module reaches."""
    return place.startswith(f"{SCHEME}://")


@dataclass(frozen=True)
class Objects:
    """What lies at or below one address."""

    place: str

    def __post_init__(self) -> None:
        if not is_object(self.place) or not self._root.partition("/")[0]:
            raise MisuseError(f"{self.place} is no address in S3: write s3a://bucket/path")

    def put(self, source: Path, name: str) -> None:
        """Write a file of this machine as `name` (a path below the address), over an older one."""
        path = self._path(name)
        with source.open("rb") as content, self._reaching() as store, store.open_output_stream(path) as there:
            shutil.copyfileobj(content, there, _CHUNK)

    def get(self, name: str, target: Path) -> None:
        """Copy the file `name` to this machine."""
        path = self._path(name)
        with self._reaching() as store, store.open_input_stream(path) as content, target.open("wb") as here:
            shutil.copyfileobj(content, here, _CHUNK)

    def sizes(self, name: str = "", *, below: bool = False) -> Mapping[str, int | None]:
        """What lies in the folder `name`: by path below the address, in order, bytes; of a folder None.

        `below` has everything below it. A folder that does not exist holds nothing.
        """
        chosen = fs.FileSelector(self._path(name), allow_not_found=True, recursive=below)
        with self._reaching() as store:
            found = store.get_file_info(chosen)
        return {
            posixpath.relpath(each.path, self._root): each.size if each.is_file else None
            for each in sorted(found, key=lambda each: each.path)
        }

    def remove(self, name: str = "") -> None:
        """Remove a file, or a folder with all below it; a missing one is no error."""
        path = self._path(name)
        with self._reaching() as store:
            found = store.get_file_info(path)
            if found.is_file:
                store.delete_file(path)
            elif found.type is not fs.FileType.NotFound:
                store.delete_dir(path)

    @property
    def filesystem(self) -> tuple[Any, str]:
        """Arrow's file system of the bucket, and the path of the address in it."""
        with self._reaching() as store:
            return store, self._root

    @property
    def _root(self) -> str:
        return self.place.partition("://")[2].rstrip("/")

    def _path(self, name: str) -> str:
        return posixpath.normpath(posixpath.join(self._root, name))

    @contextmanager
    def _reaching(self) -> Iterator[Any]:
        """The client; translates what it raises."""
        try:
            yield _client(self._root.partition("/")[0])
        except OSError as error:
            text = (str(error).splitlines() or [""])[0]
            raise UnavailableError(
                f"{self.place} does not do what was asked: {text}: check the address, and the credentials, "
                "region and endpoint in the environment"
            ) from error


@lru_cache(maxsize=8)
def _client(bucket: str) -> fs.FileSystem:
    """The client of a bucket, for this process; it reads the environment itself."""
    return fs.FileSystem.from_uri(f"s3://{bucket}")[0]
