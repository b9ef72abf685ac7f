"""How builds behave; read from conf and the environment by jobs/settings.py alone."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Limits of what a build may change without being asked, and how much it looks at to tell."""

    increments: int = 8
    """The most increments a state is kept in; one more, and they are rewritten as one."""
    fewer_keys: float = 0.5
    """The share of keys by which a view may shrink against the version that serves."""
    nulls: float = 0.3
    """How far the share of values that are null may move."""
    drift: float = 0.5
    """How far a feature's deciles may move, as a share of their size: 0.5 is twice or half as much."""
    profiled_keys: int = 2000
    """Keys whose values are compared with the version that serves."""
    recomputed_keys: int = 20
    """Keys whose values are recomputed from the lake."""
