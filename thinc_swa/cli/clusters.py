"""Commands on a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..distributed.ray_cluster import RayCluster
from ..distributed.ray_launcher import WorkerRange
from .errors import UsageError


@contextmanager
def connected(address: str | None, *, uses_gpu: bool) -> Iterator[RayCluster | None]:
    """Context manager with the connection to a Ray cluster.

    address (str | None): See `RayCluster`; None for no connection.
    """
    if address is None:
        yield None
    else:
        with RayCluster(address, uses_gpu=uses_gpu) as cluster:
            yield cluster


def cluster_files(*paths: Path | None) -> list[Path]:
    """The files that all nodes need for a command: those given, and the current folder."""
    return [Path.cwd(), *(path.absolute() for path in paths if path is not None)]


def parse_workers(text: str) -> WorkerRange:
    """Parse a number of workers, or the smallest and the largest one: "4", "1:4".

    RAISES: UsageError if they are not positive numbers in this order.
    """
    parts = text.split(":")
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit()]
    if len(numbers) != len(parts) or len(parts) > 2 or not 1 <= numbers[0] <= numbers[-1]:
        raise UsageError(
            "Invalid value for '--workers': it must be a number from 1 on, or MIN:MAX such as "
            f"1:4, but was {text!r}"
        )
    return WorkerRange(numbers[0], numbers[-1])
