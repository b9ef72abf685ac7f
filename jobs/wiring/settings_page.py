"""The tables of docs/settings.md, generated from the declared settings.

`python -m jobs.wiring.settings_page` writes them into the page anew.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_settings import SettingsConfigDict

from anabranch.settings import Duration, show_duration
from jobs.wiring.sections import SETTINGS, DeclaredSettings, Setting
from jobs.wiring.settings import ROOT

PAGE = ROOT / "docs" / "settings.md"
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"


class _Documented(DeclaredSettings):
    """The sections with the docstrings of their fields, which are read from source and not needed by jobs."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)


def settings_tables() -> str:
    """One Markdown table a section: key, default, what the setting accepts, and what it is for."""
    schema = _Documented.model_json_schema()
    parts = []
    for section, settings in SETTINGS.items():
        kind = DeclaredSettings.model_fields[section].annotation
        declared = schema["$defs"][getattr(kind, "__name__", section)]
        rows = [_row(each, declared["properties"][key]["description"]) for key, each in settings.items()]
        head = "| key | default | accepts | |\n|---|---|---|---|"
        parts.append("\n".join([f"## {section}\n\n{declared['description']}\n\n{head}", *rows]))
    return "\n\n".join(parts)


def page_with_tables(text: str) -> str:
    """A page with the tables between its two marks replaced by those of the settings as declared."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{settings_tables()}\n\n{END}{after}"


def _row(setting: Setting, purpose: str) -> str:
    cells = (f"`{setting.key}`", _default(setting), setting.expected, purpose)
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def _default(setting: Setting) -> str:
    value = setting.default
    if value in (None, "", ()) or isinstance(value, Mapping):
        return "empty"
    marks = getattr(setting.kind, "__metadata__", ())
    duration = Duration.__metadata__[-1] in marks  # type: ignore[attr-defined]
    return f"`{_text(value, duration=duration)}`"


def _text(value: Any, *, duration: bool) -> str:
    if duration:
        return show_duration(value)
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def write(page: Path = PAGE) -> None:
    """Write the tables into the page anew."""
    page.write_text(page_with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write()
