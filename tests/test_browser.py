"""A notebook opened in JupyterLab and run from top to bottom, and the report, as a person sees them."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from wsibench.core import CHECKOUT

pytestmark = pytest.mark.browser
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
STUDY = """\
title: Seen in a browser
cohort: {source: simulate, patients: 10, sites: 2}
tiles: {max_tiles: 4}
encoders: [colour]
controls: [site]
folds: {n: 2}
probes: [ridge, abmil]
abmil: {epochs: 2, seeds: 1}
ranking: {bootstrap: 100, permutations: {ridge: 2}}
"""
IDLE = '.jp-NotebookPanel-toolbar [title*="Kernel status: Idle"], [data-status="idle"]'


@pytest.fixture
def page(tmp_path):
    """A page of Debian's chromium, with a fresh profile."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"), executable_path=chromium, args=FLAGS, viewport={"width": 1300, "height": 1000}
        )
        yield context.pages[0]
        context.close()


@pytest.fixture
def lab(tmp_path, data_root):
    """Address of a JupyterLab that serves a copy of the notebooks."""
    (data_root / "seen").mkdir()
    (data_root / "seen" / "study.yaml").write_text(STUDY)
    shutil.copytree(CHECKOUT / "notebooks", tmp_path / "notebooks")
    settings = tmp_path / "settings" / "@jupyterlab"
    for name, content in {
        "notebook-extension/tracker": {"autoStartDefaultKernel": True},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }.items():
        path = settings / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {**os.environ, "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"), "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"]
    command += ["--IdentityProvider.token=", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={tmp_path}"]
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/api").close()
            break
        except OSError:
            time.sleep(0.3)
    yield address
    server.terminate()
    server.wait(20)


def run_all(page, lab: str, notebook: Path) -> list[dict]:
    """Restart the kernel, run every cell, save, and return the saved code cells."""
    page.goto(f"{lab}/lab/tree/notebooks/{notebook.name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_selector(IDLE, timeout=60_000)
    page.get_by_text("Run", exact=True).first.click()
    page.get_by_text("Restart Kernel and Run All Cells…").click()
    page.locator(".jp-Dialog button.jp-mod-accept").click()
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        page.keyboard.press("Control+s")
        page.wait_for_timeout(1000)
        # The saved file is judged rather than the page, which shows only the cells in view.
        cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
        if all(cell["execution_count"] for cell in cells):
            return cells
        if any(output["output_type"] == "error" for cell in cells for output in cell["outputs"]):
            return cells
    raise AssertionError("the notebook did not finish")


@pytest.mark.timeout(900)
def test_every_notebook_runs_from_top_to_bottom_in_jupyterlab(page, lab, tmp_path):
    for notebook in sorted((tmp_path / "notebooks").glob("0*.ipynb")):
        notebook.write_text(notebook.read_text().replace('study: str = \\"demo\\"', 'study: str = \\"seen\\"'))
        cells = run_all(page, lab, notebook)
        failed = [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
        assert not failed, f"{notebook.name}: {failed[0]['ename']}: {failed[0]['evalue']}"
        assert all(cell["execution_count"] for cell in cells)
        pictures = [output for cell in cells for output in cell["outputs"] if "<img alt=" in str(output.get("data"))]
        assert pictures, f"{notebook.name} shows nothing to look at"


def test_the_report_loads_nothing_from_elsewhere_and_shows_its_figures(page):
    index = CHECKOUT / "figures" / "demo" / "index.html"
    if not index.exists():
        pytest.skip("the demo has not been run here: make demo")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(index.as_uri())
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
    images = page.locator("img")
    assert images.count() >= 8
    for image in images.all():
        assert image.get_attribute("alt")
        assert image.evaluate("image => image.complete && image.naturalWidth > 0")
    # Wide tables scroll in their own box; the page itself never does.
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
