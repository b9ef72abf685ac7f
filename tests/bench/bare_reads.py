"""Bare reads of acsylla, the fastest client measured here, as a process of its own. Nothing is answered.

``python -m tests.bench.bare_reads PLAN.json`` prints one JSON object. A pair is one batch row and one slice
of tiles, the fewest reads that an answer could be made of; `single` asks for the slice alone, as with the
batch part cached. With a `rate` the load is open, and latency counts from the time a read was due.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import acsylla
import numpy as np


class Reads:
    """Keeps reads under way until the time is over."""

    def __init__(self, session: Any, statements: list[Any], plan: dict[str, Any]) -> None:
        self._session, self._statements, self._plan = session, statements, plan
        self._until = time.perf_counter() + plan["seconds"]
        self._begun = 0
        self.taken: list[float] = []

    async def _read(self) -> None:
        keys = self._plan["keys"]
        key = keys[self._begun % len(keys)]
        self._begun += 1
        asked = []
        for prepared, values in self._statements:
            bound = prepared.bind()
            bound.bind_list([key, *values])
            asked.append(self._session.execute(bound))
        for found in [await each for each in asked] if len(asked) == 1 else await asyncio.gather(*asked):
            for row in found:
                row.as_tuple()

    async def closed(self) -> None:
        """One caller's reads, one after another."""
        while (started := time.perf_counter()) < self._until:
            await self._read()
            self.taken.append(time.perf_counter() - started)

    async def open(self, rate: float) -> None:
        """Reads at a constant rate."""
        started, planned, tasks = time.perf_counter(), 0, set[asyncio.Task[None]]()

        async def due(moment: float) -> None:
            await self._read()
            self.taken.append(time.perf_counter() - moment)

        while (now := time.perf_counter()) < self._until:
            while (moment := started + planned / rate) <= now:
                planned += 1
                task = asyncio.create_task(due(moment))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(max(0.0, started + planned / rate - time.perf_counter()))
        if tasks:
            await asyncio.wait(tasks, timeout=10)


async def main(plan: dict[str, Any]) -> None:
    """Run and print."""
    cluster = acsylla.create_cluster(
        list(plan["views"]["hosts"]),
        port=plan["views"]["port"],
        protocol_version=4,
        consistency="LOCAL_QUORUM",
    )
    session = await cluster.create_session(keyspace=plan["views"]["keyspace"])
    tiles = f"SELECT tile_start, state, extra FROM {plan['tiles']} WHERE key = ? AND slot >= ?"
    statements = [(await session.create_prepared(tiles), [plan["cut"]])]
    if not plan["single"]:
        batch = f"SELECT states, extras FROM {plan['batch']} WHERE key = ?"
        statements.insert(0, (await session.create_prepared(batch), []))
    reads = Reads(session, statements, plan)
    spent = time.process_time()
    if plan["rate"]:
        await reads.open(plan["rate"])
    else:
        await asyncio.gather(*(reads.closed() for _ in range(plan["connections"])))
    found = np.array(reads.taken) * 1000
    p50, p99 = (float(np.percentile(found, part)) for part in (50, 99))
    cpu = 1e6 * (time.process_time() - spent) / len(found)
    print(json.dumps({"rate": len(found) / plan["seconds"], "p50": p50, "p99": p99, "cpu": cpu}))


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
