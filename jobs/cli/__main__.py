"""`python -m jobs.cli`: the command `anabranch`."""

from jobs.cli.main import run

run()
