"""The site, built and served, and a browser.

The scripts that generate pages are imported from where they are.
"""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import require

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs" / "generate"))


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the built site. Warnings are errors there too."""
    require("mkdocs", "material", "mkdocstrings", "matplotlib", "typer")
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        # Of MkDocs's theme, which announces its successor.
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert built.stdout + built.stderr == ""
    return folder


@pytest.fixture(scope="session")
def address(site):
    """Where the site is served."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser(address):
    """Chromium, driven by Selenium."""
    require("selenium")
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        is_required = "chromium" in os.environ.get("THINC_SWA_REQUIRE", "").split(",")
        (pytest.fail if is_required else pytest.skip)(f"{missing} not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=programs["chromedriver"])
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(20)
    yield driver
    driver.quit()


@pytest.fixture
def show(browser, address):
    """A function that opens a page in a window of a width and a colour scheme."""
    from selenium.webdriver.support.wait import WebDriverWait

    def is_loaded(browser):
        script = "return location.href !== 'about:blank' && document.readyState === 'complete'"
        return browser.execute_script(script)

    def show(page, *, width=1280, scheme="light"):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        # A change of the hash alone would not load the page again.
        browser.get("about:blank")
        browser.get(f"{address}/{page}")
        WebDriverWait(browser, 20).until(is_loaded)
        return browser

    return show
