"""The pages for people in a real browser, over the real servers and the data of the river."""

import json
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from matplotlib.image import imread

from anabranch.stores.cassandra.measures import Measure, Measures
from anabranch.stores.files.api_keys import ApiKeys
from anabranch.values.times import now_micros
from batch.quality.report import QuarantinedRows, Report, as_html
from jobs.servers.processes import wait_until
from tests.e2e.conftest import running
from tests.support.devtools import tab
from tests.support.heart_river import PATIENT, Lived

FORM = """document.querySelector('form[data-path="/v1/projects/heart_disease/predict"]')"""


class Browser:
    """Headless Chromium: what it makes of a page, and what it looks like."""

    def __init__(self, folder: Path) -> None:
        program = next(
            filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
        )
        assert program is not None, "chromium is not found: 'make browser-programs' installs it"
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
        more = ("--force-color-profile=srgb", "--disable-background-networking", f"--user-data-dir={folder}")
        self.command = [program, *options, *more]

    def document(self, address: str) -> str:
        return self._run("--dump-dom", address)

    def picture(self, address: str, file: Path, height: int, *more: str) -> Path:
        self._run(f"--screenshot={file}", f"--window-size=1280,{height}", *more, address)
        return file

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.command, *arguments], capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


class Read(HTMLParser):
    """Text and elements of a document."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.text, self.names = "", list[str]()
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return Browser(tmp_path_factory.mktemp("chromium"))


@pytest.fixture(scope="module")
def measured(lived: Lived) -> float:
    """The mean of the real scores, as a measure of three moments."""
    views = lived.context.views
    mean = fmean(row.score for row in views.sample_current(lived.project, 1000) if row.score is not None)
    now = datetime.now(tz=UTC)
    versions = {"project": "heart_disease", "version": lived.demo.trained.version}
    found = [
        Measure(subject="scores", name="mean", at=now - timedelta(hours=hours), value=mean, **versions)
        for hours in (2, 1, 0)
    ]
    found += [
        Measure(subject="model", name=name, at=now, value=lived.demo.trained.metrics[name], **versions)
        for name in ("roc_auc", "log_loss")
    ]
    Measures(views.settings).write(found)
    return mean


@pytest.fixture(scope="module")
def ready(rest_of_heart: str, measured: float) -> str:
    def served() -> bool:
        with urlopen(f"{rest_of_heart}/v1/projects/heart_disease") as response:
            found = json.load(response)
        return found["freshness"]["batch_version"] is not None and bool(found["model"]["metrics"])

    assert wait_until(served, 60), "the project was not served within a minute"
    return rest_of_heart


def test_a_sample_of_current_rows_is_bounded(lived: Lived) -> None:
    rows = lived.context.views.sample_current(lived.project, 50)
    assert len(rows) == 50
    assert len(lived.context.views.sample_current(lived.project, 1000)) == 303
    assert all(row.score is not None and 0 < row.score < 1 and row.batch_version for row in rows)


def test_the_catalogue_shows_the_contents_of_the_real_stores(ready: str, lived: Lived) -> None:
    with urlopen(f"{ready}/v1/projects/heart_disease") as response:
        found = json.load(response)
    assert found["lineage"]["lake"].keys() >= {"exams", "diagnoses"}
    assert found["lineage"]["batch"]["keys"]["latest_exam"] == 303
    assert found["lineage"]["model"]["version"] == lived.demo.trained.version
    assert found["model"]["metrics"]["roc_auc"] == pytest.approx(lived.demo.trained.metrics["roc_auc"])
    assert found["freshness"]["kept"] is True


def test_a_browser_shows_the_projects_and_one_as_a_data_product(
    ready: str, lived: Lived, browser: Browser, measured: float
) -> None:
    home = Read(browser.document(f"{ready}/"))
    metric = f"{lived.demo.trained.metrics['roc_auc']:.4f}"
    for said in ("heart_disease", "cardiology", metric, str(lived.demo.built.manifest.batch_version)):
        assert said in home.text, said
    # A server learns of new tables, here that of measures, within seconds; a slow store is not available.
    product = Read("")

    def whole() -> bool:
        nonlocal product
        product = Read(browser.document(f"{ready}/projects/heart_disease"))
        return "scores: mean" in product.text and "Not available now" not in product.text

    assert wait_until(whole, 60), product.text
    for said in (
        metric,
        "Scores of all 303 keys",
        "bpm_mean_1h",
        "accepted",
        "latest_exam303 keys",
        f"{measured:,.4g}",
        "kept",
    ):
        assert said in product.text, (said, product.text)
    assert product.names.count("rect") == 20


def test_a_browser_shows_a_key_with_its_score_and_its_windows(
    ready: str, lived: Lived, browser: Browser
) -> None:
    page = Read(browser.document(f"{ready}/projects/heart_disease/keys/{PATIENT}"))
    for said in (
        PATIENT,
        f"{lived.answer['score']:,.4g}",
        f"{lived.answer['features']['readings_7d']:,}",
        "155",
        "speed",
    ):
        assert said in page.text, said


def test_the_model_card_and_the_reports_of_the_gate_are_shown(ready: str) -> None:
    with urlopen(f"{ready}/projects/heart_disease/card") as response:
        assert b"Model card: heart_disease" in response.read()
        assert "sandbox" in response.headers["content-security-policy"]
    with urlopen(f"{ready}/projects/heart_disease") as response:
        page = response.read().decode()
    report = page.partition('href="/projects/heart_disease/quality/')[2].partition('"')[0]
    with urlopen(f"{ready}/projects/heart_disease/quality/{report}") as response:
        assert b"<h2>Expectations</h2>" in response.read()


PHONE = 375  # CSS pixels


def too_wide(browser: Browser, page: str, file: Path) -> list[str]:
    """Elements of a page that a phone's window cuts off; what scrolls in a frame of its own is not."""
    look = (
        f"[...d.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > {PHONE} + 1 "
        "&& !e.closest('.scroll, pre, svg')).map(e => e.tagName)"
    )
    file.write_text(
        f"<iframe style='width:{PHONE}px;height:9px;border:0' srcdoc=\"{escape(page)}\"></iframe><pre></pre>"
        "<script>onload = () => { const d = document.querySelector('iframe').contentDocument; "
        f"document.querySelector('pre').textContent = 'WIDE' + JSON.stringify({look}) }}</script>"
    )
    told = Read(browser.document(file.as_uri())).text
    return list(json.loads(told.partition("WIDE")[2].partition("]")[0] + "]"))


def test_a_report_with_long_texts_fits_a_phone(browser: Browser, tmp_path: Path) -> None:
    long = "/lake/" + "a_long_name_without_a_break" * 20
    group = QuarantinedRows(kind=long, count=3, reason=long, raw=long)
    report = Report(
        project="shops", source="sales", load=long, arrival="2026-05-01T10:00:00+00:00", rows=4, bad=3,
        verdict="refused", faults=(long,), suite=long, outcomes=(), groups=(group,),
    )  # fmt: skip
    assert too_wide(browser, as_html(report), tmp_path / "report.html") == []
    assert too_wide(browser, f"<p style='width: 40rem'>{long}</p>", tmp_path / "wide.html") == ["P"]


PHONES = 400  # CSS pixels
LOOK = """(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
  ).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const paint = rgb(getComputedStyle(e).backgroundColor);
      if (paint.length < 4 || paint[3] > 0.99) return paint;
    }
    return rgb(getComputedStyle(document.documentElement).backgroundColor);
  };
  const seen = [...document.body.querySelectorAll('*')].filter(e => e.checkVisibility() && !e.closest('svg'));
  const said = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const faint = seen.filter(said).map(e => {
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.tagName + ': ' + e.textContent.trim().slice(0, 40)];
  }).filter(([contrast]) => contrast < 4.5);
  const used = seen.filter(e => e.matches('a, button, input, select, textarea, summary, .scroll'));
  const reached = e => {
    e.focus({focusVisible: true});
    const style = getComputedStyle(e);
    const ringed = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
    return document.activeElement === e && ringed;
  };
  const moves = seen.filter(e => e.matches('.scroll') && e.scrollWidth <= e.clientWidth);
  return {
    wide: document.documentElement.scrollWidth, faint: faint.map(([, what]) => what), used: used.length,
    lost: used.filter(e => !moves.includes(e) && !reached(e)).map(e => e.outerHTML.slice(0, 80)),
    paper: light(behind(document.body)),
  };
})()"""
"""What a reader meets in a page: its width, texts of too little contrast (WCAG's 4.5), and what the keyboard
does not reach or does not show that it has."""


BAD = """<p style="width: 900px; color: #777; background: #888">faint and wide</p>
<button disabled>not reached</button> <a href="#" style="outline: none">reached, and not shown</a>"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_read_on_a_phone_in_light_and_dark_and_used_by_keyboard(
    ready: str, browser: Browser, scheme: str
) -> None:
    paths = ("/", "/projects/heart_disease", f"/projects/heart_disease/keys/{PATIENT}", "/docs")
    with tab(browser.command) as page:
        page.command(
            "Emulation.setDeviceMetricsOverride", width=PHONES, height=800, deviceScaleFactor=1, mobile=True
        )
        page.command(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        for path in paths:
            page.open(f"{ready}{path}")
            found = page.run(LOOK)
            assert (found["wide"], found["faint"], found["lost"]) == (PHONES, [], []), (path, found)
            assert found["used"] > 1, path
            assert (found["paper"] < 0.1) == (scheme == "dark"), (path, found)
        page.run("document.body.insertAdjacentHTML('beforeend', `" + BAD + "`)")
        found = page.run(LOOK)
        assert (found["wide"] > PHONES, len(found["faint"]), len(found["lost"])) == (True, 1, 2), found


def test_a_reader_signs_in_to_the_docs_and_tries_a_call_with_a_key_typed_there(
    lived: Lived, browser: Browser
) -> None:
    settings = lived.context.settings
    key = ApiKeys(settings.data / "keys.json").add("heart_disease", now_micros())[1]
    with running(settings, auth="on") as address, tab(browser.command, password=key) as page:

        def tried() -> str:
            page.run(f"{FORM}.querySelector('pre').textContent = ''; {FORM}.querySelector('button').click()")
            assert wait_until(lambda: len(page.run(f"{FORM}.querySelector('pre').textContent")) > 3, 30)
            return str(page.run(f"{FORM}.querySelector('pre').textContent"))

        assert wait_until(lambda: _ready(address, key), 60)
        page.open(f"{address}/docs")
        assert page.run("document.querySelector('h1').textContent") == "Anabranch"
        assert tried().startswith("401")  # what the browser signed in with is for pages
        page.run(f"document.querySelector('#credentials').value = '{key}'")
        answered = tried()
        assert answered.startswith("200")
        assert f'"model_version": "{lived.demo.trained.version}"' in answered
        chosen = f"{FORM}.querySelector('select')"
        several = f"[...{chosen}.options].findIndex(one => one.text.startsWith('Up to'))"
        page.run(
            f"{chosen}.selectedIndex = {several}; "
            f"{chosen}.dispatchEvent(new Event('change', {{bubbles: true}}))"
        )
        answered = tried()
        assert (answered[:3], '"predictions": [' in answered) == ("200", True)


def _ready(address: str, key: str) -> bool:
    """Whether a key's score is given, which needs the model and the stores."""
    asked = Request(
        f"{address}/v1/projects/heart_disease/predict",
        json.dumps({"key": PATIENT}).encode(),
        {"content-type": "application/json", "x-api-key": key},
    )
    try:
        with urlopen(asked) as response:
            return bool(response.status == 200)
    except HTTPError:
        return False


@pytest.mark.parametrize(
    ("name", "path", "height"), [("projects", "/", 620), ("product", "/projects/heart_disease", 1650)]
)
def test_the_pictures_of_the_pages_are_not_blank(
    ready: str, browser: Browser, pictures: Path, name: str, path: str, height: int
) -> None:
    file = browser.picture(f"{ready}{path}", pictures / f"{name}.png", height)
    image = np.rint(imread(file)[:, :, :3] * 255).astype(np.int64)
    assert image.shape == (height, 1280, 3)
    assert len(np.unique(image[::3, ::3].reshape(-1, 3), axis=0)) > 30
    ink = (image.sum(axis=2) < 3 * 128).any(axis=1)  # rows of pixels with something dark in them
    assert ink.mean() > 0.2
