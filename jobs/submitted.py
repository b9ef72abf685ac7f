"""Verbs as Spark applications: what every jobs/<verb>.py runs under spark-submit.

Spark puts the folder of a script first on the path, where the script finds this module.
"""

import sys
from pathlib import Path


def run(script: str) -> None:
    """Run the verb that a script is named after, with its arguments, and end with its exit code."""
    # The packages lie one folder up.
    sys.path[0] = str(Path(script).resolve().parents[1])
    from jobs.cli.main import main

    sys.exit(main([Path(script).stem, *sys.argv[1:]]))
