"""spark-submit jobs/verify.py PROJECT ...: the verb `anabranch verify` as a Spark application."""

import submitted  # type: ignore[import-not-found]

if __name__ == "__main__":
    submitted.run(__file__)
