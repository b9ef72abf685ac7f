"""spark-submit jobs/train.py PROJECT ...: the verb `anabranch train` as a Spark application."""

import submitted  # type: ignore[import-not-found]

if __name__ == "__main__":
    submitted.run(__file__)
