"""The site as a browser shows it."""

import re
from pathlib import Path

import pytest

WIDTHS = {"desktop": 1280, "phone": 390}


def pages_of(site):
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))


def test_every_page_of_the_navigation_is_built(site):
    pages = pages_of(site)
    assert {"index.html", "reference/config.html", "studies/index.html"} <= set(pages)
    home = (site / "index.html").read_text(encoding="utf8")
    linked = set(re.findall(r'<a href="([\w/.]+\.html)" class="md-nav__link"', home))
    assert len(linked) > 20 and linked <= set(pages)


def test_scripts_are_left_out(site):
    assert not (site / "generate").exists()


@pytest.mark.parametrize("device", WIDTHS)
def test_no_page_scrolls_sideways_or_needs_the_network(device, site, show, address):
    width = WIDTHS[device]
    for page in pages_of(site):
        browser = show(page, width=width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, (
            page
        )
        loaded = browser.execute_script(
            "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        )
        assert loaded and all(name.startswith(address) for name in loaded), page
        # The page of errors has links from the root of the site, wherever that is.
        errors = [] if page == "404.html" else browser.get_log("browser")
        assert errors == [], page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_scheme_has_its_pictures(scheme, show):
    browser = show("ema.html", scheme=scheme)
    visible = browser.execute_script(
        "return [...document.querySelectorAll('article img')]"
        ".filter((image) => image.offsetParent).map((image) => image.src)"
    )
    names = [Path(source.partition("#")[0]).name for source in visible]
    assert names == [f"ema-{scheme}.svg", f"reconstruction-{scheme}.svg"]
