"""Verbs about API keys: keys add, keys list, keys revoke."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from anabranch.declare.loading import load_project
from anabranch.errors import MisuseError
from anabranch.stores.files.api_keys import ALL, READING, RIGHTS, ApiKeys
from anabranch.values.times import DAY, format_time, to_micros
from jobs.cli.options import AsJson
from jobs.show import picked, result, table
from jobs.wiring.settings import load_settings

Whose = Annotated[str, typer.Argument(metavar="PROJECT", help="Name of a declared project, or '*' for all.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    keys = typer.Typer(
        help="API keys for REST: add, list, revoke. To change a key, add a new one, then revoke the old."
    )
    for name, verb in (("add", add), ("list", show), ("revoke", revoke)):
        keys.command(name)(verb)
    app.add_typer(keys, name="keys")


def add(
    name: Whose,
    rights: Annotated[
        str, typer.Option(help=f"Rights of the key, with commas in between: {', '.join(RIGHTS)}.")
    ] = ",".join(READING),
    label: Annotated[str, typer.Option("--name", help="A label for people, such as whose key it is.")] = "",
    days: Annotated[int | None, typer.Option(help="Days until it expires; never by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show it once: only its hash is kept."""
    keys = _keys(name)
    if days is not None and days < 1:
        raise MisuseError(f"--days {days} must be 1 or more")
    now = to_micros(datetime.now(tz=UTC))
    wanted = [right.strip() for right in rights.split(",") if right.strip()]
    entry, text = keys.add(
        name, now, rights=wanted, name=label, expires=None if days is None else now + days * DAY
    )
    value = {
        "project": name,
        "id": entry.id,
        "key": text,
        "rights": list(entry.rights),
        "expires": _time(entry.expires),
    }
    lines = [
        text,
        f"key {entry.id} of {name}, with the rights {', '.join(entry.rights)}; it is not shown again",
        "send it as: Authorization: Bearer KEY",
    ]
    result(as_json, value, "\n".join(lines))


def show(name: Whose, as_json: AsJson = False) -> None:
    """List the keys of a project, without their secrets."""
    entries = [entry for entry in _keys(name).read().values() if entry.project == name]
    if not as_json:
        rows = [
            [
                each.id,
                each.name,
                ", ".join(each.rights),
                format_time(each.created),
                _time(each.expires) or "never",
            ]
            for each in entries
        ]
        table(f"API keys of {name}", ["id", "name", "rights", "created", "expires"], rows)
    listed = [
        {**picked(each, "id name"), "rights": list(each.rights), "expires": _time(each.expires)}
        for each in entries
    ]
    result(as_json, {"project": name, "keys": listed}, f"{len(entries)} keys")


def revoke(name: Whose, ident: Annotated[str, typer.Argument(metavar="ID")], as_json: AsJson = False) -> None:
    """Revoke a key: servers refuse it within two seconds."""
    _keys(name).revoke(name, ident)
    result(as_json, {"project": name, "revoked": ident}, f"key {ident} of {name} is revoked")


def _keys(name: str) -> ApiKeys:
    settings = load_settings()
    if name != ALL:
        load_project(name, settings.projects)  # raises for an unknown project
    return ApiKeys(settings.data / "keys.json")


def _time(micros: int | None) -> str | None:
    return None if micros is None else format_time(micros)
