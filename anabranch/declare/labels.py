"""Labels: the target that a model learns."""

from dataclasses import dataclass

from anabranch.declare.sources import Source, key_columns
from anabranch.errors import DeclarationError
from anabranch.values.expressions import expression_type
from anabranch.values.types import BOOLEAN


@dataclass(frozen=True, kw_only=True)
class Label:
    """The target of a model: SQL over events of `source`, with features from strictly before the event."""

    source: Source
    key: str | tuple[str, ...]
    target: str
    description: str = ""

    def __post_init__(self) -> None:
        key_columns(self.key, self.source, "label")
        kind = expression_type(self.target, self.source.columns, "label, target")
        if kind is not None and kind != BOOLEAN and not kind.numeric:
            raise DeclarationError(
                f"label, target: {self.target!r} gives {kind}: "
                "it must give a number or a condition such as 'num > 0'"
            )

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the key's columns."""
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)
