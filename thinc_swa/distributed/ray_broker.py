"""Process that is connected to a Ray cluster for a command: see `ray_cluster.py`.

Requests and replies are lines of JSON on the standard input and output. When the standard input
is closed, all processes on the cluster are ended.
"""

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from . import ray_host
from .ray_host import LEASE, Host

# Seconds that a process has for its own end.
END_TIMEOUT = 5.0
# Seconds that nodes have to start a process.
START_TIMEOUT = 60.0


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
        ray.cloudpickle.register_pickle_by_value(ray_host)
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
