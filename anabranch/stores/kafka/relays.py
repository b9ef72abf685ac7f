"""Relays of several topics: to their present ends, or in a thread each until stopped."""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from anabranch.errors import AnabranchError, UnavailableError
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.kafka.relay import Relay
from anabranch.stores.kafka.relay_topics import RelayAdmin, relaying

log = logging.getLogger(__name__)
_SHORTEST_WAIT, _LONGEST_WAIT = 0.5, 10.0  # seconds before a relay is started again
_MOST_FAILURES = 3  # in a row without a copied message, outages not counted
_STOP_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class RelayState:
    """A relay at one moment.

    `working`: it copies; else another relay does, or it waits for a server. `lag`: messages by partition that
    are not copied; empty while it is unknown. `seconds`: since when it has been behind. `lost`: messages that
    retention removed before they were copied. `failure` says why it was given up.
    """

    topic: str
    working: bool
    copied: int
    lag: Mapping[int, int]
    seconds: float
    lost: int
    restarts: int
    failure: str | None


@dataclass
class _Kept:
    relay: Relay
    stopping: threading.Event
    thread: threading.Thread | None = None
    lag: Mapping[int, int] = field(default_factory=dict)
    restarts: int = 0
    failure: str | None = None

    def keep(self) -> None:
        """Run the relay again and again until `stopping` is set; give it up as a query is given up."""
        wait, failures, copied = _SHORTEST_WAIT, 0, 0
        while not self.stopping.is_set():
            try:
                self.relay.run(self.stopping)
                continue
            except UnavailableError as error:
                why: Exception = error
            except Exception as error:  # noqa: BLE001 - whatever it is, the other relays and queries go on
                why, failures = error, failures + 1
            if self.relay.copied > copied:
                wait, failures, copied = _SHORTEST_WAIT, min(failures, 1), self.relay.copied
            if failures >= _MOST_FAILURES:
                self.failure = str(why)
                log.error("relay of %s failed and is given up: %s", self.relay.topic, why)
                return
            self.restarts += 1
            log.warning("relay of %s failed and restarts in %.1f s: %s", self.relay.topic, wait, why)
            self.stopping.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def state(self) -> RelayState:
        """The relay as it is now."""
        return RelayState(
            topic=self.relay.topic,
            working=self.relay.active,
            copied=self.relay.copied,
            lag=self.lag,
            seconds=self.relay.behind(),
            lost=self.relay.lost,
            restarts=self.restarts,
            failure=self.failure,
        )


class Relays:
    """Relays of one bus. `told` receives what people should know."""

    def __init__(self, bus: Bus, told: Callable[[str], None] = lambda _text: None) -> None:
        self._bus, self._told = bus, told
        self._stopping = threading.Event()
        self._kept: dict[str, _Kept] = {}

    def copy_all(self, topics: Iterable[str]) -> Sequence[RelayState]:
        """Copy what the topics hold now; waits for another relay that does so. Raises as `Relay.run` does."""
        done = []
        for topic in topics:
            relay = Relay(self._bus.settings, topic, self._told)
            relay.run(self._stopping, self._bus.ends(topic))
            done.append(_Kept(relay, self._stopping).state())
        return done

    def start(self, topics: Iterable[str]) -> None:
        """Keep a relay of each topic running in a thread; their copies exist when this returns.

        Raises what keeps a copy from being made.
        """
        for topic in topics:
            if topic not in self._kept:
                with relaying(self._bus.settings.bootstrap_servers, topic):
                    RelayAdmin(self._bus.settings, topic).pair()
                kept = _Kept(Relay(self._bus.settings, topic, self._told), threading.Event())
                kept.thread = threading.Thread(target=kept.keep, name=f"relay of {topic}", daemon=True)
                self._kept[topic] = kept
                kept.thread.start()

    def keep(self, topics: Collection[str]) -> None:
        """End the relays of other topics after what they have read; does not wait for them."""
        for topic in [one for one in self._kept if one not in topics]:
            log.info("relay of %s ends: nothing reads its copy any more", topic)
            self._kept.pop(topic).stopping.set()

    @property
    def active(self) -> bool:
        """Is there a relay that was not given up?"""
        return any(kept.failure is None for kept in self._kept.values())

    def measure(self) -> None:
        """Bring `lag` up to date; of a topic whose end is not known it becomes empty."""
        if not self._kept:
            return
        try:
            found = self._bus.topics_at(self._kept)
        except AnabranchError as error:
            log.info("lags of relays are unknown: %s", error)
            found = {}
        for topic, kept in self._kept.items():
            position, ends = dict(kept.relay.position), found[topic][1] if topic in found else {}
            kept.lag = {part: max(0, end - position.get(part, 0)) for part, end in ends.items()}

    def states(self) -> Sequence[RelayState]:
        """Every relay that was started, as it is now."""
        return [kept.state() for kept in self._kept.values()]

    def close(self) -> None:
        """Stop every relay after what it has read."""
        for stopping in (self._stopping, *(kept.stopping for kept in self._kept.values())):
            stopping.set()
        for kept in self._kept.values():
            if kept.thread is not None:
                kept.thread.join(_STOP_SECONDS)
