"""The sizing page: core-hours for 1 TB, computed from the figures of the benchmark."""

import pytest

from jobs.capacity.figures import Measured, core_hours, figure
from tests.bench.sizing import page

FOUND = Measured(
    bytes_a_row=100.0, landed=50_000.0, build=10.0, build_events=10_000_000, day=7.0, day_events=10_000_000,
    published=20_000.0, events_a_key=10_000,
    driver=2000.0, workers=800.0, cores=2,
)  # fmt: skip


def test_core_hours_of_a_terabyte_are_proportional_to_the_measured_figures() -> None:
    hours = core_hours(FOUND)
    assert hours["landing all rows"] == pytest.approx(1e10 / 50_000 * 2 / 3600)
    assert hours["a full build"] == pytest.approx(1e10 * 10e-6 * 2 / 3600)
    assert hours["a build of one new day over 90 days"] == pytest.approx(7000 * 2 / 3600)
    assert hours["publishing every key (part of each build)"] == pytest.approx(1e6 / 20_000 * 2 / 3600)


def test_the_page_tells_measured_figures_from_extrapolated_ones() -> None:
    text = page(FOUND)
    assert "10.0 billion events, 1.0 million keys" in text
    assert text.index("**Measured**") < text.index("**Extrapolated**")
    assert "| a full build | 55.6 | 27.8 | 3.5 | 0.9 | 0.2 |" in text


def test_the_figure_of_the_largest_size_counts() -> None:
    assert figure([("full build, 1", 3.0), ("landing", 1.0), ("full build, 2", 2.0)], "full build") == 2.0
