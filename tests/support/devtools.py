"""A page in Chromium that is used, not only looked at: its DevTools are told what to do over a pipe."""

import json
import os
import select
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jobs.servers.processes import wait_until

PATIENCE = 60.0


class Tab:
    """One page. Commands, answers and events are JSON, each ended by a zero byte; `password` is what its
    user types when asked to sign in.
    """

    def __init__(self, to_browser: int, from_browser: int, password: str) -> None:
        self._to, self._from, self._password = to_browser, from_browser, password
        self._session, self._count, self._read = "", 0, b""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.command("Fetch.enable", handleAuthRequests=True)

    def open(self, address: str) -> None:
        """Go to an address and wait until its document is there."""
        failed = self.command("Page.navigate", url=address).get("errorText")
        assert not failed, failed
        assert wait_until(lambda: bool(self.run("document.readyState === 'complete'")), PATIENCE)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.command("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def command(self, method: str, **parameters: Any) -> Any:
        """Send a command and wait for its result; what the page asks for meanwhile it gets."""
        number = self._send(method, **parameters)
        while True:
            found = self._next()
            if found.get("id") == number:
                assert "error" not in found, found["error"]
                return found["result"]
            if found.get("method") == "Fetch.requestPaused":
                self._send("Fetch.continueRequest", requestId=found["params"]["requestId"])
            elif found.get("method") == "Fetch.authRequired":
                typed = {"response": "ProvideCredentials", "username": "anybody", "password": self._password}
                self._send(
                    "Fetch.continueWithAuth",
                    requestId=found["params"]["requestId"],
                    authChallengeResponse=typed,
                )

    def _send(self, method: str, **parameters: Any) -> int:
        self._count += 1
        where = {"sessionId": self._session} if self._session else {}
        os.write(
            self._to,
            json.dumps({"id": self._count, "method": method, "params": parameters, **where}).encode() + b"\0",
        )
        return self._count

    def _next(self) -> Any:
        while b"\0" not in self._read:
            assert select.select([self._from], [], [], PATIENCE)[0], "Chromium says nothing"
            read = os.read(self._from, 65_536)
            assert read, "Chromium ended"
            self._read += read
        text, _, self._read = self._read.partition(b"\0")
        return json.loads(text)


@contextmanager
def tab(command: Sequence[str], password: str = "") -> Iterator[Tab]:
    """A page of a browser of its own, which the command starts; it ends with it."""
    (for_browser, to_browser), (from_browser, of_browser) = os.pipe(), os.pipe()
    # Chromium reads commands from 3 and writes to 4, whatever these pipes were given.
    shell = [
        "bash",
        "-c",
        f'exec "$@" 3<&{for_browser} 4>&{of_browser}',
        "bash",
        *command,
        "--remote-debugging-pipe",
    ]
    with subprocess.Popen(
        shell, pass_fds=(for_browser, of_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        os.close(for_browser)
        os.close(of_browser)
        try:
            yield Tab(to_browser, from_browser, password)
        finally:
            process.terminate()
            process.wait(PATIENCE)
            os.close(to_browser)
            os.close(from_browser)
