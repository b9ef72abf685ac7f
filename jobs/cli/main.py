"""The command `anabranch`: every job as a verb. Exit codes: 0 done, 1 failed, 2 misuse."""

import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import click
import typer

from anabranch.errors import AnabranchError, SecretlessFormatter, without_secrets
from jobs.cli.answers import analysis, asking
from jobs.cli.declarations import beginning, checking, planning, proof
from jobs.cli.models import promotion, scoring, trainer, training
from jobs.cli.platform import capacity, completion, doctor, files, keys, schedules, servers, shell, watch
from jobs.cli.river import channels, quality, upkeep
from jobs.monitoring.runs import keep_run, note_failure, noted
from jobs.show import console, quiet

NAME = "anabranch"
app = typer.Typer(name=NAME, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for verbs in (
    servers,
    checking,
    beginning,
    proof,
    planning,
    asking,
    channels,
    quality,
    training,
    promotion,
    scoring,
    trainer,
    files,
    keys,
    upkeep,
    watch,
    capacity,
    analysis,
    schedules,
    doctor,
    shell,
    completion,
):
    verbs.register(app)


# Typer raises click's exceptions, or those of its own copy of click.
_MISUSE: tuple[type[Any], ...] = (
    click.ClickException,
    getattr(typer, "TyperException", click.ClickException),
)
_ABORTED: tuple[type[Any], ...] = (click.exceptions.Abort, typer.Abort)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and more of the log.")] = False,
) -> None:
    """Declare once; batch, speed and serving follow."""
    quiet(debug)
    handler = logging.StreamHandler()
    handler.setFormatter(SecretlessFormatter("%(asctime)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, handlers=[handler])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    # What a job or a server of ours writes (lake, databases, logs, blocks) is for its owner alone.
    os.umask(os.umask(0o077) | 0o077)
    # --debug may stand anywhere on the line.
    words = ["--debug", *[word for word in words if word != "--debug"]] if debug else words
    with noted(next((word for word in words if not word.startswith("-")), "")) as run:
        code = _code(words, debug)
        if code not in (2, 130):
            keep_run(run, failed=code != 0)
        for told in run.at_end:
            told(code)
    return code


def _code(words: Sequence[str], debug: bool) -> int:
    """Run one command and tell its error in a line; returns the exit code."""
    try:
        # Without a verb the help is shown, and it is misuse.
        # A verb may run others: the context's object is what runs them.
        code = app(list(words) or ["--help"], prog_name=NAME, standalone_mode=False, obj=main)
        code = code or (0 if words else 2)
    except _MISUSE as error:
        text = error.format_message().rstrip(".")
        return _fail(
            f"{text}{' See' if text.endswith('?') else ': see'} '{_command(error)} --help'", 2, debug
        )
    except _ABORTED:
        return 130
    except KeyboardInterrupt:
        return 130
    except AnabranchError as error:
        return _fail(str(error), error.exit_code, debug)
    except ModuleNotFoundError as error:
        return _fail(_missing(error), 2, debug)
    except Exception as error:  # noqa: BLE001 - the outermost frame: one line, or the traceback with --debug
        return _fail(_one_line(error), 1, debug)
    return code if isinstance(code, int) else 0


def _command(error: Any) -> str:
    """The command whose help explains a usage error: the verb, or `anabranch` itself."""
    context = getattr(error, "ctx", None)
    return NAME if context is None else str(context.command_path)


def _fail(text: str, code: int, debug: bool) -> int:
    console.clear_progress()
    if debug:
        console.print_exception()
    said = " ".join(without_secrets(text).split())
    note_failure(said)
    sys.stderr.write(f"error: {said}\n")
    return code


def _missing(error: ModuleNotFoundError) -> str:
    """That a verb needs what only `anabranch[platform]` installs; our own modules are never missing."""
    return (
        f"there is no package {error.name!r} here, which this verb needs: the library alone checks and tests "
        "declarations, and pip install 'anabranch[platform]' brings the rest"
    )


def _one_line(error: Exception) -> str:
    """An error of ours that came back from a Spark worker as text, or the first line of any other."""
    ours = re.findall(r"anabranch\.errors\.\w+: (.+)", str(error))
    if ours:
        return str(ours[-1])
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {first} (run again with --debug for the traceback)"


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())
