"""Simulates payments by card, their outcomes, and disputes by merchant, for `card_fraud` and `merchant_risk`.

``python projects/data/simulate_cards.py FOLDER [--until TIME]`` writes `payments.jsonl`,
`outcomes.jsonl` and `disputes.jsonl` of the four weeks before TIME (now by default). The same TIME gives the
same files. Nobody's payments are in them: amounts, times and frauds are drawn by the rules below.
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

Row = dict[str, Any]

SEED, CARDS, MERCHANTS, DAYS = 21, 100, 12, 28
SHADY = 3  # of the merchants: two of three frauds are at one of these
CATEGORIES = {"food": 20.0, "fuel": 50.0, "home": 60.0, "travel": 150.0}
"""Categories and what a usual payment comes to; food is three times as common as any other."""
SPREE = 0.25  # share of the cards that are stolen once
JUDGED = timedelta(days=2)
"""Outcomes are known of payments that are older than this."""


@dataclass(frozen=True)
class Simulated:
    """Rows of the three sources, each in the order of their times."""

    payments: list[Row]
    outcomes: list[Row]
    disputes: list[Row]


def simulate(until: datetime, seed: int = SEED) -> Simulated:
    """The events of the four weeks before `until`; the same arguments give the same rows."""
    chance = random.Random(seed)  # noqa: S311 - a simulation
    made = [
        payment
        for number in range(CARDS)
        for payment in (*_usual(chance, number, until), *_stolen(chance, number, until))
    ]
    made.sort(key=lambda payment: (payment["at"], payment["card"]))
    payments, outcomes, disputes = [], [], []
    for number, payment in enumerate(made, 1):
        at, shared = payment["at"], {name: payment[name] for name in ("card", "merchant", "amount")}
        payments.append(
            {"payment_id": f"p{number:05}", **shared, "category": payment["category"], "paid_at": _text(at)}
        )
        if at < until - JUDGED:
            decided = {"decided_at": _text(at + timedelta(seconds=1))}
            known = {"channel": payment["channel"], "fraud": payment["fraud"]}
            outcomes.append({"outcome_id": f"o{number:05}", **shared, **known, **decided})
        opened = at + timedelta(hours=chance.uniform(6, 72))
        if chance.random() < (0.8 if payment["fraud"] else 0.02) and opened < until:
            dispute = {"dispute_id": f"d{number:05}", "merchant": payment["merchant"]}
            disputes.append({**dispute, "amount": payment["amount"], "opened_at": _text(opened)})
    disputes.sort(key=lambda dispute: (dispute["opened_at"], dispute["dispute_id"]))
    return Simulated(payments, outcomes, disputes)


def _usual(chance: random.Random, number: int, until: datetime) -> Iterator[Row]:
    """Payments of a card's owner: by day, some on most days."""
    thrift = chance.lognormvariate(0, 0.4)
    for day in range(DAYS):
        if chance.random() < 0.6:
            midnight = (until - timedelta(days=day)).replace(hour=0, minute=0, second=0, microsecond=0)
            at = midnight + timedelta(seconds=chance.randrange(7 * 3600, 24 * 3600))
            category = chance.choices(list(CATEGORIES), (3, 1, 1, 1))[0]
            payment = _payment(chance, number, at, category, thrift)
            if at < until:
                yield payment


def _stolen(chance: random.Random, number: int, until: datetime) -> Iterator[Row]:
    """Payments with a stolen card: a few dear ones, minutes apart, at any time of the day."""
    if chance.random() >= SPREE:
        return
    at = until - timedelta(days=chance.uniform(0.5, DAYS - 10))
    for _ in range(chance.randint(2, 5)):
        at += timedelta(seconds=chance.randrange(60, 900))
        category = chance.choice(("home", "travel"))
        yield {**_payment(chance, number, at, category, 2.5, shady=2 / 3), "fraud": True,
               "channel": "web" if chance.random() < 0.8 else "shop"}  # fmt: skip


def _payment(
    chance: random.Random, number: int, at: datetime, category: str, dear: float, shady: float = 0.1
) -> Row:
    merchant = chance.randrange(SHADY) if chance.random() < shady else chance.randrange(SHADY, MERCHANTS)
    return {
        "at": at.replace(microsecond=0),
        "card": f"c{number:03}",
        "merchant": f"m{merchant:02}",
        "category": category,
        "amount": round(CATEGORIES[category] * dear * chance.lognormvariate(0, 0.4), 2),
        "channel": "web" if chance.random() < 0.25 else "shop",
        "fraud": False,
    }


def _text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description="Simulate payments by card, outcomes and disputes.")
    parser.add_argument("folder", type=Path, help="folder to write to; it is made")
    parser.add_argument("--until", default=None, help="end of the four weeks, ISO 8601; now by default")
    given = parser.parse_args()
    until = datetime.now(UTC) if given.until is None else datetime.fromisoformat(given.until).astimezone(UTC)
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, rows in vars(simulate(until)).items():
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (given.folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
