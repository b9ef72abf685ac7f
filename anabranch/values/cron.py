"""Times that repeat, in UTC, as cron writes them: five fields, or a preset such as ``@hourly``."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from anabranch.errors import DeclarationError

PRESETS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_NAMES = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "weekday": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}
_DAYS_OF_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_LONGEST_DAYS = 366 * 8 + 1
"""From 29 February to the next one, over a year such as 2100."""


@dataclass(frozen=True, kw_only=True)
class Cron:
    """Minutes of the year that one expression names; Sunday is weekday 0."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool
    """Day and weekday are both restricted: one of them is enough."""

    def after(self, moment: datetime) -> datetime:
        """The first time after an aware moment, in UTC."""
        start = moment.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
        for day in _days(start):
            if not self._on(day):
                continue
            for hour in sorted(self.hours):
                for minute in sorted(self.minutes):
                    found = day.replace(hour=hour, minute=minute)
                    if found >= start:
                        return found
        raise AssertionError("parse_cron refuses dates that no year has")

    def _on(self, day: datetime) -> bool:
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and (of_month or of_week if self.either else of_month and of_week)


def parse_cron(text: object, place: str) -> Cron:
    """Read an expression.

    Raises DeclarationError, which names `place`, for a text that is none or that never comes.
    """
    if not isinstance(text, str):
        raise DeclarationError(f'{place} is {text!r}: write cron\'s five fields, such as "0 3 * * *"')
    if text.startswith("@") and text not in PRESETS:
        raise DeclarationError(f"{place}: there is no {text!r}: there are {', '.join(PRESETS)}")
    parts = PRESETS.get(text, text).split()
    if len(parts) != len(_FIELDS):
        raise DeclarationError(
            f'{place} is {text!r}: write five fields: minute, hour, day, month, weekday, such as "0 3 * * *"'
        )
    minutes, hours, days, months, weekdays = (
        _field(part, *field, place) for part, field in zip(parts, _FIELDS, strict=True)
    )
    either = parts[2] != "*" and parts[4] != "*"
    if not either and min(days) > max(_DAYS_OF_MONTH[month - 1] for month in months):
        raise DeclarationError(f"{place} is {text!r}: no year has such a day")
    return Cron(
        minutes=minutes,
        hours=hours,
        days=days,
        months=months,
        weekdays=frozenset(day % 7 for day in weekdays),
        either=either,
    )


def _field(text: str, name: str, least: int, most: int, place: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span == "*":
            low, high = least, most
        else:
            low = _number(first, name, place)
            high = _number(last, name, place) if dash else (most if slash else low)
        every = int(step) if re.fullmatch(r"[0-9]{1,4}", step) else (0 if slash else 1)
        if not least <= low <= high <= most or every < 1:
            raise DeclarationError(f"{place}: {part!r} is no {name}: they are {least} to {most}")
        found.update(range(low, high + 1, every))
    return frozenset(found)


def _number(text: str, name: str, place: str) -> int:
    names = _NAMES.get(name, [])
    if text.lower() in names:
        return names.index(text.lower()) + (name == "month")
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise DeclarationError(f"{place}: {text!r} is no {name}")
    return int(text)


def _days(start: datetime) -> Iterator[datetime]:
    midnight = start.replace(hour=0, minute=0)
    for number in range(_LONGEST_DAYS):
        yield midnight + timedelta(days=number)
