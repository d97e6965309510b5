"""The site, built and served, and a browser.

The scripts that generate pages are imported from where they are.
"""

import functools
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from browsers import open_browser, set_window
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
    with open_browser() as driver:
        yield driver


@pytest.fixture
def show(browser, address):
    """A function that opens a page in a window of a width and a colour scheme."""
    from selenium.webdriver.support.wait import WebDriverWait

    def is_loaded(browser):
        script = "return location.href !== 'about:blank' && document.readyState === 'complete'"
        return browser.execute_script(script)

    def show(page, *, width=1280, scheme="light"):
        set_window(browser, width=width, scheme=scheme)
        # A change of the hash alone would not load the page again.
        browser.get("about:blank")
        browser.get(f"{address}/{page}")
        WebDriverWait(browser, 20).until(is_loaded)
        return browser

    return show
