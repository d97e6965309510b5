"""Commands on a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..distributed.ray_cluster import RayCluster


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
