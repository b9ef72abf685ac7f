"""News for devices: a message on ``models.<project>`` for each change of champion or challenger.

The registry queues the news (anabranch/stores/models/roles.py), so a broker that is away costs no promotion:
the next one sends what waits. A message may come twice when its sending was cut off. The topic is compacted
by alias: a device that was off for a month still finds the champion.
"""

import json
import logging
from dataclasses import dataclass

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, UnavailableError
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.models.registry import Models

log = logging.getLogger(__name__)
_COMPACTED = {"cleanup.policy": "compact"}


@dataclass(frozen=True, kw_only=True)
class Announced:
    """The number of messages that were sent; `why` says why the others still wait, and is empty otherwise."""

    sent: int
    why: str = ""


def topic_of(project: str) -> str:
    """The topic of the project's news for devices."""
    return f"models.{project}"


def announce(models: Models, bus: Bus, project: Project) -> Announced:
    """Send the queued news to devices, the oldest first, keyed by alias.

    Never raises: news that cannot be sent stay queued, and the result says why.
    """
    sent = 0
    try:
        news = models.roles(project.name).news
        if not news:
            return Announced(sent=0)
        if not bus.is_reachable():
            raise UnavailableError(f"Kafka at {bus.settings.bootstrap_servers} does not answer")
        bus.ensure_topics([topic_of(project.name)], configs=_COMPACTED)
        sent = bus.publish(
            topic_of(project.name), [(str(one["alias"]).encode(), json.dumps(one).encode()) for one in news]
        )
        models.remove_news(project.name, news)
    except AnabranchError as error:
        log.warning("news of the models of project %s wait for Kafka: %s", project.name, error)
        return Announced(
            sent=sent, why=f"devices are not informed yet ({error}): the next promotion informs them"
        )
    return Announced(sent=sent)
