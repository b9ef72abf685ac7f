"""Feature views: features of one key over the events of one source."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import gcd

from anabranch.aggregates.base import Aggregate
from anabranch.aggregates.layout import Layout
from anabranch.aggregates.lifting import Lifter
from anabranch.declare.names import RESERVED, check_name, check_unique, digest
from anabranch.declare.sources import Source, key_columns
from anabranch.declare.windows import LIFETIME, Window, make_window
from anabranch.errors import DeclarationError
from anabranch.values.names import listed
from anabranch.values.sql.expressions import columns_used
from anabranch.values.times import HOUR, format_duration
from anabranch.values.types import DataType


@dataclass(frozen=True)
class FeatureColumn:
    """One column of answers and training sets: a feature over one window."""

    name: str
    feature: str
    window: Window
    type: DataType
    prefix: str = ""
    """What `name` begins with before the feature's name: the view's role, if it is used in one."""
    category: str = ""
    """What `name` ends with: the name of a category, for features by category."""

    @property
    def part(self) -> str:
        """The aggregate of the view that gives the values: the feature's, or that of the category."""
        return part_name(self.feature, self.category)


def part_name(feature: str, category: str) -> str:
    """The name of a feature's aggregate for a category: no feature has a dot in its name."""
    return f"{feature}.{category}" if category else feature


@dataclass(frozen=True, kw_only=True)
class ViewUse:
    """How a project uses a view: set by `FeatureView.on` and `shared`, not by authors.

    `columns` are pairs of a key column of the view and the column of the project's key that stands for it;
    `prefix` is the role, which feature columns begin with. A view of another project has an `owner`, whose
    declaration names in `shared_with` the projects that may use it.
    """

    columns: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
    owner: str | None = None
    shared_with: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FeatureView:
    """Features of one key over one source; without `windows` over all events of the key."""

    name: str
    source: Source
    key: str | tuple[str, ...]
    features: Mapping[str, Aggregate] = field(hash=False)
    windows: tuple[str, ...] | str = ()
    hop: str | None = None
    description: str = ""
    use: ViewUse = ViewUse()

    def __post_init__(self) -> None:
        check_name(self.name, "view")
        if not self.features:
            raise DeclarationError(f"view {self.name!r} has no features: give at least one")
        object.__setattr__(
            self, "windows", (self.windows,) if isinstance(self.windows, str) else tuple(self.windows)
        )
        check_unique(list(self.windows), f"view {self.name!r}: window")
        object.__setattr__(self, "key", self.key if isinstance(self.key, str) else tuple(self.key))
        key_columns(self.key, self.source, f"view {self.name!r}")
        for name, aggregate in self.features.items():
            check_name(name, f"view {self.name!r}: feature")
            if not isinstance(aggregate, Aggregate):
                raise DeclarationError(
                    f"view {self.name!r}: feature {name!r} is {aggregate!r}: "
                    "it must be an aggregate such as Count() or Mean('price')"
                )
            self._check_windows(name, aggregate)
        self._check_columns()

    def _check_windows(self, name: str, aggregate: Aggregate) -> None:
        place = f"view {self.name!r}: feature {name!r}: {type(aggregate).__name__}"
        finite = [span for span in self.spans if span.bounded]
        if aggregate.windows == "none" and finite:
            raise DeclarationError(
                f"{place} has no window (it forgets by its half-life), but the view has {finite[0].name!r}: "
                "give it a view without windows="
            )
        if aggregate.longest_tile is not None and self.tile > aggregate.longest_tile:
            longest, tile = format_duration(aggregate.longest_tile), format_duration(self.tile)
            raise DeclarationError(
                f"{place} fades too fast for states of {tile}: give its view hop={longest!r} or less"
            )
        if aggregate.windows == "finite" and len(finite) < len(self.spans):
            raise DeclarationError(
                f"{place} needs a window of finite length: give its view windows= without a lifetime"
            )

    def _check_columns(self) -> None:
        seen: set[str] = set()
        for column in self.columns:
            if column.name in seen:
                raise DeclarationError(
                    f"view {self.name!r}: feature column {column.name!r} is used twice: rename a feature"
                )
            if column.name in RESERVED:
                raise DeclarationError(
                    f"view {self.name!r}: feature {column.name!r} is a reserved word of serving tables: "
                    "rename it"
                )
            seen.add(column.name)

    def on(self, *, prefix: str = "", **columns: str) -> "FeatureView":
        """This view under other names: ``spending.on(card="buyer_card", prefix="buyer")``.

        A project's key column `buyer_card` is then looked up as the view's `card`, and feature columns begin
        with the prefix: ``buyer_spent_1h``. Uses of one view share landing, tiles and batch states.
        """
        place = f"view {self.name!r}: on()"
        if prefix:
            check_name(prefix, f"{place}: prefix")
        if not prefix and not columns:
            raise DeclarationError(f"{place} changes nothing: give a key column, such as card='buyer_card'")
        unknown = [name for name in columns if name not in self.keys]
        if unknown:
            known = listed(unknown[0], self.keys, "the view has")
            raise DeclarationError(f"{place}: {unknown[0]!r} is no key column: {known}")
        given: dict[str, object] = {**columns}
        wrong = [name for name, column in given.items() if not isinstance(column, str) or not column]
        if wrong:
            raise DeclarationError(
                f"{place}: {wrong[0]}={columns[wrong[0]]!r}: give the name of a column of the project's key"
            )
        named = {**dict(self.use.columns), **columns}
        used = replace(
            self, use=replace(self.use, columns=tuple(named.items()), prefix=prefix or self.use.prefix)
        )
        check_unique(list(used.asked), f"{place}: column")
        return used

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the key's columns in the source."""
        return (self.key,) if isinstance(self.key, str) else self.key

    @cached_property
    def asked(self) -> tuple[str, ...]:
        """The columns of a project's key that stand for `keys`, in their order: the same without `on`."""
        names = dict(self.use.columns)
        return tuple(names.get(name, name) for name in self.keys)

    @cached_property
    def unused(self) -> "FeatureView":
        """The view itself, whose states are stored, without the role in which it is used."""
        return replace(self, use=replace(self.use, columns=(), prefix=""))

    @cached_property
    def full_name(self) -> str:
        """The name, behind that of the owner for a view of another project: ``merchants.risk``."""
        return self.name if self.use.owner is None else f"{self.use.owner}.{self.name}"

    @cached_property
    def feed(self) -> str:
        """The source's name, behind that of the owner for a view of another project."""
        return self.source.name if self.use.owner is None else f"{self.use.owner}.{self.source.name}"

    @cached_property
    def categories(self) -> dict[str, dict[str, Aggregate]]:
        """The aggregates of each feature by category; a feature without categories has one, named ""."""
        return {
            name: aggregate.by_category(self.source.columns, f"view {self.name!r}, feature {name!r}")
            for name, aggregate in self.features.items()
        }

    @cached_property
    def parts(self) -> dict[str, Aggregate]:
        """Every aggregate that has states and values, by `FeatureColumn.part`."""
        return {
            part_name(name, category): aggregate
            for name, found in self.categories.items()
            for category, aggregate in found.items()
        }

    @cached_property
    def layout(self) -> Layout:
        """The layout of this view's states."""
        place = f"view {self.name!r}"
        return Layout(
            {
                name: aggregate.bind(self.source.columns, f"{place}, feature {name!r}")
                for name, aggregate in self.parts.items()
            }
        )

    @cached_property
    def lifter(self) -> Lifter:
        """Makes states of single events without Spark.

        Raises DeclarationError when a feature has an expression that Spark alone computes.
        """
        return Lifter(self.layout, self.source.columns, f"view {self.name!r}")

    @cached_property
    def spans(self) -> tuple[Window, ...]:
        """The windows with their hops; one lifetime when none are declared."""
        return tuple(
            make_window(text, self.hop, f"view {self.name!r}") for text in self.windows or (LIFETIME,)
        )

    @cached_property
    def tile(self) -> int:
        """Width of the stream's tiles in microseconds, of which every hop is a multiple."""
        return gcd(*(span.hop for span in self.spans))

    @cached_property
    def tiers(self) -> tuple[int, ...]:
        """Widths of the stream's tiles in microseconds.

        Wide tiles hold an hour, or a hop where that is longer. Where a window's tail may lie within a wide
        tile, there are fine ones of a hop as well.
        """
        longest = [
            aggregate.longest_tile
            for aggregate in self.features.values()
            if aggregate.longest_tile is not None
        ]
        wide = (
            self.tile * max(1, min(HOUR, *longest) // self.tile)
            if longest
            else self.tile * max(1, HOUR // self.tile)
        )
        return (wide, self.tile) if any(span.needs_fine(wide) for span in self.spans) else (wide,)

    @cached_property
    def columns(self) -> tuple[FeatureColumn, ...]:
        """Feature columns, windows within features: ``bpm_mean_1h``, ``bpm_mean_1d``, ... or ``age``.

        Of a feature by category the categories are within windows: ``spent_7d_food``, ``spent_7d_other``.
        """
        bounds, role = self.layout.bounds, f"{self.use.prefix}_" if self.use.prefix else ""
        return tuple(
            FeatureColumn(
                "_".join(filter(None, (f"{role}{name}", span.suffix if self.windows else "", category))),
                name,
                span,
                bounds[part_name(name, category)].type,
                role,
                category,
            )
            for name, found in self.categories.items()
            for span in self.spans
            for category in found
        )

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """Names of the feature columns, in order."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def finished(self) -> Mapping[tuple[str, ...], tuple[str, ...]]:
        """Features that one formula finishes, with their columns: windows within features."""
        names: dict[str, list[str]] = {}
        for column in self.columns:
            names.setdefault(column.part, []).append(column.name)
        return {
            group.names: tuple(name for feature in group.names for name in names[feature])
            for group in self.layout.alike
        }

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the meaning or the layout of stored states would; not with the names of features."""
        return digest(
            [
                *self._ground(self.features.values()),
                *self.layout.sql(),
                *(extra.sql() for extra in self.layout.extras),
            ]
        )

    @property
    def tiles_name(self) -> str:
        """Names the view's tiles in its project: others where the view has another name or meaning."""
        return f"{self.name}.{self.fingerprint}"

    @cached_property
    def promise(self) -> str:
        """Changes when the names or the values of the view's features would: what borrowers rely on."""
        return digest(
            [self.fingerprint, *sorted(f"{name}:{each.meaning()}" for name, each in self.features.items())]
        )

    def feature_fingerprint(self, name: str) -> str:
        """Changes when the values of one feature would; not with its name."""
        return digest([*self._ground([self.features[name]]), self.features[name].meaning()])

    def _ground(self, aggregates: Iterable[Aggregate]) -> list[str]:
        """The source, the key, the windows and the types of the columns that are read."""
        source = self.source
        used = {name.lower() for name in (*self.keys, source.time, source.id or "")}
        used.update(
            name.lower()
            for aggregate in aggregates
            for text in aggregate.texts
            for name in columns_used(text)
        )
        types = [f"{c.name}:{c.type}" for c in source.columns if c.name.lower() in used]
        return [
            source.name,
            source.topic or "",
            source.id or "",
            source.time,
            repr(self.keys),
            repr([span.meaning for span in self.spans]),
            *types,
        ]
