"""Batches of a spaCy config, with a position that can be saved and restored.

spaCy's readers, augmenters and batchers are generators, and draw from the random generators
that the training uses too. A position therefore contains the order of the examples in the
current epoch, the number of its batches so far, and the random states at those reads that have
drawn random numbers. Restoring it reads the data of the current epoch again, up to the
position.
"""

import base64
import random
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from io import IOBase
from itertools import islice
from types import FunctionType
from typing import Any

import numpy
import thinc.compat

from ..errors import ResumeError
from .checkpoints import get_random_state, keeping_random_state, set_random_state

torch: Any = thinc.compat.torch

# Levels of partials and closures in which iterators of a batcher are searched.
MAX_DEPTH = 4
# Words of Python's generator that a training step may draw for its state before a read to be
# stored as their number.
MAX_WORDS = 4 * 624
ADVICE = "Use --overwrite to train from the beginning"


class PositionedBatches(Iterator[tuple[int, list[Any]]]):
    """Base class for iterators over the epochs and batches of a training, with a position that
    can be saved and restored.

    nlp (Language): The pipeline.
    corpus (Callable): Reader of the training examples.
    batcher (Callable): The batcher.
    max_epochs (int): Number of epochs; 0 for no limit, -1 for no limit and a streamed corpus,
        which is neither kept in memory nor shuffled.
    n_epochs (int | None): Number of epochs; 0 for no limit. By default `max_epochs`.
    """

    def __init__(
        self,
        nlp: Any,
        corpus: Callable[[Any], Iterable[Any]],
        batcher: Callable[[Iterable[Any]], Iterable[list[Any]]],
        max_epochs: int,
        *,
        n_epochs: int | None = None,
    ) -> None:
        self._nlp = nlp
        self._corpus = corpus
        self._counted: list[_CountedIterator] = []
        self._batcher = _count_iterators(batcher, self._counted)
        self._n_epochs = max_epochs if n_epochs is None else n_epochs
        self._is_streamed = max_epochs < 0
        self._is_restored = False
        self._position = self._new_epoch(0)

    @property
    def position(self) -> dict[str, Any]:
        """Position in the data as JSON values, which changes with every batch."""
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
        """Continue from a position, of an iterator with the same arguments.

        RAISES: ValueError if the position is that of a stream and the corpus is not, or the
            other way round.
        """
        if position["is_streamed"] != self._is_streamed:
            raise ValueError(
                "max_epochs = -1 streams the corpus, other values keep it in memory: a "
                f"training cannot be resumed with the other. {ADVICE}"
            )
        self._position = position
        self._is_restored = position["n_batches"] > 0

    def _count(self, batch: list[Any]) -> None:
        """Add a batch to the position."""
        self._position["n_batches"] += 1
        self._position["checksum"] = _add_to_checksum(self._position["checksum"], batch)

    def _take_values(self) -> None:
        """Take as many values from the iterators of the batcher as before the current epoch.

        RAISES: ResumeError if there are other iterators than then.
        """
        n_values = self._position["n_values"]
        if len(n_values) != len(self._counted):
            raise ResumeError(f"[training.batcher] has other schedules than before. {ADVICE}")
        for counted, n in zip(self._counted, n_values, strict=True):
            for _ in islice(counted, n):
                pass

    def _check_again(self, read: Callable[[int], list[Any] | None]) -> None:
        """Read the batches of the current epoch up to the position again.

        read (Callable[[int], list[Example] | None]): Reads the batch of a number.
        RAISES: ResumeError if they differ from those of the first time.
        """
        checksum = 0
        for i in range(self._position["n_batches"]):
            batch = read(i)
            checksum = -1 if batch is None else _add_to_checksum(checksum, batch)
        if checksum != self._position["checksum"]:
            raise ResumeError(
                "The reader, the augmenter or the batcher of the training corpus gives other "
                "batches than when the checkpoint was saved: it depends on something besides "
                f"the config, the data and the random generators. {ADVICE}"
            )

    def _end_epoch(self) -> bool:
        """Go to the next epoch.

        RETURNS (bool): False if the current one is the last.
        RAISES: ValueError if it has no batches.
        """
        epoch = self._position["epoch"]
        if not self._position["n_batches"]:
            raise ValueError(
                f"[training.batcher] has made no batch in epoch {epoch}: the corpus is empty, "
                "or all of its examples are too long"
            )
        if epoch + 1 == self._n_epochs:
            return False
        self._position.update(self._new_epoch(epoch + 1))
        return True


class TrainingBatches(PositionedBatches):
    """Iterator over the epochs and batches of a training, as spaCy's `create_train_batches`.
    The arguments are those of `PositionedBatches`."""

    def __init__(
        self,
        nlp: Any,
        corpus: Callable[[Any], Iterable[Any]],
        batcher: Callable[[Iterable[Any]], Iterable[list[Any]]],
        max_epochs: int,
        *,
        n_epochs: int | None = None,
    ) -> None:
        super().__init__(nlp, corpus, batcher, max_epochs, n_epochs=n_epochs)
        self._is_recorded = self._is_streamed or not _is_deterministic(batcher)
        self._recorder = _RandomRecorder()
        self._examples: list[Any] | None = None
        # Indices of the examples in the order of the current epoch.
        self._order: list[int] = []
        # The batches of the current epoch.
        self._batches: Iterator[list[Any]] | None = None
        self._position["start"] = None

    def _new_epoch(self, epoch: int) -> dict[str, Any]:
        return {
            **super()._new_epoch(epoch),
            # Order of the examples after shuffling.
            "order": None,
            # Random states before the reads that have changed them, by number of the batch.
            "states": {},
        }

    def __next__(self) -> tuple[int, list[Any]]:
        if self._is_restored:
            self._is_restored = False
            with keeping_random_state():
                self._read_again()
        while True:
            if self._batches is None:
                self._shuffle()
            before = get_generators() if self._is_recorded else None
            if self._batches is None:
                self._batches = self._start_epoch()
            batch = next(self._batches, None)
            if batch is not None:
                self._record(batch, before)
                return self._position["epoch"], batch
            if not self._end_epoch():
                if before is not None:
                    # As if the end had not been tried: the training may be made longer.
                    set_generators(before)
                raise StopIteration
            self._batches = None

    def _read_corpus(self) -> list[Any]:
        examples = list(self._corpus(self._nlp))
        if not examples:
            raise ValueError("The training corpus is empty")
        return examples

    def _shuffle(self) -> None:
        """Shuffle the examples of a new epoch in memory."""
        if self._is_streamed:
            return
        if self._examples is None:
            self._position["start"] = get_random_state()
            self._examples = self._read_corpus()
            order = list(range(len(self._examples)))
        else:
            order = self._order
        # The same numbers are drawn as for shuffling the examples themselves.
        random.shuffle(order)
        self._order = order
        self._position["order"] = _encode_words(order)

    def _start_epoch(self) -> Iterator[list[Any]]:
        self._recorder.reset()
        if self._examples is None:
            return iter(self._batcher(self._corpus(self._nlp)))
        return iter(self._batcher([self._examples[i] for i in self._order]))

    def _record(self, batch: list[Any], before: Any) -> None:
        if before is not None:
            drawn = self._recorder.describe_draws(before)
            if drawn:
                self._position["states"][str(self._position["n_batches"])] = drawn
        self._count(batch)

    def _read_again(self) -> None:
        """Read the data of the current epoch up to the position.

        RAISES: ResumeError if the data differ from those of the first time.
        """
        position = self._position
        if not self._is_streamed:
            set_random_state(position["start"])
            self._examples = self._read_corpus()
            self._order = _decode_words(position["order"])
            if len(self._order) != len(self._examples):
                raise ResumeError(
                    f"The training corpus had {len(self._order)} examples when the checkpoint "
                    f"was saved, and has {len(self._examples)} now. {ADVICE}"
                )
        self._take_values()
        self._check_again(self._read_batch_again)

    def _read_batch_again(self, number: int) -> list[Any] | None:
        self._recorder.restore(self._position["states"].get(str(number)))
        if self._batches is None:
            self._batches = self._start_epoch()
        batch = next(self._batches, None)
        self._recorder.note()
        return batch


def _add_to_checksum(checksum: int, batch: list[Any]) -> int:
    """Add the lengths of the examples of a batch and its first text to a checksum."""
    lengths = array("I", (len(example) for example in batch))
    text = batch[0].reference.text if batch else ""
    return zlib.crc32(text.encode("utf8", "surrogatepass"), zlib.crc32(lengths, checksum))


def _encode_words(words: Iterable[int]) -> str:
    return base64.b64encode(array("I", words).tobytes()).decode("ascii")


def _decode_words(text: str) -> list[int]:
    words = array("I")
    words.frombytes(base64.b64decode(text))
    return words.tolist()


# Iterators in batchers


class _CountedIterator(Iterator[Any]):
    """Iterator that counts its values.

    iterator (Iterator): The source of the values.
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self.n_values = 0

    def __next__(self) -> Any:
        value = next(self._iterator)
        self.n_values += 1
        return value


def _count_iterators(value: Any, counted: list[_CountedIterator], depth: int = 0) -> Any:
    """Replace the iterators that a batcher keeps, which are schedules of batch sizes, by
    counted ones. They are searched in the arguments of partials, in closures, and in the
    attributes of the batcher.

    RETURNS (Any): The batcher.
    """
    if isinstance(value, Iterator) and not isinstance(value, IOBase):
        counted.append(_CountedIterator(value))
        return counted[-1]
    if depth == MAX_DEPTH:
        return value
    if isinstance(value, partial):
        return partial(
            value.func,
            *(_count_iterators(item, counted, depth + 1) for item in value.args),
            **{
                name: _count_iterators(item, counted, depth + 1)
                for name, item in value.keywords.items()
            },
        )
    if isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # A variable without a value yet.
                continue
            cell.cell_contents = _count_iterators(content, counted, depth + 1)
    elif depth == 0 and hasattr(value, "__dict__"):
        for name, item in list(vars(value).items()):
            replaced = _count_iterators(item, counted, depth + 1)
            if replaced is not item:
                setattr(value, name, replaced)
    return value


def _is_deterministic(batcher: Any) -> bool:
    """Whether a batcher is one of spaCy's own, which draw no random numbers."""
    from spacy.training.batchers import minibatch_by_padded_size, minibatch_by_words
    from spacy.util import minibatch

    own = (minibatch_by_padded_size, minibatch_by_words, minibatch)
    return isinstance(batcher, partial) and batcher.func in own


# Random states


def get_generators() -> dict[str, Any]:
    """States of the random generators that a reader may use, on the CPU."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(legacy=True),
    }
    if torch is not None:
        states["torch"] = torch.get_rng_state()
    return states


def set_generators(states: dict[str, Any]) -> None:
    """Restore the result of `get_generators`."""
    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
    if "torch" in states:
        torch.set_rng_state(states["torch"])


class _RandomRecorder:
    """Random states before those reads of the data that draw random numbers.

    Python's generator is mostly used by augmenters, and hardly by training steps. Its state
    before a read is then stored as the number of words that were drawn since the last read.
    """

    def __init__(self) -> None:
        # State of Python's generator after the last read that has drawn numbers.
        self._last: Any = None
        self._is_drawn = False

    def reset(self) -> None:
        """Start a new epoch, which is read again without the one before it."""
        self._last = None

    def describe_draws(self, before: dict[str, Any]) -> dict[str, Any]:
        """Describe the states before a read of the generators that it has changed.

        before (dict[str, Any]): Result of `get_generators` before the read.
        RETURNS (dict[str, Any]): JSON values by name of the generator.
        """
        now = get_generators()
        found: dict[str, Any] = {}
        if before["python"] != now["python"]:
            n_words = _count_words(self._last, before["python"])
            if n_words is None:
                version, numbers, gauss = before["python"]
                found["python"] = [version, _encode_words(numbers), gauss]
            else:
                found["python"] = n_words
            self._last = now["python"]
        old, new = before["numpy"], now["numpy"]
        if old[2:] != new[2:] or not numpy.array_equal(old[1], new[1]):
            found["numpy"] = [old[0], _encode_words(old[1].tolist()), *old[2:]]
        if "torch" in now and not torch.equal(before["torch"], now["torch"]):
            state = before["torch"].numpy().tobytes()
            found["torch"] = base64.b64encode(state).decode("ascii")
        return found

    def restore(self, description: dict[str, Any] | None) -> None:
        """Restore the states before a read. Without a description nothing changes."""
        self._is_drawn = bool(description and "python" in description)
        for name, value in (description or {}).items():
            if name == "numpy":
                kind, words, *rest = value
                keys = numpy.array(_decode_words(words), dtype="uint32")
                numpy.random.set_state((kind, keys, *rest))
            elif name == "torch":
                torch.set_rng_state(
                    torch.tensor(list(base64.b64decode(value)), dtype=torch.uint8)
                )
            elif isinstance(value, int):
                random.setstate(self._last)
                for _ in range(value):
                    random.getrandbits(32)
            else:
                version, words, gauss = value
                random.setstate((version, tuple(_decode_words(words)), gauss))

    def note(self) -> None:
        """Note the state after a read, which the next one may refer to."""
        if self._is_drawn:
            self._last = random.getstate()


def _count_words(before: Any, after: Any) -> int | None:
    """Count the words that Python's generator has drawn from one state to another.

    RETURNS (int | None): None if they are too many, or if it has been seeded in between.
    """
    if before is None or before[2] != after[2]:
        return None
    generator = random.Random()
    generator.setstate(before)
    n_words: int = (after[1][-1] - before[1][-1]) % 624
    if n_words:
        generator.getrandbits(32 * n_words)
    while generator.getstate() != after:
        n_words += 624
        if n_words > MAX_WORDS:
            return None
        generator.getrandbits(32 * 624)
    return n_words
