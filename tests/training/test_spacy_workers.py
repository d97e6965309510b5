"""Training of spaCy configs on several simulated workers."""

import numpy
import pytest
from helpers import require

require("spacy", "filelock")

import spacy  # noqa: E402
from spacy.tokens import DocBin  # noqa: E402
from spacy.util import registry  # noqa: E402
from spacy_config_cases import COMPOUNDING, half_tagged, make_case, ner  # noqa: E402
from spacy_trainings import (  # noqa: E402
    ADAM,
    StopAt,
    differing,
    results_of,
    train_in_parts,
    train_with_spacy,
    write_half_tagged,
)

from thinc_swa.distributed import SingleWorker, run_simulated  # noqa: E402
from thinc_swa.errors import TrainingWarning  # noqa: E402
from thinc_swa.models.parameters import named_parameters  # noqa: E402
from thinc_swa.training import Callback  # noqa: E402
from thinc_swa.training.spacy_trainer import SpacyTrainer  # noqa: E402
from thinc_swa.training.spacy_training import train_spacy  # noqa: E402

BY_ONE = {"@batchers": "spacy.batch_by_sequence.v1", "size": 1, "get_length": None}


def with_local_sgd(config, *, freq=5, **settings):
    """The config with LocalSGD, and another average around it."""
    config = config.copy()
    local = {"@optimizers": "LocalSGD.v1", "freq": freq, **settings, "optimizer": ADAM}
    config["training"]["optimizer"] = {
        "@optimizers": "SWA.v1",
        "start_step": 2 * freq + settings.get("start_step", 0),
        "freq": freq,
        "optimizer": local,
    }
    return config


def train_on(n_workers, config, **options):
    """The trainers by rank, after the end of the training."""
    return run_simulated(n_workers, lambda c: train_spacy(config, communicator=c, **options))


def weights_of(trainer):
    return {place: p.get().tobytes() for place, _, p in named_parameters(trainer.model)}


class OnAll(Callback):
    """Calls a function after each step of each worker."""

    runs_on_all_workers = True

    def __init__(self, function):
        self.on_step = function


# Weights


@pytest.mark.parametrize("start_step", [0, 10])
def test_weights_are_equal_after_synchronisations(tmp_path, start_step):
    """And before `start_step`, where gradients are averaged."""
    found = {}

    def record(trainer):
        found.setdefault(trainer.state.step, []).append(weights_of(trainer))

    config = with_local_sgd(ner(tmp_path, training__max_steps=20), start_step=start_step)
    train_on(2, config, callbacks=[OnAll(record)])
    for step, (first, second) in found.items():
        is_equal = step <= start_step or step % 5 == 0
        assert (first == second) is is_equal, step


def test_evaluations_are_those_of_rank_0_on_all_workers(tmp_path):
    trainers = train_on(3, with_local_sgd(ner(tmp_path)))
    evaluations = [trainer.state.evaluations for trainer in trainers]
    assert [found.step for found in evaluations[0]] == [1, 11, 21, 31]
    assert evaluations[0] == evaluations[1] == evaluations[2]
    assert evaluations[0][-1].score > 0.5
    assert len({trainer.state.run_id for trainer in trainers}) == 1
    assert {trainer.state.stop_reason for trainer in trainers} == {"max_steps"}


@pytest.mark.parametrize("start_step, n_scored", [(0, [4, 4, 0]), (10**6, [4, 0, 0])])
def test_rank_1_evaluates_its_raw_weights(tmp_path, monkeypatch, start_step, n_scored):
    """While rank 0 evaluates the averages. Without averages rank 0 evaluates its weights."""
    score, scored = SpacyTrainer._score, []

    def record(trainer, corpus):
        found = score(trainer, corpus)
        scored.append((trainer.state.step, trainer.communicator.rank, float(found[0])))
        return found

    monkeypatch.setattr(SpacyTrainer, "_score", record)
    config = ner(tmp_path, training__max_steps=24, training__eval_frequency=8)
    trainers = train_on(3, with_local_sgd(config, start_step=start_step))
    assert [sum(rank == other for _, other, _ in scored) for rank in range(3)] == n_scored
    by_rank = {(step, rank): found for step, rank, found in scored}
    for evaluation in trainers[2].state.evaluations:
        assert evaluation.score == by_rank[evaluation.step, 0]
        assert evaluation.raw == by_rank[evaluation.step, int(start_step == 0)]
    if start_step == 0:
        assert any(found.raw != found.averages for found in trainers[0].state.evaluations)


def test_averages_are_evaluated_and_saved(tmp_path):
    """Here those of a synchronisation."""
    config = with_local_sgd(ner(tmp_path, training__max_steps=9), freq=5)
    first, second = train_on(2, config, output=tmp_path / "output")
    # Step 10 is a synchronisation, and the only snapshot of SWA.
    saved = spacy.load(tmp_path / "output" / "model-last")
    found = {place: p.get().tobytes() for place, _, p in named_parameters(saved)}
    assert found == weights_of(first) == weights_of(second)


def test_losses_and_words_are_sums_over_all_workers(tmp_path):
    losses = []

    def record(trainer):
        losses.append((trainer.state.step, trainer.state.loss))

    settings = {"max_epochs": 2, "max_steps": 0, "eval_frequency": 1}
    settings = {f"training__{name}": value for name, value in settings.items()}
    config = with_local_sgd(ner(tmp_path, **settings))
    first, second = train_on(2, config, callbacks=[OnAll(record)])
    for found in first.state.evaluations:
        expected = [loss for step, loss in losses if step == found.step]
        assert len(expected) == 2
        assert sum(found.losses.values()) == pytest.approx(sum(expected))
        assert found.loss == pytest.approx(numpy.mean(expected))
    n_words = 2 * sum(map(len, first._batches._batches._examples))
    for trainer in (first, second):
        info = trainer.state.extra["infos"][-1]
        assert info["words"] == trainer.state.extra["words"] == n_words
        assert info["losses"].keys() == {"tok2vec", "ner"}


def test_dropout_draws_other_numbers_on_each_worker(tmp_path):
    drawn = {}

    def record(trainer):
        _, numbers, *_ = numpy.random.get_state()
        drawn[trainer.state.step, trainer.communicator.rank] = numbers.tobytes()

    train_on(3, with_local_sgd(ner(tmp_path, training__max_steps=1)), callbacks=[OnAll(record)])
    assert len(drawn) == 6
    for step in (1, 2):
        assert len({drawn[step, rank] for rank in range(3)}) == 3


@pytest.mark.slow
def test_one_worker_is_spacy_train(tmp_path):
    config = with_local_sgd(ner(tmp_path))
    expected = train_with_spacy(config, tmp_path / "spacy")
    calls, _ = train_in_parts(config, tmp_path / "single", communicator=SingleWorker())
    assert calls == expected
    for name in ("model-best", "model-last"):
        assert differing(tmp_path / "spacy" / name, tmp_path / "single" / name) == []


# Data


@pytest.mark.parametrize("start_step", [0, 1000])
def test_a_share_that_runs_out_earlier(tmp_path, start_step):
    """Of three examples rank 0 gets two, and rank 1 gets one."""
    n_examples = []

    def record(trainer):
        n_examples.append((trainer.state.step, trainer.communicator.rank, trainer.state.loss))

    settings = {"corpora__train__limit": 3, "training__batcher": BY_ONE}
    config = ner(tmp_path, training__max_epochs=4, training__max_steps=0, **settings)
    config = with_local_sgd(config, freq=4, start_step=start_step)
    first, second = train_on(2, config, callbacks=[OnAll(record)])
    assert first.state.step == second.state.step == 8
    assert first.state.stop_reason == second.state.stop_reason == "max_epochs"
    for step, rank, loss in n_examples:
        assert (loss == 0) is (rank == 1 and step % 2 == 0), (step, rank)
    assert weights_of(first) == weights_of(second)


@pytest.mark.slow
def test_a_component_without_annotations_on_one_worker(tmp_path):
    """Only one document has tags and entities. It is in the share of one worker."""
    train_path, _ = write_half_tagged(tmp_path)
    nlp = spacy.blank("en")
    first, *others = DocBin().from_disk(train_path).get_docs(nlp.vocab)
    DocBin(docs=[first, *(nlp.make_doc(doc.text) for doc in others)]).to_disk(train_path)
    found, losses = {}, {0: 0.0, 1: 0.0}

    def record(trainer):
        found.setdefault(trainer.state.step, []).append(weights_of(trainer))
        if trainer.state.step == 5:
            losses[trainer.communicator.rank] = trainer.state.losses.get("ner", 0.0)

    for start_step in (0, 1000):
        config = with_local_sgd(half_tagged(tmp_path), start_step=start_step)
        config["training"]["max_steps"] = 19
        train_on(2, config, callbacks=[OnAll(record)])
        # Of the first steps after the evaluation of step 1.
        assert min(losses.values()) == 0.0 < max(losses.values())
        one, other = found[20]
        assert one == other
        for name in ("tagger", "ner"):
            assert any(one[n] != found[1][0][n] for n in one if n.startswith(name))
        found.clear()


@pytest.mark.slow
def test_frozen_components_are_not_exchanged(tmp_path, monkeypatch):
    config = make_case("frozen and annotating", tmp_path / "case", monkeypatch)
    config = with_local_sgd(config, freq=3)
    sent = {}

    def record(trainer):
        communicator, step = trainer.communicator, trainer.state.step
        sent[step, communicator.rank] = communicator.bytes_sent

    config["training"]["max_steps"] = 2
    first, second = train_on(2, config, callbacks=[OnAll(record)])
    trained = [
        parameter.get().size
        for place, _, parameter in named_parameters(first.model)
        if not place.startswith("tagger/")
    ]
    # Two counts per parameter, and two for all.
    for rank in (0, 1):
        n_bytes = sent[3, rank] - sent[2, rank]
        assert n_bytes == 4 * (sum(trained) + 2 * len(trained) + 2)
    tagger = {n: w for n, w in weights_of(first).items() if n.startswith("tagger/")}
    other = {n: w for n, w in weights_of(second).items() if n.startswith("tagger/")}
    assert tagger == other


# Stopping and resuming


def test_patience_stops_all_workers_at_the_same_step(tmp_path):
    settings = {"training__patience": 5, "training__max_steps": 0}
    first, second = train_on(2, with_local_sgd(ner(tmp_path, **settings)))
    assert first.state.step == second.state.step
    assert first.state.stop_reason == second.state.stop_reason == "patience"


RESUMED = {
    "half of the documents tagged": [7, 15],
    "frozen and annotating": [9],
    "stream": [7, 18],
    "random batches": [13],
    "compounding": [23],
    "callbacks": [11],
    "transformer": [5],
}


@pytest.mark.filterwarnings("ignore::UserWarning:spacy")
@pytest.mark.parametrize(
    "name, step",
    [
        pytest.param(
            name, step, marks=[] if (name, step) == ("stream", 7) else pytest.mark.slow
        )
        for name, steps in RESUMED.items()
        for step in steps
    ],
)
def test_resuming_is_bit_identical(tmp_path, monkeypatch, name, step):
    config = make_case(name, tmp_path / "case", monkeypatch)
    config["training"]["max_steps"] = step + 7
    # Half of them with averaged gradients at first.
    start_step = 4 if step % 2 else 0
    config = with_local_sgd(config, freq=4, start_step=start_step, inner_state="pullback")
    whole = train_on(2, config, output=tmp_path / "whole")
    output = tmp_path / "output"
    stopped = train_on(2, config, output=output, callbacks=[StopAt(step)])
    # With the next exchange.
    assert len({trainer.state.step for trainer in stopped}) == 1
    assert step <= stopped[0].state.step <= step + 3
    resumed = train_on(2, config, output=output, resume=True)
    files, records = results_of(output)
    assert any(name.endswith("/rank-1-training.json") for name in files)
    expected_files, expected_records = results_of(tmp_path / "whole")
    assert differing(files, expected_files) == []
    assert records == expected_records
    for one, other in zip(resumed, whole, strict=True):
        assert weights_of(one) == weights_of(other)


def resume_on(n_workers, config, **options):
    with pytest.warns(TrainingWarning, match=f"continues with {n_workers} worker"):
        return train_on(n_workers, config, resume=True, **options)


class Texts(Callback):
    """The texts that all workers train on, by epoch."""

    runs_on_all_workers = True

    def __init__(self):
        self.by_epoch = {}

    def on_start(self, trainer):
        update = trainer._update

        def record(batch, phase):
            epoch = trainer._batches.position["batches"]["epoch"]
            texts = self.by_epoch.setdefault(epoch, [])
            texts += [example.reference.text for example in batch]
            update(batch, phase)

        trainer._update = record


@pytest.mark.parametrize("numbers", [(2, 3), pytest.param((3, 1, 2), marks=pytest.mark.slow)])
def test_an_epoch_has_each_example_once_after_a_change_of_workers(tmp_path, numbers):
    texts = Texts()
    settings = {"corpora__train__limit": 60, "training__eval_frequency": 5}
    for i, n_workers in enumerate(numbers):
        is_last = i + 1 == len(numbers)
        steps = {"training__max_epochs": 2} if is_last else {"training__max_epochs": 0}
        steps["training__max_steps"] = 0 if is_last else 5 * (i + 1)
        config = with_local_sgd(ner(tmp_path, training__batcher=BY_ONE, **settings, **steps))
        start = train_on if i == 0 else resume_on
        trainers = start(n_workers, config, output=tmp_path / "output", callbacks=[texts])
    assert {trainer.state.stop_reason for trainer in trainers} == {"max_epochs"}
    assert sorted(texts.by_epoch) == [0, 1]
    first, second = texts.by_epoch.values()
    assert len(first) == 60
    assert sorted(first) == sorted(second)


@pytest.mark.slow
def test_a_training_with_a_changed_number_of_workers_can_be_resumed(tmp_path):
    """Down to one worker, with an interruption after the change, which changes nothing more."""
    for name, parts in (("one", (25,)), ("two", (15, 25))):
        output = tmp_path / name
        settings = {"training__eval_frequency": 5, "training__batcher": COMPOUNDING}
        config = with_local_sgd(ner(tmp_path, training__max_steps=10, **settings))
        train_on(2, config, output=output)
        for i, n_steps in enumerate(parts):
            config = with_local_sgd(ner(tmp_path, training__max_steps=n_steps, **settings))
            if i == 0:
                resume_on(1, config, output=output)
            else:
                train_on(1, config, output=output, resume=True)
    _, one = results_of(tmp_path / "one")
    _, two = results_of(tmp_path / "two")
    assert one == two


@pytest.mark.slow
def test_trainings_that_cannot_be_resumed_with_another_number_of_workers(tmp_path):
    config = with_local_sgd(ner(tmp_path, training__max_steps=10, training__max_epochs=-1))
    train_on(2, config, output=tmp_path / "streamed")
    with pytest.raises(ValueError, match="--workers was 2 and is 3 now"):
        train_on(3, config, output=tmp_path / "streamed", resume=True)
    config = with_local_sgd(ner(tmp_path, training__max_steps=10))
    train_on(1, config, output=tmp_path / "one")
    with pytest.raises(ValueError, match="--workers was absent and is 2 now"):
        train_on(2, config, output=tmp_path / "one", resume=True)


# Errors


def test_more_workers_than_examples(tmp_path):
    config = with_local_sgd(ner(tmp_path, corpora__train__limit=3))
    with pytest.raises(ValueError, match="4 workers, but only 3 training examples"):
        train_on(4, config)


def test_an_optimizer_without_local_sgd(tmp_path):
    with pytest.raises(ValueError, match="needs an optimizer with one LocalSGD"):
        train_on(2, ner(tmp_path))


def test_a_seed_is_needed(tmp_path):
    config = with_local_sgd(ner(tmp_path, system__seed=None))
    with pytest.raises(ValueError, match=r"needs a seed, .* set \[training\] seed"):
        train_on(2, config)


def test_different_configs(tmp_path):
    config = with_local_sgd(ner(tmp_path))

    def work(communicator):
        mine = config.copy()
        mine["training"]["dropout"] = 0.1 * (communicator.rank + 1)
        train_spacy(mine, output=tmp_path / "output", communicator=communicator)

    message = "configs of the workers differ: rank 0 has 'dropout = 0.1', rank 1 has 'dropout"
    with pytest.raises(ValueError, match=message):
        run_simulated(2, work)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    "what, message",
    [
        ("labels", "labels of the workers differ: rank 0 has 'ner: ADDED, .*, rank 1 has 'ner"),
        ("weights", "initial weights of the workers differ: rank 0 has '"),
    ],
)
def test_different_pipelines(tmp_path, what, message):
    """From code that depends on something besides the config."""
    n_calls = []

    @registry.callbacks("tests.different.v1")
    def make_callback():
        def change(nlp):
            n_calls.append(nlp)
            if len(n_calls) == 1 and what == "labels":
                nlp.get_pipe("ner").add_label("ADDED")
            if len(n_calls) == 1 and what == "weights":
                next(p for _, _, p in named_parameters(nlp)).get()[...] += 1
            return nlp

        return change

    config = with_local_sgd(
        ner(
            tmp_path,
            training__batcher=COMPOUNDING,
            initialize__after_init={"@callbacks": "tests.different.v1"},
        )
    )
    with pytest.raises(ValueError, match=message):
        train_on(2, config)
