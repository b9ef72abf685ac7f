"""Spans of OpenTelemetry around the steps of an answer. While tracing is off nothing of it is imported.

Calls that are answered together share the spans of their common work: these belong to the trace of the first
call that is traced, and have links to the others.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from anabranch.events.json_values import encode

NOTHING = nullcontext()
_SHOWN = 10


@dataclass
class _Tracing:
    """What makes spans, None while tracing is off, and whether they may have values of keys and features."""

    tracer: Any = None
    values: bool = False


_tracing = _Tracing()


def use(tracer: Any, *, values: bool = False) -> None:
    """Make spans by an OpenTelemetry `tracer` from now on, or none with None; for the whole process."""
    _tracing.tracer, _tracing.values = tracer, values


def tracing() -> bool:
    """Whether spans are made."""
    return _tracing.tracer is not None


def span(name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """A span around a step, below the one that is current; gives None where that is not traced.

    An exception is noted by its class alone, as its text may name a key.
    """
    return NOTHING if current() is None else _span(name, attributes)


@contextmanager
def _span(
    name: str, attributes: Mapping[str, Any], parent: Any = None, links: Sequence[Any] = (), kind: Any = None
) -> Iterator[Any]:
    more = {} if kind is None else {"kind": kind}
    with _tracing.tracer.start_as_current_span(
        name,
        context=parent,
        links=links,
        attributes={f"anabranch.{each}": value for each, value in attributes.items() if value is not None},
        record_exception=False,
        set_status_on_exception=False,
        **more,
    ) as made:
        try:
            yield made
        except Exception as error:
            _failed(made, type(error).__name__)
            raise


def _failed(made: Any, kind: str) -> None:
    from opentelemetry.trace import StatusCode

    made.set_attribute("error.type", kind)
    made.set_status(StatusCode.ERROR)


@contextmanager
def request(method: str, headers: Any) -> Iterator[Any]:
    """The span of a request while tracing is on, below that of its caller where `traceparent` names one."""
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    sent = {name: headers.get(name) for name in ("traceparent", "tracestate")}
    found = {name: text for name, text in sent.items() if text}
    with _span(method, {}, TraceContextTextMapPropagator().extract(found), kind=SpanKind.SERVER) as made:
        yield made


def answered(made: Any, method: str, route: str, status: int, project: str) -> None:
    """Note what a request was, by its route's name, and how it was answered; a 5xx is an error."""
    made.update_name(f"{method} {route}")
    made.set_attributes(
        {"http.request.method": method, "http.route": route, "http.response.status_code": status}
        | ({"anabranch.project": project} if project else {})
    )
    if status >= 500:
        _failed(made, str(status))


def current() -> Any:
    """The context of the current span, for `together`; None where nothing is traced."""
    if _tracing.tracer is None:
        return None
    from opentelemetry import context, trace

    return context.get_current() if trace.get_current_span().get_span_context().trace_flags.sampled else None


def together(name: str, callers: Sequence[Any], **attributes: Any) -> AbstractContextManager[Any]:
    """A span around what is done for several callers at once, by what `current` gave to each."""
    if _tracing.tracer is None:
        return NOTHING
    from opentelemetry import trace

    traced = [one for one in callers if one is not None]
    if not traced:
        return _untraced()
    first, *others = traced
    links = [trace.Link(trace.get_current_span(one).get_span_context()) for one in others]
    return _span(name, {**attributes, "callers": len(callers)}, first, links)


@contextmanager
def _untraced() -> Iterator[None]:
    """Without the span of whoever began the work: it is for others, who are not traced."""
    from opentelemetry import context

    token = context.attach(context.Context())
    try:
        yield
    finally:
        context.detach(token)


def traceparent() -> str | None:
    """W3C's name of the current span, for what goes on elsewhere; None where nothing is traced."""
    carrier: dict[str, str] = {}
    if current() is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def note_questions(asked: Sequence[Any]) -> None:
    """Note keys and given features of the first questions, where spans may have values."""
    if not _tracing.values or current() is None:
        return
    from opentelemetry import trace

    shown = [{"key": one.key, "features": dict(one.features)} for one in asked[:_SHOWN]]
    trace.get_current_span().set_attribute("anabranch.questions", encode(shown).decode())
