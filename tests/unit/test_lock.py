"""The audit of the lock in docs/security.md names every old package that servers and jobs need."""

import re
import tomllib
from datetime import date
from typing import Any

from jobs.wiring.settings import ROOT

LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
PACKAGES: dict[str, Any] = {each["name"]: each for each in LOCK["package"]}
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def needed() -> set[str]:
    """The packages that a server or job needs: those of the extra `platform`, without groups."""
    found = {each["name"] for each in PACKAGES["anabranch"]["optional-dependencies"]["platform"]}
    waiting = ["anabranch", *found]
    while waiting:
        name = waiting.pop()
        new = {each["name"] for each in PACKAGES[name].get("dependencies", ())} - found
        found |= new
        waiting += new
    return found


def released(package: Any) -> date:
    """The earliest upload of the version's files."""
    files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
    return date.fromisoformat(min(str(file["upload-time"])[:10] for file in files))


def test_the_audit_names_each_package_that_is_older_than_two_years() -> None:
    audited = date.fromisoformat(re.findall(r"Audited on (\S+)", PAGE)[0])
    dates = {name: released(PACKAGES[name]) for name in needed()}
    old = {
        f"{name} | {PACKAGES[name]['version']} | {when}"
        for name, when in dates.items()
        if when < audited.replace(year=audited.year - 2)
    }
    assert set(re.findall(r"^\| (\S+ \| \S+ \| \d{4}-\d\d-\d\d) \|", PAGE, re.MULTILINE)) == old
    assert max(dates.values()) <= audited


def test_what_is_optional_or_left_out_is_needed_by_nothing() -> None:
    assert not {"pyignite", "docopt"} & needed()
    assert "docopt" not in PACKAGES
