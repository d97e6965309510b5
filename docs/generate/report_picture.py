"""The picture of the report, from the report of a comparison. Needs Selenium and Chromium.

thinc-swa compare configs/digits/*.cfg --seeds 3 --output comparison
python docs/generate/report_picture.py comparison/report.html docs/report.png
"""

import base64
import shutil
import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

WIDTH = 1200


def take_picture(report: Path) -> bytes:
    """Take the picture of a report, from its top to the end of the table of the comparison.

    RETURNS (bytes): The picture as PNG.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as browser:
        metrics = {"width": WIDTH, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": "light"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(report.resolve().as_uri())
        drawn = "return performance.getEntriesByName('all drawn').length"
        WebDriverWait(browser, 30).until(lambda browser: browser.execute_script(drawn))
        height = browser.execute_script(
            "return document.getElementById('comparisons').getBoundingClientRect().bottom"
        )
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
        taken = browser.execute_cdp_cmd(
            "Page.captureScreenshot",
            {"format": "png", "captureBeyondViewport": True, "clip": clip},
        )
    return base64.b64decode(taken["data"])


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(take_picture(Path(sys.argv[1])))
