"""Actor that runs a command on a node of a Ray cluster.

Ray sends the class to the nodes by value, so the module imports nothing of the package: on a
node without the package the command itself reports that.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

# Seconds without a call of `poll` after which the command is ended: the connection of this node
# to the others is lost.
LEASE = 20.0
# Seconds between checks of whether the command must be ended.
CHECK_INTERVAL = 0.2
# Seconds until a new file must be visible on all nodes. Network file systems cache folders.
VISIBLE_AFTER = 5.0


class Host:
    """Runs one command, and ends it when this process, its raylet or the connection ends."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []
        self._texts = {"output": b"", "errors": b""}
        self._folder = ""
        self._report: dict[str, Any] | None = None
        self._last_poll = time.monotonic()
        self._raylet = os.getppid()
        # Ray does not end workers whose raylet was killed.
        threading.Thread(target=self._watch, daemon=True).start()

    def find_place(self) -> tuple[str, str, int]:
        """The id and the address of this node, and a free port."""
        import ray.util

        node = ray.get_runtime_context().get_node_id()
        with socket.socket() as found:
            found.bind(("", 0))
            return node, ray.util.get_node_ip_address(), found.getsockname()[1]

    def write_probe(self, folder: str) -> str:
        """Write a file to a folder, which is made if it does not exist.

        RETURNS (str): Its path.
        RAISES: OSError if that is not possible.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder, f".thinc-swa-probe-{uuid.uuid4().hex}")
        path.write_text("probe", encoding="utf8")
        return str(path)

    def delete(self, path: str) -> None:
        """Delete a file."""
        Path(path).unlink(missing_ok=True)

    def find_missing(self, paths: Sequence[str]) -> list[str]:
        """Those of the files and folders that this node does not see, after a while."""
        end = time.monotonic() + VISIBLE_AFTER
        while True:
            missing = [path for path in paths if not os.path.exists(path)]
            if not missing or time.monotonic() > end:
                return missing
            time.sleep(CHECK_INTERVAL)

    def start(
        self,
        arguments: Sequence[str],
        environment: dict[str, str],
        folder: str,
        request: str,
        is_captured: bool,
    ) -> None:
        """Start a command in a process group of its own.

        arguments (Sequence[str]): Arguments for Python.
        environment (dict[str, str]): Environment variables to add.
        folder (str): The current folder of the command.
        request (str): What it gets on its standard input, which is then kept open.
        is_captured (bool): Whether `poll` returns its output.
        RAISES: OSError if it cannot be started.
        """
        self._folder = tempfile.mkdtemp(prefix="thinc-swa-")
        # Where the launcher of torch.distributed lets a worker write its error.
        added = {"TORCHELASTIC_ERROR_FILE": os.path.join(self._folder, "error.json")}
        output = subprocess.PIPE if is_captured else subprocess.DEVNULL
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            bufsize=0,
            cwd=folder,
            env={**os.environ, **added, **environment},
            start_new_session=True,
        )
        for name, pipe in (
            ("output", self._process.stdout),
            ("errors", self._process.stderr),
        ):
            if pipe is not None:
                reader = threading.Thread(target=self._read, args=(name, pipe), daemon=True)
                reader.start()
                self._readers.append(reader)
        # It may have ended already.
        with suppress(OSError):
            if request and self._process.stdin is not None:
                self._process.stdin.write(request.encode())

    def _read(self, name: str, pipe: IO[bytes]) -> None:
        while data := pipe.read(1 << 16):
            self._texts[name] += data

    def poll(self, timeout: float) -> dict[str, Any]:
        """Wait until there is output, or until the command has ended.

        timeout (float): Maximum time in seconds.
        RETURNS (dict[str, Any]): New "output" and "errors", the "exit_code" (None if the
            command has not ended; negative for a signal), and the "report" of its error, if it
            wrote one.
        """
        process = self._process
        if process is None:
            raise RuntimeError("The command was not started")
        end = time.monotonic() + timeout
        while True:
            self._last_poll = time.monotonic()
            exit_code = process.poll()
            if exit_code is not None:
                self._kill()  # Processes that the command has started.
                for reader in self._readers:
                    reader.join(1.0)
            texts = {name: self._take(name, exit_code is not None) for name in self._texts}
            if exit_code is not None or any(texts.values()) or time.monotonic() >= end:
                if exit_code is not None:
                    self._read_report()
                return {**texts, "exit_code": exit_code, "report": self._report}
            time.sleep(0.02)

    def _take(self, name: str, has_ended: bool) -> str:
        """New complete lines."""
        data = self._texts[name]
        size = len(data) if has_ended else data.rfind(b"\n") + 1
        self._texts[name] = self._texts[name][size:]
        return data[:size].decode("utf8", "replace")

    def _read_report(self) -> None:
        with suppress(OSError, ValueError, LookupError, TypeError):
            text = Path(self._folder, "error.json").read_text(encoding="utf8")
            found = json.loads(text)["message"]
            # Also torch.distributed writes such files, with a text.
            self._report = dict(found) if isinstance(found, dict) else None
        shutil.rmtree(self._folder, ignore_errors=True)

    def interrupt(self) -> None:
        """Send the command what Ctrl-C sends."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """Kill the command and all processes that it has started, and wait for its end."""
        if self._process is not None:
            self._kill()
            self._process.wait()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _watch(self) -> None:
        while os.getppid() == self._raylet and time.monotonic() < self._last_poll + LEASE:
            if self._process is None:
                self._last_poll = time.monotonic()
            time.sleep(CHECK_INTERVAL)
        self.end()
        os._exit(1)
