# SPDX-License-Identifier: GPL-2.0-only
"""The page of a report in a real browser: nothing is fetched, all is drawn, zoom and hover work."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from tests.documents import assemble
from tests.test_report import in_cgroups
from ztrace.replay.report import Thresholds, default_backends, gather_one, render
from ztrace.traces import TraceReader

SAMPLE = Path(__file__).parent.parent / "traces/samples/ztree-6.1-bursts.parquet"
HOSTILE = "</script><script>document.title='owned'</script><img src='http://192.0.2.1/x'>"

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--window-size=1200,900",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with the page on a bundled recording, twice and with hostile names."""
    driver, program = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or program is None:
        pytest.skip("no chromium with chromedriver; as root on Debian: tools/kernel-packages")
    folder = tmp_path_factory.mktemp("page")
    with TraceReader(in_cgroups(SAMPLE, folder / "cgroups.parquet", 3)) as reader:
        reader.metadata.command = [HOSTILE]
        reader.metadata.machine.cpu_model = "not emulated, so that its times are drawn"
        reader.metadata.lost = {HOSTILE: {"0": 1, "1": 2}}
        reader.metadata.probe_cost_ns = {"malloc": 200.0, "free": 150.0}
        backends = default_backends(reader.metadata)
        one = gather_one(reader, HOSTILE, backends, timing=True)
    second = replace(one, label="second", document={**one.document, "label": "second"})
    page = folder / "report.html"
    page.write_text(render(assemble([one, second], Thresholds()), "html"), encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in (*OPTIONS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        started.get(page.as_uri())
        choose(started, "")
        yield started
    finally:
        started.quit()


def choose(browser: Any, value: str) -> None:
    """Choose a recording by its number, or all."""
    Select(browser.find_element(By.ID, "which")).select_by_value(value)


def canvases(browser: Any) -> list[Any]:
    found: list[Any] = browser.find_elements(By.CSS_SELECTOR, "figure canvas")
    return found


def figure_of(canvas: Any) -> Any:
    return canvas.find_element(By.XPATH, "..")


def painted(browser: Any, canvas: Any) -> int:
    """Pixels that are neither transparent nor grey, as axes and text are."""
    script = """
        const c = arguments[0];
        const d = c.getContext("2d").getImageData(74, 12, c.width - 90, c.height - 56).data;
        let n = 0;
        for (let i = 0; i < d.length; i += 4) if (d[i + 3] && !(d[i] > 200 && d[i + 1] > 200)) n++;
        return n;"""
    return int(browser.execute_script(script, canvas))


def test_no_error_and_no_request(browser: Any) -> None:
    assert browser.get_log("browser") == []
    asked = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append((message["params"]["documentURL"], message["params"]["request"]["url"]))
    # The browser's own start page, chrome:, asks for itself before ours is opened.
    ours = [url for page, url in asked if page.startswith("file:")]
    assert [url for url in ours if not url.startswith("data:")] == [browser.current_url]
    assert not [url for _, url in asked if url.startswith(("http", "ws"))]


def test_hostile_names_stay_text(browser: Any) -> None:
    assert browser.title.startswith("ztrace report") and HOSTILE in browser.title
    assert not browser.find_elements(By.TAG_NAME, "img")
    assert HOSTILE in browser.find_element(By.CSS_SELECTOR, "#recordings td").text


def test_every_plot_is_drawn(browser: Any) -> None:
    specifications = json.loads(
        browser.execute_script("return document.getElementById('specifications').textContent")
    )
    found = canvases(browser)
    kinds = {plot["id"].removeprefix("plot-").partition("-")[0] for plot in specifications}
    assert kinds == {
        *("all", "memory", "density", "ageing", "sizes", "heat", "classes"),
        *("costs", "lost", "tail", "lifetimes", "stores", "stranded", "unused", "cgroups"),
    }
    assert len(found) == len(specifications) == 2 + 2 * 13 + 5
    for canvas in found:
        plot = specifications[int(figure_of(canvas).get_attribute("data-plot"))]
        assert figure_of(canvas).get_attribute("id") == plot["id"]
        assert int(canvas.get_attribute("data-points")) > 0, plot["id"]
        assert painted(browser, canvas) > 50, plot["id"]


def test_zoom_and_hover(browser: Any) -> None:
    for canvas in canvases(browser):
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        whole = canvas.get_attribute("data-view")
        actions = ActionChains(browser, duration=10).move_to_element_with_offset(canvas, -150, 0)
        actions.click_and_hold().move_by_offset(250, 0).release().perform()
        low, high = map(float, canvas.get_attribute("data-view").split())
        first, last = map(float, whole.split())
        assert first < low < high < last
        ActionChains(browser, duration=10).move_to_element(canvas).perform()
        tip = browser.find_element(By.ID, "tip")
        assert tip.is_displayed() and ":" in tip.text
        assert len(tip.text.splitlines()) > 1
        ActionChains(browser, duration=10).double_click(canvas).perform()
        assert canvas.get_attribute("data-view") == whole


def test_hover_tells_the_documents_value(browser: Any) -> None:
    canvas = browser.find_element(By.CSS_SELECTOR, "#plot-tail-malloc canvas")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    ActionChains(browser, duration=10).move_to_element(canvas).perform()
    document = json.loads(
        browser.execute_script("return document.getElementById('document').textContent")
    )
    tail = document["recordings"][1]["latency"]["malloc"]["tail"]
    lines = browser.find_element(By.ID, "tip").text.splitlines()
    [shown] = [line for line in lines if line.startswith("second")]
    share, _, _, duration = shown.replace(",", "").split()[-4:]
    points = zip(tail["duration_ns"], tail["share_longer"], strict=True)
    assert (float(duration), float(share)) in [
        (float(f"{ns / 1e3:.4g}"), float(f"{part:.4g}")) for ns, part in points
    ]


def test_legend_hides_a_line(browser: Any) -> None:
    figure = browser.find_element(By.ID, "plot-tail-store")
    canvas = figure.find_element(By.TAG_NAME, "canvas")
    before = int(canvas.get_attribute("data-points"))
    first, second = figure.find_elements(By.CSS_SELECTOR, ".legend button")
    browser.execute_script("arguments[0].click()", first)
    assert int(canvas.get_attribute("data-points")) == before / 2
    browser.execute_script("arguments[0].click()", second)
    assert canvas.get_attribute("data-points") == "0"
    for button in (first, second):
        browser.execute_script("arguments[0].click()", button)
    assert int(canvas.get_attribute("data-points")) == before


def test_wheel_scrolls_and_with_control_zooms(browser: Any) -> None:
    script = """
        const [canvas, ctrlKey] = arguments, box = canvas.getBoundingClientRect();
        canvas.dispatchEvent(new WheelEvent("wheel", {
            ctrlKey, deltaY: -100, clientX: box.left + box.width / 2, clientY: box.top + 50,
        }));
        return canvas.dataset.view;"""
    for canvas in canvases(browser)[:3]:
        whole = canvas.get_attribute("data-view")
        assert browser.execute_script(script, canvas, False) == whole
        low, high = map(float, browser.execute_script(script, canvas, True).split())
        first, last = map(float, whole.split())
        assert high - low < last - first
        ActionChains(browser, duration=10).double_click(canvas).perform()
        assert canvas.get_attribute("data-view") == whole


def test_one_recording_is_shown(browser: Any) -> None:
    choose(browser, "1")
    shown = {
        one.get_attribute("id")
        for one in browser.find_elements(By.TAG_NAME, "figure")
        if one.is_displayed()
    }
    assert {"plot-memory-1", "plot-all-memory", "plot-tail-malloc"} <= shown
    assert "plot-memory-0" not in shown
    rows = browser.find_elements(By.CSS_SELECTOR, "#memory tbody tr")
    assert {row.find_element(By.TAG_NAME, "td").text for row in rows if row.is_displayed()} == {
        "second"
    }
    choose(browser, "")
    assert all(row.is_displayed() for row in rows)


def test_nothing_moves_when_a_recording_is_chosen_at_first(browser: Any) -> None:
    """Before the script runs, what it will hide takes no room."""
    script = """
        const root = document.documentElement, before = root.className;
        root.className = "starts";
        const seen = [...document.querySelectorAll("[data-recording]")]
            .filter(one => getComputedStyle(one).display !== "none");
        const found = [before, ...new Set(seen.map(one => one.dataset.recording))];
        root.className = before;
        return found;"""
    choose(browser, "")
    assert browser.execute_script(script) == ["", "0"]


def test_a_table_sorts_by_a_column(browser: Any) -> None:
    head = browser.find_elements(By.CSS_SELECTOR, "#memory th button")[2]
    cells = (
        "return [...document.querySelectorAll('#memory tbody tr')].map(r => r.cells[2].innerText)"
    )
    for order in ("ascending", "descending"):
        browser.execute_script("arguments[0].click()", head)
        found = [float(text.replace(",", "")) for text in browser.execute_script(cells)]
        assert found == sorted(found, reverse=order == "descending")
        assert head.find_element(By.XPATH, "..").get_attribute("aria-sort") == order


def test_rows_are_filtered_by_words(browser: Any) -> None:
    """By keys alone: / leads to the field, words narrow down, Escape shows all; a recording that
    is not chosen stays hidden, and a folded table opens where it has such rows."""
    keys = ActionChains(browser, duration=10)
    choose(browser, "1")
    browser.find_element(By.TAG_NAME, "body").click()
    keys.send_keys("/").send_keys("Zbud SECOND").perform()
    script = """
        return [...document.querySelectorAll("tbody tr")].map(row =>
            [row.checkVisibility(), row.closest("details") !== null, row.textContent]);"""
    rows = browser.execute_script(script)
    shown = [text for is_shown, _, text in rows if is_shown]
    folded = [text for is_shown, is_folded, text in rows if is_shown and is_folded]
    assert folded and len(shown) > len(folded)
    assert all("zbud" in text and "second" in text for text in shown)
    wanted = [text for _, _, text in rows if "zbud" in text and "second" in text]
    assert len(wanted) == len(shown) < len(rows)
    told = browser.find_element(By.CSS_SELECTOR, "nav output").text
    assert told == f"{len(wanted)} of {len(rows)}"
    ActionChains(browser, duration=10).send_keys(Keys.ESCAPE).perform()
    choose(browser, "")
    assert not browser.find_elements(By.CLASS_NAME, "out")
    assert browser.find_element(By.CSS_SELECTOR, "nav output").text == ""


def test_without_scripts_there_is_no_field(browser: Any) -> None:
    text = Path(unquote(browser.current_url.removeprefix("file://"))).read_text()
    assert "<input" not in text


def test_what_is_drawn_is_there_as_csv(browser: Any) -> None:
    figure = browser.find_element(By.ID, "plot-memory-1")
    link = figure.find_element(By.CSS_SELECTOR, "a.csv")
    script = "arguments[0].addEventListener('click', e => e.preventDefault()); arguments[0].click()"
    browser.execute_script(script, link)
    kind, _, text = link.get_attribute("href").partition(",")
    assert kind == "data:text/csv;charset=utf-8"
    head, *rows = csv.reader(io.StringIO(unquote(text)))
    assert head == ["series", "time since the first call (s)", "MiB, low", "MiB, high"]
    document = json.loads(
        browser.execute_script("return document.getElementById('document').textContent")
    )
    memory = document["recordings"][1]["memory"]
    kernel = [row for row in rows if row[0] == "kernel"]
    assert [float(row[1]) for row in kernel] == memory["t_s"]
    high = [value and value / 2**20 for value in memory["kernel"]["band"]["high"]]
    assert [float(row[3]) if row[3] else None for row in kernel] == high


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_at_any_width(browser: Any, width: int, scheme: str) -> None:
    """No table and no plot is wider than the page, no column narrower than its longest word."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        wide = """
            const out = [...document.querySelectorAll("table, figure, h1, p")]
                .filter(one => one.getBoundingClientRect().right > innerWidth + 1);
            const beyond = document.documentElement.scrollWidth > innerWidth;
            return [innerWidth, beyond, ...out.map(one => one.outerHTML)];"""
        assert browser.execute_script(wide) == [width, False]
        narrow = """
            return [...document.querySelectorAll("td > *")]
                .filter(one => one.offsetWidth && one.scrollWidth > one.offsetWidth + 1)
                .map(one => one.textContent);"""
        assert browser.execute_script(narrow) == []
        back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") == (scheme == "light")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
