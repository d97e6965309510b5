"""Batches of a spaCy config on one of several workers.

All workers read the whole corpus, with the same random numbers, and each makes batches from its
own share of the examples. Reading and batching have random states of their own, which follow
from the seed and the epoch: a position is only a number of batches.
"""

import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any

import numpy

from ..errors import ResumeError
from .spacy_data import (
    NO_BATCH,
    OTHER_BATCHES,
    CountedIterator,
    add_to_checksum,
    check_position,
    count_iterators,
    get_generators,
    set_generators,
    take_values,
    torch,
)
from .workers import Workers

# For what random numbers are drawn.
READING, BATCHING = 1, 2


class ShareOfBatches(Iterator[tuple[int, list[Any]]]):
    """Iterator over the epochs and batches of one of several workers.

    In memory, the examples of each epoch are shuffled in the same way on all workers, and
    worker r of N takes every N-th one from the r-th on. A worker that makes fewer batches of
    its share than another gets empty ones at the end of the epoch. Of a stream each worker
    takes every N-th example too, and begins its next pass by itself.

    nlp (Language): The pipeline.
    corpus (Callable): Reader of the training examples.
    batcher (Callable): The batcher.
    max_epochs (int): As for `TrainingBatches`.
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
        self._nlp = nlp
        self._corpus = corpus
        self._counted: list[CountedIterator] = []
        self._batcher = count_iterators(batcher, self._counted)
        self._max_epochs = max_epochs
        self._is_streamed = max_epochs < 0
        self._seed = seed
        self._workers = workers
        self._position = self._new_epoch(0)
        self._is_restored = False
        # The batches of the current epoch, and the random states for making them.
        self._batches: Iterator[list[Any]] = iter(())
        self._batching: _Generators | None = None
        self._examples = [] if self._is_streamed else self._read_all()

    @property
    def position(self) -> dict[str, Any]:
        """Position of this worker as JSON values, which changes with every batch."""
        return self._position

    def _new_epoch(self, epoch: int) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "is_streamed": self._is_streamed,
            "n_batches": 0,
            # Values that the batcher has taken from iterators, such as schedules of sizes.
            "n_values": [counted.n_values for counted in self._counted],
            "checksum": 0,
        }

    def restore(self, position: dict[str, Any]) -> None:
        """Continue from a position of this worker, of an iterator with the same arguments.

        RAISES: ValueError if the position is that of a stream and the corpus is not, or the
            other way round.
        """
        check_position(position, is_streamed=self._is_streamed)
        self._position = position
        self._is_restored = position["n_batches"] > 0

    def __next__(self) -> tuple[int, list[Any]]:
        if self._is_restored:
            self._is_restored = False
            self._read_again()
        while True:
            if self._batching is None:
                self._batching = self._start_epoch()
            batch = self._next_batch(self._batching)
            if batch is not None:
                position = self._position
                position["n_batches"] += 1
                position["checksum"] = add_to_checksum(position["checksum"], batch)
                return position["epoch"], batch
            epoch = self._position["epoch"]
            if not self._position["n_batches"]:
                raise ValueError(NO_BATCH.format(epoch))
            if epoch + 1 == self._max_epochs:
                raise StopIteration
            self._batching = None
            self._position.update(self._new_epoch(epoch + 1))

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
        share = workers.shuffled_share(len(self._examples), seed=self._seed, epoch=epoch)
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
        position = self._position
        take_values(self._counted, position["n_values"])
        self._batching = self._start_epoch()
        checksum = 0
        for _ in range(position["n_batches"]):
            batch = self._next_batch(self._batching)
            checksum = -1 if batch is None else add_to_checksum(checksum, batch)
        if checksum != position["checksum"]:
            raise ResumeError(OTHER_BATCHES)

    def _generators(self, purpose: int, rank: int = 0) -> "_Generators":
        return _Generators(self._seed, self._position["epoch"], purpose, rank)


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
