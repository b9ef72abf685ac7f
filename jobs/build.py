"""spark-submit jobs/build.py PROJECT ...: the verb `anabranch build` as a Spark application."""

import submitted  # type: ignore[import-not-found]

if __name__ == "__main__":
    submitted.run(__file__)
