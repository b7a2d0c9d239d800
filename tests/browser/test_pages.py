"""Test that pages work in a real browser, load nothing from elsewhere and run no foreign script.

Run by `make test-browser`; needs Chromium.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import axe_core_python
import numpy as np
import pytest

from gear.report import comparison_page as comparison
from gear.report.curves import CURVES, curve_charts
from gear.runs.comparison import group
from tests.support.browser import Browser
from tests.support.checkout import checkout
from tests.support.commands import ENV
from tests.support.repo import REPO
from tests.support.runs import toy_run
from tests.support.settings import edit_params
from tests.support.wait import wait_until
from tests.unit.report.test_comparison_page import FAST, SLOW, pictures
from tests.unit.report.test_live_page import write_strip
from tests.unit.report.test_page import render

pytestmark = pytest.mark.browser
PICTURES = os.environ.get("GEAR_BROWSER_PICTURES")  # folder for screenshots
CHART = "[data-stage] figure.chart"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(autouse=True)
def _fresh(browser: Browser) -> None:
    browser.open("about:blank")
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    browser.size(1100, 900)
    browser.requests.clear()
    browser.errors.clear()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the URL of a report whose names all contain markup."""
    random = np.random.default_rng(0)
    names = {name for curve in CURVES for name in curve.lines.values()}
    rows = [{"step": s} | {n: random.random() / (s + 9) for n in names} for s in range(0, 800, 20)]
    file = tmp_path_factory.mktemp("report") / "index.html"
    file.write_text(render(count=40, size=32, codes=64, nearest=12, charts=curve_charts(rows)))
    return file.as_uri()


class Live:
    """A checkout with a simulated training, and the URL of the page that follows it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.log = folder / ".gear/logs/joint.jsonl"

    def write(self, text: str) -> None:
        with self.log.open("a") as log:
            log.write(text)

    def rows(self, *steps: int) -> None:
        for step in steps:
            row = {"step": step, "fd": 100.0 - step, "loss/ntp": 4.0, "loss/ntp_tokenizer": 4.0}
            self.write(json.dumps({**row, "images_per_s": 8.0}) + "\n")


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    folder = toy_run(tmp_path / "checkout")
    shutil.rmtree(folder / "data/models/joint")  # a training that is not done
    (folder / ".gear/logs").mkdir(parents=True)
    with watching(folder) as url:
        yield Live(folder, url)


@contextmanager
def watching(folder: Path) -> Iterator[str]:
    """Run `gear watch` in a checkout; yield the page's URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gear", "watch", "--port", "0"],
        cwd=folder,
        env=ENV,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    killer = threading.Timer(60, process.kill)
    killer.start()
    found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
    killer.cancel()
    assert found
    yield found[0]
    process.kill()
    process.wait()


def points(browser: Browser) -> int:
    """Return how many points the first chart has; 0 if there is none."""
    return int(
        browser(
            "(() => { const chart = document.querySelector('figure.chart'); return chart ? "
            "JSON.parse(chart.dataset.chart).series[0].points.length : 0; })()"
        )
    )


def tip(browser: Browser) -> str:
    return str(
        browser(
            "document.querySelector('[data-stage] figure.chart .tip:not([hidden])')"
            "?.innerText ?? ''"
        )
    )


def ticks(browser: Browser) -> list[str]:
    script = "[...document.querySelectorAll('figure.chart')[0].querySelectorAll('.axes text')]"
    return list(browser(f"{script}.map((text) => text.textContent)"))


def picture(browser: Browser, name: str) -> None:
    if PICTURES:
        browser.screenshot(Path(PICTURES) / f"{name}.png")


def test_curves_grow_while_a_training_logs(browser: Browser, live: Live) -> None:
    browser.open(live.url)
    browser("window.sameDocument = true")
    assert points(browser) == 0
    live.rows(0, 10)
    assert wait_until(lambda: points(browser) == 2, 20)
    live.write('{"step": 20, "fd": 8')
    live.rows()
    browser.pause(3)
    assert points(browser) == 2
    live.write("0.0}\n")
    assert wait_until(lambda: points(browser) == 3, 20)
    live.rows(*range(30, 200, 10))
    assert wait_until(lambda: points(browser) == 20, 20)
    params = live.folder / "params.yaml"
    params.write_text(params.read_text().replace("steps: 300", "steps: 400"))
    settings = "document.getElementById('settings').innerText"
    assert wait_until(lambda: "joint.steps\t300\t400" in browser(settings), 20)
    assert browser("window.sameDocument")  # the page was not reloaded
    picture(browser, "live-wide")
    browser.size(390, 900, dark=True)
    picture(browser, "live-phone-dark")
    assert browser("document.documentElement.scrollWidth") <= 390
    assert all(url.startswith((live.url, "data:")) for url in browser.requests)
    assert browser.errors == []


def test_zoom_stays_while_new_values_come(browser: Browser, live: Live) -> None:
    live.rows(*range(0, 200, 10))
    browser.open(live.url)
    assert wait_until(lambda: points(browser) == 20, 20)
    before = ticks(browser)
    box = browser.box(f"{CHART} > svg")
    y = box["y"] + box["height"] / 2
    browser.mouse("mouseMoved", box["x"] + box["width"] * 0.4, y)
    browser.mouse("mousePressed", box["x"] + box["width"] * 0.4, y)
    browser.mouse("mouseMoved", box["x"] + box["width"] * 0.6, y)
    browser.mouse("mouseReleased", box["x"] + box["width"] * 0.6, y)
    browser.mouse("mouseMoved", 1, 1)
    zoomed = ticks(browser)
    assert zoomed != before
    live.rows(200)
    assert wait_until(lambda: points(browser) == 21, 20)
    assert ticks(browser) == zoomed
    box = browser.box(f"{CHART} > svg")
    for clicks in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            browser.mouse(kind, box["x"] + box["width"] / 2, box["y"] + 60, clicks)
    assert "200" in ticks(browser)
    assert browser.errors == []


def test_samples_slide_over_steps(browser: Browser, live: Live) -> None:
    for step in (0, 60, 120):
        write_strip(live.folder, step)
    live.rows(0)
    browser.open(live.url)
    slider = "document.querySelector('.strips input')"
    shown = "document.querySelector('.strips img').src"
    assert wait_until(lambda: browser(f"{slider} !== null"), 20)
    latest = browser(shown)
    browser(f"{slider}.focus()")
    browser.key("ArrowLeft")
    assert wait_until(lambda: browser(shown) != latest, 20)
    caption = "document.querySelector('.strips figcaption').textContent"
    assert browser(caption) == "step 60"
    write_strip(live.folder, 180)  # new samples do not move the slider
    assert wait_until(lambda: browser(f"{slider}.max") == "3", 20)
    assert wait_until(lambda: browser(shown) != latest, 20)
    assert browser(caption) == "step 60"
    assert browser(f"document.activeElement === {slider}")
    assert browser.errors == []


@pytest.mark.timeout(1200)
def test_the_page_follows_a_real_run_to_its_end(browser: Browser, tmp_path: Path) -> None:
    folder = checkout(tmp_path / "checkout")
    edit_params(folder, host={"log_every": 2}, joint={"steps": 40, "fd_every": 20})
    repro = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=folder,
        env=ENV | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with watching(folder) as url:
        browser.open(url)
        browser("window.sameDocument = true")
        most = "Math.max(0, ...[...document.querySelectorAll('figure.chart')].flatMap((chart) => "
        most += "JSON.parse(chart.dataset.chart).series.map((one) => one.points.length)))"
        grown = []
        for least in (1, 4, 12):
            assert wait_until(lambda least=least: browser(most) >= least, 300), repro.poll()
            grown.append(browser(most))
        assert grown[0] < grown[-1]
        slider = "document.querySelector('.strips input')"
        assert wait_until(lambda: browser(f"{slider}?.max > 0"), 300)
        shown = "document.querySelector('.strips img').src"
        latest = browser(shown)
        browser(f"{slider}.focus()")
        browser.key("Home")
        assert wait_until(lambda: browser(shown) != latest, 20)
        picture(browser, "watch-real")
        progress = "document.getElementById('progress').innerText"
        assert wait_until(lambda: "All stages are done." in browser(progress), 600)
        assert repro.wait(60) == 0
        assert browser("window.sameDocument")
        assert browser.errors == []
        assert all(u.startswith((url, "data:", "blob:")) for u in browser.requests)
        picture(browser, "watch-real-end")


def test_the_page_says_when_nobody_answers_any_more(browser: Browser, live: Live) -> None:
    browser.open(live.url)
    link = "document.getElementById('link').textContent"
    assert wait_until(lambda: "follows the run" in browser(link), 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(browser, "errors", [])
        browser.call(
            "Network.emulateNetworkConditions",
            offline=True,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )
        assert wait_until(lambda: "has ended" in browser(link), 20)
        browser.call(
            "Network.emulateNetworkConditions",
            offline=False,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )
        assert wait_until(lambda: "follows the run" in browser(link), 20)


def test_values_are_shown_by_pointer_and_by_keys(browser: Browser, report: str) -> None:
    browser.open(report)
    box = browser.box(f"{CHART} > svg")
    browser.mouse("mouseMoved", box["x"] + box["width"] * 0.5, box["y"] + 50)
    assert tip(browser).startswith("step ")
    assert re.search(r"\d\.\d+", tip(browser))
    shown = browser.box(f"{CHART} .tip")
    assert box["y"] <= shown["y"] <= box["y"] + box["height"]  # in the chart, beside the pointer
    assert abs(shown["x"] - (box["x"] + box["width"] * 0.5)) < box["width"] / 2
    browser.mouse("mouseMoved", 1, 1)
    assert tip(browser) == ""
    browser(f"document.querySelector('{CHART} > svg').focus()")
    browser.key("End")
    last = tip(browser)
    browser.key("ArrowLeft")
    assert tip(browser) not in ("", last)
    browser.key("Escape")
    assert tip(browser) == ""
    assert browser.errors == []


def test_the_report_keeps_to_itself(browser: Browser, report: str) -> None:
    browser.open(report)
    picture(browser, "report-wide")
    assert browser("document.querySelectorAll('script').length") == 1
    assert browser("[...document.images].every((image) => image.complete && image.naturalWidth)")
    assert {url for url in browser.requests if not url.startswith("data:")} == {report}
    browser(
        "(() => { const bad = document.createElement('script'); "
        "bad.textContent = 'window.ran = 1'; "
        "document.body.append(bad); new Image().src = 'http://127.0.0.1:9/x.png'; })()"
    )
    browser.pause(0.5)
    assert browser("window.ran") is None
    assert all("Content Security Policy" in error for error in browser.errors)
    assert len(browser.errors) == 2


def test_originals_are_revealed_by_a_slider(browser: Browser, report: str) -> None:
    browser.open(report)
    clip = "document.querySelector('.compare .over').style.clipPath"
    middle = browser(clip)
    browser("document.querySelector('.compare input').focus()")
    browser.key("Home")
    assert browser(clip) != middle
    assert "100%" in browser(clip)
    assert browser("document.querySelector('.compare input').getAttribute('aria-label')")


def test_a_code_is_named_under_the_pointer(browser: Browser, report: str) -> None:
    browser.open(report)
    box = browser.box("figure.codes img")
    browser.mouse("mouseMoved", box["x"] + 5, box["y"] + 5)
    assert "rank 1" in browser("document.querySelector('figure.codes .tip').textContent")


def serious_faults(browser: Browser) -> list[str]:
    """Return the serious and critical accessibility violations that axe finds in the page."""
    axe = Path(axe_core_python.__file__).with_name("axe.min.js").read_text()
    browser(f"{axe}; 0")
    found = browser("axe.run(document).then((result) => JSON.stringify(result.violations))")
    return [
        f"{fault['id']}: {node['html'][:200]}"
        for fault in json.loads(found)
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@pytest.mark.parametrize("width", [390, 1100])
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_serious_fault(
    browser: Browser, report: str, live: Live, width: int, dark: bool
) -> None:
    live.rows(0, 10, 20)
    write_strip(live.folder, 0)
    studies = [page.as_uri() for page in sorted((REPO / "docs/studies").glob("*/index.html"))]
    assert studies
    for url in (report, live.url, *studies):
        browser.size(width, 900, dark=dark)
        browser.open(url)
        assert serious_faults(browser) == [], url
    browser("document.body.innerHTML = '<img src=x><button></button>'; 0")
    assert {fault.split(":")[0] for fault in serious_faults(browser)} == {
        "image-alt",
        "button-name",
    }


@pytest.mark.parametrize("width", [390, 1100])
@pytest.mark.parametrize("dark", [False, True])
def test_the_report_fits_the_screen(browser: Browser, report: str, width: int, dark: bool) -> None:
    browser.size(width, 900, dark=dark)
    browser.open(report)
    assert browser("document.documentElement.scrollWidth") <= width
    ground = browser("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(21, 23, 26)") is dark
    picture(browser, f"report-{width}-{'dark' if dark else 'light'}")


def test_the_report_is_whole_without_scripts(browser: Browser, report: str) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(report)
    assert browser("[...document.images].every((image) => image.complete && image.naturalWidth)")
    # controls would do nothing without scripts
    assert browser("document.querySelectorAll('input, button').length") == 0
    assert browser("document.querySelectorAll('figure.compare img').length") == 2
    assert browser("document.querySelectorAll('svg polyline').length") > 5
    picture(browser, "report-plain")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1100])
def test_compared_samples_are_side_by_side_on_any_screen(
    browser: Browser, tmp_path: Path, width: int, dark: bool
) -> None:
    """Test that samples of one seed share a column, and on a phone a row."""
    arms = group([SLOW[0], FAST[0]])
    page = comparison.page(arms, comparison.tables(arms, []), pictures(arms))
    (tmp_path / "compare.html").write_text(page)
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.size(width, 900, dark=dark)
    browser.open((tmp_path / "compare.html").as_uri())
    picture(browser, f"compare-{width}-{'dark' if dark else 'light'}")
    assert browser("document.documentElement.scrollWidth") <= width
    assert browser("document.querySelector('.side').scrollWidth") <= width
    places = browser(
        "[...document.querySelector('.side').querySelectorAll('img')]"
        ".map((image) => [image.offsetLeft, image.offsetTop])"
    )
    first, other = places[0], places[3]  # the first of each arm; an arm has three
    assert (first[0] == other[0]) is (width == 1100)
    assert (first[1] == other[1]) is (width == 390)
