"""Batches of a spaCy config on one of several workers.

All workers read the whole corpus, with the same random numbers, and each makes batches from its
own share of the examples. Reading and batching have random states of their own, which follow
from the seed and the epoch, so a position needs none.
"""

import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any

import numpy

from .spacy_data import PositionedBatches, get_generators, set_generators, torch
from .workers import Workers

# For what random numbers are drawn.
READING, BATCHING = 1, 2


class ShareOfBatches(PositionedBatches):
    """Iterator over the epochs and batches of one of several workers.

    In memory, the examples of each epoch are shuffled in the same way on all workers, and
    worker r of N takes every N-th one from the r-th on. A worker that makes fewer batches of
    its share than another gets empty ones at the end of the epoch. Of a stream each worker
    takes every N-th example too, and begins its next pass by itself.

    The first arguments are those of `PositionedBatches`.

    seed (int): The seed of the training.
    workers (Workers): The workers, which all make such an iterator.
    RAISES: ValueError if there are more workers than examples, or if the workers have other
        examples.
    """

    def __init__(
        self,
        nlp: Any,
        corpus: Callable[[Any], Iterable[Any]],
        batcher: Callable[[Iterable[Any]], Iterable[list[Any]]],
        max_epochs: int,
        *,
        seed: int,
        workers: Workers,
    ) -> None:
        super().__init__(nlp, corpus, batcher, max_epochs)
        self._seed = seed
        self._workers = workers
        # The batches of the current epoch, and the random states for making them.
        self._batches: Iterator[list[Any]] = iter(())
        self._batching: _Generators | None = None
        self._examples = [] if self._is_streamed else self._read_all()
        self._indices = {id(example): i for i, example in enumerate(self._examples)}

    def __next__(self) -> tuple[int, list[Any]]:
        if self._is_restored:
            self._is_restored = False
            self._read_again()
        while True:
            if self._batching is None:
                self._batching = self._start_epoch()
            batch = self._next_batch(self._batching)
            if batch is not None:
                self._count(batch)
                self._note_used(batch)
                return self._position["epoch"], batch
            if not self._end_epoch():
                raise StopIteration
            self._batching = None

    def _new_epoch(self, epoch: int) -> dict[str, Any]:
        # Indices of the examples in the batches so far, and of those that another number of
        # workers has used in this epoch. Not of streams.
        return {**super()._new_epoch(epoch), "used": [], "used_before": []}

    def _note_used(self, batch: list[Any]) -> None:
        found = (self._indices.get(id(example)) for example in batch)
        # A batcher may make examples of its own.
        self._position["used"] += [index for index in found if index is not None]

    def restore(self, position: dict[str, Any]) -> None:
        super().restore(position)
        self._is_restored = self._is_restored or bool(position["used_before"])

    def _end_epoch(self) -> bool:
        if self._position["used_before"]:
            # There were batches before the number of workers has changed.
            self._position["n_batches"] = max(1, self._position["n_batches"])
        return super()._end_epoch()

    def _read_all(self) -> list[Any]:
        with self._generators(READING).active():
            examples = list(self._corpus(self._nlp))
        self._workers.check_equal("training corpora", lambda: _describe(examples))
        self._workers.check_examples(len(examples))
        return examples

    def _start_epoch(self) -> "_Generators":
        workers, epoch = self._workers, self._position["epoch"]
        batching = self._generators(BATCHING, workers.rank)
        if self._is_streamed:
            with batching.active():
                self._batches = iter(self._batcher(self._read_share()))
            return batching
        share = workers.shuffled_share(
            len(self._examples),
            seed=self._seed,
            epoch=epoch,
            used=self._position["used_before"],
        )
        batches: list[list[Any]] = []
        if len(share):
            with batching.active():
                batches = list(self._batcher([self._examples[i] for i in share]))
        counts = workers.communicator.all_gather(numpy.array([len(batches)]))
        n_missing = max(int(count[0]) for count in counts) - len(batches)
        self._batches = iter([*batches, *([] for _ in range(n_missing))])
        return batching

    def _next_batch(self, batching: "_Generators") -> list[Any] | None:
        with batching.active() if self._is_streamed else nullcontext():
            return next(self._batches, None)

    def _read_share(self) -> Iterator[Any]:
        """This worker's share of the stream."""
        rank, size = self._workers.rank, self._workers.size
        reading = self._generators(READING)
        with reading.active():
            examples = iter(self._corpus(self._nlp))
        n_examples = 0
        while True:
            with reading.active():
                group = list(islice(examples, size))
            n_examples += len(group)
            if rank < len(group):
                yield group[rank]
            if len(group) < size:
                break
        self._workers.check_examples(n_examples)

    def _read_again(self) -> None:
        """Read the data of the current epoch up to the position.

        RAISES: ResumeError if the data differ from those of the first time.
        """
        self._take_values()
        self._batching = batching = self._start_epoch()
        self._check_again(lambda number: self._next_batch(batching))

    def _generators(self, purpose: int, rank: int = 0) -> "_Generators":
        return _Generators(self._seed, self._position["epoch"], purpose, rank)


def can_divide(position: dict[str, Any]) -> bool:
    """Whether `divide` can be used with a position: that of `ShareOfBatches` in memory."""
    return "used_before" in position and not position["is_streamed"]


def divide(positions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The position of another number of workers, which continue with the examples of the epoch
    that are left.

    positions (Sequence[dict[str, Any]]): Positions of all workers so far, by rank.
    """
    first = positions[0]
    used = {index for position in positions for index in position["used"]}
    return {
        **first,
        "n_batches": 0,
        "checksum": 0,
        # Schedules of sizes give a value for each batch.
        "n_values": [n_values + first["n_batches"] for n_values in first["n_values"]],
        "used": [],
        "used_before": sorted(used.union(first["used_before"])),
    }


class _Generators:
    """Random states of their own for functions that draw from the global generators.

    entropy (int): Numbers of which the states are made.
    """

    def __init__(self, *entropy: int) -> None:
        seed = int(numpy.random.SeedSequence(entropy).generate_state(1)[0])
        self._states: dict[str, Any] = {
            "python": random.Random(seed).getstate(),
            "numpy": numpy.random.RandomState(seed).get_state(legacy=True),
        }
        if torch is not None:
            self._states["torch"] = torch.Generator().manual_seed(seed).get_state()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Context manager in which these are the states of the global generators."""
        others = get_generators()
        set_generators(self._states)
        try:
            yield
        finally:
            self._states = get_generators()
            set_generators(others)


def _describe(examples: list[Any]) -> str:
    checksum = 0
    for example in examples:
        text = example.reference.text.encode("utf8", "surrogatepass")
        checksum = zlib.crc32(text, checksum)
    return f"{len(examples)} examples with the checksum {checksum:08x}"
