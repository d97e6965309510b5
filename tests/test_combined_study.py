"""The study of Lookahead with mixup and one-cycle: its configs, statistics and results."""

import json
from pathlib import Path

import numpy
import pytest
from helpers import require, scripts
from thinc.api import Optimizer, registry

from thinc_swa import Lookahead
from thinc_swa.schedules.learn_rate import current_rate
from thinc_swa.training.configs import optimizer_section

STUDY = Path(__file__).parents[1] / "examples" / "studies" / "lookahead_combined"


@pytest.fixture
def load():
    with scripts(STUDY) as load:
        yield load


@pytest.fixture
def study(load):
    return load("study")


@pytest.fixture
def analyse(load):
    require("scipy", "statsmodels", "matplotlib")
    return load("analyse")


# Configs


def make_configs(study, task):
    if task == "digits":
        make, paths = study.make_digits_config, ()
    else:
        require("spacy")
        make, paths = study.make_cooking_config, (Path("train.spacy"), Path("dev.spacy"))
    return {cell: make(cell, cell.grid[0], 100, *paths) for cell in study.make_cells(task)}


@pytest.mark.parametrize("task, n_cells", [("digits", 20), ("cooking", 10)])
def test_configs_differ_in_what_is_compared_alone(study, task, n_cells):
    configs = make_configs(study, task)
    assert len(configs) == n_cells
    rests = []
    for cell, config in configs.items():
        section = optimizer_section(config)
        optimizer = registry.resolve({"optimizer": section["optimizer"]})["optimizer"]
        base, inner_state = study.METHODS[cell.method]
        assert isinstance(optimizer, Lookahead) == (inner_state is not None)
        settings = section["optimizer"]
        if inner_state is not None:
            assert optimizer.inner_state == inner_state
            optimizer, settings = optimizer.optimizer, settings["optimizer"]
        assert type(optimizer) is Optimizer and optimizer.averages is None
        assert settings["@optimizers"] == f"{base}.v1" and settings["L2"] == 0.0
        rates = [current_rate(optimizer)]
        for _ in range(30):
            optimizer.step_schedules()
        rates.append(current_rate(optimizer))
        start = cell.grid[0] * (0.04 if cell.schedule == "one-cycle" else 1.0)
        assert rates == pytest.approx([start, cell.grid[0]])
        assert ("callbacks" in config) == cell.mixup
        rest = config.copy()
        optimizer_section(rest).pop("optimizer")
        rest.pop("callbacks", None)
        rests.append(rest)
    assert all(rest == rests[0] for rest in rests)


def test_folds_have_all_training_images_and_no_test_images(study, tmp_path):
    require("sklearn")
    (images, _), (test_images, _) = study.make_digits(dev_size=study.TEST_SIZE)
    found = []
    for path in study.write_folds(tmp_path):
        with numpy.load(path) as arrays:
            assert len(arrays["train_X"]) + len(arrays["dev_X"]) == len(images)
            assert len(arrays["dev_X"]) == len(arrays["dev_Y"])
            found += [row.tobytes() for row in arrays["dev_X"]]
    assert sorted(found) == sorted(row.tobytes() for row in images)
    assert not {row.tobytes() for row in test_images} & set(found)


def test_questions_choose_rates_or_test(study, tmp_path, monkeypatch):
    require("spacy")
    import spacy
    from spacy.tokens import DocBin

    monkeypatch.setattr(study, "N_DEV", 2)
    for name, n in (("train", 3), ("dev", 7)):
        lines = [
            json.dumps({"text": f"{name} {i}", "cats": {"a": float(i == 1)}}) for i in range(n)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf8")
    vocab = spacy.blank("en").vocab
    train, dev, test = (
        [(doc.text, doc.cats["a"]) for doc in DocBin().from_disk(path).get_docs(vocab)]
        for path in study.write_questions(tmp_path, tmp_path / "output")
    )
    assert train == [("train 0", 0.0), ("train 1", 1.0), ("train 2", 0.0)]
    assert dev == [("dev 0", 0.0), ("dev 2", 0.0)]
    assert test == [("dev 1", 1.0), ("dev 3", 0.0), ("dev 5", 0.0)]


# Statistics


def make_row(study, cell, part, rate, seed, score, step=10):
    values = (cell.task, part, cell.method, cell.mixup, cell.schedule, rate, seed, step)
    return dict(zip(study.COLUMNS, (*values, score, score), strict=True))


def test_rate_with_the_highest_last_score_is_chosen(study):
    cell, other = study.make_cells("digits")[:2]
    first, second, third, fourth = cell.grid

    def rows(cell, rate, *scores):
        return [make_row(study, cell, "choice", rate, 100 + i, x) for i, x in enumerate(scores)]

    found = [*rows(cell, first, 0.5, 0.6), *rows(cell, second, 0.6, 0.6)]
    # The lower one of two that are equal.
    found += rows(cell, third, 0.7, 0.5)
    # Diverged with one seed.
    found += rows(cell, fourth, 0.9)
    found += rows(other, other.grid[3], 1.0, 1.0)
    # An earlier evaluation.
    found.append(make_row(study, cell, "choice", first, 100, 1.0, step=5))
    assert study.choose_rate(cell, found) == second
    assert study.choose_rate(other, found) == other.grid[3]


def make_results(study, effects, n_seeds=4):
    """Results whose scores are sums of effects, and a number of each seed and method."""
    rows = []
    for task in ("digits", "cooking"):
        for cell in study.make_cells(task):
            for seed in range(n_seeds):
                score = 50.0 + 7 * seed + 0.1 * ((3 * seed + len(cell.method)) % 4)
                names = [cell.method, cell.schedule, *(["mixup"] if cell.mixup else [])]
                score += sum(effects.get(name, 0.0) for name in names)
                score += effects.get((cell.method, cell.schedule), 0.0)
                rows.append(make_row(study, cell, "result", cell.grid[0], seed, score / 100))
                rows.append(make_row(study, cell, "choice", cell.grid[0], 100, score / 100))
    return rows


def test_contrasts_find_the_effects_of_the_scores(study, analyse):
    effects = {
        "Lookahead/Adam, reset": -2.0,
        "Lookahead/SGD": 5.0,
        "mixup": 1.5,
        ("Lookahead/SGD", "one-cycle"): 4.0,
    }
    rows = make_results(study, effects)
    for task, n in (("digits", 10), ("cooking", 8)):
        scores, seeds = analyse.read_scores(task, rows)
        assert seeds == [0, 1, 2, 3]
        settings = list(dict.fromkeys(setting for _, setting in scores))
        family = analyse.measure(analyse.make_contrasts(settings), scores, seeds)
        assert len(family) == n
        found = {x.name: x for x in family}
        # The number of each seed and method is at most 0.3.
        for name, expected in {
            analyse.against(analyse.RESET, analyse.KEEP): -2.0,
            analyse.against(analyse.KEEP, "Adam"): 0.0,
            analyse.against(analyse.AROUND_SGD, "SGD"): 7.0,
            analyse.against(analyse.AROUND_SGD, analyse.RESET): 9.0,
            "one-cycle, all methods": 4.0 / 5,
            analyse.change("one-cycle"): 2.0,
        }.items():
            assert found[name].mean == pytest.approx(expected, abs=0.31)
            assert found[name].low <= found[name].mean <= found[name].high
            assert found[name].p_holm >= found[name].p
        if task == "digits":
            assert found["mixup, all methods"].mean == pytest.approx(1.5)
            assert found[analyse.change("mixup")].mean == pytest.approx(0.0, abs=1e-9)
        single = analyse.measure(analyse.make_single_contrasts(settings), scores, seeds)
        assert len(single) == 3 * len(settings)


@pytest.mark.parametrize(
    "effect, word, answer",
    [
        (9.0, "better", "yes: better than all four"),
        (-9.0, "worse", "no: worse than SGD and Adam and"),
        (0.0, "no difference found", "not shown: no difference found to SGD and Adam and"),
    ],
)
def test_answers(study, analyse, effect, word, answer):
    text, _ = analyse.report(make_results(study, {"Lookahead/SGD": effect}))
    lines = [line for line in text.splitlines() if line[:2] in ("1.", "2.", "3.", "4.", "5.")]
    assert len(lines) == 5
    for task in ("Digits", "Cooking"):
        assert f"{task}: {word}" in lines[2]
        assert f"{task}: {answer}" in lines[3]
    assert "**Preliminary**: 4 of the 10 seeds" in text


def test_rates_beyond_the_grid_change_no_result(study, analyse):
    rows = make_results(study, {})
    cell = study.make_cells("cooking")[0]
    more = [make_row(study, cell, "beyond", rate, 100, 0.99) for rate in (0.5, 0.7)]
    before, _ = analyse.report(rows)
    after, _ = analyse.report([*rows, *more])
    assert after.startswith(before.rstrip())
    line = next(line for line in after[len(before) :].splitlines() if "| Adam " in line)
    assert line.count("[99.0\\]") == 2 and "\\[5" not in line


def test_task_without_complete_seeds_is_named(study, analyse):
    rows = [row for row in make_results(study, {}) if row["task"] == "digits"]
    text, _ = analyse.report(rows)
    assert "Cooking: " not in text
    assert text.endswith("**Not measured yet**: fewer than two seeds are complete.\n")


def test_results_with_one_seed_are_an_error(study, analyse):
    with pytest.raises(ValueError, match="two complete seeds"):
        analyse.report(make_results(study, {}, n_seeds=1))


def test_results_are_those_of_the_evaluations(study, analyse):
    text, _ = analyse.report(study.read_rows(STUDY / "runs.csv"))
    assert (STUDY / "results.md").read_text(encoding="utf8") == text


# Trainings


@pytest.mark.slow
def test_study_runs_and_continues(study, analyse, tmp_path, monkeypatch):
    require("sklearn", "spacy")
    for name in ("train", "dev"):
        records = [
            {"text": f"{name} {word} {i}", "cats": {"a": float(i % 2), "b": 1.0 - i % 2}}
            for i, word in enumerate(["bread", "eggs"] * 6)
        ]
        lines = [json.dumps(record) for record in records]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf8")
    method = "Lookahead/Adam, reset"
    monkeypatch.setattr(study, "METHODS", {method: study.METHODS[method]})
    monkeypatch.setattr(study, "SCHEDULES", ("one-cycle",))
    grid = {"Adam": (0.01, 0.1)}
    monkeypatch.setattr(study, "GRIDS", {"digits": grid, "cooking": grid})
    monkeypatch.setattr(study, "BEYOND", {method: (0.2,)})
    monkeypatch.setattr(study, "N_FOLDS", 2)
    rows = study.train_digits(tmp_path / "logs", 2, 40)
    rows += study.train_cooking(tmp_path, tmp_path / "logs", 2, 8)
    # With and without mixup: two rates on two folds, and then two seeds.
    digits = 2 * (2 * 2 + 2) * study.N_EVALUATIONS
    assert [row["task"] for row in rows].count("digits") == digits
    output = tmp_path / "runs.csv"
    for task in ("digits", "cooking"):
        study.replace_rows(output, task, [row for row in rows if row["task"] == task])
    assert study.read_rows(output) == rows
    scores, seeds = analyse.read_scores("cooking", rows)
    assert seeds == [0, 1] and all(len(found) == 2 for found in scores.values())
    # Nothing is trained again.
    monkeypatch.setattr(study, "train_runs", lambda runs, n_jobs: None)
    assert study.train_digits(tmp_path / "logs", 2, 40) == rows[:digits]
