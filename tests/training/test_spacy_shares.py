"""Shares of the training examples of a spaCy config on several workers."""

import random
from functools import partial

import pytest

from thinc_swa.distributed import run_simulated
from thinc_swa.errors import ResumeError
from thinc_swa.training.spacy_shares import ShareOfBatches
from thinc_swa.training.workers import Workers


class FakeExample:
    def __init__(self, length):
        self.length = length
        self.reference = self
        self.text = str(length)

    def __len__(self):
        return self.length


def read(nlp, n_examples):
    return map(FakeExample, range(n_examples))


def read_and_augment(nlp, n_examples):
    """Some examples twice."""
    for i in range(n_examples):
        yield FakeExample(i)
        if random.random() < 0.5:
            yield FakeExample(1000 + i)


def batch_by_schedule(sizes, examples):
    """As spaCy's batchers: the schedule of sizes goes on from epoch to epoch."""
    examples = list(examples) if isinstance(examples, list) else examples
    batch, size = [], next(sizes)
    for example in examples:
        batch.append(example)
        if len(batch) == size:
            yield batch
            batch, size = [], next(sizes)
    if batch:
        yield batch


def growing():
    size = 1
    while True:
        yield size
        size += 1


def batch_randomly(examples):
    batch, size = [], random.randint(1, 4)
    for example in examples:
        batch.append(example)
        if len(batch) == size:
            yield batch
            batch, size = [], random.randint(1, 4)
    if batch:
        yield batch


BATCHERS = {
    "schedule": lambda: partial(batch_by_schedule, growing()),
    "random": lambda: batch_randomly,
}


def make_shares(communicator, *, n_examples=20, reader=read, batcher="schedule", max_epochs=3):
    return ShareOfBatches(
        None,
        lambda nlp: reader(nlp, n_examples),
        BATCHERS[batcher](),
        max_epochs,
        seed=0,
        workers=Workers(communicator),
    )


def lengths(batches):
    return [(epoch, [len(example) for example in batch]) for epoch, batch in batches]


def in_epoch(shares, epoch):
    """The batches of all workers in an epoch."""
    return [batch for share in shares for found, batch in share if found == epoch]


@pytest.mark.parametrize("batcher", BATCHERS)
@pytest.mark.parametrize("n_workers, n_examples", [(2, 20), (3, 20), (4, 5), (3, 3)])
def test_an_epoch_has_each_example_once(batcher, n_workers, n_examples):
    def work(communicator):
        random.seed(communicator.rank)
        settings = {"n_examples": n_examples, "batcher": batcher}
        return lengths(make_shares(communicator, **settings))

    shares = run_simulated(n_workers, work)
    # Also those whose share has made fewer batches.
    assert len({len(share) for share in shares}) == 1
    orders = []
    for epoch in range(3):
        seen = [length for batch in in_epoch(shares, epoch) for length in batch]
        assert sorted(seen) == list(range(n_examples))
        orders.append(seen)
    assert n_examples < 6 or orders[0] != orders[1] != orders[2]


def test_a_share_that_runs_out_earlier_gets_empty_batches():
    def work(communicator):
        return lengths(make_shares(communicator, n_examples=3, max_epochs=1))

    first, second = run_simulated(2, work)
    assert [len(batch) for _, batch in first] == [1, 1]
    assert [len(batch) for _, batch in second] == [1, 0]


@pytest.mark.parametrize("max_epochs", [2, -1])
def test_examples_are_augmented_alike_on_all_workers(max_epochs):
    def work(communicator):
        # As training steps draw.
        random.seed(communicator.rank)
        shares = make_shares(communicator, reader=read_and_augment, max_epochs=max_epochs)
        found = []
        for epoch, batch in shares:
            if epoch == 2:
                break
            found.append((epoch, batch))
            random.random()
        return lengths(found)

    first, second = run_simulated(2, work)
    for epoch in range(2):
        seen = [length for batch in in_epoch((first, second), epoch) for length in batch]
        assert len(seen) == len(set(seen)) > 22
        assert {length for length in seen if length < 1000} == set(range(20))
    if max_epochs == -1:  # In memory the corpus is read once, as by spaCy.
        epochs = [
            {length for batch in in_epoch((first, second), epoch) for length in batch}
            for epoch in range(2)
        ]
        assert epochs[0] != epochs[1]


def test_a_stream_is_not_shuffled_and_may_be_infinite():
    def work(communicator):
        shares = make_shares(communicator, n_examples=10**12, max_epochs=-1)
        return lengths(next(shares) for _ in range(3))

    first, second = run_simulated(2, work)
    assert first == [(0, [0]), (0, [2, 4]), (0, [6, 8, 10])]
    assert second == [(0, [1]), (0, [3, 5]), (0, [7, 9, 11])]


@pytest.mark.parametrize("reader", [read, read_and_augment])
@pytest.mark.parametrize("batcher", BATCHERS)
@pytest.mark.parametrize("max_epochs", [0, -1])
def test_a_position_continues_anywhere(reader, batcher, max_epochs):
    settings = {"reader": reader, "batcher": batcher, "max_epochs": max_epochs}

    def work(communicator):
        shares = make_shares(communicator, **settings)
        found, positions = [], []
        for _ in range(14):
            # A copy, as a checkpoint has.
            positions.append(dict(shares.position))
            found.append(next(shares))
        for i, position in enumerate(positions):
            # A new process has other random states.
            random.seed(100 * i + communicator.rank)
            resumed = make_shares(communicator, **settings)
            resumed.restore(position)
            others = [next(resumed) for _ in range(14 - i)]
            assert lengths(others) == lengths(found[i:])

    run_simulated(2, work)


def test_other_batches_when_resuming_are_an_error():
    def work(communicator):
        shares = make_shares(communicator)
        next(shares)
        next(shares)
        other = make_shares(communicator, batcher="random")
        other.restore({**shares.position, "n_values": []})
        with pytest.raises(ResumeError, match="gives other batches than when the checkpoint"):
            next(other)

    run_simulated(2, work)


def test_a_stream_cannot_be_resumed_in_memory():
    def work(communicator):
        position = make_shares(communicator, max_epochs=-1).position
        with pytest.raises(ValueError, match="max_epochs = -1 streams the corpus"):
            make_shares(communicator).restore(position)

    run_simulated(2, work)


@pytest.mark.parametrize("max_epochs", [0, -1])
def test_more_workers_than_examples(max_epochs):
    def work(communicator):
        for _ in make_shares(communicator, n_examples=3, max_epochs=max_epochs):
            pass

    with pytest.raises(ValueError, match="4 workers, but only 3 training examples"):
        run_simulated(4, work)


def test_other_examples_on_another_worker():
    def work(communicator):
        make_shares(communicator, n_examples=20 + communicator.rank)

    message = "corpora of the workers differ: rank 0 has '20 examples .*, rank 1 has '21 exam"
    with pytest.raises(ValueError, match=message):
        run_simulated(2, work)


@pytest.mark.parametrize("max_epochs", [0, -1])
def test_epochs_without_batches_are_an_error(max_epochs):
    def work(communicator):
        shares = ShareOfBatches(
            None,
            lambda nlp: read(nlp, 4),
            lambda examples: iter(()),
            max_epochs,
            seed=0,
            workers=Workers(communicator),
        )
        next(shares)

    with pytest.raises(ValueError, match="no batch in epoch 0"):
        run_simulated(2, work)
