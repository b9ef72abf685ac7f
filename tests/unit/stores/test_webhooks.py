"""Alerts sent to real HTTP receivers: what each kind gets, and that one that fails costs others nothing."""

import logging
import time
from dataclasses import replace

import pytest

from anabranch.settings import AlertSettings
from anabranch.stores.webhooks.addresses import read_webhook
from anabranch.stores.webhooks.sending import Notice, Webhooks
from anabranch.values.times import parse_time
from jobs.wiring.settings import SettingsError, load_settings
from tests.conftest import free_ports
from tests.support.webhooks import receiver

RAISED = Notice(
    labels={
        "alertname": "WatchAlert",
        "project": "heart_disease",
        "name": "skew",
        "slice": "",
        "version": "3",
    },
    raised=True,
    summary="skew of <heart_disease> & more is 0.4",
    at=parse_time("2024-05-01T12:00:00Z"),
    document={"project": "heart_disease", "status": "raised"},
)
QUICK = (0.05, 0.05, 0.05)


def webhooks(*addresses: str) -> Webhooks:
    return Webhooks(AlertSettings(webhooks=addresses), QUICK)


def test_each_kind_of_webhook_gets_its_own_document() -> None:
    with receiver() as plain, receiver() as slack, receiver() as alertmanager:
        sender = webhooks(plain.url, f"slack+{slack.url}/services/T0", f"alertmanager+{alertmanager.url}/")
        assert sender.send([RAISED, replace(RAISED, raised=False)]) == []
    assert plain.bodies == [RAISED.document] * 2
    assert [body["text"] for body in slack.bodies] == [
        "*raised*: skew of &lt;heart_disease&gt; &amp; more is 0.4",
        "*cleared*: skew of &lt;heart_disease&gt; &amp; more is 0.4",
    ]
    assert slack.paths == ["/services/T0"] * 2
    assert alertmanager.paths == ["/api/v2/alerts"]
    ((began, ended),) = alertmanager.bodies
    # Alertmanager takes a label without a value for none, and knows an alert by its labels alone.
    assert began["labels"] == ended["labels"] == {k: v for k, v in RAISED.labels.items() if v}
    assert (began["startsAt"], began["endsAt"]) == ("2024-05-01T12:00:00Z", "2024-05-31T12:00:00Z")
    assert ended["endsAt"] == "2024-05-01T12:00:00Z"
    assert "startsAt" not in ended


def test_a_receiver_that_fails_for_a_while_gets_the_alert_in_the_end() -> None:
    with receiver(statuses=(503, 429, 200)) as flaky:
        assert webhooks(flaky.url).send([RAISED]) == []
    assert len(flaky.bodies) == 3


@pytest.mark.parametrize("status", [400, 302])
def test_a_receiver_that_refuses_is_not_asked_again(status: int) -> None:
    with receiver(statuses=(status,)) as refusing:
        assert len(webhooks(refusing.url).send([RAISED])) == 1
    assert (len(refusing.bodies), refusing.paths) == (1, ["/"])


def test_receivers_that_are_down_or_slow_keep_no_other_from_its_alert_and_are_named_without_their_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    (closed,) = free_ports(1)
    with receiver(slow_seconds=3.0) as slow, receiver() as fine:
        sender = webhooks(
            f"http://127.0.0.1:{closed}/services/hush", f"slack+http://me:hush@127.0.0.1:{closed}/hush",
            f"{slow.url}/hush?token=hush", fine.url,
        )  # fmt: skip
        started = time.monotonic()
        with caplog.at_level(logging.WARNING):
            failed = sender.send([RAISED], seconds=0.8)
        assert time.monotonic() - started < 3.0
        assert fine.bodies == [RAISED.document]
    assert failed == sorted(
        [
            f"plain http://127.0.0.1:{closed}/...",
            f"slack http://127.0.0.1:{closed}/...",
            f"plain {slow.url}/...",
        ]
    )
    assert caplog.text.count("did not reach the webhook") == 3
    assert "hush" not in caplog.text
    assert "hush" not in repr(read_webhook("slack+https://example.org/hush"))


def test_nothing_is_sent_without_news_or_addresses() -> None:
    with receiver() as one:
        assert webhooks(one.url).send([]) == webhooks().send([RAISED]) == []
        assert one.bodies == []


def test_addresses_are_checked_when_settings_are_read_and_never_shown() -> None:
    given = "slack+https://hooks.example.org/T0/hush, alertmanager+http://127.0.0.1:19094"
    found = load_settings({"ANABRANCH__ALERTS__WEBHOOKS": given}, {})
    assert [read_webhook(text).kind for text in found.alerts.webhooks] == ["slack", "alertmanager"]
    assert "hush" not in repr(found)
    for wrong in ("ftp://example.org/hush", "teams+https://example.org/hush", "https:///hush"):
        with pytest.raises(
            SettingsError, match=r"alerts\.webhooks .* is the value given: expected"
        ) as raised:
            load_settings({"ANABRANCH__ALERTS__WEBHOOKS": wrong}, {})
        assert "hush" not in str(raised.value)
