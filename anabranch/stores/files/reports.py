"""Reports of the quality gate, read without a JVM: from a folder of this machine, or over WebHDFS."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlparse

from anabranch.declare.projects import Project
from anabranch.errors import UnavailableError
from anabranch.progress import Silent
from anabranch.settings import FileSettings, LakeSettings
from anabranch.stores.files.hdfs import Hdfs

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")


@dataclass(frozen=True, kw_only=True)
class Reports:
    """The reports below a lake's root; a name never leads out of its folder."""

    lake: LakeSettings
    files: FileSettings

    def latest(self, project: Project, most: int) -> list[dict[str, Any]]:
        """The newest reports of all sources, newest first; `name` is what `page` takes."""
        found = []
        for source in project.sources:
            names = [
                name.removesuffix(".json") for name in self._names(project, source) if name.endswith(".json")
            ]
            for name in sorted(names)[-most:]:
                content = self._read(project, source, f"{name}.json")
                if content is not None:
                    found.append({**json.loads(content), "name": name})
        return sorted(found, key=lambda each: str(each["arrival"]), reverse=True)[:most]

    def page(self, project: Project, source: str, name: str) -> bytes | None:
        """One report as HTML; None when there is none."""
        if source not in project.sources or not _NAME.fullmatch(name):
            return None
        return self._read(project, source, f"{name}.html")

    def _folder(self, project: Project, source: str) -> str:
        return f"{self.lake.root.rstrip('/')}/{project.name}/quality/{source}"

    def _names(self, project: Project, source: str) -> list[str]:
        folder = self._folder(project, source)
        if _is_hdfs(folder):
            hdfs = Hdfs(self.files)
            there = hdfs.entry(folder)
            return (
                [entry.path.rsplit("/", 1)[-1] for entry in hdfs.entries(folder)] if there is not None else []
            )
        found = _local(folder)
        return [path.name for path in found.iterdir()] if found.is_dir() else []

    def _read(self, project: Project, source: str, name: str) -> bytes | None:
        path = f"{self._folder(project, source)}/{name}"
        if not _is_hdfs(path):
            return _local(path).read_bytes() if _local(path).is_file() else None
        hdfs = Hdfs(self.files)
        if hdfs.entry(path) is None:
            return None
        with TemporaryDirectory(prefix="anabranch-report-") as spare:
            return b"".join(file.read_bytes() for file in hdfs.get(path, Path(spare) / name, Silent()))


def _is_hdfs(path: str) -> bool:
    return urlparse(path).scheme == "hdfs"


def _local(path: str) -> Path:
    """The path on this machine; raises UnavailableError for a URL of a file system that needs a JVM."""
    url = urlparse(path)
    if url.scheme not in ("", "file"):
        raise UnavailableError(
            f"reports at {url.scheme}:// addresses are not read by the REST server: "
            "'anabranch quality' lists them"
        )
    return Path(url.path if url.scheme else path)
