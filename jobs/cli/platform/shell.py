"""The verb that keeps one process for many verbs: shell."""

import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from anabranch.declare.loading import list_projects
from jobs.show import console, say
from jobs.wiring.job import close_kept, kept_open
from jobs.wiring.settings import load_settings

PROMPT = "anabranch> "
_ENDS = ("exit", "quit")
_LONG = ("serve", "shell")
"""Verbs that are no part of a shell: they run until they are stopped, in processes of their own."""
_SERVERS = ("up", "down")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(shell)


def shell(context: typer.Context) -> None:
    """Run many verbs in one process, which keeps its Spark session: from a prompt, or from a pipe.

    An error does not end it; `exit` does. The exit code is that of the last verb.
    """
    group: Any = context.find_root().command
    typed = sys.stdin.isatty()
    with kept_open():
        code = run_lines(_typed(group) if typed else _piped(), context.obj)
    if code:
        raise typer.Exit(code)


def run_lines(lines: Iterable[str], main: Callable[[list[str]], int]) -> int:
    """Run each line as a verb; returns the exit code of the last one."""
    code = 0
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            code = _refuse(f"{line.strip()!r} is not understood: {error}")
            continue
        words = words[1:] if words[:1] == ["anabranch"] else words
        if not words:
            continue
        if words[0] in _ENDS:
            break
        if words[0] in _LONG:
            code = _refuse(f"{words[0]} is no verb of a shell: run 'anabranch {words[0]}' beside it")
            continue
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        try:
            code = main(words)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if words[0] in _SERVERS:
            close_kept()  # connections to servers that have ended
        sys.stdout.flush()
    return code


def _refuse(text: str) -> int:
    console.clear_progress()
    sys.stderr.write(f"error: {text}\n")
    return 2


def _piped() -> Iterator[str]:
    return iter(sys.stdin)


def _typed(group: Any) -> Iterator[str]:
    """Lines from a prompt with completion, and a history that is kept for its owner alone."""
    import readline

    history = load_settings().data / "shell_history"
    with suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(1000)
    readline.set_completer_delims(" ")
    readline.set_completer(_completer(group, readline))
    readline.parse_and_bind("tab: complete")
    say("verbs as on the command line; Tab completes, exit ends")
    try:
        while True:
            try:
                yield input(PROMPT)
            except EOFError:
                say("")
                return
            except KeyboardInterrupt:
                say("")
    finally:
        with suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True)
            history.touch(mode=0o600)
            readline.write_history_file(history)


def _completer(group: Any, readline: Any) -> Callable[[str, int], str | None]:
    def complete(text: str, state: int) -> str | None:
        before = readline.get_line_buffer()[: readline.get_begidx()].split()
        found = [word for word in completions(group, before, text) if word.startswith(text)]
        return f"{found[state]} " if state < len(found) else None

    return complete


def completions(group: Any, before: list[str], text: str) -> list[str]:
    """What may stand at a place of a line, after the words `before`."""
    if not before:
        return sorted([*group.commands, *_ENDS])
    command = group.commands.get(before[0])
    if command is None:
        return []
    if text.startswith("-"):
        return sorted(
            {opt for each in command.params for opt in getattr(each, "opts", ()) if opt[:2] == "--"}
        )
    nested = getattr(command, "commands", None)
    if nested:
        return sorted(nested)
    names = list(list_projects(load_settings().projects))
    return names + [str(path) for path in Path().glob(f"{text}*")] if text else names
