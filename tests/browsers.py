"""Chromium, driven by Selenium."""

import os
import shutil
from contextlib import contextmanager

import pytest
from helpers import require


@contextmanager
def open_browser():
    """Context manager with a browser. Where it is missing, the test is skipped, or fails if
    THINC_SWA_REQUIRE asks for it."""
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
    try:
        yield driver
    finally:
        driver.quit()


def set_window(browser, *, width=1280, scheme="light"):
    """Emulate a window of a width and a colour scheme; narrow ones are those of phones."""
    is_phone = width < 600
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": is_phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
