"""Where the server's spans go: to an OpenTelemetry collector, to the terminal, or to a file."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anabranch.errors import MisuseError
from serving.settings import ServingSettings

_FILE = "file:"
_EXPORTER = "opentelemetry.exporter.otlp"


def check(settings: ServingSettings) -> None:
    """Raise MisuseError where spans cannot be made, or cannot go where `serving.tracing` says."""
    where = settings.tracing
    if where == "off":
        return
    if where == "console":
        return
    if where.startswith(_FILE):
        folder = Path(where.removeprefix(_FILE)).absolute().parent
        if not folder.is_dir():
            raise MisuseError(f"serving.tracing is {where!r}: there is no folder {folder}")
        return
    if not where.startswith(("http://", "https://")):
        raise MisuseError(
            f"serving.tracing is {where!r}: write off, console, file:PATH, or the address of a collector "
            "that takes OTLP over HTTP, such as http://127.0.0.1:4318"
        )
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.exporter") is None:
        raise MisuseError(
            f"serving.tracing is {where!r}: spans are sent by an extra, "
            "'uv sync --extra tracing' or pip install 'anabranch[tracing]'"
        )


def open_provider(settings: ServingSettings) -> Any:
    """What makes and sends spans, an OpenTelemetry TracerProvider; None while tracing is off.

    Callers that send a `traceparent` decide whether their requests are traced; of the others a share is.
    """
    if settings.tracing == "off":
        return None
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.tracing_share)),
        resource=Resource.create({"service.name": "anabranch"}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(_exporter(settings.tracing)))
    return provider


def _exporter(where: str) -> Any:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    if where == "console" or where.startswith(_FILE):
        # Open until the process ends: workers append whole lines to one file.
        out = (
            sys.stdout
            if where == "console"
            else Path(where.removeprefix(_FILE)).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115
        )
        return ConsoleSpanExporter(out=out, formatter=lambda span: f"{span.to_json(indent=None)}\n")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    address = where.rstrip("/")
    return OTLPSpanExporter(endpoint=address if address.count("/") > 2 else f"{address}/v1/traces")
