"""What devices are told: a message on ``models.<project>`` for each change of champion or challenger.

The registry keeps what they have not been told yet (anabranch/stores/models/roles.py), so a broker that is away costs no promotion, and the next
one sends what waits. A message whose sending was cut off may come twice. The topic is compacted by alias: a device that was off for a
month still finds the champion.
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
    """How many messages were sent; `why` is empty, or why the others still wait."""

    sent: int
    why: str = ""


def topic_of(project: str) -> str:
    """The topic that devices listen to."""
    return f"models.{project}"


def announce(models: Models, bus: Bus, project: Project) -> Announced:
    """Send what devices are still to be told, the oldest first, keyed by alias. Never raises: what cannot be sent waits, and is said."""
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
        log.warning("devices are not told of the models of project %s yet: %s", project.name, error)
        return Announced(sent=sent, why=f"devices are not told yet ({error}): the next promotion tells them")
    return Announced(sent=sent)
