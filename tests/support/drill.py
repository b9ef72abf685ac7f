"""How thorough tests of faults are: short in CI, long in `make drill`, for which they note what was done and
what came of it.

DRILL=notes.jsonl python -m tests.support.drill     makes docs/benchmarks/drill.md of the notes of faults,
                                                    and proofs.md of those of proofs
"""

import json
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LONG = "KILLS" in os.environ
KILLS = int(os.environ.get("KILLS", "1"))
"""How often the stream's driver is killed at random."""
SEED = int(os.environ["SEED"]) if "SEED" in os.environ else random.randrange(10**9)
"""Of what is random in it; it stands in the names of such tests, and the same one given again makes the same
choices.
"""
NOTES = os.environ.get("DRILL")
"""The file of notes, one JSON object a line; none are taken without it."""


@dataclass
class Recovery:
    """What came of one fault: seconds from its end until everything was right again, and how many keys
    (or rows) were compared to know that.
    """

    fault: str
    moment: str
    compared: int = 0
    mismatches: int = 0
    seconds: float = 0.0


@contextmanager
def recovery(fault: str, moment: str) -> Iterator[Recovery]:
    """Note what the block, which begins when `fault` is over, finds; one that raises leaves a mismatch in
    the notes.
    """
    found, began = Recovery(fault, moment), time.monotonic()
    try:
        yield found
    except BaseException:
        found.mismatches = max(1, found.mismatches)
        raise
    finally:
        found.seconds = time.monotonic() - began
        note(**asdict(found))


def note(**values: object) -> None:
    """Add a line to the notes."""
    if NOTES:
        with Path(NOTES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def noted() -> list[dict[str, Any]]:
    """The lines of the file of notes."""
    return [json.loads(line) for line in Path(NOTES or os.devnull).read_text(encoding="utf-8").splitlines()]


def page_of_proofs(lines: Sequence[Mapping[str, Any]]) -> None:
    """Save what came of the proofs, if any; raises SystemExit when one of them failed."""
    from tests.bench.report import alone, save

    proofs = [line for line in lines if "proof" in line]
    failed = [line["proof"] for line in proofs if not line["passed"]]
    if failed:
        raise SystemExit(f"error: not all is well, nothing is saved: {'; '.join(failed)}")
    if not proofs:
        return
    notes = [
        f"All {len(proofs)} held; one difference, exception or event that nobody owes would have failed.",
        f"What is random in them is drawn with SEED={SEED}, or by hypothesis.",
        "The short forms of the same tests run in `make test`.",
    ]
    save(
        "proofs",
        "Properties in their long form",
        [alone(line["proof"], line["seconds"], "s", equal=True) for line in proofs],
        ["pyspark", "hypothesis"],
        notes,
        command="make drill",
    )


def page(lines: Sequence[Mapping[str, Any]]) -> None:
    """Save what was noted; raises SystemExit when something is wrong in it, or when it holds no fault."""
    from tests.bench.report import Row, save

    faults = [Recovery(**line) for line in lines if "fault" in line]
    wrong = [f"{found.fault}, {found.moment}" for found in faults if found.mismatches or not found.compared]
    if wrong or not faults:
        raise SystemExit(
            f"error: not all is well, nothing is saved: {'; '.join(wrong) or 'no fault was noted'}: look "
            "at what the tests said"
        )
    rows = [
        Row(
            work=f"{found.fault}: {found.moment}",
            peer="none",
            ours=found.seconds,
            theirs=None,
            unit="s",
            ratio=None,
            goal="",
            equal=found.mismatches == 0,
        )
        for found in faults
    ]
    kills = [line for line in lines if "kill" in line]
    verified = [line["verified"] for line in lines if "verified" in line]
    compared = sum(found.compared for found in faults)
    notes = [
        f"{len(faults)} faults, all recovered from, 0 mismatches in {compared:,} answers and rows, "
        "compared with a plain fold of what was published.",
        "ours: seconds from the end of a fault (a server is back, a command is started again, the events "
        "are published) until all of that is right.",
        "After each fault of the stream `verify` also recomputed the answers from the lake: "
        f"{len(verified)} times, {sum(verified):,} keys, 0 mismatches.",
    ]
    if kills:
        notes.append(
            f"The stream's driver, its JVM and its workers were killed {len(kills)} times, at moments "
            f"drawn with SEED={kills[0]['seed']}:"
        )
        notes += [f"kill {line['kill']}: {line['moment']}" for line in kills]
    save(
        "drill",
        "Faults, and what came of them",
        rows,
        ["pyspark", "cassandra-driver", "kafka-python"],
        notes,
        command="make drill",
    )


if __name__ == "__main__":
    if not NOTES:
        sys.exit("error: DRILL does not name the file of notes: run 'make drill'")
    page_of_proofs(noted())
    page(noted())
