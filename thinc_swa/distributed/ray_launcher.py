"""Start of workers on a Ray cluster, and restarts after a worker or a node has died."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from .launcher import LAUNCHED, WorkerFailure
from .ray_cluster import RayCluster

# Seconds between looks at the workers.
POLL_INTERVAL = 0.2
# Seconds to wait for the errors of all workers after the first one has failed.
GRACE = 10.0
# Seconds to wait for room on the cluster: others may use it, or nodes may come back.
ROOM_TIMEOUT = 300.0
# Seconds until places that seem to be free must have been reserved: Ray takes 15 seconds to
# notice that a node is dead.
RESERVE_TIMEOUT = 5.0
# Seconds of waiting for room without a message.
QUIET = 20.0
# Seconds until the folder of an earlier attempt must be unlocked.
LOCK_TIMEOUT = 60.0
# Exit code after Ctrl-C.
INTERRUPTED = 128 + signal.SIGINT


class WorkerRange(NamedTuple):
    """Numbers of workers with which a training can run.

    smallest (int): At least as many.
    largest (int): At most as many.
    """

    smallest: int
    largest: int


class ClusterWorkers:
    """Training on several workers on a Ray cluster.

    If a worker or its node dies, all workers end, and as many as there is room for continue
    from the last checkpoint.

    cluster (RayCluster): The cluster.
    n_workers (WorkerRange): Numbers of workers.
    grows_from_one (bool): Whether a training that began with one worker can be restarted with
        several.
    max_restarts (int): How often the training is restarted.
    show (Callable[[str, bool], None]): Called with the output of rank 0, and whether it is that
        of the standard error.
    warn (Callable[[str], None]): Called with warnings about restarts.
    """

    def __init__(
        self,
        cluster: RayCluster,
        *,
        n_workers: WorkerRange,
        grows_from_one: bool,
        max_restarts: int,
        show: Callable[[str, bool], None],
        warn: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._n_workers = n_workers
        self._grows_from_one = grows_from_one
        self._max_restarts = max_restarts
        self._show = show
        self._warn = warn
        # Whether rank 0 has begun to train, so that the folder is that of this training.
        self._has_begun = False
        self._n_interrupts = 0

    def run(self, first: Sequence[str], again: Sequence[str]) -> int:
        """Train, and wait for the end.

        first (Sequence[str]): Arguments for Python that begin the training.
        again (Sequence[str]): Those that resume it.
        RETURNS (int): The exit code of rank 0: that of Ctrl-C, or 0.
        RAISES: ValueError if the cluster has too few places; WorkerFailure if the training has
            failed, or was restarted too often; TimeoutError if there was no room for too long.
        """
        n_places = self._cluster.count_places()
        if n_places < self._n_workers.smallest:
            raise ValueError(
                f"The Ray cluster has room for {n_places} workers, but --workers asks for "
                f"{self._n_workers.smallest}: use fewer workers, or add nodes"
            )
        n_restarts = 0
        locked_since: float | None = None
        with self._interrupts():
            while True:
                n_workers = self._reserve()
                if n_workers == 1 and not (self._has_begun or self._grows_from_one):
                    self._n_workers = WorkerRange(1, 1)
                lost = self._train(n_workers, again if self._has_begun else first)
                if isinstance(lost, int):
                    return lost
                if lost.is_locked and n_restarts:
                    locked_since = locked_since or time.monotonic()
                    if time.monotonic() < locked_since + LOCK_TIMEOUT:
                        time.sleep(1.0)
                        continue
                locked_since = None
                if not lost.is_temporary or self._n_interrupts:
                    raise WorkerFailure(lost.text, lost.exit_code)
                if n_restarts >= self._max_restarts:
                    times = f"{n_restarts} restart{'s' if n_restarts != 1 else ''}"
                    after = f" after {times}" if n_restarts else ""
                    hint = "use --resume to continue from the last checkpoint"
                    raise WorkerFailure(f"{lost.text}{after}: {hint}", lost.exit_code)
                n_restarts += 1
                self._warn(
                    f"{lost.text}. Restarting from the last checkpoint (restart {n_restarts} "
                    f"of {self._max_restarts})"
                )

    def _reserve(self) -> int:
        """Reserve room for as many workers as possible. RETURNS (int): Their number."""
        smallest, largest = self._n_workers
        end = time.monotonic() + ROOM_TIMEOUT
        is_waiting = False
        while not self._n_interrupts:
            n_workers = min(largest, self._cluster.count_places(are_free=True))
            if n_workers >= smallest and self._cluster.reserve(
                n_workers, timeout=RESERVE_TIMEOUT
            ):
                return n_workers
            if time.monotonic() > end:
                raise TimeoutError(
                    f"The Ray cluster had no room for {smallest} workers for "
                    f"{ROOM_TIMEOUT:g} seconds"
                )
            is_long = time.monotonic() > end - ROOM_TIMEOUT + QUIET
            if is_long and not is_waiting:
                self._warn(f"Waiting for room for {smallest} workers on the Ray cluster")
                is_waiting = True
            time.sleep(POLL_INTERVAL)
        raise WorkerFailure("", INTERRUPTED)

    def _train(self, n_workers: int, arguments: Sequence[str]) -> "int | _Failure":
        """Train until all workers have ended.

        RETURNS (int | _Failure): The exit code of rank 0, or why a worker has failed.
        """
        names = [f"worker-{rank}" for rank in range(n_workers)]
        try:
            for rank, name in enumerate(names):
                self._cluster.prepare(name, place=rank)
            try:
                address, port = self._cluster.find_address(names[0])
            except ConnectionError as error:
                return _Failure(f"Worker 0 could not be started: {error}", is_temporary=True)
            for rank, name in enumerate(names):
                environment = _environment(rank, n_workers, address, port)
                self._cluster.start(name, arguments, environment=environment, is_captured=True)
            return self._wait(names)
        finally:
            self._cluster.end(names)
            self._cluster.release()

    def _wait(self, names: Sequence[str]) -> "int | _Failure":
        exit_codes: dict[str, int] = {}
        errors = dict.fromkeys(names, "")
        failures: list[_Failure] = []
        end = float("inf")
        n_interrupts, has_begun = 0, False
        while len(exit_codes) + len(failures) < len(names) and time.monotonic() < end:
            if n_interrupts < self._n_interrupts:
                n_interrupts = self._n_interrupts
                if not has_begun:
                    # A process that starts may lose signals, and there is nothing to save yet.
                    return _Failure("", exit_code=INTERRUPTED)
                if n_interrupts > 1:
                    return _Failure("Stopped", exit_code=INTERRUPTED)
                # It asks the others to stop after the same step. Their signals would come
                # earlier or later.
                self._cluster.interrupt(names[0])
            for name, news in self._cluster.poll(POLL_INTERVAL).items():
                rank = names.index(name)
                if rank == 0:
                    self._relay(news)
                    has_begun = has_begun or bool(news.get("output"))
                errors[name] += news.get("errors", "")
                failure = _find_failure(rank, news, errors[name])
                if failure is not None:
                    failures.append(failure)
                elif news["exit_code"] is not None:
                    exit_codes[name] = news["exit_code"]
            if failures:
                if any(not failure.is_consequence for failure in failures):
                    break
                end = min(end, time.monotonic() + GRACE)
        if self._n_interrupts and exit_codes.get(names[0]) == INTERRUPTED:
            return INTERRUPTED
        if failures:
            return min(failures, key=lambda failure: failure.is_consequence)
        return exit_codes[names[0]]

    def _relay(self, news: dict[str, Any]) -> None:
        for name in ("output", "errors"):
            if text := news.get(name, ""):
                self._has_begun = self._has_begun or name == "output"
                self._show(text, name == "errors")

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        """Context manager in which Ctrl-C is passed on to rank 0."""

        def interrupt(number: int, frame: Any) -> None:
            self._n_interrupts += 1

        if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
            yield
            return
        handler = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)


class _Failure(NamedTuple):
    """Why a worker has failed.

    is_temporary (bool): Whether the training may succeed when it is restarted.
    is_consequence (bool): Whether another worker has failed before.
    is_locked (bool): Whether another process has locked the output folder.
    """

    text: str
    exit_code: int = 1
    is_temporary: bool = False
    is_consequence: bool = False
    is_locked: bool = False


def _find_failure(rank: int, news: dict[str, Any], errors: str) -> _Failure | None:
    """The failure of a worker, if it has failed."""
    if "lost" in news:
        return _Failure(f"Worker {rank} was lost with its process or node", is_temporary=True)
    if "error" in news:
        return _Failure(f"Worker {rank} could not be started: {news['error']}")
    exit_code = news["exit_code"]
    if exit_code in (None, 0, INTERRUPTED):
        return None
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        return _Failure(
            f"Worker {rank} was ended by {name}", 128 - exit_code, is_temporary=True
        )
    if news["report"] is None:
        # Rank 0 has printed its error.
        return _Failure("" if rank == 0 else f"Worker {rank} has failed: {errors[-1000:]}")
    details = news["report"]["extraInfo"]
    is_consequence = bool(details.get("is_consequence"))
    return _Failure(
        news["report"]["message"],
        exit_code,
        is_temporary=is_consequence,
        is_consequence=is_consequence,
        is_locked=details.get("error_type") == "BlockingIOError",
    )


def _environment(rank: int, size: int, address: str, port: int) -> dict[str, str]:
    """Environment variables of a worker, as launchers of torch.distributed set them."""
    added = {
        LAUNCHED: "1",
        "RANK": str(rank),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        # Ray gives each worker one CPU. The number of threads must not depend on the node, as
        # results can depend on it.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
    }
    kept = ("COLUMNS", "NO_COLOR")
    return {**added, **{name: os.environ[name] for name in kept if name in os.environ}}
