"""Processor time by stage, as a running server tells it."""

import time

from prometheus_client.parser import text_string_to_metric_families

from anabranch.answers.costs import STAGES, StageCosts
from serving.api.metrics import ServingMetrics


def work(milliseconds: int) -> None:
    until = time.thread_time_ns() + milliseconds * 1_000_000
    while time.thread_time_ns() < until:
        pass


def test_one_run_in_32_is_measured_in_processor_time_not_in_waiting() -> None:
    costs = StageCosts()
    measured = 0
    for _ in range(64):
        since = costs.begin("merge")
        if since is not None:
            measured += 1
            work(5)
            time.sleep(0.05)
        costs.end("merge", since, 2)
    assert (measured, costs.answers["merge"]) == (2, 4)
    assert 10_000_000 <= costs.spent["merge"] < 60_000_000
    assert costs.thread_seconds >= 0.01


def test_metrics_show_seconds_and_answers_of_each_stage() -> None:
    costs = StageCosts()
    assert costs.thread_seconds == 0
    costs.end("score", costs.begin("score"), 3)
    text = ServingMetrics(costs=costs).text().decode()
    samples = {
        (sample.name, sample.labels.get("stage")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["anabranch_answer_cpu_answers_total", "score"] == 3
    assert samples["anabranch_answer_cpu_seconds_total", "score"] > 0
    assert {stage for name, stage in samples if name == "anabranch_answer_cpu_seconds_total"} == set(STAGES)
    assert samples["anabranch_loop_cpu_seconds_total", None] > 0
