"""spark-submit jobs/watch.py PROJECT ...: the verb `anabranch watch` as a Spark application."""

import sys
from pathlib import Path

# Spark puts this folder first; the packages lie in the one above.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["watch", *sys.argv[1:]]))
