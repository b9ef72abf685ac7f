"""From figures to an answer: where figures come from, and what follows from them."""

import json
import math
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from anabranch.errors import AnabranchError
from jobs.capacity.capacity import Prices, WantedLoad, capacity, p99_of, workers_for
from jobs.capacity.figures import (
    TERABYTE,
    Answering,
    benchmarked_answers,
    benchmarked_batch,
    benchmarked_stream,
    core_hours,
    observed_answers,
    read_metrics,
)
from jobs.capacity.queues import Times
from jobs.cli.main import main
from serving.api.metrics import MeasuredValues, ServingMetrics, joined

ANSWERING = Answering(
    call=Times(mean=0.001), apart=Times(mean=0.002), store=0.0002, memory=500.0, said="a test"
)


def test_the_fewest_workers_that_are_in_time_are_found() -> None:
    for rate in (1.0, 400.0, 900.0, 1800.0, 25_000.0):
        found = workers_for(rate, 0.05, ANSWERING)
        assert found is not None
        assert p99_of(rate, found, ANSWERING) <= 0.05
        assert found == 1 or p99_of(rate, found - 1, ANSWERING) > 0.05


def test_what_no_number_of_workers_can_do_is_refused_with_the_reason() -> None:
    with pytest.raises(AnabranchError, match=r"within 5 ms: one call alone takes up to [\d.]+ ms"):
        capacity(
            WantedLoad(rate=1, p99=0.005), ANSWERING, benchmarked_stream(), benchmarked_batch(), Prices()
        )


def test_the_answer_says_cores_memory_hours_and_money_of_each_part() -> None:
    wanted = WantedLoad(rate=1500, p99=0.05, events=20_000, lake=2 * TERABYTE, cores=64)
    prices = Prices(core_hour=0.05, tib_month=20)
    stream, batch = benchmarked_stream(), benchmarked_batch()
    found = capacity(wanted, ANSWERING, stream, batch, prices)
    needs = {need.part: need for need in found.needs}
    assert (found.workers, needs["REST server"].cores, needs["REST server"].memory) == (2, 2.0, 1000.0)
    assert needs["stream"].cores == math.ceil(20_000 / stream.rate / 0.7)
    assert found.hours["a full build"] == pytest.approx(core_hours(batch)["a full build"] * 2 / 64)
    assert found.money["REST server"] == pytest.approx(2 * 730 * 0.05)
    disk = needs["builds"].disk * 20
    assert found.money["builds"] == pytest.approx(disk + needs["builds"].core_hours * 0.05)
    assert found.money["together"] == pytest.approx(sum(found.money.values()) / 2)
    assert found.p99 < found.simulated.p99 < 0.05
    changes = {change: (workers, p99) for change, workers, p99 in found.sensitivities}
    assert (changes["twice the calls"][0] or 0) > found.workers
    assert changes["one worker is lost"][1] == math.inf
    assert json.loads(json.dumps(found.shown()))["curve"]
    assert not capacity(wanted, ANSWERING, stream, batch, Prices()).money


def test_figures_of_benchmarks_say_where_they_are_from() -> None:
    answers = benchmarked_answers()
    assert "docs/benchmarks/serving.md of 20" in answers.said
    assert 1e-5 < answers.call.mean < 0.1
    assert 0 < answers.call.scv < 10
    # The page that is computed from the same figures.
    page = (Path(__file__).parents[4] / "docs" / "sizing.md").read_text(encoding="utf-8")
    assert f"| landing all rows | {core_hours(benchmarked_batch())['landing all rows']:,.1f} |" in page


def test_a_running_server_is_read_from_its_own_metrics() -> None:
    one, two = (ServingMetrics(MeasuredValues(lambda _: ())) for _ in range(2))
    before = read_metrics(joined({"1": one.text().decode(), "2": two.text().decode()}))
    assert (before.answers, before.workers) == (0, 2)
    for metrics, seconds in ((one, 0.002), (two, 0.02)):
        for route in ("predict", "health"):
            histogram = metrics._seconds.labels(route)
            for _ in range(300):
                histogram.observe(seconds)
    found = read_metrics(joined({"1": one.text().decode(), "2": two.text().decode()})).since(before)
    assert found.answers == 600
    assert found.seconds == pytest.approx(300 * 0.022)
    answering = observed_answers(found, 10.0, 0.0003, "here")
    assert answering.call.mean + answering.apart.mean == pytest.approx(0.011, rel=0.2)
    # Half at 2 ms, half at 20 ms: variance 81, mean 11.
    assert answering.call.scv == pytest.approx(81 / 121, rel=0.35)
    assert (answering.store, answering.said) == (0.0003, "here")
    with pytest.raises(AnabranchError, match="at least 200 are needed"):
        observed_answers(before, 10.0, 0.0, "here")


def test_the_metrics_that_are_read_are_those_of_the_server() -> None:
    shown = {family.name for family in text_string_to_metric_families(
        ServingMetrics(MeasuredValues(lambda _: ())).text().decode())}  # fmt: skip
    assert {"anabranch_request_seconds", "process_cpu_seconds", "process_resident_memory_bytes"} <= shown


def test_the_verb_answers_with_tables_json_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH__SERVING__PORT", "1")  # nothing answers there
    words = ["capacity", "heart_disease", "--rate", "200", "--events", "2000/s", "--lake", "1TB"]
    page = tmp_path / "capacity.html"
    assert main([*words, "--page", str(page), "--core-hour", "0.04"]) == 0
    output = capsys.readouterr()
    assert "figures are those of docs/benchmarks" in output.err
    for part in ("What is needed", "REST server", "Cassandra", "stream", "builds", "Money", "asked for"):
        assert part in output.out
    assert "answer 200 calls/s with a p99 of" in output.out
    assert '<svg viewBox="0 0 640 170" class="curve"' in page.read_text(encoding="utf-8")
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["workers"] >= 1
    assert found["wanted"]["events"] == 2000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rate", "200", "--p99", "fast"], "--p99 'fast': expected a number above 0 and one of us, ms, s"),
        (["--rate", "200", "--lake", "1"], "--lake '1': expected a number above 0 and one of GB, TB, PB"),
        (["--rate", "200", "--events", "many"], "--events 'many': expected events a second"),
        (["--rate", "0"], "--rate"),
        (["--rate", "1", "--url", "here"], "--url 'here' is not the address of a REST server"),
        (["--rate", "1", "--page", "/nowhere/x.html"], "there is no folder /nowhere"),
    ],
)
def test_what_cannot_be_meant_is_misuse(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["capacity", "heart_disease", *words]) == 2
    assert said in capsys.readouterr().err
