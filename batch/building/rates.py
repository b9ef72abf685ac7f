"""How fast builds read every event of a view, kept as measures by which plans tell how long a build takes."""

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.planning.views import BUILD, RATE
from anabranch.stores.cassandra.measures import Measure
from anabranch.stores.lake.light import LightTable, lake_place, stored_name
from anabranch.stores.opened import Stores
from batch.building.versions import STORE_ERRORS

log = logging.getLogger(__name__)


@dataclass
class BuildRates:
    """The seconds that a build took for each view that it made of every event."""

    project: Project
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, view: FeatureView, seconds: float) -> None:
        """Note how long the grains and the table of a view took."""
        self.seconds[view.name] = seconds

    def keep(self, stores: Stores) -> None:
        """Store events a second; a build that is current does not fail when it cannot."""
        at, root = datetime.now(UTC), stores.settings.lake.root
        try:
            measures = []
            for view in (view for view in self.project.own_views if view.name in self.seconds):
                place = lake_place(root, self.project, "events", view.source)
                events = sum(file.count for file in LightTable(place, stored_name(view.source.time)).files)
                rate = events / max(self.seconds[view.name], 1e-3)
                if events and view.source.table is None:
                    measures.append(
                        Measure(
                            project=self.project.name,
                            subject=BUILD,
                            name=RATE,
                            slice=view.name,
                            at=at,
                            value=rate,
                        )
                    )
            stores.measures.write(measures)
        except STORE_ERRORS as error:
            log.warning("how long the build of %s took is not kept: %s", self.project.name, error)
