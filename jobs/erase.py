"""spark-submit jobs/erase.py PROJECT ...: the verb `anabranch erase` as a Spark application."""

import sys
from pathlib import Path

# Spark puts this folder first, where jobs/features.py would hide the package `features`.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["erase", *sys.argv[1:]]))
