"""Communication between workers: what the optimizer and the trainer need of it."""

from abc import ABC, abstractmethod

import numpy

from ..errors import WorkerError
from ..types import Array

__all__ = ["Communicator", "SingleWorker", "WorkerError"]

# In seconds. Longer than an evaluation, for which the other workers wait.
DEFAULT_TIMEOUT = 1800.0


class Communicator(ABC):
    """Collective operations of the workers of a training. All workers must call the same
    operations in the same order, with arrays of the same shape and dtype.

    rank (int): The number of this worker, from 0.
    size (int): The number of workers.
    timeout (float): Seconds after which an operation fails if another worker has not called it.
    bytes_sent (int): The bytes that this worker has sent so far, as the ring algorithm sends
        them: 2 * (size - 1) / size times the size of the array in an all-reduce.
    """

    rank: int
    size: int
    timeout: float
    bytes_sent: int

    def __init__(self, rank: int, size: int, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.rank = rank
        self.size = size
        self.timeout = timeout
        self.bytes_sent = 0

    def all_reduce(self, array: Array) -> None:
        """Replace an array by its sum over all workers, in place, with the same bits on all.

        array (Array): A contiguous array of any shape.
        RAISES: WorkerError if another worker does not take part.
        """
        if self.size > 1:
            self.bytes_sent += round(2 * (self.size - 1) / self.size * array.nbytes)
            self._all_reduce(array)

    def broadcast(self, array: Array, source: int = 0) -> None:
        """Replace an array by that of one worker, in place.

        array (Array): A contiguous array of any shape.
        source (int): The rank of that worker.
        RAISES: WorkerError if another worker does not take part.
        """
        if self.size > 1:
            self.bytes_sent += array.nbytes if self.rank == source else 0
            self._broadcast(array, source)

    def all_gather(self, array: Array) -> list[Array]:
        """Collect the arrays of all workers.

        array (Array): A contiguous array of any shape.
        RETURNS (list[Array]): Copies, by rank.
        RAISES: WorkerError if another worker does not take part.
        """
        if self.size == 1:
            return [array.copy()]
        self.bytes_sent += (self.size - 1) * array.nbytes
        return self._all_gather(array)

    def gather_texts(self, text: str) -> list[str]:
        """Collect a text of any length from all workers.

        RETURNS (list[str]): The texts, by rank.
        RAISES: WorkerError if another worker does not take part.
        """
        content = numpy.frombuffer(text.encode("utf8"), dtype="uint8")
        sizes = [int(size[0]) for size in self.all_gather(numpy.array([content.size]))]
        padded = numpy.zeros((max(sizes),), dtype="uint8")
        padded[: content.size] = content
        found = self.all_gather(padded)
        return [
            array[:size].tobytes().decode("utf8")
            for array, size in zip(found, sizes, strict=True)
        ]

    def broadcast_text(self, text: str, source: int = 0) -> str:
        """Send a text of one worker to all workers.

        text (str): The text; only that of the source counts.
        source (int): The rank of that worker.
        RETURNS (str): Its text.
        RAISES: WorkerError if another worker does not take part.
        """
        content = numpy.frombuffer(text.encode("utf8"), dtype="uint8")
        size = numpy.array([content.size])
        self.broadcast(size, source)
        array = content.copy() if self.rank == source else numpy.zeros(size, dtype="uint8")
        self.broadcast(array, source)
        return array.tobytes().decode("utf8")

    def close(self) -> None:  # noqa: B027
        """End the connection. No operation can follow."""

    @abstractmethod
    def _all_reduce(self, array: Array) -> None:
        """Sum an array over all workers in place."""

    @abstractmethod
    def _broadcast(self, array: Array, source: int) -> None:
        """Replace an array by that of one worker in place."""

    @abstractmethod
    def _all_gather(self, array: Array) -> list[Array]:
        """Collect the arrays of all workers by rank."""


class SingleWorker(Communicator):
    """The communicator of a training on one worker: every operation is without effect."""

    def __init__(self) -> None:
        super().__init__(0, 1)

    def _all_reduce(self, array: Array) -> None:
        pass

    def _broadcast(self, array: Array, source: int) -> None:
        pass

    def _all_gather(self, array: Array) -> list[Array]:
        return [array.copy()]
