"""Anabranch's own packages as one archive for executors, which have no checkout."""

import hashlib
import os
import zipfile
from pathlib import Path

from jobs.wiring.settings import ROOT

PACKAGES = ("anabranch", "batch", "speed")
"""Packages that run on executors. Declarations travel as values; jobs and serving stay on the driver."""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same content gives the same archive


def packed_packages(folder: Path) -> Path:
    """The archive in `folder`, named by a hash of its content and made when it is missing."""
    files = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    digest = hashlib.sha256(
        b"".join(name.encode() + b"\0" + content for name, content in files.items())
    ).hexdigest()
    archive = folder / f"anabranch-{digest[:16]}.zip"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = archive.with_suffix(f".{os.getpid()}")
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in files.items():
                packed.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
        draft.replace(archive)
    return archive
