"""Statistics, tables and plots of a comparison, with numbers that can be checked by hand."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from helpers import require

from thinc_swa.comparison.results import (
    describe_failures,
    interval,
    report,
    summarize,
    table,
    to_csv,
    to_json,
    to_markdown,
)
from thinc_swa.comparison.runs import Run

require("scipy")

ABOUT = {"date": "2026-01-31", "machine": "one", "versions": {"thinc": "8.3"}}


def make_run(name, seed_index, scores, *, raw=None, state="done", error=None, ms=1.0):
    """Evaluations after 10, 20, 30 … steps."""
    run = Run(name, seed_index, seed_index + 5, "", Path("runs") / name, state=state)
    for i, score in enumerate(scores):
        run.records.append(
            {
                "type": "evaluation",
                "step": 10 * (i + 1),
                "raw": score if raw is None else raw[i],
                "averages": None if raw is None else score,
                "score": score,
                "n_averaged": None if raw is None else i,
            }
        )
    if error is not None:
        run.records.append({"type": "error", "error": error})
    elif state == "done":
        run.records.append({"type": "end", "seconds_per_step": ms / 1000, "n_shared": 1})
    return run


ADAM = [
    make_run("adam", 0, [0.1, 0.5, 0.6, 0.5], ms=3.0),
    make_run("adam", 1, [0.2, 0.7, 0.5, 0.7], ms=2.0),
    make_run("adam", 2, [0.3, 0.3, 0.6, 0.6], ms=7.0),
]
SWA = [
    make_run("swa", 0, [0.1, 0.5, 0.7, 0.6], raw=[0.1, 0.5, 0.6, 0.5]),
    make_run("swa", 1, [0.2, 0.6, 0.6, 0.6], raw=[0.2, 0.7, 0.5, 0.7]),
    make_run("swa", 2, [0.3, 0.3, 0.7, 0.9], raw=[0.3, 0.3, 0.6, 0.6]),
]
RUNS = [*ADAM, *SWA]


def test_final_scores_are_summarized():
    adam, swa = summarize(RUNS)
    assert (adam.name, adam.n_runs, adam.n_failed, adam.has_averages) == ("adam", 3, 0, False)
    assert adam.score == adam.raw == pytest.approx(0.6)
    assert adam.score_sd == pytest.approx(0.1)
    assert swa.score == pytest.approx(0.7)
    assert swa.raw == pytest.approx(0.6)
    assert swa.score_sd == pytest.approx((0.06 / 2) ** 0.5)
    assert swa.best == pytest.approx((0.7 + 0.6 + 0.9) / 3)
    assert (adam.n_averaged, swa.n_averaged) == (None, 3)
    assert adam.seconds_per_step == pytest.approx(0.003)


def test_differences_are_paired_by_seed():
    adam, swa = summarize(RUNS)
    assert adam.difference is adam.difference_low is adam.difference_high is None
    # 0.1, -0.1 and 0.3: mean 0.1, standard deviation 0.2. Student's t for 2 degrees of
    # freedom is 4.302653.
    assert swa.difference == pytest.approx(0.1)
    half = 4.302653 * 0.2 / 3**0.5
    assert swa.difference_low == pytest.approx(0.1 - half, rel=1e-5)
    assert swa.difference_high == pytest.approx(0.1 + half, rel=1e-5)


def test_an_interval_of_two_values():
    # Student's t for 1 degree of freedom is 12.7062.
    low, high = interval([1.0, 3.0])
    assert (low, high) == pytest.approx((2 - 12.7062, 2 + 12.7062), rel=1e-5)
    assert interval([1.0]) == (None, None)


def test_steps_to_the_score_of_the_baseline():
    adam, swa = summarize(RUNS)
    # 0.5, 0.7 and 0.6 are reached after these steps; the second run of SWA never reaches 0.7.
    assert (adam.steps_to_baseline, adam.n_reached) == (20, 3)  # 20, 20, 30
    assert (swa.steps_to_baseline, swa.n_reached) == (25, 2)  # 20, -, 30


def test_swing_is_over_the_last_quarter():
    # Steps 60, 70 and 80 of 80.
    runs = [make_run("adam", 0, [0.0, 1.0, 0.0, 1.0, 0.0, 0.5, 0.7, 0.4])]
    assert summarize(runs)[0].swing == pytest.approx((0.2 + 0.3) / 2)


def test_one_seed_has_no_spread():
    adam, swa = summarize([ADAM[0], SWA[0]])
    assert swa.difference == pytest.approx(0.1)
    assert adam.score_sd is swa.difference_low is None
    rows = table([adam, swa], "accuracy")
    assert rows[2][1:5] == ["60.00", "50.00", "+10.00", "-"]


def test_incomplete_runs_are_ignored():
    failed = make_run("swa", 1, [0.9], state="failed", error="ValueError: x")
    waiting = make_run("swa", 2, [], state="waiting")
    _, swa = summarize([*ADAM, SWA[0], failed, waiting])
    assert (swa.n_runs, swa.n_failed) == (1, 1)
    assert swa.score == pytest.approx(0.6)
    # Only seeds that the baseline has too are paired.
    assert swa.difference == pytest.approx(0.1)


def test_times_of_shared_trainings_are_marked():
    shared = make_run("swa", 0, [0.5, 0.6], ms=2.0)
    shared.records[-1]["n_shared"] = 3
    adam, swa = summarize([ADAM[0], shared])
    assert (adam.n_shared, swa.n_shared) == (0, 1)
    rows = table([adam, swa], "accuracy")
    assert [row[-2] for row in rows] == ["ms/step", "3", "2 (shared)"]


def test_results_without_complete_runs():
    failed = [make_run(n, 0, [], state="failed", error="no") for n in ("adam", "swa")]
    adam, swa = summarize(failed)
    assert adam.score is swa.score is swa.difference is swa.steps_to_baseline is None
    rows = table([adam, swa], "accuracy")
    assert rows[1] == ["adam", "-", "", "-", "-", "-", "-", "-", "0, 1 failed"]


def test_failures_are_described_once_per_entry_and_error():
    failed = [
        make_run("swa", 0, [], state="failed", error="bad"),
        make_run("swa", 1, [], state="failed", error="bad"),
        make_run("swa", 2, [], state="failed", error="worse"),
    ]
    lines = list(describe_failures([*ADAM, *failed]))
    assert lines[0].startswith("swa failed with seed 5, 6: bad")
    assert lines[1].startswith("swa failed with seed 7: worse")


def test_tables_have_formatted_statistics():
    summaries = summarize(RUNS)
    rows = table(summaries, "accuracy")
    assert rows[0][0] == "optimizer" and len({len(row) for row in rows}) == 1
    assert rows[1][:4] == ["adam", "60.00 ± 10.00", "", "-"]
    assert rows[2][:4] == ["swa", "70.00 ± 17.32", "60.00 ± 10.00", "+10.00"]
    assert rows[2][6] == "25 (2 of 3)"
    # A loss is not in per cent.
    assert table(summaries, "loss")[2][1] == "0.7 ± 0.1732"
    lines = to_markdown(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].startswith("| ---") and lines[1].endswith("-: |")


def test_files_have_all_numbers():
    summaries = summarize(RUNS)
    rows = list(csv.DictReader(io.StringIO(to_csv(summaries))))
    assert [row["name"] for row in rows] == ["adam", "swa"]
    assert float(rows[1]["difference"]) == pytest.approx(0.1)
    assert rows[0]["difference"] == ""
    content = json.loads(to_json(summaries, RUNS, **ABOUT))
    assert content["date"] == "2026-01-31"
    assert content["summaries"][1]["n_reached"] == 2
    assert [run["seed"] for run in content["runs"]] == [5, 6, 7, 5, 6, 7]
    assert content["runs"][3]["evaluations"][2]["score"] == 0.7
    text = report(RUNS, summaries, "accuracy", {**ABOUT, "changed_settings": {"a.b": 3}})
    assert "| swa " in text and "`a.b = 3`" in text and "learning_curves.png" in text


ODD = ("a|b", "[red]", "$x^2_{$", "_under_", "<b>", "猫")


def test_unusual_names_are_escaped_in_markdown():
    runs = [make_run(name, 0, [0.5, 0.6]) for name in ODD[:-1]]
    runs.append(make_run(ODD[-1], 0, [], state="failed", error="no [x](y) | `z`"))
    settings = {"a.b": "`x` | y"}
    text = report(runs, summarize(runs), "accuracy", {**ABOUT, "changed_settings": settings})
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    names = [row.split(" ")[1] for row in rows[2:]]
    assert names == [r"a\|b", r"\[red\]", r"\$x^2\_{\$", r"\_under\_", r"\<b\>", "猫"]
    assert r"failed with seed 5: no \[x\](y) \| \`z\`" in text
    assert "`` a.b = '`x` | y' ``" in text


def test_errors_are_printable():
    text = "byte \udcff\n\x1b[31m"
    (line,) = describe_failures([make_run("a", 0, [], state="failed", error=text)])
    assert line.startswith(r"a failed with seed 5: byte \xff\n\x1b[31m (details in ")


# Plots


def test_learning_curves(tmp_path):
    require("matplotlib")
    from thinc_swa.comparison.plots import plot_learning_curves
    from thinc_swa.training.plots import FORMATS, save_figure

    figure = plot_learning_curves(RUNS, "accuracy")
    panels = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_title(loc="left") for panel in panels] == ["adam", "swa"]
    (line,) = panels[0].get_lines()
    assert line.get_xdata().tolist() == [10, 20, 30, 40]
    assert line.get_ydata() == pytest.approx([20.0, 50.0, 56.6667, 60.0], rel=1e-5)
    # The baseline, the raw weights and the averages.
    lines = panels[1].get_lines()
    assert [line.get_ydata()[-1] for line in lines] == pytest.approx([60.0, 60.0, 70.0])
    for path in save_figure(figure, tmp_path / "curves"):
        assert path.suffix[1:] in FORMATS and path.stat().st_size > 5000


def test_final_scores_are_bars_with_dots():
    require("matplotlib")
    from thinc_swa.comparison.plots import plot_final_scores

    figure = plot_final_scores(RUNS, summarize(RUNS), "accuracy")
    (panel,) = figure.axes
    assert [bar.get_width() for bar in panel.patches] == pytest.approx([60.0, 70.0])
    labels = [label.get_text() for label in panel.get_yticklabels()]
    assert labels == ["adam   60.00 ± 10.00", "swa   70.00 ± 17.32"]
    dots = [sorted(dots.get_offsets()[:, 0]) for dots in panel.collections]
    assert dots == [
        pytest.approx([50, 60, 70]),
        pytest.approx([50, 60, 70]),
        pytest.approx([60, 60, 90]),
    ]


def test_names_in_plots_are_not_parsed_as_formulas(tmp_path):
    require("matplotlib")
    from thinc_swa.comparison.plots import plot_final_scores, plot_learning_curves
    from thinc_swa.training.plots import save_figure

    for first in ODD:
        names = [first, *(name for name in ODD if name != first)]
        runs = [make_run(name, 0, [0.5, 0.1 * i]) for i, name in enumerate(names)]
        curves = plot_learning_curves(runs, "accuracy")
        assert [panel.get_title(loc="left") for panel in curves.axes] == names
        assert curves.legends[0].get_texts()[-1].get_text() == first
        scores = plot_final_scores(runs, summarize(runs), "accuracy")
        save_figure(scores, tmp_path / "scores.of.it")
        save_figure(curves, tmp_path / "curves")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"curves.png", "curves.svg", "scores.of.it.png", "scores.of.it.svg"}


@pytest.mark.parametrize("score", ["accuracy", "loss"])
@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_plots_of_any_number_of_entries(tmp_path, n, score):
    require("matplotlib")
    from thinc_swa.comparison.plots import plot_final_scores, plot_learning_curves
    from thinc_swa.training.plots import save_figure

    runs = [make_run(f"name {i}", 0, [-0.5, -0.4, -0.1 * i]) for i in range(n)]
    runs += [make_run("broken", 0, [], state="failed", error="no")]
    save_figure(plot_learning_curves(runs, score), tmp_path / "curves")
    save_figure(plot_final_scores(runs, summarize(runs), score), tmp_path / "scores")
    assert len(list(tmp_path.iterdir())) == 4
