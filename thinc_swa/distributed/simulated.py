"""Several workers in one process, for tests and experiments."""

import contextvars
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ..types import Array
from ..validation import check_int
from .communicator import DEFAULT_TIMEOUT, Communicator, WorkerError

ResultT = TypeVar("ResultT")


def run_simulated(
    n_workers: int,
    function: Callable[[Communicator], ResultT],
    *,
    timeout: float = DEFAULT_TIMEOUT,
) -> list[ResultT]:
    """Run a function as several workers in this process.

    The workers run in lockstep: one at a time, by rank, each until its next collective
    operation. Each has a state of the random generators of its own, which starts as that of the
    caller. So the results are the same in every run, and the same as those of real workers.

    n_workers (int): The number of workers.
    function (Callable[[Communicator], ResultT]): What each worker calls, with its communicator.
        It must make a model and an optimizer for itself.
    timeout (float): Seconds for which a worker waits for the others.
    RETURNS (list[ResultT]): The results by rank.
    RAISES: The first error of a worker; WorkerError if one ends while others wait for it.
    """
    group: _Group[ResultT] = _Group(check_int("n_workers", n_workers, minimum=1), timeout)
    threads = [
        threading.Thread(
            # The current ops of Thinc are a context variable.
            target=contextvars.copy_context().run,
            args=(group.run, rank, function),
            name=f"worker {rank}",
            daemon=True,
        )
        for rank in range(n_workers)
    ]
    random_state = group.get_random_state()
    try:
        for thread in threads:
            thread.start()
        group.wait_for_end()
    finally:
        group.set_random_state(random_state)
    if group.errors:
        # The first one: others may have failed because of it.
        raise group.errors[0]
    return [group.results[rank] for rank in range(n_workers)]


class SimulatedCommunicator(Communicator):
    """A communicator of one of several workers in the same process. See `run_simulated`."""

    def __init__(self, group: "_Group[Any]", rank: int) -> None:
        super().__init__(rank, group.size, group.timeout)
        self._group = group

    def _all_reduce(self, array: Array) -> None:
        first, *others = self._group.exchange(self.rank, "all_reduce", array)
        array[...] = first
        for other in others:
            array += other

    def _broadcast(self, array: Array, source: int) -> None:
        found = self._group.exchange(self.rank, f"broadcast from rank {source}", array)
        array[...] = found[source]

    def _all_gather(self, array: Array) -> list[Array]:
        found = self._group.exchange(self.rank, "all_gather", array)
        return [other.copy() for other in found]


class _Group(Generic[ResultT]):
    """The workers of a simulation, of which one has its turn.

    size (int): Their number.
    timeout (float): Seconds for which a worker waits for the others.
    """

    def __init__(self, size: int, timeout: float) -> None:
        # At the first use: it imports the trainers.
        from ..training.checkpoints import get_random_state, set_random_state

        self.get_random_state, self.set_random_state = get_random_state, set_random_state
        self.size = size
        self.timeout = timeout
        self.results: dict[int, ResultT] = {}
        self.errors: list[BaseException] = []
        self._condition = threading.Condition()
        self._turn = 0
        self._ended: set[int] = set()
        # The arrays and the names of the operation that is being collected, by rank.
        self._arrays: dict[int, Array] = {}
        self._names: dict[int, str] = {}
        self._n_complete = 0
        self._collected: list[Array] = []
        self._late: set[int] = set()
        self._problem: str | None = None

    def run(self, rank: int, function: Callable[[Communicator], ResultT]) -> None:
        """Run a worker to its end."""
        random_state = self.get_random_state()
        with self._condition:
            self._condition.wait_for(lambda: self._turn == rank or self._problem is not None)
        try:
            if self._problem is None:
                self.set_random_state(random_state)
                self.results[rank] = function(SimulatedCommunicator(self, rank))
        except BaseException as error:
            self.errors.append(error)
        with self._condition:
            self._ended.add(rank)
            if self._arrays:
                self._fail(f"rank {rank} has ended")
            self._pass_turn(rank)

    def wait_for_end(self) -> None:
        """Wait for the end of all workers, or for the first problem and the end of those that
        wait."""
        with self._condition:
            self._condition.wait_for(lambda: len(self._ended) == self.size or self._problem)
            # A worker that does not come is left alone. Its thread ends with the process.
            self._condition.wait_for(
                lambda: len(self._ended | self._late) == self.size, timeout=self.timeout
            )

    def exchange(self, rank: int, name: str, array: Array) -> list[Array]:
        """Collect the arrays of an operation from all workers.

        RETURNS (list[Array]): Copies, by rank.
        """
        with self._condition:
            if self._ended:
                self._fail(f"rank {min(self._ended)} has ended")
            self._arrays[rank] = array.copy()
            self._names[rank] = f"{name} of {array.dtype}{array.shape}"
            before = self._n_complete
            random_state = self.get_random_state()
            if len(self._arrays) == self.size:
                self._complete()
            self._pass_turn(rank)
            is_ready = self._condition.wait_for(
                lambda: (
                    (self._turn == rank and self._n_complete > before)
                    or self._problem is not None
                ),
                timeout=self.timeout,
            )
            if not is_ready:
                self._late = set(range(self.size)) - self._arrays.keys()
                self._fail(
                    f"rank {', '.join(map(str, sorted(self._late)))} did not take part within "
                    f"{self.timeout:g} seconds"
                )
            if self._problem is not None:
                raise WorkerError(f"Rank {rank} waited in {name}, but {self._problem}")
            self.set_random_state(random_state)
            return self._collected

    def _complete(self) -> None:
        if len(set(self._names.values())) > 1:
            names = sorted(self._names.items())
            described = "; ".join(f"rank {rank}: {name}" for rank, name in names)
            self._fail(f"the workers called different operations ({described})")
        self._collected = [self._arrays[other] for other in range(self.size)]
        self._arrays, self._names = {}, {}
        self._n_complete += 1

    def _pass_turn(self, rank: int) -> None:
        """Give the turn to the next worker that has not called the current operation; after
        the operation is complete, to the first one."""
        others = [
            other
            for other in range(self.size)
            if other not in self._ended and other not in self._arrays
        ]
        later = [other for other in others if other > rank] if self._arrays else others
        self._turn = min(later or others, default=0)
        self._condition.notify_all()

    def _fail(self, problem: str) -> None:
        self._problem = self._problem or problem
        self._condition.notify_all()
