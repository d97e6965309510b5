"""Resuming with another number of workers than before."""

import itertools

import numpy
import pytest
from helpers import require
from hypothesis import given
from hypothesis import strategies as st
from output_folders import config_of, results_of
from thinc.api import registry

from thinc_swa.distributed import run_simulated
from thinc_swa.errors import TrainingWarning
from thinc_swa.models.parameters import named_parameters
from thinc_swa.optimizers.base import unwrap
from thinc_swa.training import Trainer, train
from thinc_swa.training.batch_plan import BatchPlan
from thinc_swa.training.training_phases import TrainingPhase, make_spans

require("filelock")

LOCAL_SGD = """
[optimizer]
@optimizers = "LocalSGD.v1"
freq = 4
outer_momentum = 0.5

[optimizer.optimizer]
@optimizers = "Adam.v1"
learn_rate = 0.01
use_averages = false
"""


def local_config(tmp_path, **settings):
    return config_of(tmp_path, optimizer=LOCAL_SGD, eval_frequency=5, **settings)


def train_on(n_workers, config, **options):
    """The trainers by rank, after the end of the training."""
    return run_simulated(n_workers, lambda c: train(config, communicator=c, **options))


def resume_on(n_workers, config, **options):
    """Rank 0 warns, the others warn too: the command line hides theirs."""
    with pytest.warns(TrainingWarning, match=rf"continues with {n_workers} worker"):
        return train_on(n_workers, config, resume=True, **options)


def start_on(n_workers, config, output, monkeypatch):
    """Weights, moments and synchronised weights of all workers by place, when they resume."""
    found = []

    def describe(trainer):
        local_sgd, adam = unwrap(trainer.optimizer)
        found.append(
            {
                place: [
                    array.copy()
                    for array in (
                        parameter.get(),
                        adam.mom1[key],
                        adam.mom2[key],
                        local_sgd._slow[key],
                    )
                ]
                for place, key, parameter in named_parameters(trainer.model)
            }
        )

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", describe)
        train_on(n_workers, config, output=output, resume=True)
    return found


def make_plan(n_examples, batch_size, phases=(), **options):
    return BatchPlan(
        make_spans(phases, 0),
        n_examples={None: n_examples, "other": 2 * n_examples},
        batch_size=batch_size,
        **options,
    )


def find(plan, step):
    batch = next(plan.batches(step))
    return batch.epoch, batch.n_used, batch.start


def test_places_after_a_change():
    # 20 examples, of which two workers have used 2 * 2 * 3 = 12 after three steps.
    plan = make_plan(20, 2, n_workers=2)
    assert find(plan, 3) == (0, 0, 6)
    changed = plan.changed(3, plan.describe(3))
    # Three workers have shares of 3, 3 and 2 of the other 8.
    assert find(changed, 3) == (0, 12, 0)
    assert find(changed, 4) == (0, 12, 2)
    assert find(changed, 5) == (1, 0, 0)
    # Shares of 7 examples are 4 batches.
    assert find(changed, 9) == (2, 0, 0)
    assert changed.count_steps(max_steps=0, max_epochs=2) == 9
    assert changed.describe(4) == {
        "n_steps": 4,
        "index": 0,
        "step": 4,
        "first_epoch": 0,
        "epoch": 0,
        "n_used": 18,
    }


def test_a_change_in_the_middle_of_a_phase():
    phases = [
        TrainingPhase(name="start", steps=1),
        # Begins a second pass, and ends with the third.
        TrainingPhase(name="two passes", epochs=2, batch_size=3),
        TrainingPhase(name="rest", batch_size=1),
    ]
    plan = make_plan(12, 2, phases, n_workers=2)
    assert plan.starts() == [0, 1, 5]
    changed = plan.changed(1, plan.describe(2))
    batches = list(itertools.islice(changed.batches(), 7))
    # 6 examples are left of the second pass, and the third has 12.
    assert [(b.index, b.step, b.epoch, b.n_used + b.start, b.size) for b in batches] == [
        (1, 1, 1, 6, 3),
        (1, 2, 1, 9, 3),
        (1, 3, 2, 0, 3),
        (1, 4, 2, 3, 3),
        (1, 5, 2, 6, 3),
        (1, 6, 2, 9, 3),
        (2, 0, 3, 0, 1),
    ]


LENGTHS = st.one_of(
    st.integers(1, 9).map(lambda n: {"steps": n}),
    st.integers(1, 2).map(lambda n: {"epochs": n}),
)


@given(
    n_examples=st.integers(1, 40),
    batch_size=st.integers(1, 7),
    phases=st.lists(
        st.fixed_dictionaries(
            {
                "length": LENGTHS,
                "batch_size": st.none() | st.integers(1, 5),
                "dataset": st.sampled_from([None, "other"]),
            }
        ),
        max_size=3,
    ),
    parts=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=5),
)
def test_no_example_is_used_twice_in_an_epoch(n_examples, batch_size, phases, parts):
    phases = [
        TrainingPhase(name=str(i), **phase.pop("length"), **phase)
        for i, phase in enumerate(map(dict, phases))
    ]
    used, steps = {}, []
    plan = make_plan(n_examples, batch_size, phases)
    n_steps = 0
    for n_workers, n_more in parts:
        # The number of workers before does not matter at the start.
        plan = plan.changed(n_workers, plan.describe(n_steps) if n_steps else None)
        for batch in itertools.islice(plan.batches(n_steps), n_more):
            dataset = plan.spans[batch.index].phase.dataset
            n_all = n_examples if dataset is None else 2 * n_examples
            assert batch.n_used < n_all
            for rank in range(n_workers):
                share = list(range(n_all))[batch.n_used :][rank::n_workers]
                found = share[batch.start : batch.start + batch.size]
                used.setdefault((batch.epoch, dataset), []).extend(found)
            steps.append((batch.index, batch.step))
        n_steps += n_more
    for examples in used.values():
        assert len(set(examples)) == len(examples)
    # Phases follow each other, with as many steps as they have.
    for before, after in itertools.pairwise(steps):
        assert after in ((before[0], before[1] + 1), (before[0] + 1, 0))
    for index, phase in enumerate(phases):
        if phase.steps is not None and any(found > index for found, _ in steps):
            assert max(step for found, step in steps if found == index) == phase.steps - 1
    if not phases:
        for (epoch, _), examples in used.items():
            if (epoch + 1, None) in used:
                assert sorted(examples) == list(range(n_examples))


def test_workers_begin_with_the_mean_of_the_earlier_ones(tmp_path, monkeypatch):
    config = local_config(tmp_path, max_steps=10)
    train_on(2, config, output=tmp_path / "output")
    first, second = start_on(2, config, tmp_path / "output", monkeypatch)
    with pytest.warns(TrainingWarning, match="with 2 workers, and the training continues"):
        changed = start_on(3, config, tmp_path / "output", monkeypatch)
    assert len(changed) == 3
    # Step 10 is two steps after a synchronisation.
    assert any((first[place][0] != second[place][0]).any() for place in first)
    for place in first:
        for one, other, *found in zip(
            first[place], second[place], *(start[place] for start in changed), strict=True
        ):
            mean = ((one.astype("float64") + other) / 2).astype(one.dtype)
            for array in found:
                numpy.testing.assert_array_equal(array, mean)


@pytest.mark.parametrize("numbers", [(2, 3), (2, 1), (1, 2), (3, 2, 1, 2)])
def test_an_epoch_has_each_example_once(tmp_path, numbers, monkeypatch):
    config = local_config(tmp_path, max_epochs=3, max_steps=0, batch_size=3)
    X, _ = registry.resolve(config)["dataset"][0]
    indices = {row.tobytes(): i for i, row in enumerate(X)}
    used = {}
    next_batch = Trainer._next_batch

    def record(trainer):
        epoch, X, Y = next_batch(trainer)
        used.setdefault(epoch, []).extend(indices[row.tobytes()] for row in X)
        return epoch, X, Y

    monkeypatch.setattr(Trainer, "_next_batch", record)
    *before, last = numbers
    for i, n_workers in enumerate(before):
        config["training"]["max_steps"] = 5 * (i + 1)
        start = train_on if i == 0 else resume_on
        start(n_workers, config, output=tmp_path / "output")
    config["training"]["max_steps"] = 0
    trainers = resume_on(last, config, output=tmp_path / "output")
    assert trainers[0].state.stop_reason == "max_epochs"
    assert sorted(used) == [0, 1, 2]
    for examples in used.values():
        assert sorted(examples) == list(range(len(X)))


def test_a_changed_training_is_reproducible_and_can_be_resumed(tmp_path):
    """With an interruption after the change, which changes nothing more."""
    for name, steps in (("one", (40,)), ("two", (25, 40))):
        train_on(3, local_config(tmp_path, max_steps=15), output=tmp_path / name)
        for i, n_steps in enumerate(steps):
            config = local_config(tmp_path, max_steps=n_steps)
            start = resume_on if i == 0 else lambda n, c, **o: train_on(n, c, resume=True, **o)
            start(2, config, output=tmp_path / name)
    assert results_of(tmp_path / "one") == results_of(tmp_path / "two")
    records, _ = results_of(tmp_path / "one")
    assert records[-1]["step"] == 40 and records[-1]["raw"] > 0.6


def test_other_differences_are_still_errors(tmp_path):
    train_on(2, local_config(tmp_path, max_steps=10), output=tmp_path / "output")
    config = local_config(tmp_path, max_steps=20, batch_size=4)
    with pytest.raises(ValueError, match="training.batch_size was 8 and is 4"):
        train_on(3, config, output=tmp_path / "output", resume=True)
