"""Training phases of spaCy configs, against loops that are written out."""

import random

import numpy
import pytest
from helpers import require

require("spacy", "filelock")

import spacy  # noqa: E402
from spacy.training.initialize import init_nlp  # noqa: E402
from spacy.util import registry, resolve_dot_names  # noqa: E402
from spacy_config_cases import COMPOUNDING, ner  # noqa: E402
from spacy_trainings import (  # noqa: E402
    ADAM,
    StopAt,
    results_of,
    train_in_parts,
    train_with_spacy,
)
from thinc.api import fix_random_seed  # noqa: E402

from thinc_swa import register_parameter_paths  # noqa: E402
from thinc_swa.distributed import run_simulated  # noqa: E402
from thinc_swa.models.parameters import named_parameters  # noqa: E402
from thinc_swa.training import (  # noqa: E402
    Callback,
    SpacyTrainer,
    load_checkpoint,
    save_checkpoint,
)
from thinc_swa.training.spacy_training import train_spacy  # noqa: E402

BY_ONE = {"@batchers": "spacy.batch_by_sequence.v1", "size": 1, "get_length": None}
# Parameters of the tok2vec, and all others.
GROUPS = {
    "@optimizers": "ParamGroups.v1",
    "groups": [{"name": "tok2vec", "params": ["tok2vec/*"]}],
    "optimizer": ADAM,
}
STARTED = {"@optimizers": "SWA.v1", "start_step": "phase", "freq": 2, "optimizer": GROUPS}
PHASES = {
    "single": {"steps": 0.2, "batcher": BY_ONE, "dropout": 0.0},
    "short": {"epochs": 1, "train_corpus": "corpora.short", "frozen": ["tok2vec"]},
    "average": {"start_swa": True, "dropout": 0.3},
}


def phased(folder, phases, **settings):
    settings = {"training__batcher": COMPOUNDING, "training__optimizer": STARTED, **settings}
    config = ner(folder, **settings)
    config["corpora"]["short"] = {**config["corpora"]["train"], "limit": 10}
    config["thinc_swa"] = {"phases": {"*": phases} if isinstance(phases, dict) else phases}
    return config


class Watch(Callback):
    """Notes the phase of every step and the number of words."""

    def __init__(self):
        self.phases, self.epochs = [], []

    def on_step(self, trainer):
        self.phases.append(trainer.phase)
        self.epochs.append(trainer.state.epoch)


def weights_of(nlp):
    return [parameter.get().copy() for _, _, parameter in named_parameters(nlp)]


def make_batches(nlp, corpus, batcher):
    """Batches of endless epochs, as spaCy's `create_train_batches`."""
    examples = list(corpus(nlp))
    while True:
        random.shuffle(examples)
        yield from ((False, batch) for batch in batcher(examples))
        yield True, None


def test_phases_equal_a_manual_spacy_loop(tmp_path):
    config = phased(tmp_path, PHASES)
    watch = Watch()
    trainer = train_spacy(config, callbacks=[watch])

    nlp = init_nlp(config)
    settings = nlp.config.interpolate()
    fix_random_seed(settings["training"]["seed"])
    optimizer = registry.resolve({"optimizer": ADAM})["optimizer"]
    register_parameter_paths(nlp)
    tok2vec = {node.id for node in nlp.get_pipe("tok2vec").model.walk()}
    train, short = resolve_dot_names(settings, ["corpora.train", "corpora.short"])

    def resolve(section):
        return registry.resolve({"batcher": section})["batcher"]

    def without_tok2vec(key, weights, gradient):
        if key[0] in tok2vec:
            gradient[...] = 0.0
            return weights, gradient
        return optimizer(key, weights, gradient)

    parts = [
        (6, make_batches(nlp, train, resolve(BY_ONE)), 0.0, optimizer),
        (None, make_batches(nlp, short, resolve(COMPOUNDING)), 0.1, without_tok2vec),
        (100, make_batches(nlp, train, resolve(COMPOUNDING)), 0.3, optimizer),
    ]
    step, snapshots, n_steps, started = 0, [], [], None
    for number, (limit, batches, dropout, update) in enumerate(parts):
        first = step
        if number == 2:
            started = step
            snapshots.append(weights_of(nlp))
        while step - first != limit and step < 31:
            is_end, batch = next(batches)
            if is_end:
                if limit is None:
                    break
                continue
            # As spaCy, also without accumulated gradients.
            batch.sort(key=lambda example: len(example.predicted))
            nlp.update(batch, drop=dropout, losses={}, sgd=False)
            for _, component in nlp.pipeline:
                component.finish_update(update)
            optimizer.step_schedules()
            step += 1
            if started is not None and (step - started) % 2 == 0:
                snapshots.append(weights_of(nlp))
        n_steps.append(step - first)
    assert (
        watch.phases
        == ["single"] * n_steps[0] + ["short"] * n_steps[1] + ["average"] * n_steps[2]
    )
    assert watch.epochs[: sum(n_steps[:2]) + 1] == [0] * n_steps[0] + [1] * n_steps[1] + [2]
    for found, weights in zip(weights_of(trainer.model), weights_of(nlp), strict=True):
        numpy.testing.assert_array_equal(found, weights)
    assert trainer.optimizer.n_averaged == len(snapshots)
    with trainer.use_averages():
        averages = weights_of(trainer.model)
    for found, weights in zip(averages, zip(*snapshots, strict=True), strict=True):
        numpy.testing.assert_allclose(found, numpy.mean(weights, axis=0), rtol=1e-4, atol=1e-6)


def assert_same_weights(one, other):
    for first, second in zip(weights_of(one), weights_of(other), strict=True):
        numpy.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "step",
    [pytest.param(5, marks=pytest.mark.slow), 6, pytest.param(8, marks=pytest.mark.slow)],
)
def test_a_checkpoint_in_a_phase_is_continued_bit_for_bit(tmp_path, step):
    config = phased(tmp_path, PHASES)
    whole = train_spacy(config)
    first = train_spacy(config, callbacks=[StopAt(step)])
    (tmp_path / "checkpoints").mkdir()
    save_checkpoint(tmp_path / "checkpoints", first)
    second = SpacyTrainer(config)
    load_checkpoint(first.state.checkpoint, second)
    second.run()
    assert second.state.step == 31
    assert_same_weights(second.model, whole.model)
    with second.use_averages(), whole.use_averages():
        assert_same_weights(second.model, whole.model)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [(6,), (5, 9), (1, 7, 30)])
def test_resuming_is_bit_identical_in_every_phase(tmp_path, steps):
    config = phased(tmp_path, PHASES)
    train_in_parts(config, tmp_path / "whole")
    _, trainer = train_in_parts(config, tmp_path / "output", *steps)
    assert trainer.state.step == 31
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_spacy_train_ignores_phases(tmp_path):
    """Their corpora are read from the config, but not used."""
    phases = {name: dict(settings) for name, settings in PHASES.items()}
    del phases["average"]["start_swa"]
    swa = {**STARTED, "start_step": 10}
    config = phased(tmp_path, phases, training__optimizer=swa)
    config["initialize"]["after_init"] = {"@callbacks": "thinc_swa.register_parameter_paths.v1"}
    train_with_spacy(config, tmp_path / "spacy")
    del config["thinc_swa"]
    train_with_spacy(config, tmp_path / "without")
    weights = [
        weights_of(spacy.load(tmp_path / name / "model-last")) for name in ("spacy", "without")
    ]
    for one, other in zip(*weights, strict=True):
        numpy.testing.assert_array_equal(one, other)


def test_spacy_train_cannot_wait_for_a_phase(tmp_path):
    config = phased(tmp_path, PHASES)
    with pytest.raises(ValueError, match="needs a training phase with start_swa = true"):
        train_with_spacy(config, tmp_path / "spacy")


@pytest.mark.slow
def test_phases_without_settings_change_nothing(tmp_path):
    phases = {"one": {"steps": 7}, "two": {"steps": 0.3}, "three": {}}
    config = phased(tmp_path, phases, training__optimizer=ADAM)
    train_in_parts(config, tmp_path / "phases")
    del config["thinc_swa"]
    train_in_parts(config, tmp_path / "without")
    found, steps = results_of(tmp_path / "phases")
    expected, expected_steps = results_of(tmp_path / "without")
    assert steps == expected_steps
    models = [name for name in found if "model-" in name and "config" not in name]
    assert models
    assert [name for name in models if found[name] != expected[name]] == []


@pytest.mark.slow
def test_a_streamed_corpus_with_phases_resumes(tmp_path):
    phases = {"one": {"epochs": 2, "train_corpus": "corpora.short"}, "two": {"batcher": BY_ONE}}
    config = phased(
        tmp_path,
        phases,
        training__optimizer=ADAM,
        training__max_epochs=-1,
        initialize__components__ner={"labels": None},
    )
    train_in_parts(config, tmp_path / "whole")
    _, trainer = train_in_parts(config, tmp_path / "output", 2, 20)
    assert trainer.phase == "two"
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_max_epochs_ends_phases(tmp_path):
    phases = {"one": {"epochs": 1, "train_corpus": "corpora.short"}, "two": {"steps": 2}}
    config = phased(
        tmp_path,
        phases,
        training__optimizer=ADAM,
        training__max_epochs=2,
        training__max_steps=0,
    )
    watch = Watch()
    trainer = train_spacy(config, callbacks=[watch])
    assert trainer.state.stop_reason == "max_epochs"
    assert sorted(set(watch.epochs)) == [0, 1]
    assert watch.phases.count("two") == 2 and watch.phases[-1] is None


@pytest.mark.parametrize(
    "phases, message",
    [
        ({"a": {"steps": 31}}, "must not be longer than the training, but have 31 steps"),
        ({"a": {"epochs": 3}}, "but have 3 epochs in total, and the training has 2"),
        ({"a": {"epochs": 2}, "b": {}}, "'b' never begins: the phases before it have 2 epochs"),
        (
            {"a": {"train_corpus": "corpora.none"}},
            r"no section \[corpora.none\]: there are \['corpora.train', 'corpora.dev', 'corp",
        ),
        (
            {"a": {"batch_size": 3}},
            r"\[thinc_swa.phases.a\] has the unknown settings \['batch_size'\]",
        ),
        ({"a": {"frozen": ["x"]}}, r"had 'x': there are \['tok2vec'\]"),
        ({"a": {"start_swa": True, "dropout": 2}}, "dropout of phase 'a' must be"),
        ({"a": {}}, 'start_step = "phase" of SWA needs a training phase'),
        (3, r"\[thinc_swa.phases\] must have a section for each phase, but was 3"),
    ],
)
def test_invalid_phases_are_errors(tmp_path, phases, message):
    config = phased(tmp_path, phases, training__max_epochs=2)
    with pytest.raises(ValueError, match=message) as error:
        train_spacy(config)
    assert "\n" not in str(error.value)


def test_phases_in_the_section_training_are_an_error(tmp_path):
    config = phased(tmp_path, {})
    config["training"]["phases"] = PHASES
    with pytest.raises(
        ValueError, match=r"phases is in \[training\], but belongs in the section"
    ):
        train_spacy(config)


def test_phases_on_several_workers(tmp_path):
    local = {"@optimizers": "LocalSGD.v1", "freq": 5, "optimizer": GROUPS}
    swa = {"@optimizers": "SWA.v1", "start_step": "phase", "freq": 5, "optimizer": local}
    phases = {
        "frozen": {"steps": 10, "frozen": ["tok2vec"], "dropout": 0.0},
        "average": {"start_swa": True},
    }
    config = phased(tmp_path, phases, training__optimizer=swa)
    first, second = run_simulated(2, lambda c: train_spacy(config, communicator=c))
    assert first.optimizer.n_averaged == second.optimizer.n_averaged == 5
    with pytest.raises(ValueError, match="use steps, and one corpus"):
        config = phased(tmp_path, PHASES, training__optimizer=swa)
        run_simulated(2, lambda c: train_spacy(config, communicator=c))
