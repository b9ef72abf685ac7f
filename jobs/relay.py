"""spark-submit jobs/relay.py PROJECT ...: the verb `anabranch relay` as a Spark application."""

import submitted  # type: ignore[import-not-found]

if __name__ == "__main__":
    submitted.run(__file__)
