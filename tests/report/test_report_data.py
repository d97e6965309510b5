"""What the report reads from output folders."""

import json

import pytest
from helpers import require
from output_folders import config_of
from report_folders import (
    ADAM,
    SWA,
    end,
    evaluation,
    run_records,
    start,
    write_comparison,
    write_log,
    write_training,
)
from tiny import TWO_WIDTHS

from thinc_swa.report.collection import collect
from thinc_swa.report.page import to_data
from thinc_swa.report.runs import describe_optimizer, per_step
from thinc_swa.report.settings import find_differences
from thinc_swa.report.trainings import thin_rates
from thinc_swa.training.trainer import train


def only_run(folder):
    report = collect([folder])
    assert report.errors == []
    ((run,),) = [group.runs for group in report.groups]
    return run


# Trainings


@pytest.fixture
def trained(tmp_path):
    require("filelock")
    trainer = train(config_of(tmp_path, max_steps=60), output=tmp_path / "output")
    return trainer, only_run(tmp_path / "output")


def test_a_training_has_the_scores_of_its_trainer(trained):
    trainer, run = trained
    evaluations = trainer.state.evaluations
    assert run.curves.steps == [10, 20, 30, 40, 50, 60]
    assert run.curves.raw == [found.raw for found in evaluations]
    assert run.curves.averages == [found.averages for found in evaluations]
    assert run.curves.scores == [found.score for found in evaluations]
    assert run.best == evaluations.index(trainer.state.best)
    assert run.curves.losses == {"loss": pytest.approx([found.loss for found in evaluations])}
    assert run.rates == [(1, 0.01), (60, 0.01)]


def test_a_training_has_its_settings(trained):
    trainer, run = trained
    assert (run.name, run.state, run.ended_by) == ("output", "complete", "max_steps")
    assert (run.optimizer, run.seed, run.score) == ("SWA(Lookahead(Adam))", 1, "accuracy")
    assert run.n_steps == 60 and run.n_averaged == trainer.state.n_averaged == 14
    assert run.seconds == trainer.state.seconds
    assert run.seconds_per_step == trainer.state.seconds / 60


def test_all_averages_of_a_nesting_have_curves(tmp_path):
    require("filelock")
    optimizer = TWO_WIDTHS.format(learn_rate=0.01)
    trainer = train(config_of(tmp_path, optimizer=optimizer), output=tmp_path / "output")
    curves = only_run(tmp_path / "output").curves
    names = list(trainer.state.evaluations[-1].all_averages)
    assert len(names) == 2 and list(curves.all_averages) == names
    for name in names:
        scores = [found.all_averages[name] for found in trainer.state.evaluations]
        assert curves.all_averages[name] == scores


def test_losses_are_means_per_step_for_each_component(tmp_path):
    # As spaCy evaluates: after steps 1, 201 and at the end.
    losses = [{"ner": 3.0}, {"ner": 400.0, "tagger": 100.0}, {"ner": 5.0, "tagger": 1.0}]
    records = [
        evaluation(step, losses=found)
        for step, found in zip([1, 201, 206], losses, strict=True)
    ]
    write_log(tmp_path, [start(), *records])
    curves = only_run(tmp_path).curves
    assert curves.losses == {"ner": [3.0, 2.0, 1.0], "tagger": [None, 0.5, 0.2]}


def test_scores_per_label_are_left_out(tmp_path):
    scores = {"ents_f": 0.5, "ents_per_type": {"LOC": {"f": 0.5}}, "missing": None}
    write_log(tmp_path, [start(), evaluation(1, other_scores=scores)])
    assert only_run(tmp_path).curves.other_scores == {"ents_f": [0.5]}


def test_nan_is_no_score(tmp_path):
    records = [evaluation(1, 0.5, is_best=True), evaluation(2, None), evaluation(3, 0.4, None)]
    write_log(tmp_path, [start(), *records])
    run = only_run(tmp_path)
    assert run.curves.scores == [0.5, None, 0.4] and run.best == 0


@pytest.mark.parametrize(
    "records, state, ended_by, resumed",
    [
        ([], "interrupted or running", "", []),
        ([end(20)], "complete", "max_steps", []),
        ([end(20, "patience")], "complete", "patience", []),
        ([end(20, "interrupted")], "interrupted", "", []),
        ([end(20, None, "KeyboardInterrupt()")], "interrupted", "", []),
        ([end(20, None, "ValueError('no')")], "failed", "ValueError('no')", []),
        ([start(20), start(20), end(20)], "complete", "max_steps", [20]),
        ([end(20, "interrupted"), start(20)], "interrupted or running", "", [20]),
    ],
)
def test_the_state_of_a_training(tmp_path, records, state, ended_by, resumed):
    write_log(tmp_path, [start(), evaluation(10), evaluation(20), *records])
    run = only_run(tmp_path)
    assert (run.state, run.ended_by, run.resumed) == (state, ended_by, resumed)
    assert run.n_steps == 20


def test_a_training_without_evaluations_is_in_the_report(tmp_path):
    write_log(tmp_path, [start()])
    run = only_run(tmp_path)
    assert run.curves.steps == [] and run.seconds is None and run.best is None
    to_data(collect([tmp_path]))


def test_a_log_that_a_crash_has_cut_off_is_read(tmp_path):
    write_log(tmp_path, [start(), evaluation(10)])
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"type": "evalu')
    assert only_run(tmp_path).curves.steps == [10]


def test_constant_rates_are_left_out():
    rates = [(step, 0.1 if step <= 5 else 0.2) for step in range(1, 11)]
    assert thin_rates(rates) == [(1, 0.1), (5, 0.1), (6, 0.2), (10, 0.2)]
    assert thin_rates([]) == []


def test_the_extremes_of_many_rates_are_kept():
    """A peak of a single step, and a saw that is finer than the intervals."""
    rates = [(step, 1.0 + step % 7 + (50 if step == 4321 else 0)) for step in range(1, 10001)]
    kept = thin_rates(rates, 100)
    assert len(kept) <= 102 and kept == sorted(kept) and set(kept) <= set(rates)
    assert kept[0] == rates[0] and kept[-1] == rates[-1]
    values = [rate for _, rate in kept]
    assert max(values) == 52.0 + 4321 % 7 - 1.0 and values.count(1.0) > 40
    assert values.count(7.0) > 40


def test_sums_are_divided_by_steps():
    assert per_step([2.0, None, 9.0], [2, 5, 8]) == [1.0, None, 3.0]
    assert per_step([], []) == []


# Comparisons


def test_a_comparison_has_its_runs_and_its_table(tmp_path):
    scores = {"adam": [[0.5, 0.6], [0.5, 0.7]], "swa": [[0.5, 0.6], [0.6, 0.7]]}
    entries = {
        name: [
            run_records(
                found,
                seed=seed,
                config=ADAM if name == "adam" else SWA,
                averages=0.0 if name == "adam" else 0.1,
            )
            for seed, found in enumerate(logs)
        ]
        for name, logs in scores.items()
    }
    require("scipy")
    write_comparison(tmp_path, entries)
    report = collect([tmp_path])
    assert report.errors == []
    assert [group.name for group in report.groups] == ["adam", "swa"]
    adam, swa = (group.runs for group in report.groups)
    assert [run.seed for run in swa] == [0, 1]
    assert [run.curves.averages for run in adam] == [[None, None], [None, None]]
    assert swa[1].curves.raw == [0.6, 0.7] and swa[1].curves.averages == [0.7, 0.7 + 0.1]
    assert (swa[0].optimizer, swa[0].state, swa[0].best) == ("SWA(Adam)", "complete", 1)
    assert (swa[0].n_steps, swa[0].seconds, swa[0].seconds_per_step) == (20, 0.04, 0.002)
    (comparison,) = report.comparisons
    header, first, second = comparison.table
    assert first[:2] == ["adam", "65.00 ± 7.07"]
    assert second[:4] == ["swa", "75.00 ± 7.07", "65.00 ± 7.07", "+10.00"]
    assert header[0] == "optimizer" and len(header) == len(second)


def test_incomplete_runs_have_their_states(tmp_path):
    complete = run_records([0.5, 0.6])
    failed = [*complete[:-1], {"type": "error", "error": "too hot", "traceback": None}]
    write_comparison(tmp_path, {"adam": [complete, complete[:-1], failed, None]})
    (group,) = collect([tmp_path]).groups
    assert [(run.state, run.ended_by, run.n_steps) for run in group.runs] == [
        ("complete", "max_steps", 20),
        ("interrupted or running", "", 20),
        ("failed", "too hot", 20),
        ("not started", "", 0),
    ]


def test_a_comparison_without_results_has_all_runs(tmp_path):
    """It was killed."""
    incomplete = run_records([0.5])[:-1]
    write_comparison(tmp_path, {"b": [incomplete] * 2, "a": [incomplete]}, results=False)
    report = collect([tmp_path])
    assert [(group.name, len(group.runs)) for group in report.groups] == [("a", 1), ("b", 2)]
    assert report.comparisons[0].table == []


def test_steps_of_spacy_configs_are_completed_ones(tmp_path):
    """spaCy counts from 0, and sums losses."""
    spacy = '[nlp]\nlang = "en"\n' + ADAM.replace("[optimizer]", "[training.optimizer]")
    records = run_records([0.1, 0.2], config=spacy, reason="other")
    for record, step, loss in zip(records[1:3], [0, 200], [3.0, 400.0], strict=True):
        record.update(step=step, loss=loss)
    records[-1]["n_steps"] = 200
    write_comparison(tmp_path, {"adam": [records]})
    run = only_run(tmp_path)
    assert run.curves.steps == [1, 201] and run.n_steps == 201
    assert run.curves.losses == {"loss": [3.0, 2.0]}
    assert run.rates == [(1, 0.1), (201, 0.1)]
    assert (run.optimizer, run.ended_by) == ("Adam", "max_epochs or patience")


# Several folders


def test_folders_have_the_shortest_names_that_differ(tmp_path):
    folders = [tmp_path / name for name in ("a/output", "b/output", "c")]
    for folder in folders:
        write_training(folder)
    write_comparison(tmp_path / "comparison", {"adam": [run_records([0.5])]})
    folders += [tmp_path / "comparison", tmp_path / "a" / ".." / "c"]
    names = [group.name for group in collect(folders).groups]
    assert names == ["a/output", "b/output", "c", "comparison: adam"]


def test_only_settings_that_differ_are_listed(tmp_path):
    for name, config in (
        ("a", ADAM.format(seed=0, rate=0.1)),
        ("b", SWA.format(seed=0, rate=0.2)),
        ("c", ADAM.format(seed=0, rate=0.1)),
    ):
        write_training(tmp_path / name, config=config)
    found = collect([tmp_path / name for name in "abc"]).differences
    assert found.names == ["a, c", "b"]
    assert found.rows == [
        ("optimizer.@optimizers", ['"Adam.v1"', '"SWA.v1"']),
        ("optimizer.learn_rate", ["0.1", None]),
        ("optimizer.start_step", [None, "20"]),
        ("optimizer.optimizer.@optimizers", [None, '"Adam.v1"']),
        ("optimizer.optimizer.learn_rate", [None, "0.2"]),
    ]


def test_seeds_of_a_comparison_are_no_difference(tmp_path):
    require("scipy")
    entries = {
        name: [run_records([0.5], seed=seed, rate=rate) for seed in range(2)]
        for name, rate in (("fast", 0.2), ("slow", 0.1))
    }
    write_comparison(tmp_path, entries, results=False)
    found = collect([tmp_path]).differences
    assert found.rows == [("optimizer.learn_rate", ["0.2", "0.1"])]
    assert find_differences([]).rows == []


def test_the_nesting_of_optimizers_is_described():
    inner = {"@optimizers": "thinc_swa.Lookahead.v1", "optimizer": {"@optimizers": "mine"}}
    config = {"optimizer": {"@optimizers": "SWA.v1", "optimizer": inner}}
    assert describe_optimizer(config) == "SWA(Lookahead(mine))"
    assert describe_optimizer({"training": {}}) == ""


# Errors


def make_missing(folder):
    pass


def make_file(folder):
    folder.write_text("")


def make_empty(folder):
    folder.mkdir()


def make_other(folder):
    folder.mkdir()
    (folder / "notes.txt").write_text("")


def make_empty_comparison(folder):
    write_comparison(folder, {})


def make_damaged_line(folder):
    write_training(folder)
    with (folder / "log.jsonl").open("a") as file:
        file.write("{}\n")


def make_disorder(folder):
    write_log(folder, [start(), evaluation(20), evaluation(10)])


def make_wrong_value(folder):
    write_log(folder, [start(), evaluation(10, "high")])


def make_missing_value(folder):
    write_log(folder, [start(), {"type": "evaluation", "step": 10}])


def make_infinite_value(folder):
    write_log(folder, [start(), evaluation(10, float("inf"))])


def make_damaged_config(folder):
    write_training(folder, config="[training\n")


def make_damaged_run(folder):
    write_comparison(folder, {"adam": [run_records([0.5, 0.6])[1:]]})


def make_damaged_results(folder):
    write_comparison(folder, {"adam": [run_records([0.5, 0.6])]})
    (folder / "results.json").write_text('{"runs": [3]}')


@pytest.mark.parametrize(
    "make, message",
    [
        (make_missing, "{} does not exist"),
        (make_file, "{} is a file, not a folder"),
        (
            make_empty,
            "{} is empty: give the output folder of a thinc-swa train or of a thinc-swa "
            "compare",
        ),
        (
            make_other,
            "{} has neither a training (log.jsonl) nor a comparison (runs): give the output "
            "folder of a thinc-swa train or of a thinc-swa compare",
        ),
        (make_empty_comparison, "{} has no run yet"),
        (make_damaged_line, "{}/log.jsonl is damaged: line 47 is not a record"),
        (
            make_disorder,
            "{}/log.jsonl is damaged: line 3 (evaluation) has step 10, after step 20",
        ),
        (make_wrong_value, "{}/log.jsonl is damaged: raw is 'high' in line 2"),
        (make_missing_value, "{}/log.jsonl is damaged: no raw in line 2"),
        (make_infinite_value, "{}/log.jsonl is damaged: raw is inf in line 2"),
        (make_damaged_config, "{}/config.cfg is damaged: "),
        (make_damaged_run, "{}/runs/adam/seed-0/log.jsonl is damaged: no start"),
        (
            make_damaged_results,
            "{}/results.json is damaged: run thinc-swa compare again, or move it away",
        ),
    ],
)
def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, make, message):
    folder = tmp_path / "folder"
    make(folder)
    write_training(tmp_path / "other")
    report = collect([folder, tmp_path / "other"])
    (line,) = report.errors
    expected = message.format(folder)
    assert line == expected or (expected.endswith(": ") and line.startswith(expected))
    assert "\n" not in line
    # The others are there.
    assert [group.name for group in report.groups][-1] == "other"


def test_the_data_are_json_without_nan(tmp_path):
    write_training(tmp_path, names=("SWA", "EMA"), scores=["ents_f"])
    data = json.loads(json.dumps(to_data(collect([tmp_path])), allow_nan=False))
    (run,) = data["runs"]
    assert run["raw"] == [0.5, 0.51, 0.52, 0.53]
    assert run["all"] == {"SWA": [0.6, 0.61, 0.62, 0.63], "EMA": [0.7, 0.71, 0.72, 0.73]}
    assert run["losses"]["ner"] == [2.0, 1.0, 0.666667, 0.5]
    assert run["other"] == {"ents_f": [0.25] * 4}
    assert run["rates"][:2] == [[1, 0.001], [2, 0.0005]]
