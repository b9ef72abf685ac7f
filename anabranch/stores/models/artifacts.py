"""MLflow's artifacts in HDFS by WebHDFS, and in S3 by Arrow's client.

Addresses are `webhdfs://[user@]host:port/path`, or `swebhdfs://` over TLS, and `s3a://bucket/path`.

MLflow itself reaches S3 through boto3, and `hdfs://` through Hadoop's native library, which is part of no
Python package and needs a JVM in every process. These need HTTP only, so a server of answers loads its models
without any of them.
"""

import posixpath
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

from anabranch.progress import Silent
from anabranch.stores.files.hdfs import Hdfs, file_settings
from anabranch.stores.files.objects import SCHEME, Objects


class WebHdfsArtifacts(ArtifactRepository):  # type: ignore[misc, unused-ignore]
    """The artifacts below one address."""

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        settings, self._root = file_settings(artifact_uri)
        self._files = Hdfs(settings)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        source, folder = Path(local_file), self._below(artifact_path)
        self._files.make_folder(folder)
        self._files.put(source, posixpath.join(folder, source.name), Silent(), replace=True)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        for source in sorted(each for each in Path(local_dir).rglob("*") if each.is_file()):
            folder = source.parent.relative_to(local_dir).as_posix()
            self.log_artifact(str(source), posixpath.normpath(posixpath.join(artifact_path or "", folder)))

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        there = self._files.entry(self._below(path))
        if there is None or not there.folder:
            return []
        return [
            FileInfo(
                posixpath.relpath(each.path, self._root), each.folder, None if each.folder else each.size
            )
            for each in self._files.entries(there.path)
        ]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._files.get(self._below(remote_file_path), Path(local_path), Silent(), replace=True)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        there = self._files.entry(self._below(artifact_path))
        if there is not None:
            self._files.remove(there.path, recursive=True)

    def _below(self, path: str | None) -> str:
        return posixpath.normpath(posixpath.join(self._root, path or ""))


class ObjectArtifacts(ArtifactRepository):  # type: ignore[misc, unused-ignore]
    """The artifacts below one address of S3."""

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self._files = Objects(artifact_uri)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        self._files.put(Path(local_file), posixpath.join(artifact_path or "", Path(local_file).name))

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        for source in sorted(each for each in Path(local_dir).rglob("*") if each.is_file()):
            name = source.relative_to(local_dir).as_posix()
            self._files.put(source, posixpath.join(artifact_path or "", name))

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        found = self._files.sizes(path or "")
        return [FileInfo(name, size is None, size) for name, size in found.items()]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._files.get(remote_file_path, Path(local_path))

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        self._files.remove(artifact_path or "")


@lru_cache(maxsize=1)
def register() -> None:
    """Make MLflow use this for its addresses, in this process."""
    registry: Any = _artifact_repository_registry
    for scheme in ("webhdfs", "swebhdfs"):
        registry.register(scheme, WebHdfsArtifacts)
    registry.register(SCHEME, ObjectArtifacts)
