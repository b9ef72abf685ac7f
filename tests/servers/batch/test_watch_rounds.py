"""A real `anabranch watch --every`: looks continue after one that fails, and SIGTERM ends it."""

import json
from dataclasses import replace
from pathlib import Path

from anabranch.declare.loading import load_project
from anabranch.stores.cassandra.measures import Measure, Measures
from jobs.servers.processes import wait_until
from jobs.wiring.settings import Settings
from tests.servers.speed.test_score_requests import DECLARATION, Desk
from tests.support.stream_rig import PATIENCE, Rig


def test_looks_continue_after_one_that_fails_and_end_on_sigterm(servers: Settings, tmp_path: Path) -> None:
    rig = Rig(servers, tmp_path)
    (tmp_path / f"{rig.name}.py").write_text(DECLARATION.format(name=rig.name), encoding="utf-8")
    registry = tmp_path / "registry.db"
    rig.context.settings = replace(
        servers, projects=(tmp_path,), models=replace(servers.models, tracking_uri=f"sqlite:///{registry}")
    )
    rig.environment = {"ANABRANCH__MODELS__TRACKING_URI": f"sqlite:///{registry}"}
    desk = Desk(rig.context, load_project(rig.name, (tmp_path,)))
    rig.context.models.promote(rig.name, desk.learn("logistic"))
    there, measures = registry.read_bytes(), Measures(servers.views)

    def latest(name: str) -> Measure | None:
        return next(
            (one for one in measures.latest(rig.name) if (one.subject, one.name) == ("watch", name)), None
        )

    def looked(failed: bool, after: Measure | None) -> bool:
        one = latest("failed")
        return one is not None and one.value == float(failed) and (after is None or one.at > after.at)

    rig.process = rig.command("watch", rig.name, "--every", "1s", "--json")
    try:
        assert wait_until(lambda: looked(False, None), PATIENCE), rig.state()
        registry.write_bytes(b"no database " * 10_000)
        assert wait_until(lambda: looked(True, None), PATIENCE), rig.state()
        failed = latest("failed")
        registry.write_bytes(there)
        assert wait_until(lambda: looked(False, failed), PATIENCE), rig.state()
        assert (latest("seconds") or failed) is not failed
        assert rig.stop() == 0, rig.said()
    finally:
        rig.kill()
    told = json.loads(rig.said().splitlines()[-1])
    assert told["projects"] == [rig.name]
    assert told["looks"] > told["failed"] > 0
    assert f"the look at {rig.name} failed: MLflow at sqlite:" in rig.said()
    assert f"watched {rig.name}: 0 predictions" in rig.said()
    assert "Traceback" not in rig.said()
