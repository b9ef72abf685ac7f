"""How thorough tests of faults are: short in CI, long in `make drill`."""

import os
import random

LONG = "KILLS" in os.environ
KILLS = int(os.environ.get("KILLS", "1"))
"""How often the stream's driver is killed at random."""
SEED = int(os.environ.get("SEED", random.randrange(10**9)))
"""Of what is random in it; it stands in the names of such tests, and the same one given again makes the same choices."""
