"""The verb that begins a project: init, from a template, a file or a topic."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from anabranch.declare.loading import load_project
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError
from jobs.cli.declarations.guessing import FoundColumn, Guess, NamedColumns, found_columns, guess
from jobs.cli.declarations.writing import Draft, declaration, example_events, example_text
from jobs.cli.options import AsJson
from jobs.show import result, table
from jobs.wiring.settings import Settings, load_settings

TOPIC = "topic:"
_MOST = 10_000
_MESSAGES = 1_000
_SECONDS = 10.0
_NAME = re.compile(r"(?=.{1,40}$)[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Given:
    """The rows that a declaration is written from; `options` are those of `anabranch ingest` for the file."""

    columns: Sequence[FoundColumn]
    rows: int
    place: str
    topic: str | None = None
    options: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(init)


def init(
    origin: Annotated[
        str,
        typer.Argument(
            metavar="FILE|topic:NAME|NAME",
            help="A file of events (.csv, .jsonl, .parquet; text also in .gz) or a topic, or the name of a "
            "project that begins from a template.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="The project's name; that of the file or topic by default.")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", help="The column of the key (repeatable).")
    ] = None,
    time: Annotated[str | None, typer.Option("--time", help="The column of the event time.")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="The column of the id, or 'none'.")] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="The column that a model shall predict, or 'none'.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Folder to write to; the last one searched by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a declaration for a file or topic of events, with an example that holds, or from a template."""
    settings = load_settings()
    folder = into or settings.projects[-1]
    wanted = NamedColumns(id=id_, time=time, key=tuple(key or ()), label=label)
    if not _is_place(origin):
        if wanted != NamedColumns() or name is not None:
            raise MisuseError(f"{origin!r} is no file of events and no topic, which the options are about")
        _from_template(origin, folder, as_json)
        return
    named = name or _name_of(origin)
    path = _path(named, folder)
    if origin.startswith(TOPIC):
        given = _from_topic(origin.removeprefix(TOPIC), settings)
    else:
        given = _from_file(origin)
    found = guess(given.columns, wanted)
    topic = given.topic or named.replace("_", "-")
    draft = Draft(name=named, source=_source(named), place=given.place, topic=topic, guess=found)
    text, project = _written(draft)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if not as_json:
        heads = ["column", "type", "part", "why"]
        title = f"{given.place}: {len(given.columns)} columns of {given.rows:,} rows"
        table(title, heads, [_row(each, found) for each in given.columns])
    ingest = " ".join(["anabranch ingest", named, draft.source, shlex.quote(origin), *given.options])
    value = {
        "project": named,
        "file": str(path),
        "source": draft.source,
        "id": found.id,
        "time": found.time,
        "key": list(found.key),
        "label": found.label,
        "types": {each.name: str(each.type) for each in given.columns},
        "features": list(project.column_of),
        "examples": len(project.examples),
        "ingest": None if given.topic else ingest,
    }
    lines = [*_told(found, project), *given.notes, f"wrote {path}"]
    steps = [f"anabranch test {named}" + ("" if given.topic or given.options else f" {shlex.quote(origin)}")]
    steps += [f"anabranch land {named}" if given.topic else ingest, f"anabranch build {named}"]
    steps += [f"anabranch train {named}"] if found.label else []
    result(as_json, value, "\n".join([*lines, *(f"Next: {step}" for step in steps)]))


def _is_place(origin: str) -> bool:
    from anabranch.testing.files import KINDS

    endings = tuple(f"{kind}{end}" for kind in KINDS for end in ("", ".gz"))
    return origin.startswith(TOPIC) or origin.lower().endswith(endings) or Path(origin).is_file()


def _name_of(origin: str) -> str:
    topic = origin.startswith(TOPIC)
    stem = origin.removeprefix(TOPIC) if topic else Path(origin).name.partition(".")[0]
    name = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")[:40].strip("_")
    if not _NAME.fullmatch(name):
        raise MisuseError(f"{origin} gives no name for a project: name it with --name")
    return name


def _source(name: str) -> str:
    """The source's name, which is also that of a variable in the module."""
    import keyword

    taken = {"recent", "project", *dir(__builtins__)}
    return f"{name[:33]}_events" if name in taken or keyword.iskeyword(name) else name


def _path(name: str, folder: Path) -> Path:
    if not _NAME.fullmatch(name):
        raise MisuseError(
            f"{name!r} cannot be the name of a project: use up to 40 lower-case letters, digits and single "
            "underscores, beginning with a letter"
        )
    path = folder / f"{name}.py"
    if path.exists():
        raise MisuseError(f"{path} exists already: choose another name (--name), or edit it")
    return path


def _from_file(origin: str) -> Given:
    from anabranch.testing.files import read_rows

    path = Path(origin)
    if not path.is_file():
        raise MisuseError(f"there is no file {origin!r}: check the path")
    found = read_rows(path, _MOST)
    if not found.names or not found.rows:
        why = found.faults[0] if found.faults else "give a file with a header and some events"
        raise MisuseError(f"{origin} has no rows: {why}")
    columns = found_columns(found)
    options: tuple[str, ...] = ()
    if found.delimiter != ",":
        options += ("--delimiter", shlex.quote(found.delimiter.replace("\t", "\\t")))
    if found.encoding != "utf-8":
        options += ("--encoding", found.encoding)
    csv = path.name.lower().removesuffix(".gz").endswith(".csv")
    if csv and [each.name for each in columns] != list(found.names):
        options += ("--header", shlex.quote(",".join(each.name for each in columns)))
    notes = tuple(f"  {fault}: it goes to quarantine" for fault in found.faults[:3])
    return Given(columns=columns, rows=len(found.rows), place=path.name, options=options, notes=notes)


def _from_topic(topic: str, settings: Settings) -> Given:
    from anabranch.events.messages import EXACT
    from anabranch.stores.kafka.bus import Bus
    from anabranch.testing.files import object_rows

    with Bus(settings.bus) as bus:
        starts, ends = bus.beginnings(topic), bus.ends(topic)
        parts = {number: (starts[number], end) for number, end in ends.items() if end > starts[number]}
        records, _ = bus.records(topic, parts, _MESSAGES, _SECONDS)
    objects, other = [], 0
    for record in records:
        try:
            decoded: Any = EXACT.decode(record.value or b"")
        except ValueError:
            decoded = None
        if isinstance(decoded, dict):
            objects.append(decoded)
        else:
            other += 1
    if not objects:
        what = f"has {other:,} messages, none of them a JSON object" if other else "has no messages"
        raise MisuseError(f"topic {topic!r} {what}: a declaration is written from messages in JSON")
    found = object_rows(objects, topic)
    note = f"  {other:,} of {len(records):,} messages are no JSON object: they go to quarantine"
    columns, notes = found_columns(found), (note,) if other else ()
    return Given(columns=columns, rows=len(objects), place=f"topic {topic}", topic=topic, notes=notes)


def _written(draft: Draft) -> tuple[str, Project]:
    """The declaration with an example that holds, and what it declares; checked before it is written."""
    from anabranch.testing import assert_lawful, check_example, fold

    text = declaration(draft)
    project = _loaded(draft.name, text)
    picked = example_events(draft)
    if picked is None:
        return text, project
    events, key, at = picked
    given = [{**event, "source": draft.source} for event in events] if "source" in events[0] else events
    try:
        gives = fold(project, given, key, at)
    except MisuseError:  # such as a column named source, of which rows cannot be given
        return text, project
    full = declaration(draft, example_text(given, key, at, gives))
    project = _loaded(draft.name, full)
    for example in project.examples:
        if differences := check_example(project, example):
            raise AnabranchError(f"the example that was written does not hold: {differences[0]}")
        assert_lawful(project, example.events)
    return full, project


def _loaded(name: str, text: str) -> Project:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.py"
        path.write_text(text, encoding="utf-8")
        return load_project(name, [Path(folder)])


def _row(column: FoundColumn, found: Guess) -> list[str]:
    parts: dict[str | None, str] = {found.id: "id", found.time: "time", found.label: "label"}
    parts |= dict.fromkeys(found.key, "key")
    why = [found.why[column.name]] if column.name in found.why else []
    why += [column.why] if column.why and not column.odd else []
    if column.odd:
        row, value = column.odd[0]
        why.append(f"{column.why}; others, such as {str(value)[:40]!r} in row {row:,}, go to quarantine")
    return [column.name, str(column.type), parts.get(column.name, ""), "; ".join(why)]


def _told(found: Guess, project: Project) -> list[str]:
    lines = [
        f"id {found.id}: the first event of an id counts"
        if found.id
        else "id None: no column is different in every row and named like an id, so a row is identified by "
        "its values (--id COLUMN)",
        f"key {', '.join(found.key)}, time {found.time}, {len(project.columns)} features",
    ]
    lines.append(
        f"label {found.label}, of the event itself: a question for a score brings the event (--label none)"
        if found.label
        else "no label: no column is named like one (--label COLUMN)"
    )
    return lines


def _from_template(name: str, folder: Path, as_json: bool) -> None:
    from jobs.cli.declarations.template import TEMPLATE

    path = _path(name, folder)
    path.write_text(TEMPLATE.format(name=name), encoding="utf-8")
    result(as_json, {"project": name, "file": str(path)}, f"wrote {path}\nNext: anabranch check {name}")
