"""The verb that plans for a load: capacity."""

import math
import re
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anabranch.declare.loading import load_project
from anabranch.errors import AnabranchError, MisuseError
from jobs.cli.options import AsJson, Name
from jobs.show import Steps, result, say, table
from jobs.wiring.settings import Settings, load_settings

if TYPE_CHECKING:
    from jobs.capacity.capacity import Capacity, WantedLoad
    from jobs.capacity.figures import Answering

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES = {"GB": 1e9, "TB": 1e12, "PB": 1e15}
_BARS = 40
_NEEDS = ["part", "needs", "cores", "GiB", "TiB kept", "core-hours a month", "why"]
_CHANGES = ["if", "workers needed", "p99 with the workers above, ms"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="capacity")(show)


def show(
    name: Name,
    rate: Annotated[float, typer.Option(min=0.001, help="Calls a second.")],
    p99: Annotated[str, typer.Option(help="Time within which 99% of calls are answered: 50ms, 1s.")] = "50ms",
    events: Annotated[str, typer.Option(help="Events a second that the stream reads, such as 2000/s.")] = "0",
    lake: Annotated[str, typer.Option(help="Size of all events as CSV: 500GB, 1TB.")] = "",
    url: Annotated[str, typer.Option(help="REST server to ask; the one of the settings by default.")] = "",
    watched: Annotated[float, typer.Option("--for", min=1, help="Seconds to watch that server.")] = 10.0,
    cores: Annotated[int, typer.Option(min=1, help="Cores of the Spark cluster for builds.")] = 16,
    node_cores: Annotated[int, typer.Option(min=1, help="Cores of one node of Cassandra.")] = 4,
    core_hour: Annotated[float | None, typer.Option(min=0, help="Price of a core for an hour.")] = None,
    gib_hour: Annotated[float | None, typer.Option(min=0, help="Price of a GiB of memory an hour.")] = None,
    tib_month: Annotated[float | None, typer.Option(min=0, help="Price of a TiB kept for a month.")] = None,
    page: Annotated[Path | None, typer.Option(help="Also write an HTML page with the picture.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a load needs: workers, cores, nodes, memory, hours of builds and, with prices, money.

    What an answer takes is measured on the running REST server; without one that answers calls, it is
    taken from docs/benchmarks, and the result says so.
    """
    from jobs.capacity.capacity import Prices, WantedLoad, capacity
    from jobs.capacity.figures import benchmarked_batch, benchmarked_stream

    settings = load_settings()
    load_project(name, settings.projects)  # raises for an unknown project
    wanted = WantedLoad(
        rate=rate,
        p99=_number("--p99", p99, _SECONDS),
        events=_rate(events),
        lake=_number("--lake", lake, _BYTES) if lake else 0.0,
        node_cores=node_cores,
        cores=cores,
    )
    if page is not None and not page.parent.is_dir():
        raise MisuseError(f"--page {page}: there is no folder {page.parent}")
    answering = _answering(settings, url, watched, Steps())
    prices = Prices(core_hour=core_hour, gib_hour=gib_hour, tib_month=tib_month)
    found = capacity(wanted, answering, benchmarked_stream(), benchmarked_batch(), prices)
    if page is not None:
        page.write_text(_page(name, wanted, found), encoding="utf-8")
    if not as_json:
        _tables(wanted, found)
    text = _answer(wanted, found)
    value = {"project": name, "wanted": asdict(wanted), **found.shown(), "page": page and str(page)}
    result(as_json, value, f"{text}\npage: {page}" if page else text)


def _answering(settings: Settings, url: str, watched: float, steps: Steps) -> "Answering":
    """What an answer takes: of the server that runs, else of the benchmarks."""
    from jobs.capacity.figures import benchmarked_answers, observed_answers, read_metrics
    from serving.server import address

    place = (url or address(settings.serving)).rstrip("/")

    def scrape() -> Any:
        with urllib.request.urlopen(f"{place}/metrics", timeout=5) as answer:
            return read_metrics(answer.read().decode())

    if url and not url.startswith(("http://", "https://")):
        raise MisuseError(f"--url {url!r} is not the address of a REST server: expected http://host:port")
    processor = _processor_of_store(settings)
    try:
        before, used, began = scrape(), processor(), time.monotonic()
        steps.step(f"watching {place} for {watched:.0f} s")
        time.sleep(watched)
        found, used, elapsed = scrape().since(before), processor() - used, time.monotonic() - began
        said = f"{place} over {elapsed:.0f} s, {found.answers:,.0f} answers by {found.workers} workers"
        return observed_answers(found, elapsed, used / max(1.0, found.answers), said)
    except OSError as error:
        if url:
            raise AnabranchError(
                f"{place}/metrics does not answer ({error}): is a REST server there?"
            ) from error
        steps.step(f"no REST server answers at {place}: figures are those of docs/benchmarks")
    except AnabranchError as error:
        if url:
            raise
        steps.step(f"{error}: figures are those of docs/benchmarks")
    return benchmarked_answers()


def _processor_of_store(settings: Settings) -> Callable[[], float]:
    """Processor seconds of the embedded Cassandra since it started; 0 for one of your own."""
    from jobs.servers.embedded import processor_seconds

    return lambda: processor_seconds(settings, "cassandra") if settings.cassandra_embedded else 0.0


def _number(option: str, text: str, units: Mapping[str, float]) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    if match is None or match[2] not in units or not float(match[1]):
        raise MisuseError(f"{option} {text!r}: expected a number above 0 and one of {', '.join(units)}")
    return float(match[1]) * units[match[2]]


def _rate(text: str) -> float:
    try:
        found = float(text.strip().removesuffix("/s"))
    except ValueError:
        found = -1.0
    if not 0 <= found < math.inf:
        raise MisuseError(f"--events {text!r}: expected events a second, such as 2000/s")
    return found


def _tables(wanted: "WantedLoad", found: "Capacity") -> None:
    table("What is needed", _NEEDS, _needs(found))
    if found.hours:
        table(
            f"Builds on {wanted.cores} cores", ["task", "hours"], [list(each) for each in found.hours.items()]
        )
    if found.money:
        table("Money", ["part", "a month"], list(found.money.items()))
    table("What changes it", _CHANGES, _changes(found))
    longest = 3 * wanted.p99
    table(
        f"99% of answers by calls a second, with {found.workers} of them",
        ["calls/s", "ms", f"asked for: {1000 * wanted.p99:g} ms"],
        [[round(rate, 1), _ms(p99), _bar(p99 / longest, rate == wanted.rate)] for rate, p99 in found.curve],
    )
    for source in found.sources:
        say(f"from {source}")


def _bar(share: float, asked: bool) -> str:
    if share > 1:
        return "█" * _BARS + "▶"
    return "█" * max(1, round(_BARS * share)) + (" ← asked for" if asked else "")


def _ms(seconds: float) -> float | None:
    return round(1000 * seconds, 2) if math.isfinite(seconds) else None


def _needs(found: "Capacity") -> list[list[object]]:
    return [
        [need.part, need.count, need.cores or None, round(need.memory / 1024, 2) or None,
         round(need.disk, 3) or None, round(need.core_hours, 1) or None, need.why]
        for need in found.needs
    ]  # fmt: skip


def _changes(found: "Capacity") -> list[Sequence[object]]:
    return [
        [
            change,
            "" if workers is None else workers,
            "too many calls" if _ms(p99) is None else f"{_ms(p99):,}",
        ]
        for change, workers, p99 in found.sensitivities
    ]


def _answer(wanted: "WantedLoad", found: "Capacity") -> str:
    workers = f"{found.workers} worker{'s' if found.workers > 1 else ''}"
    simulated = found.simulated
    return (
        f"{workers} answer {wanted.rate:,g} calls/s with a p99 of {1000 * found.p99:.1f} ms by formula and "
        f"{1000 * simulated.p99:.1f} ms simulated ({simulated.refused:.1%} refused), "
        f"and up to {found.largest:,.0f} calls/s within {1000 * wanted.p99:g} ms"
    )


def _page(name: str, wanted: "WantedLoad", found: "Capacity") -> str:
    from anabranch.pages.rendering import render

    asked = f"{wanted.rate:,g} calls a second, 99% within {1000 * wanted.p99:g} ms"
    asked += f"; {wanted.events:,g} events a second" if wanted.events else ""
    asked += f"; {wanted.lake / 1e12:,g} TB of events" if wanted.lake else ""
    return render(
        "capacity.html",
        project=name,
        asked=f"{asked}.",
        answer=f"{_answer(wanted, found)}.",
        points=[(rate, 1000 * p99) for rate, p99 in found.curve if math.isfinite(p99)],
        limit=1000 * wanted.p99,
        rate=wanted.rate,
        workers=found.workers,
        sections=[
            ("What is needed", _NEEDS, _needs(found), [2, 3, 4, 5]),
            (f"Builds on {wanted.cores} cores", ["task", "hours"], list(found.hours.items()), [1]),
            ("Money", ["part", "a month"], list(found.money.items()), [1]),
            ("What changes it", _CHANGES, _changes(found), [1, 2]),
        ],
        sources=found.sources,
    )
