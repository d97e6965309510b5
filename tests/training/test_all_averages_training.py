"""Trainings with several averages, and averages that start at a plateau of the scores."""

import io
from contextlib import suppress

import numpy
import pytest
from helpers import require
from output_folders import config_of, content_of, load_model
from thinc.api import SGD, Adam, Model
from tiny import assert_same, make_model, make_trainer, weights_of

from thinc_swa import EMA, LAWA, SWA, Lookahead
from thinc_swa.training.callbacks import Callback, ScoreTable, model_names
from thinc_swa.training.evaluation import evaluated_averages, passive_names
from thinc_swa.training.logs import read_log
from thinc_swa.training.trainer import Trainer, train

require("filelock")

ADAM = {"@optimizers": "Adam.v1", "learn_rate": 0.01, "use_averages": False}


def nested(*wrappers, innermost=ADAM):
    """Section of nested optimizers, the outermost first."""
    section = innermost
    for name, arguments in reversed(wrappers):
        section = {"@optimizers": f"{name}.v1", **arguments, "optimizer": section}
    return section


SWA_EMA_LAWA = nested(
    ("SWA", {"start_step": 35, "freq": 3}), ("EMA", {}), ("LAWA", {"window": 2, "freq": 5})
)
PLATEAU = nested(("SWA", {"start_step": "plateau", "plateau_evals": 1, "freq": 2}))


def make_config(folder, optimizer, **settings):
    config = config_of(folder, **settings)
    config["optimizer"] = optimizer
    return config


def evaluations_of(optimizer, **settings):
    trainer = make_trainer(optimizer, max_steps=60, **settings)
    trainer.run()
    return trainer.state.evaluations


def adam():
    return Adam(0.01, use_averages=False)


def test_every_average_has_the_scores_of_a_training_of_its_own():
    makers = {
        "SWA": lambda optimizer: SWA(optimizer, start_step=30, freq=3),
        "EMA": EMA,
        "LAWA": lambda optimizer: LAWA(optimizer, window=2, freq=5),
    }
    optimizer = adam()
    for make in reversed(makers.values()):
        optimizer = make(optimizer)
    together = evaluations_of(optimizer, score="loss")
    for name, make in makers.items():
        alone = evaluations_of(make(adam()), score="loss")
        assert [e.all_averages.get(name) for e in together] == [e.averages for e in alone]
        assert [e.raw for e in together] == [e.raw for e in alone]
    assert [list(e.all_averages) for e in together] == [["EMA", "LAWA"]] * 2 + [[*makers]] * 4
    assert [e.averages for e in together] == [
        next(iter(e.all_averages.values())) for e in together
    ]
    assert len({e for found in together for e in found.all_averages.values()}) > 10


def test_slow_weights_inside_an_average_are_not_evaluated():
    """As their optimizer changes the training, they are not an alternative to it."""
    found = evaluations_of(SWA(Lookahead(adam(), freq=2), start_step=25))
    assert [list(e.all_averages) for e in found] == [["Lookahead"]] * 2 + [["SWA"]] * 4


def test_averages_of_thinc_are_used_until_others_drop_them():
    found = evaluations_of(SWA(Adam(0.01, use_averages=True), start_step=25))
    assert [list(e.all_averages) for e in found] == [["use_averages"]] * 2 + [["SWA"]] * 4
    assert evaluated_averages(SGD(0.1, use_averages=False)) == {}


def test_averages_never_change_a_training_with_layers_that_draw_random_numbers():
    def forward(model, X, is_train):
        return X + 0.1 * numpy.random.normal(size=X.shape).astype("f"), lambda dX: dX

    from thinc.api import Relu, Softmax, chain

    scores = []
    for make in (lambda: adam(), lambda: EMA(adam()), lambda: LAWA(EMA(adam()), freq=3)):
        model = chain(Model("noise", forward), Relu(8), Softmax())
        scores.append([e.raw for e in evaluations_of(make(), model=model, score="loss")])
    assert scores[0] == scores[1] == scores[2]
    assert len(set(scores[0])) == 6


def test_the_score_table_has_a_column_for_each_further_average():
    file = io.StringIO()
    evaluations_of(
        SWA(EMA(EMA(adam(), sigma_rel=0.05)), start_step=45), callbacks=[ScoreTable(file)]
    )
    header, *rows = file.getvalue().splitlines()
    titles = ["EMA(sigma_rel=0.1)", "EMA(sigma_rel=0.05)"]
    assert header.endswith(f"  raw  averages  {titles[0]}  {titles[1]}")
    rows = [row.removesuffix("  best") for row in rows]
    assert {len(row) for row in rows} == {len(header)} and len(rows) == 6
    # Until SWA has started, the averages are those of the EMA inside it.
    assert rows[0].split()[-3] == rows[0].split()[-2]


def test_the_log_has_the_scores_of_all_averages(tmp_path):
    trainer = train(make_config(tmp_path, SWA_EMA_LAWA), output=tmp_path / "output")
    records = [
        record["all_averages"]
        for record in read_log(tmp_path / "output" / "log.jsonl")
        if record["type"] == "evaluation"
    ]
    assert records == [found.all_averages for found in trainer.state.evaluations]
    assert list(records[-1]) == ["SWA", "EMA", "LAWA"]


def test_unknown_names_of_averages_are_an_error():
    trainer = make_trainer(EMA(adam()))
    with pytest.raises(ValueError, match=r"no averages 'SWA': the names are \['EMA', "):
        with trainer.use_averages("SWA"):
            pass


# Models of each average


def test_a_model_with_each_of_the_averages_is_saved(tmp_path):
    config = make_config(tmp_path, SWA_EMA_LAWA, score="loss")
    output = tmp_path / "output"
    trainer = train(config, output=output, save_all=True)
    saved = {path.name for path in output.glob("model-*")}
    names = {"SWA": "swa", "EMA": "ema", "LAWA": "lawa"}
    assert saved == {"model-best", "model-last"} | {
        f"model-{which}-{name}" for which in ("best", "last") for name in names.values()
    }
    for name, suffix in names.items():
        scores = [e.all_averages.get(name, -numpy.inf) for e in trainer.state.evaluations]
        other, model = load_model(config, output / f"model-last-{suffix}")
        assert other._score() == scores[-1]
        with trainer.use_averages(name):
            assert_same(weights_of(model), weights_of(trainer.model))
        other, _ = load_model(config, output / f"model-best-{suffix}")
        assert other._score() == max(scores)
    # The averages are different ones.
    assert len({(output / f"model-last-{name}").read_bytes() for name in names.values()}) == 3
    assert (output / "model-last-swa").read_bytes() == (output / "model-last").read_bytes()


@pytest.mark.parametrize(
    "step", [33, *(pytest.param(step, marks=pytest.mark.slow) for step in (15, 45, 65, 75))]
)
@pytest.mark.parametrize("optimizer", [SWA_EMA_LAWA, PLATEAU], ids=["three", "plateau"])
def test_resuming_gives_the_same_averages(tmp_path, step, optimizer):
    config = make_config(tmp_path, optimizer, max_steps=100)
    whole = train(config, output=tmp_path / "whole", save_all=True)
    if optimizer is PLATEAU:
        assert whole.optimizer.start_step == 70

    class Stop(Callback):
        def on_step(self, trainer):
            if trainer.state.step == step:
                raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        train(config, output=tmp_path / "cut", save_all=True, callbacks=[Stop()])
    train(config, output=tmp_path / "cut", save_all=True, resume=True)
    assert models_of(tmp_path / "cut") == models_of(tmp_path / "whole")
    evaluations = [
        [
            {name: value for name, value in record.items() if name != "seconds"}
            for record in read_log(tmp_path / folder / "log.jsonl")
            if record["type"] in ("step", "evaluation")
        ]
        for folder in ("cut", "whole")
    ]
    assert evaluations[0] == evaluations[1]


def models_of(folder):
    models = {path.name: path.read_bytes() for path in folder.glob("model-*")}
    assert len(models) > 2
    return models


def test_overwriting_deletes_the_models_of_earlier_averages(tmp_path):
    config = make_config(tmp_path, SWA_EMA_LAWA)
    output = tmp_path / "output"
    train(config, output=output, save_all=True)
    (output / "model-best-mine").write_text("mine")
    other = make_config(tmp_path, nested(("EMA", {})))
    train(other, output=output, save_all=True, overwrite=True)
    assert {path.name for path in output.glob("model-*-*")} == {
        "model-best-ema",
        "model-best-mine",
        "model-last-ema",
    }


def test_foreign_files_with_the_names_of_models_are_kept(tmp_path):
    output = tmp_path / "output"
    config = make_config(tmp_path, nested(("EMA", {})), max_steps=10)
    for settings in ({}, {"overwrite": True}, {"resume": True}):
        output.mkdir(exist_ok=True)
        (output / "model-last-ema").write_text("mine")
        before = content_of(output)
        with pytest.raises(FileExistsError, match="contains model-last-ema, which thinc-swa"):
            train(config, output=output, save_all=True, **settings)
        assert content_of(output) == before
        (output / "model-last-ema").unlink()
        train(config, output=output, overwrite=True)


class Ema(EMA):
    __slots__ = []


def test_names_of_models_are_valid_and_differ():
    names = model_names(EMA(EMA(EMA(EMA(adam()), sigma_rel=0.05)), sigma_rel=0.2))
    assert len(set(names.values())) == len(names) == 5
    assert all(
        set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-.") for name in names.values()
    )
    # On a file system that ignores case these would be one file.
    names = model_names(EMA(Ema(adam()))).values()
    assert len({name.lower() for name in names}) == 3


def test_passive_names_are_those_of_averages_that_do_not_change_the_training():
    optimizer = SWA(LAWA(EMA(Lookahead(adam()), overwrite_freq=5)), start_step=5)
    assert passive_names(optimizer) == ["SWA", "LAWA"]


# Start at a plateau


def test_a_plateau_of_the_raw_scores_starts_averaging(tmp_path):
    trainer = Trainer.from_config(make_config(tmp_path, PLATEAU, max_steps=200))
    trainer.run()
    found = trainer.state.evaluations
    raw = [e.raw for e in found]
    start = next(i for i, score in enumerate(raw) if i > 1 and score < max(raw[: i - 1]))
    assert 1 < start < len(found) - 1
    assert [e.averages is None for e in found] == [i < start for i in range(len(found))]
    # The weights at the start are the first snapshot.
    assert found[start].averages == found[start].raw and found[start].n_averaged == 1
    assert trainer.optimizer.start_step == found[start].step
    assert found[start + 1].n_averaged == 6


def test_a_plateau_with_losses_as_scores_is_one_of_lower_scores():
    optimizer = SWA(Adam(0.0, use_averages=False), start_step="plateau", plateau_evals=1)
    trainer = make_trainer(optimizer, score="loss", max_steps=50, model=make_model())
    scores = iter([-3.0, -2.0, -1.0, -1.5, -2.5])
    trainer._score = lambda: next(scores, -2.5)
    trainer.run()
    # -1.5 is better than -2.0; -2.5 is worse than -1.0.
    assert optimizer.start_step == 50
