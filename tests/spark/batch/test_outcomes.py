"""Labels joined to the predictions they judge, against an obvious loop."""

import random

from pyspark.sql import SparkSession

from anabranch.values.times import from_micros
from batch.training.served import join_labels

HORIZON = 50


def test_a_label_judges_the_last_prediction_of_each_version_before_it(spark: SparkSession) -> None:
    draw = random.Random(11)
    made = [
        (f"p{i}", draw.randint(0, 200), draw.choice("abc"), i / 1000, draw.choice("12"), f'{{"n":{i}}}')
        for i in range(300)
    ]
    labels = [(draw.choice("abcd"), draw.randint(0, 220), float(draw.random() < 0.5)) for _ in range(80)]
    labels = sorted({(key, time): (key, time, target) for key, time, target in labels}.values())
    predictions = spark.createDataFrame(
        [
            (ident, from_micros(at), key, score, version, used)
            for ident, at, key, score, version, used in made
        ],
        "prediction_id STRING, at TIMESTAMP, key STRING, score DOUBLE, model_version STRING, used STRING",
    )
    asked = spark.createDataFrame(labels, "key STRING, time BIGINT, target DOUBLE")
    found = {
        (row["key"], row["time"], row["model_version"]): (row["target"], row["score"], row["used"])
        for row in join_labels(predictions, asked, HORIZON).collect()
    }
    expected = {}
    for key, time, target in labels:
        for version in "12":
            before = [
                one for one in made if one[2] == key and one[4] == version and time - HORIZON <= one[1] < time
            ]
            if before:
                _, _, _, score, _, used = max(before, key=lambda one: (one[1], one[0]))
                expected[key, time, version] = (target, score, used)
    assert len(expected) > 50
    assert found == expected
    assert join_labels(predictions.limit(0), asked, HORIZON).collect() == []
