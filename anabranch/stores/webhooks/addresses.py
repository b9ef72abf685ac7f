"""Addresses of webhooks, which are secrets: whoever knows one may post to it."""

from dataclasses import dataclass, field
from typing import Literal, cast
from urllib.parse import urlsplit

WATCH_ALERT = "WatchAlert"
"""What an alert of a project's `Watch` is called where alerts have labels: here, and by Prometheus' rule."""
WebhookKind = Literal["plain", "slack", "alertmanager"]


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """One address; `kind` says what is posted there."""

    kind: WebhookKind
    url: str = field(repr=False)

    @property
    def shown(self) -> str:
        """The address without what makes it a secret: path, query and credentials."""
        parts = urlsplit(self.url)
        return f"{self.kind} {parts.scheme}://{parts.netloc.rpartition('@')[2]}/..."


def read_webhook(text: str) -> Webhook:
    """The webhook of one address of the setting `alerts.webhooks`."""
    kind, plus, url = text.partition("+http")
    if plus and kind in {"slack", "alertmanager"}:
        return Webhook(kind=cast("WebhookKind", kind), url=f"http{url}")
    return Webhook(kind="plain", url=text)
