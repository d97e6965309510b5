"""Workers in processes of their own, connected by torch.distributed."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy
from thinc.api import xp2torch
from thinc.compat import torch

from ..types import Array
from .communicator import DEFAULT_TIMEOUT, Communicator, WorkerError

# Seconds for all workers to start.
CONNECT_TIMEOUT = 300.0
# Seconds for finding out which worker has failed.
DIAGNOSIS_TIMEOUT = 2.0
# Variables that `torchrun` and other launchers of torch.distributed set.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
NEEDS_TORCH = 'Training on several workers needs PyTorch: pip install "thinc-swa[distributed]"'


def is_launched() -> bool:
    """Whether this process is one of several workers that a launcher of torch.distributed has
    started."""
    is_complete = all(name in os.environ for name in VARIABLES)
    return is_complete and os.environ["WORLD_SIZE"] != "1"


class TorchCommunicator(Communicator):
    """A communicator for a worker in a process of its own: gloo for NumPy arrays, whose memory
    PyTorch shares, and nccl for CuPy arrays.

    It joins the workers that a launcher such as `torchrun` has started, which sets the
    environment variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

    timeout (float): Seconds after which an operation fails if another worker has not called it.
    connect_timeout (float): Seconds after which the connection fails if another worker has not
        started.
    uses_gpu (bool): Whether arrays on a GPU are exchanged.
    RAISES: ImportError if PyTorch is not installed; WorkerError if not all workers can be
        reached.
    """

    def __init__(
        self,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        uses_gpu: bool = False,
    ) -> None:
        try:
            import torch.distributed
        except ImportError:
            raise ImportError(NEEDS_TORCH) from None
        missing = [name for name in VARIABLES if name not in os.environ]
        if missing:
            raise ValueError(
                f"The environment variables {', '.join(missing)} are not set: start the "
                "workers with `thinc-swa train --workers` or `torchrun`"
            )
        super().__init__(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), timeout)
        self._torch: Any = torch.distributed
        start_limit = timedelta(seconds=connect_timeout)
        # The backends by device: small arrays are exchanged on the CPU in any case.
        backend = "cpu:gloo,cuda:nccl" if uses_gpu else "gloo"
        try:
            self._store, *_ = next(iter(self._torch.rendezvous("env://", timeout=start_limit)))
            self._n_operations = 0
            self._report()
            self._torch.init_process_group(
                backend,
                store=self._torch.PrefixStore("thinc_swa", self._store),
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=timeout),
            )
        except (RuntimeError, ValueError) as error:
            raise WorkerError(
                f"Rank {self.rank} could not connect to the other workers: {_first_line(error)}"
            ) from error

    def close(self) -> None:
        self._torch.destroy_process_group()

    def _all_reduce(self, array: Array) -> None:
        self._call(lambda: self._torch.all_reduce(_as_tensor(array)), "all_reduce")

    def _broadcast(self, array: Array, source: int) -> None:
        self._call(lambda: self._torch.broadcast(_as_tensor(array), src=source), "broadcast")

    def _all_gather(self, array: Array) -> list[Array]:
        found = [numpy.empty_like(array) for _ in range(self.size)]
        tensors = [_as_tensor(other) for other in found]
        self._call(lambda: self._torch.all_gather(tensors, _as_tensor(array)), "all_gather")
        return found

    def _call(self, operation: Callable[[], Any], name: str) -> None:
        with self._naming_late_ranks(name):
            self._report()
            operation()

    @contextmanager
    def _naming_late_ranks(self, name: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            late = self._find_late_ranks()
            who = f"rank {', '.join(map(str, late))}" if late else "another worker"
            raise WorkerError(
                f"Rank {self.rank} waited in {name} for {who}, which has failed or did not "
                f"take part within {self.timeout:g} seconds: {_first_line(error)}"
            ) from error

    def _report(self) -> None:
        """Count the operation for the other workers, to whom a failure alone does not tell
        which worker is missing."""
        self._n_operations += 1
        self._store.set(_key_of(self.rank), str(self._n_operations))

    def _find_late_ranks(self) -> list[int]:
        late = []
        self._store.set_timeout(timedelta(seconds=DIAGNOSIS_TIMEOUT))
        for rank in range(self.size):
            try:
                n_operations = int(self._store.get(_key_of(rank)))
            except (RuntimeError, ValueError):
                n_operations = 0  # It never began, or the store has ended with its process.
            if n_operations < self._n_operations:
                late.append(rank)
        # All of them: the store cannot be reached, which is in the process of rank 0.
        return late if self.rank not in late else [0]


def _key_of(rank: int) -> str:
    return f"thinc_swa_operations_{rank}"


def _as_tensor(array: Array) -> Any:
    """A tensor that shares the memory of an array."""
    if isinstance(array, numpy.ndarray):
        # On the CPU, also where Thinc's default device is a GPU.
        return torch.from_numpy(array)
    return xp2torch(array)


def _first_line(error: BaseException) -> str:
    """The first sentence of an error, without its place in the source of PyTorch."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return re.sub(r"^\[\S+:\d+\] ", "", line).partition(". ")[0]
