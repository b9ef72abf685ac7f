"""Verbs for files in HDFS, from a workstation without Hadoop: files ls, put, get, rm."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.options import AsJson
from jobs.show import Steps, picked, result, table
from jobs.wiring.settings import load_settings

RemotePath = Annotated[
    str, typer.Argument(metavar="PATH", help="Path in HDFS (/data/events.csv), or its hdfs:// address.")
]
LocalPath = Annotated[Path, typer.Argument(metavar="LOCAL", help="File or folder on this machine.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace an existing file.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    files = typer.Typer(name="files", help="Files in HDFS: list, put, get, remove.", no_args_is_help=False)
    files.command("ls")(list_files)
    files.command("put")(put)
    files.command("get")(get)
    files.command("rm")(remove)
    app.add_typer(files)


def list_files(path: RemotePath = "/", as_json: AsJson = False) -> None:
    """List a folder of HDFS."""
    entries = _files().entries(path)
    listed: list[dict[str, Any]] = [
        {**picked(each, "path folder owner"), "bytes": each.size, "changed": _time(each.changed)}
        for each in entries
    ]
    if not as_json:
        rows = [
            [
                each["path"] + ("/" if each["folder"] else ""),
                None if each["folder"] else each["bytes"],
                each["changed"],
                each["owner"],
            ]
            for each in listed
        ]
        table(f"Files at {path}", ["path", "bytes", "changed", "owner"], rows)
    size = sum(each.size for each in entries)
    result(as_json, {"path": path, "entries": listed}, f"{len(entries)} entries, {size:,} bytes")


def put(local: LocalPath, path: RemotePath, replace: Replace = False, as_json: AsJson = False) -> None:
    """Put a file or a folder into HDFS; it appears there whole or not at all."""
    entries = _files().put(local, path, Steps(), replace=replace)
    size = sum(each.size for each in entries)
    value = {"files": [each.path for each in entries], "bytes": size}
    result(as_json, value, f"{len(entries)} files, {size:,} bytes put into HDFS")


def get(
    path: RemotePath, local: LocalPath = Path(), replace: Replace = False, as_json: AsJson = False
) -> None:
    """Get a file or a folder from HDFS; it appears here whole or not at all."""
    files = _files().get(path, local, Steps(), replace=replace)
    size = sum(each.stat().st_size for each in files)
    value = {"files": [str(each) for each in files], "bytes": size}
    result(as_json, value, f"{len(files)} files, {size:,} bytes fetched from HDFS")


def remove(
    path: RemotePath,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also remove the contents of a folder.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a file or a folder from HDFS."""
    _files().remove(path, recursive=recursive)
    result(as_json, {"removed": path}, f"{path} is removed")


def _files() -> Any:
    from anabranch.stores.files.hdfs import Hdfs

    return Hdfs(load_settings().files)


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
