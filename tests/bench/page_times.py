"""How long the pages for people take: made by the server, and loaded by Chromium where there is one."""

import http.client
import shutil
import statistics
import tempfile
import time

from tests.bench.report import Row, alone
from tests.bench.serving_data import River
from tests.support.devtools import tab

RUNS = 30
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run")
_LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def page_rows(found: River, port: int) -> list[Row]:
    """Medians: the first page with all projects, a project's page and a key's."""
    project, key = found.projects[0].name, found.keys[0]
    pages = {
        f"the first page, {len(found.projects)} projects": "/",
        "a project's page": f"/projects/{project}",
        "a key's page": f"/projects/{project}/keys/{key}",
    }
    made = {
        name: statistics.median(_answered(port, path) for _ in range(RUNS)) for name, path in pages.items()
    }
    rows = [_row(f"{name}, answered", taken, "<= 100") for name, taken in made.items()]
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        return rows
    with (
        tempfile.TemporaryDirectory() as profile,
        tab([program, *_FLAGS, f"--user-data-dir={profile}"]) as browser,
    ):
        for name, path in pages.items():
            taken = []
            for _ in range(RUNS // 3):
                browser.open(f"http://127.0.0.1:{port}{path}")
                taken.append(float(browser.run(_LOADED)))
            rows.append(_row(f"{name}, loaded in Chromium", statistics.median(taken), "<= 500"))
    return rows


def _row(name: str, milliseconds: float, goal: str) -> Row:
    return alone(f"page: {name}", milliseconds, "ms", goal=goal)


def _answered(port: int, path: str) -> float:
    """Milliseconds to the last byte of a page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        started = time.perf_counter()
        connection.request("GET", path)
        response = connection.getresponse()
        page = response.read()
        taken = time.perf_counter() - started
    finally:
        connection.close()
    if response.status != 200 or b"</html>" not in page:
        raise SystemExit(f"the page {path} answers {response.status}: {page[:200]!r}")
    return 1000 * taken
