"""Process that is connected to a Ray cluster for a command: see `ray_cluster.py`.

`RayCluster` runs this file as a script, which imports nothing of the package: that would take
seconds. Requests and replies are lines of JSON on the standard input and output. When the
standard input is closed, all commands on the cluster are ended.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

# Seconds without a call of `poll` after which the command is ended: the connection of this node
# to the others is lost.
LEASE = 20.0
# Seconds between checks of whether the command must be ended.
CHECK_INTERVAL = 0.2
# Seconds until a new file must be visible on all nodes. Network file systems cache folders.
VISIBLE_AFTER = 5.0
# Seconds that a process has for its own end.
END_TIMEOUT = 5.0
# Seconds that nodes have to start a process.
START_TIMEOUT = 60.0


# On the nodes


class Host:
    """Runs one command, and ends it when this process, its raylet or the connection ends."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []
        self._texts = {"output": b"", "errors": b""}
        self._folder = ""
        self._report: dict[str, Any] | None = None
        self._last_poll = time.monotonic()
        self._is_lost = False
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
        with pipe:
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
            while self._is_lost:
                # The command was killed for that, which is not its own end.
                time.sleep(CHECK_INTERVAL)
            if exit_code is not None:
                self._kill()  # Processes that the command has started.
                for reader in self._readers:
                    reader.join(END_TIMEOUT)
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
            if self._process.stdin is not None:
                self._process.stdin.close()
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
        self._is_lost = True
        self.end()
        os._exit(1)


# In the broker


@dataclass
class Remote:
    """A process on the cluster.

    actor (ActorHandle): The actor that runs it.
    pending (ObjectRef): The call that has not returned yet.
    is_started (bool): Whether the process was started, so that the call is one of `poll`.
    node (str | None): Id of its node; None as long as it is unknown.
    last_reply (float): When the actor has answered last.
    """

    actor: Any
    pending: Any
    is_started: bool = False
    node: str | None = None
    last_reply: float = field(default_factory=time.monotonic)


class Broker:
    """Methods that requests call by name.

    ray (module): Ray, initialized.
    """

    def __init__(self, ray: Any) -> None:
        import ray.util.scheduling_strategies as strategies

        self._ray = ray
        self._strategies = strategies
        # By value, as this file is a script: nodes need not have the package for it.
        self._host = ray.remote(num_cpus=1, max_restarts=0)(Host)
        self._remotes: dict[str, Remote] = {}
        self._group: Any = None

    def count_places(self, uses_gpu: bool, are_free: bool) -> int:
        """Number of processes that the cluster has room for, or that fit into what is free."""
        ray = self._ray
        found = ray.available_resources() if are_free else ray.cluster_resources()
        n_places = int(found.get("CPU", 0))
        return min(n_places, int(found.get("GPU", 0))) if uses_gpu else n_places

    def check_files(self, folder: str | None, paths: list[str]) -> None:
        """Check that all nodes see the same folder, and files.

        folder (str | None): Folder to which the first node writes a file for the others.
        RAISES: FileNotFoundError that names a node and what it does not see; OSError if the
            first node cannot write to the folder.
        """
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        nodes = [node for node in nodes if node["Resources"].get("CPU", 0) >= 1]
        on_node = self._strategies.NodeAffinitySchedulingStrategy
        hosts = [
            self._host.options(
                num_cpus=0, scheduling_strategy=on_node(node["NodeID"], soft=False)
            ).remote()
            for node in nodes
        ]
        names = [node["NodeManagerAddress"] for node in nodes]
        probe = None
        try:
            if folder is not None:
                probe = self._get(hosts[0].write_probe.remote(folder))
                paths = [probe, *paths]
            found = self._get([host.find_missing.remote(paths) for host in hosts])
        finally:
            if probe is not None:
                with suppress(Exception):
                    self._get(hosts[0].delete.remote(probe))
            for host in hosts:
                self._ray.kill(host)
        for name, missing in zip(names, found, strict=True):
            if probe in missing:
                raise FileNotFoundError(
                    f"{folder} is not on storage that all nodes share: the node {name} does "
                    f"not see what the node {names[0]} has written there. Use a folder of a "
                    "network file system"
                )
            if missing:
                raise FileNotFoundError(
                    f"The node {name} does not see {', '.join(missing)}: all nodes need it at "
                    "the same path"
                )

    def _get(self, references: Any) -> Any:
        """Results of calls. RAISES: The error of the first one that has failed."""
        try:
            return self._ray.get(references, timeout=START_TIMEOUT)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def reserve(self, n_processes: int, uses_gpu: bool, timeout: float) -> bool:
        """Reserve room for processes that need each other.

        RETURNS (bool): Whether they all found room in time.
        """
        self.release()
        bundle = {"CPU": 1, "GPU": 1} if uses_gpu else {"CPU": 1}
        self._group = self._ray.util.placement_group([bundle] * n_processes)
        if self._group.wait(timeout):
            return True
        self.release()
        return False

    def release(self) -> None:
        """Give back what `reserve` has reserved."""
        if self._group is not None:
            self._ray.util.remove_placement_group(self._group)
            self._group = None

    def find_address(self, name: str) -> tuple[str, int]:
        """The address of the node of a process, and a free port of it."""
        remote = self._remotes[name]
        remote.node, address, port = self._get(remote.actor.find_place.remote())
        return address, port

    def prepare(self, name: str, uses_gpu: bool, place: int | None) -> None:
        """Make a process that can run a command.

        place (int | None): Which of the reserved places it gets; None for any free one.
        """
        options: dict[str, Any] = {"num_gpus": 1} if uses_gpu else {}
        if place is not None:
            options["scheduling_strategy"] = self._strategies.PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=place
            )
        actor = self._host.options(**options).remote()
        self._remotes[name] = Remote(actor, None)

    def start(self, name: str, **command: Any) -> None:
        """Start a command. Its errors are in the result of `poll`.

        command (Any): The arguments of `Host.start`.
        """
        remote = self._remotes[name]
        remote.pending = remote.actor.start.remote(**command)

    def poll(self, timeout: float) -> dict[str, Any]:
        """Wait for news of any command.

        timeout (float): Maximum time in seconds.
        RETURNS (dict[str, Any]): Results of `Host.poll` by name. Instead of it there is
            "error" for a command that could not be started, and "lost" for one whose process or
            node has ended.
        """
        names = {remote.pending: name for name, remote in self._remotes.items()}
        if not names:
            time.sleep(timeout)
            return {}
        ready, _ = self._ray.wait(list(names), num_returns=1, timeout=timeout)
        ready, _ = self._ray.wait(list(names), num_returns=len(names), timeout=0)
        news: dict[str, Any] = {}
        for reference in ready:
            name = names[reference]
            found = self._read(self._remotes[name], reference)
            if found is None:
                continue
            news[name] = found
            if found.get("exit_code", 0) is not None:
                self._forget(name)
        return news

    def _read(self, remote: Remote, reference: Any) -> dict[str, Any] | None:
        exceptions = self._ray.exceptions
        try:
            found = self._ray.get(reference)
        except exceptions.RayTaskError as error:
            return {"error": str(error.cause)}
        except exceptions.ActorUnavailableError:
            time.sleep(0.1)
            found = None
        except exceptions.RayError as error:
            # The process may still run on a node without a connection, but not for long.
            if self._is_node_lost(remote) and time.monotonic() < remote.last_reply + LEASE:
                time.sleep(0.1)
                found = None
            else:
                return {"lost": type(error).__name__}
        else:
            remote.last_reply = time.monotonic()
            if not remote.is_started:
                remote.is_started = True
                remote.node, _, _ = self._get(remote.actor.find_place.remote())
                found = None
        remote.pending = remote.actor.poll.remote(0.5)
        return None if found is None else dict(found)

    def _is_node_lost(self, remote: Remote) -> bool:
        return remote.node is not None and not any(
            node["Alive"] for node in self._ray.nodes() if node["NodeID"] == remote.node
        )

    def interrupt(self, name: str) -> None:
        """Send a command what Ctrl-C sends."""
        if name in self._remotes:
            self._remotes[name].actor.interrupt.remote()

    def end(self, names: list[str]) -> None:
        """Kill commands and all processes that they have started."""
        known = [name for name in names if name in self._remotes]
        ends = [self._remotes[name].actor.end.remote() for name in known]
        if ends:
            self._ray.wait(ends, num_returns=len(ends), timeout=END_TIMEOUT)
        for name in known:
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._ray.kill(self._remotes.pop(name).actor)

    def close(self) -> None:
        """End all processes."""
        self.end(list(self._remotes))
        self.release()


def main(arguments: list[str]) -> None:
    """Connect to a cluster, and answer requests until the standard input is closed.

    arguments (list[str]): The address.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf8")
    # Messages of Ray, and of C++ libraries.
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)

    def reply(**values: Any) -> None:
        # The other process may have ended.
        with suppress(OSError):
            replies.write(json.dumps(values) + "\n")
            replies.flush()

    try:
        import ray

        (address,) = arguments
        options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        ray.init(address=address, log_to_driver=False, configure_logging=False, **options)
        broker = Broker(ray)
    except BaseException as error:
        reply(error=str(error), kind=type(error).__name__)
        return
    reply(result=None)
    try:
        for line in sys.stdin:
            request = json.loads(line)
            try:
                reply(result=getattr(broker, request["method"])(**request["arguments"]))
            except Exception as error:
                reply(error=str(error), kind=type(error).__name__)
    finally:
        with suppress(Exception):
            broker.close()
        ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
