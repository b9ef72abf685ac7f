"""What answers cost: processor time of the event loop's thread by stage, counted while the server runs."""

import threading
import time
from dataclasses import dataclass, field

STAGES = {
    "request": "read and check the request",
    "read": "ask the store",
    "merge": "decode, merge and finish what it has",
    "score": "the model, and the document of the answer",
    "record": "the message for the topic of predictions",
    "write": "the answer as JSON",
}
_EVERY = 32  # to ask for a thread's time is a call of the system


@dataclass(eq=False)
class StageCosts:
    """Nanoseconds and answers by stage, of one thread. One of 32 runs of a stage is measured."""

    spent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    answers: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    _begun: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, -1))
    _clock: int | None = None

    def begin(self, stage: str) -> int | None:
        """The thread's processor time, for `end`; None for a run that is not measured."""
        begun = self._begun[stage] = self._begun[stage] + 1
        return None if begun % _EVERY else time.thread_time_ns()

    def end(self, stage: str, since: int | None, answers: int = 1) -> None:
        """Count what a stage has used `since` for so many answers."""
        if since is None:
            return
        self.spent[stage] += time.thread_time_ns() - since
        self.answers[stage] += answers
        if self._clock is None:
            self._clock = time.pthread_getcpuclockid(threading.get_ident())

    @property
    def thread_seconds(self) -> float:
        """Processor time of the thread so far, whatever it did; 0 before the first answer."""
        return 0.0 if self._clock is None else time.clock_gettime(self._clock)
