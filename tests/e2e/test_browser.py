"""What a person sees in a real browser: the HTML report, and the runs in the MLflow UI."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Site, by_label

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WAIT_MS = 120_000

pytestmark = [
    pytest.mark.ray,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="needs Chromium driven by playwright: pip install playwright"
    )
    with api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """An empty tab that notes errors and the addresses that it asks for."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(WAIT_MS)
    page.errors, page.asked = [], []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    yield page
    page.close()


@pytest.fixture(scope="module")
def mlflow_ui(site: Site, smoke: dict[str, Any]) -> Iterator[str]:
    """The MLflow server on the home of the smoke run, as ``orchestrate ui`` starts it; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    printed = site.call("ui", "--port", str(port), "--print")
    assert printed.returncode == 0, printed.stderr
    command = [*printed.stdout.split(), "--workers", "1"]
    log = (site.folder / "ui.log").open("wb")
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=site.environment(), cwd=site.folder)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/health", server)
        yield address
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert server.poll() is None, "the MLflow server ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail("the MLflow server does not answer")


def test_the_report_opens_without_scripts_errors_or_other_files(tab: Any, smoke: dict[str, Any]) -> None:
    """Every part is there and the page asks for nothing but itself and the data that it holds."""
    tab.goto(Path(smoke["report"]).as_uri())

    assert tab.locator("h1").inner_text() == "smoke"
    assert tab.locator("header .pill").inner_text() == "succeeded"
    for section in ("headline", "pipeline", "timeline", "families", "figures", "stages", "lineage", "environment"):
        assert tab.locator(f"#{section}").is_visible(), section
    assert tab.errors == []
    assert [url for url in tab.asked if not url.startswith(("file:", "data:"))] == []
    pictures = tab.locator("img")
    assert pictures.count() > 0
    for index in range(pictures.count()):
        picture = pictures.nth(index)
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("one => one.decode().then(() => one.naturalWidth)") > 0


def test_a_box_of_the_pipeline_leads_to_its_stage_which_opens(tab: Any, smoke: dict[str, Any]) -> None:
    """Drawing, section and digest belong together."""
    tab.goto(Path(smoke["report"]).as_uri())
    tab.locator("svg.graph a", has_text="gptq4").click()
    section = tab.locator("#stage-gptq4")
    section.locator("summary").first.click()

    assert section.get_by_text("compress.gptq version").is_visible()
    assert (
        section.get_by_role("link", name="arXiv:2210.17323").get_attribute("href") == "https://arxiv.org/abs/2210.17323"
    )
    digest = by_label(smoke)["gptq4"]["outputs"]["result"]["digest"]
    assert tab.locator("#lineage").get_by_text(digest[:12]).first.is_visible()


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_the_report_fits_the_window(tab: Any, smoke: dict[str, Any], width: int) -> None:
    """Wide tables scroll in their own box; the page never scrolls sideways."""
    tab.set_viewport_size({"width": width, "height": 900})
    tab.goto(Path(smoke["report"]).as_uri())

    assert tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_the_report_is_readable_in_light_dark_and_print(tab: Any, smoke: dict[str, Any]) -> None:
    """Text and ground differ enough in each scheme (WCAG contrast of at least 7), and a print opens what is folded."""
    tab.goto(Path(smoke["report"]).as_uri())
    grounds = []
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        ground, ink = tab.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        grounds.append(_luminance(ground))
        low, high = sorted((_luminance(ground), _luminance(ink)))
        assert (high + 0.05) / (low + 0.05) > 7, scheme
    assert grounds[0] > 0.5 > grounds[1]
    tab.emulate_media(media="print")
    assert not tab.locator("nav").is_visible()


def test_the_mlflow_ui_shows_the_run_with_params_metrics_and_nested_stages(
    tab: Any, mlflow_ui: str, site: Site, smoke: dict[str, Any]
) -> None:
    """The experiment lists the run; its page has the final metrics and the recipe's parameters."""
    experiment = _experiment_of(mlflow_ui, smoke["mlflow_run_id"])
    tab.goto(f"{mlflow_ui}/#/experiments/{experiment}/runs")
    tab.get_by_text("smoke", exact=True).first.wait_for()

    tab.goto(f"{mlflow_ui}/#/experiments/{experiment}/runs/{smoke['mlflow_run_id']}")
    tab.get_by_text("Finished", exact=True).first.wait_for()
    tab.get_by_text("orchestrate run recipe=smoke", exact=False).first.wait_for()
    tab.get_by_text("base/heldout_loss", exact=True).first.wait_for()
    tab.get_by_text("Child runs", exact=True).first.wait_for()
    run = _get(f"{mlflow_ui}/api/2.0/mlflow/runs/get?run_id={smoke['mlflow_run_id']}")["run"]["data"]
    metrics = {one["key"] for one in run["metrics"]}
    for label, row in by_label(smoke).items():
        assert {f"{label}/{name}" for name in row["metrics"]} <= metrics
    assert any(one["key"].startswith("stages.base.") for one in run["params"])


def test_the_artifacts_of_a_run_open_in_the_mlflow_ui(tab: Any, mlflow_ui: str, smoke: dict[str, Any]) -> None:
    """The recipe as text, the ledger as a table, a figure as a picture."""
    experiment = _experiment_of(mlflow_ui, smoke["mlflow_run_id"])
    tab.goto(f"{mlflow_ui}/#/experiments/{experiment}/runs/{smoke['mlflow_run_id']}/artifacts")
    tab.get_by_text("recipe.yaml", exact=True).first.click()
    tab.get_by_text(re.compile("expert_iteration")).first.wait_for()

    nested = _nested(mlflow_ui, experiment, smoke["mlflow_run_id"], "ledger")
    tab.goto("about:blank")  # the page of the other run must be gone, or it takes the clicks
    tab.goto(f"{mlflow_ui}/#/experiments/{experiment}/runs/{nested}/artifacts")
    tab.get_by_text("outputs", exact=True).first.click()
    tab.get_by_text("result", exact=True).first.click()
    for _ in range(2):  # a click while the tree still loads is lost
        tab.get_by_text("table.json", exact=True).first.click()
        if _appears(tab.get_by_text("View as table", exact=True).first, 40_000):
            break
    tab.get_by_role("columnheader", name="variant").first.wait_for()


def _appears(locator: Any, patience_ms: float) -> bool:
    """Tell whether something becomes visible in so many milliseconds."""
    from playwright.sync_api import TimeoutError as NotThere

    try:
        locator.wait_for(timeout=patience_ms)
    except NotThere:
        return False
    return True


def _get(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    request = urllib.request.Request(
        url, json.dumps(body).encode() if body else None, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer))


def _experiment_of(address: str, run_id: str) -> str:
    return str(_get(f"{address}/api/2.0/mlflow/runs/get?run_id={run_id}")["run"]["info"]["experiment_id"])


def _nested(address: str, experiment: str, parent: str, label: str) -> str:
    query = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`orchestrator.label` = '{label}'"
    found = _get(f"{address}/api/2.0/mlflow/runs/search", {"experiment_ids": [experiment], "filter": query})["runs"]
    assert len(found) == 1
    return str(found[0]["info"]["run_id"])


def _luminance(color: str) -> float:
    """Relative luminance of an rgb() colour (WCAG 2.2)."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
