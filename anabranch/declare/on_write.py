"""Rows that a project scores as they arrive."""

from dataclasses import dataclass

from anabranch.errors import DeclarationError


@dataclass(frozen=True, kw_only=True)
class OnWrite:
    """Rows that are scored as they arrive: events of `source` (a name), or rows appended to `table` (a path).

    Scores go to the Delta table `to`, or with ``to="serving"`` to the serving table.
    """

    to: str
    source: str | None = None
    table: str | None = None

    def __post_init__(self) -> None:
        if not self.to or (self.source is None) == (self.table is None):
            raise DeclarationError(f"score_on_write: {self}: give to= and one of source= and table=")
