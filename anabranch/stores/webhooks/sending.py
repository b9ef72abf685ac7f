"""Alerts sent to webhooks: each address apart from the others, tried again a few times within seconds.

A notice is sent at least once to an address that answers within the time, and is lost for one that does not:
the topic of alerts has it all the same. An address may get a notice twice, when its answer was lost.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from anabranch.settings import AlertSettings
from anabranch.stores.webhooks.addresses import Webhook, read_webhook
from anabranch.values.times import SECOND, format_time

log = logging.getLogger(__name__)
PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try."""
_TRY_SECONDS = 3.0
_SECONDS = 20.0
_STANDS_SECONDS = 30 * 86_400
"""Alertmanager ends an alert by itself when it is not told of it for so long."""
_BAD = 300
_AGAIN = (429, 500)


@dataclass(frozen=True, kw_only=True)
class Notice:
    """That an alert began (`raised`) or ended, at a time in microseconds.

    `labels` identify it: notices with the same labels are of the same alert. `document` is what a plain
    webhook gets.
    """

    labels: Mapping[str, str]
    raised: bool
    summary: str
    at: int
    document: Mapping[str, Any]


class Webhooks:
    """The webhooks of the settings."""

    def __init__(self, settings: AlertSettings, pauses: Sequence[float] = PAUSES) -> None:
        self._addresses = [read_webhook(text) for text in settings.webhooks]
        self._pauses = pauses

    def send(self, notices: Sequence[Notice], seconds: float = _SECONDS) -> list[str]:
        """Send the notices everywhere within `seconds`; returns the addresses (shortened) that failed.

        Raises nothing: an address that fails is logged.
        """
        if not notices:
            return []
        failed: dict[str, str] = {}
        deadline = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._send, args=(one, notices, deadline, failed), daemon=True)
            for one in self._addresses
        ]
        for thread in threads:
            thread.start()
        for thread, one in zip(threads, self._addresses, strict=True):
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                failed[one.shown] = f"no answer within {seconds:g} s"
        for shown, why in failed.items():
            log.warning("%d alerts did not reach the webhook %s: %s", len(notices), shown, why)
        return sorted(failed)

    def _send(
        self, webhook: Webhook, notices: Sequence[Notice], deadline: float, failed: dict[str, str]
    ) -> None:
        address, bodies = requests_for(webhook, notices)
        with httpx.Client(timeout=_TRY_SECONDS) as client:
            for body in bodies:
                why = self._post(client, address, body, deadline)
                if why is not None:
                    failed[webhook.shown] = why
                    return

    def _post(self, client: httpx.Client, address: str, body: Any, deadline: float) -> str | None:
        """Post until it is taken; why it was not, or None. Redirects are not followed."""
        for pause in (*self._pauses, None):
            try:
                status = client.post(address, json=body).status_code
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                why = type(error).__name__  # its text may have the address
            else:
                if status < _BAD:
                    return None
                why = f"status {status}"
                if status < _AGAIN[1] and status != _AGAIN[0]:
                    return why
            if pause is None or time.monotonic() + pause > deadline:
                return why
            time.sleep(pause)
        return why


def requests_for(webhook: Webhook, notices: Sequence[Notice]) -> tuple[str, list[Any]]:
    """The address to post to, and the JSON bodies: one a notice; Alertmanager takes all of them in one."""
    if webhook.kind == "alertmanager":
        return f"{webhook.url.rstrip('/')}/api/v2/alerts", [[_for_alertmanager(one) for one in notices]]
    if webhook.kind == "slack":
        return webhook.url, [_for_slack(one) for one in notices]
    return webhook.url, [dict(one.document) for one in notices]


def _for_alertmanager(notice: Notice) -> dict[str, Any]:
    end = notice.at + _STANDS_SECONDS * SECOND if notice.raised else notice.at
    return {
        "labels": {name: value for name, value in notice.labels.items() if value},
        "annotations": {"summary": notice.summary},
        "endsAt": format_time(end),
        **({"startsAt": format_time(notice.at)} if notice.raised else {}),
    }


def _for_slack(notice: Notice) -> dict[str, Any]:
    head = "raised" if notice.raised else "cleared"
    # Slack reads these three as markup.
    text = notice.summary.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": f"*{head}*: {text}"}
