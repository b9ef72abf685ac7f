"""What a stream shows to Prometheus, on a loopback port of its own."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, start_http_server

from speed.progress import Snapshot

_LOOPBACK = "127.0.0.1"
_WHAT = {
    "running": "1 while the query runs, 0 while it waits for a server or was given up.",
    "failed": "1 when the query was given up, because it failed again and again while every server was there.",
    "events": "Events read since the process started.",
    "events_per_second": "Rate of the last seconds.",
    "state_rows": "Rows of state: remembered ids and open tiles.",
    "state_bytes": "Memory of the state.",
    "open_slots": "Slots of arrival that still take events.",
    "seconds": "Length of the last micro-batch.",
    "restarts": "How often the query was started again.",
}


class StreamMetrics:
    """Gauges of one process; `port` 0 shows nothing."""

    def __init__(self, port: int) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        labels = ("project", "source")
        self._gauges = {
            name: Gauge(f"anabranch_stream_{name}", text, labels, registry=registry)
            for name, text in _WHAT.items()
        }
        self._lag = Gauge(
            "anabranch_stream_lag",
            "Messages that were not read yet.",
            (*labels, "partition"),
            registry=registry,
        )
        self._server = start_http_server(port, addr=_LOOPBACK, registry=registry)[0] if port else None

    def show(self, snapshots: Sequence[Snapshot]) -> None:
        """Set what is known."""
        for found in snapshots:
            for name, gauge in self._gauges.items():
                gauge.labels(found.project, found.source).set(float(getattr(found, name)))
            for partition, behind in found.lag.items():
                self._lag.labels(found.project, found.source, str(partition)).set(behind)

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
