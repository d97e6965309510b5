"""The report in a browser, from a file as users open it."""

import json
import re

import pytest
from browsers import open_browser, set_window
from helpers import require
from report_folders import ADAM, SWA, run_records, write_comparison, write_training

require("plotly", "selenium", "scipy")

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

from thinc_swa.report.collection import collect  # noqa: E402
from thinc_swa.report.page import write_report  # noqa: E402

HACK = "document.documentElement.dataset.hacked = 1"
HOSTILE = (
    f"<img src=x onerror='{HACK}'> <b>bold</b> &lt;i&gt; %{{x}} "
    f"</script><script>{HACK}</script><!--"
)

# Limits for a report of 50 runs with 200 evaluations each.
MAX_BYTES = 8_000_000
MAX_SECONDS = 2.0


@pytest.fixture(scope="module")
def browser():
    with open_browser() as driver:
        yield driver


@pytest.fixture
def show(browser):
    """A function that shows the report on some folders."""

    def show(path, **window):
        set_window(browser, **window)
        browser.get("about:blank")
        browser.get(path.as_uri())
        script = "return performance.getEntriesByName('all drawn').length"
        WebDriverWait(browser, 20).until(lambda browser: browser.execute_script(script))
        return browser

    return show


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """The report on two entries with three seeds, of which the last is not complete."""
    folder = tmp_path_factory.mktemp("comparison")
    early = [0.2, 0.4, 0.5]
    adam = [run_records([*early, 0.5 + 0.1 * seed, 0.6], seed=seed) for seed in range(3)]
    swa = [
        run_records([*early, 0.5, 0.7 + 0.1 * seed], averages=0.1, config=SWA, seed=seed)
        for seed in range(3)
    ]
    write_comparison(folder, {"adam": adam, "swa": [*swa[:2], swa[2][:-1]]})
    return report_on(folder)


@pytest.fixture(scope="module")
def nested(tmp_path_factory):
    """The report on a training with two averages."""
    folder = tmp_path_factory.mktemp("nested") / "output"
    write_training(folder, names=("SWA", "EMA"), scores=["ents_f", "speed"], config=SWA)
    return report_on(folder)


def report_on(*folders):
    path = folders[0].parent / f"{folders[0].name}.html"
    report = collect(folders)
    assert report.errors == []
    write_report(path, report)
    return path


def curves(browser, plot="scores"):
    """The lines that a plot shows: the label before the step, and the values."""
    script = f"""
        return [...document.querySelectorAll("#{plot}-plot .scatterlayer .trace")]
            .map((node) => node.__data__[0].trace)
            .filter((trace) => trace.hovertemplate && trace.mode === "lines")
            .map((trace) => [trace.hovertemplate.split("<br>step")[0], [...trace._input.y]]);
    """
    return {label: values for label, values in browser.execute_script(script)}


def labels(browser, plot="scores"):
    return sorted(curves(browser, plot))


def click(browser, text, within):
    for button in browser.find_elements(By.CSS_SELECTOR, f"{within} button"):
        if re.sub(r"[\s↕↑↓]+", " ", button.text).strip() == text:
            button.click()
            return button
    raise AssertionError(f"no button {text!r}")


def column(browser, title, table="#runs"):
    script = """
        const table = document.querySelector(`${arguments[0]} table`);
        const titles = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
        const index = titles.indexOf(arguments[1]);
        return [...table.tBodies[0].rows].map((row) => row.cells[index].textContent);
    """
    return browser.execute_script(script, table, title)


def test_a_comparison_shows_means_and_every_run(comparison, show):
    browser = show(comparison)
    found = curves(browser)
    assert found == {
        "adam, mean of 3 seeds<br>raw weights": pytest.approx([20, 40, 50, 60, 60]),
        # Of the complete runs.
        "swa, mean of 2 seeds<br>raw weights": pytest.approx([20, 40, 50, 50, 75]),
        "swa, mean of 2 seeds<br>averages": pytest.approx([30, 50, 60, 60, 85]),
    }
    Select(browser.find_element(By.ID, "mode")).select_by_value("runs")
    found = curves(browser)
    assert len(found) == 9
    assert found["swa, seed 2<br>averages"] == pytest.approx([30, 50, 60, 60, 100])


def test_runs_and_curves_are_switched_on_and_off(comparison, show):
    browser = show(comparison)
    Select(browser.find_element(By.ID, "mode")).select_by_value("runs")
    adam = [f"adam, seed {seed}<br>raw weights" for seed in range(3)]
    averages = [f"swa, seed {seed}<br>averages" for seed in range(3)]
    click(browser, "raw weights", "#kinds")
    # The only curves of runs without averages stay.
    assert labels(browser) == adam + averages
    button = click(browser, "swa", "#legend")
    assert button.get_attribute("aria-pressed") == "false"
    assert labels(browser) == adam and labels(browser, "losses") == [
        f"adam, seed {seed}" for seed in range(3)
    ]
    boxes = browser.find_elements(By.CSS_SELECTOR, "#runs tbody input")
    assert [box.is_selected() for box in boxes] == [True] * 3 + [False] * 3
    boxes[0].click()
    boxes[4].click()
    assert labels(browser) == [*adam[1:], averages[1]]
    pressed = [
        found.get_attribute("aria-pressed")
        for found in browser.find_elements(By.CSS_SELECTOR, "#legend [aria-pressed]")
    ]
    assert pressed == ["mixed", "mixed"]


def test_every_average_of_a_nesting_is_a_curve(nested, show):
    browser = show(nested)
    names = ["averages of EMA", "averages of SWA", "averages that are saved", "raw weights"]
    assert labels(browser) == [f"output<br>{name}" for name in names]
    assert curves(browser)["output<br>averages of EMA"] == pytest.approx([70, 71, 72, 73])
    click(browser, "averages of EMA", "#kinds")
    assert labels(browser) == [f"output<br>{name}" for name in names[1:]]


def test_other_scores_and_single_components(nested, show):
    browser = show(nested)
    assert curves(browser, "losses")["output"] == pytest.approx([3, 1.5, 1, 0.75])
    Select(browser.find_element(By.ID, "component")).select_by_visible_text("ner")
    assert curves(browser, "losses")["output"] == pytest.approx([2, 1, 2 / 3, 0.5], abs=1e-6)
    Select(browser.find_element(By.ID, "score")).select_by_visible_text("ents_f in %")
    assert curves(browser) == {"output": [25] * 4}
    assert browser.find_element(By.ID, "scores-title").text == "ents_f in %"
    Select(browser.find_element(By.ID, "score")).select_by_visible_text("speed")
    assert curves(browser) == {"output": [0.25] * 4}
    assert len(curves(browser, "rates")["output"]) == 40


def test_zooming_along_the_steps_changes_all_plots(nested, show):
    browser = show(nested)
    script = """
        return ["scores", "losses", "rates"].map((name) =>
            document.getElementById(`${name}-plot`).layout.xaxis.range.map(Math.round));
    """
    assert browser.execute_script(script) == [[0, 40]] * 3
    browser.execute_async_script(
        "Plotly.relayout('losses-plot', {'xaxis.range': [10, 20]})"
        ".then(() => setTimeout(arguments[0], 300))"
    )
    assert browser.execute_script(script) == [[10, 20]] * 3
    # Switching a curve off keeps the zoom.
    click(browser, "raw weights", "#kinds")
    assert browser.execute_script(script) == [[10, 20]] * 3


def test_low_early_scores_are_hidden_and_shown(comparison, show):
    browser = show(comparison)
    script = "return document.getElementById('scores-plot')._fullLayout.yaxis.range"
    low, high = browser.execute_script(script)
    assert 30 < low < 40 and 85 < high < 100
    browser.find_element(By.ID, "late").click()
    low, high = browser.execute_script(script)
    assert 10 < low < 20


def test_the_table_is_sorted_by_its_headers(comparison, show):
    browser = show(comparison)
    assert column(browser, "last score")[3:] == ["80.00", "90.00", "100.00"]
    header = click(browser, "last score", "#runs")
    assert column(browser, "last score") == ["100.00", "90.00", "80.00", *["60.00"] * 3]
    cell = header.find_element(By.XPATH, "..")
    assert cell.get_attribute("aria-sort") == "descending"
    # By the keyboard too.
    header.send_keys(Keys.ENTER)
    assert cell.get_attribute("aria-sort") == "ascending"
    assert column(browser, "last score")[-1] == "100.00"
    # Missing values come last in both orders.
    for order in (["2.00", "2.00", "2.00", "2.00", "2.00", "–"],) * 2:
        click(browser, "ms/step", "#runs")
        assert column(browser, "ms/step") == order
    sorts = browser.execute_script(
        "return [...document.querySelectorAll('#runs th[aria-sort]')]"
        ".map((cell) => cell.getAttribute('aria-sort'))"
    )
    assert sorts.count("none") == len(sorts) - 1 and "descending" in sorts
    states = dict(zip(column(browser, "seed"), column(browser, "state"), strict=True))
    assert states["2"] in ("complete", "interrupted or running")
    assert column(browser, "state").count("interrupted or running") == 1


def test_the_differences_between_the_configs_are_shown(comparison, show):
    browser = show(comparison)
    assert column(browser, "setting", "#differences") == [
        "optimizer.@optimizers",
        "optimizer.learn_rate",
        "optimizer.start_step",
        "optimizer.optimizer.@optimizers",
        "optimizer.optimizer.learn_rate",
    ]
    assert column(browser, "adam", "#differences") == ['"Adam.v1"', "0.1", "–", "–", "–"]


def test_the_results_of_a_comparison_are_shown(comparison, show):
    browser = show(comparison)
    assert column(browser, "final score", "#comparisons") == ["60.00 ± 0.00", "85.00 ± 7.07"]


def test_hostile_names_stay_text(tmp_path, show):
    # Not in names of folders.
    name = HOSTILE.replace("/", "|")
    config = ADAM.replace("[optimizer]", f"other = {json.dumps(HOSTILE)}\n\n[optimizer]")
    failed = run_records([0.5, 0.6], averages=0.1)
    failed[-1] = {"type": "error", "error": HOSTILE, "traceback": None}
    write_comparison(tmp_path / "runs", {name: [failed]}, results=False)
    write_training(
        tmp_path / name,
        names=(HOSTILE, "EMA"),
        scores=[HOSTILE],
        config=config.replace("%{x}", "").format(seed=0, rate=1),
    )
    write_training(tmp_path / "b", config=ADAM.format(seed=0, rate=2))
    browser = show(report_on(tmp_path / "b", tmp_path / name, tmp_path / "runs"))
    for score, n_curves in (("kind:accuracy", 8), (f"other:{HOSTILE}", 1)):
        Select(browser.find_element(By.ID, "score")).select_by_value(score)
        texts = browser.execute_async_script(HOVER)
        assert len(texts) == n_curves
        assert sum(name in text for text in texts) == (6 if n_curves == 8 else 1)
        assert any(f"averages of {HOSTILE}" in text for text in texts) == (n_curves == 8)
        page = browser.execute_script("return document.body.innerText")
        assert page.count(name) >= 2 and page.count(HOSTILE) >= 2
    assert browser.execute_script("return document.documentElement.dataset.hacked") is None
    assert (
        browser.find_elements(By.CSS_SELECTOR, "body img, main b, main i, main a[href]") == []
    )
    assert browser.get_log("browser") == []


# The texts that the pointer shows, of the second evaluation of each curve.
HOVER = """
    const plot = document.getElementById("scores-plot");
    const show = async (i) => {
        Plotly.Fx.hover(plot, [{curveNumber: i, pointNumber: 1}]);
        // Plotly limits how often it does this.
        await new Promise((resolve) => setTimeout(resolve, 150));
        return plot.querySelector(".hoverlayer").textContent;
    };
    const texts = [];
    (async () => {
        for (let i = 0; i < plot.data.length; i++) {
            if (plot.data[i].hovertemplate) texts.push(await show(i));
        }
        return texts;
    })().then(arguments[0], (error) => arguments[0](`${error}`));
"""


def test_a_finger_on_a_plot_scrolls_the_page(comparison, show, browser):
    touch = {"enabled": True, "maxTouchPoints": 1}
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", touch)
    try:
        show(comparison, width=390)
        box = browser.find_element(By.ID, "scores-plot").rect
        assert box["y"] < 400 < box["y"] + box["height"]
        for type, places in (
            ("touchStart", [400]),
            *(("touchMove", [400 - 15 * i]) for i in range(1, 11)),
            ("touchEnd", []),
        ):
            points = [{"x": 200, "y": y} for y in places]
            event = {"type": type, "touchPoints": points}
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", event)
        WebDriverWait(browser, 5).until(
            lambda browser: browser.execute_script("return scrollY") > 50
        )
        assert browser.execute_script(
            "return [...document.querySelectorAll('.plot')].every((plot) =>"
            " plot.layout.xaxis.range[0] === 0)"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_does_not_scroll_sideways_and_needs_no_network(
    comparison, nested, show, width, scheme
):
    for path in (comparison, nested):
        browser = show(path, width=width, scheme=scheme)
        script = "return document.documentElement.scrollWidth"
        assert browser.execute_script(script) <= width
        script = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        assert browser.execute_script(script) == []
        script = "return getComputedStyle(document.body).backgroundColor"
        dark = "rgb(18, 22, 27)"
        assert (browser.execute_script(script) == dark) == (scheme == "dark")
        # All plots are as wide as their places.
        script = """
            return [...document.querySelectorAll(".plot")].map((plot) =>
                plot.querySelector("svg").getBoundingClientRect().width - plot.clientWidth);
        """
        assert all(abs(difference) <= 1 for difference in browser.execute_script(script))
        assert browser.get_log("browser") == []


@pytest.mark.slow
def test_fifty_runs_are_small_and_fast(tmp_path, show):
    """The time from the navigation to the first plot, the best of three."""
    folders = [tmp_path / f"run-{i:02d}" for i in range(50)]
    for seed, folder in enumerate(folders):
        write_training(
            folder, n_evaluations=200, interval=5, seed=seed, names=("SWA", "EMA"), config=SWA
        )
    path = report_on(*folders)
    assert path.stat().st_size < MAX_BYTES
    times = []
    for _ in range(3):
        browser = show(path)
        script = "return performance.getEntriesByName('scores drawn')[0].startTime"
        times.append(browser.execute_script(script) / 1000)
    assert len(curves(browser)) == 100
    assert min(times) < MAX_SECONDS
