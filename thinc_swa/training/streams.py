"""Streams: the examples of a long sequence in several parts, which are read side by side."""

import numpy

from ..types import Array

# Orders of the training examples.
SHUFFLED, STREAMS = "shuffled", "streams"
ORDERS = (SHUFFLED, STREAMS)


def stream_rows(n_examples: int, n_streams: int, *, rank: int = 0, size: int = 1) -> Array:
    """The examples of a worker in the order of its batches. The examples are divided into parts
    of equal length, the streams, and every batch has the next example of each stream. Those
    that are left over at the end are not used.

    n_examples (int): Number of examples, which are the pieces of a sequence in their order.
    n_streams (int): Number of streams of each worker: the size of a batch.
    rank (int): Rank of the worker.
    size (int): Number of workers.
    RETURNS (Ints1d): Their indices.
    """
    n_total = n_streams * size
    rows = numpy.arange(n_examples - n_examples % n_total).reshape(n_total, -1)
    own: Array = rows[rank * n_streams : (rank + 1) * n_streams]
    return own.T.ravel()


def check_streams(name: str, n_examples: int, n_streams: int, size: int) -> None:
    """Check that there are as many examples as streams.

    name (str): Name of the dataset.
    n_streams (int): Number of streams of each worker.
    size (int): Number of workers.
    RAISES: ValueError if there are not.
    """
    if n_examples < n_streams * size:
        workers = f" on each of {size} workers" if size > 1 else ""
        raise ValueError(
            f'order = "{STREAMS}" divides the examples into batch_size = {n_streams} streams'
            f"{workers}, but {name} has only {n_examples} training examples: use a smaller "
            "batch_size or shorter examples"
        )
