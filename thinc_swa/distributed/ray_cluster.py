"""Connection to a Ray cluster.

Ray is imported in a process of its own, the broker: it can wait for minutes for a cluster that
is not there, handles signals, and prints messages of all nodes.
"""

import importlib.util
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import ray_broker

NEEDS_RAY = 'Ray is not installed: pip install "thinc-swa[distributed]"'
# Seconds until a cluster must have answered, and until it must have answered in the right way.
REACH_TIMEOUT = 5.0
CONNECT_TIMEOUT = 60.0
# How often a connection is tried whose server cannot start a process for it: in Ray up to 2.60
# such processes end at once now and then (https://github.com/ray-project/ray/issues/63202).
N_CONNECTIONS = 3
SERVER_FAILURE = "Initialization failure from server"
# Seconds for a reply to a request, besides its own timeout.
REPLY_TIMEOUT = 120.0
# Seconds for the end of all processes on the cluster.
CLOSE_TIMEOUT = 15.0
# Of Ray itself: no usage statistics, no warnings about the terminal, and no change of the
# variables for GPUs of processes without one.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}


class RayCluster:
    """Connection to a Ray cluster, and the commands that run there. A context manager that ends
    all of them.

    address (str): "auto" for the cluster of this machine, HOST:PORT, or "ray://HOST:PORT".
    uses_gpu (bool): Whether each command needs a GPU. Each needs one CPU.
    RAISES: ImportError if Ray is not installed; ConnectionError if the cluster cannot be
        reached.
    """

    def __init__(self, address: str, *, uses_gpu: bool = False) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ImportError(NEEDS_RAY)
        _check_reachable(address)
        self._address = address
        self._uses_gpu = uses_gpu
        for n_left in reversed(range(N_CONNECTIONS)):
            try:
                self._connect()
                break
            except ConnectionError as error:
                if not n_left or SERVER_FAILURE not in str(error):
                    raise

    def _connect(self) -> None:
        """Start the process that is connected to the cluster."""
        program = (
            f"import sys; sys.path[:] = {sys.path!a}; "
            f"import runpy; runpy.run_path({ray_broker.__file__!a}, run_name='__main__')"
        )
        self._broker = subprocess.Popen(
            [sys.executable, "-c", program, self._address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **ENVIRONMENT},
            # Ctrl-C in the terminal does not reach it.
            start_new_session=True,
        )
        self._received = b""
        try:
            self._reply(CONNECT_TIMEOUT)
        except BaseException as error:
            self._broker.kill()
            self.close()
            if isinstance(error, Exception):
                raise ConnectionError(
                    f"No Ray cluster could be reached at {self._address!r}: {error}"
                ) from error
            raise

    def __enter__(self) -> "RayCluster":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """End all commands, and the connection."""
        if self._broker.stdin is not None:
            with suppress(OSError):
                self._broker.stdin.close()
        try:
            self._broker.wait(CLOSE_TIMEOUT)
        except subprocess.TimeoutExpired:
            # The cluster ends the commands of a process that has ended.
            pass
        finally:
            if hasattr(os, "killpg"):
                with suppress(OSError):
                    os.killpg(self._broker.pid, signal.SIGKILL)
            self._broker.kill()
            self._broker.wait()
            if self._broker.stdout is not None:
                self._broker.stdout.close()

    def _call(self, method: str, *, reply_timeout: float = REPLY_TIMEOUT, **values: Any) -> Any:
        """Let the broker call one of its methods: see `ray_broker.Broker`."""
        data = json.dumps({"method": method, "arguments": values}).encode() + b"\n"
        try:
            while data and self._broker.stdin is not None:
                data = data[self._broker.stdin.write(data) :]
        except OSError:
            raise ConnectionError(self._lost) from None
        return self._reply(reply_timeout)

    @property
    def _lost(self) -> str:
        return f"The connection to the Ray cluster {self._address!r} is lost"

    def _reply(self, timeout: float) -> Any:
        end = time.monotonic() + timeout
        output: Any = self._broker.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise ConnectionError(f"it did not answer within {timeout:g} seconds")
                data = os.read(output.fileno(), 1 << 16)
                if not data:
                    raise ConnectionError(self._lost)
                self._received += data
        line, _, self._received = self._received.partition(b"\n")
        reply = json.loads(line)
        if "error" in reply:
            kinds = {"FileNotFoundError": FileNotFoundError, "OSError": OSError}
            is_file = reply["kind"] in ("PermissionError", "NotADirectoryError")
            kind = OSError if is_file else kinds.get(reply["kind"], ConnectionError)
            raise kind(" ".join(reply["error"].split()) or reply["kind"])
        return reply["result"]

    def count_places(self, *, are_free: bool = False) -> int:
        """Number of commands that can run on the cluster at the same time.

        are_free (bool): Only those for which there is room now.
        """
        found: int = self._call("count_places", uses_gpu=self._uses_gpu, are_free=are_free)
        return found

    def check_files(self, folder: Path | None, paths: Collection[Path]) -> None:
        """Check that all nodes see the same folder, by a file that one writes and the others
        find, and that all have some files.

        RAISES: OSError that names a node if they do not.
        """
        self._call(
            "check_files",
            folder=None if folder is None else str(folder),
            paths=[str(path) for path in paths],
        )

    def reserve(self, n_commands: int, *, timeout: float) -> bool:
        """Reserve room for commands that need each other. See `Broker.reserve`."""
        found: bool = self._call(
            "reserve", n_processes=n_commands, uses_gpu=self._uses_gpu, timeout=timeout
        )
        return found

    def release(self) -> None:
        """Give back what `reserve` has reserved."""
        self._call("release")

    def prepare(self, name: str, *, place: int | None = None) -> None:
        """Make a process for a command, where there is room.

        name (str): A name for the command.
        place (int | None): Number of a place that `reserve` has reserved.
        """
        self._call("prepare", name=name, uses_gpu=self._uses_gpu, place=place)

    def find_address(self, name: str) -> tuple[str, int]:
        """The address of the node of a command, and a free port there."""
        address, port = self._call("find_address", name=name)
        return address, port

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        environment: dict[str, str],
        request: str = "",
        is_captured: bool = False,
    ) -> None:
        """Start a command in the process that `prepare` has made, in the current folder of this
        process. See `ray_broker.Host.start`."""
        self._call(
            "start",
            name=name,
            arguments=list(arguments),
            environment=environment,
            folder=os.getcwd(),
            request=request,
            is_captured=is_captured,
        )

    def poll(self, timeout: float) -> dict[str, dict[str, Any]]:
        """Wait for news of commands. See `Broker.poll`.

        timeout (float): Maximum time in seconds.
        """
        news: dict[str, dict[str, Any]] = self._call("poll", timeout=timeout)
        return news

    def interrupt(self, name: str) -> None:
        """Send a command what Ctrl-C sends."""
        self._call("interrupt", name=name)

    def end(self, names: Collection[str]) -> None:
        """Kill commands, and all processes that they have started."""
        self._call("end", names=list(names))


def _check_reachable(address: str) -> None:
    """Check that there is a server at an address of the form HOST:PORT.

    RAISES: ConnectionError if there is none.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    host, colon, port = address.partition("://")[2].rpartition(":")
    if "://" not in address:
        host, colon, port = address.rpartition(":")
    if address in ("auto", "local"):
        return
    if not (host and colon and port.isdigit()):
        raise ValueError(
            f"The address of a Ray cluster must be auto, HOST:PORT or ray://HOST:PORT, but was "
            f"{address!r}"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"No Ray cluster could be reached at {address!r}: {error}. Start one with `ray "
            "start --head`, or check the address"
        ) from error
