"""How far a topic has been landed, read from the checkpoint of a drained query.

Below the checkpoint:

    offsets/<n>   planned: a line v1, a line of metadata, then a line a source: {"topic": {"0": 42}}
    commits/<n>   batch n is in the lake
"""

import json

from pyspark.sql import SparkSession

from anabranch.stores.files.filesystems import hadoop, hadoop_exists, read_text


def committed_offsets(spark: SparkSession, checkpoint: str, topic: str) -> dict[int, int]:
    """By partition the offset after the last landed message."""
    done = _numbers(spark, f"{checkpoint}/commits")
    if not done:
        return {}
    lines = read_text(spark, f"{checkpoint}/offsets/{max(done)}").splitlines()
    found: dict[str, int] = json.loads(lines[-1]).get(topic, {})
    return {int(partition): offset for partition, offset in found.items()}


def _numbers(spark: SparkSession, folder: str) -> list[int]:
    system, path = hadoop(spark, folder)
    if not hadoop_exists(system, path):
        return []
    names = [status.getPath().getName() for status in system.listStatus(path)]
    return [int(name) for name in names if name.isdigit()]
