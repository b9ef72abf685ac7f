"""How thorough tests of faults are: short in CI, long in `make drill`."""

import os

LONG = "KILLS" in os.environ
KILLS = int(os.environ.get("KILLS", "1"))
"""How often the stream's driver is killed at random."""
