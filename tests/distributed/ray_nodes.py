"""A Ray cluster of two nodes on this machine, for tests: run as a script, so that Ray is in a
process of its own. Each line of the standard input adds a node; at its end the cluster ends."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

OBJECT_STORE = 80 * 2**20


def serve():
    from ray.cluster_utils import Cluster

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    while True:
        added = cluster.add_node(**node)
        pid = added.all_processes["raylet"][0].process.pid
        print(json.dumps([cluster.address, pid]), file=replies, flush=True)
        if not sys.stdin.readline():
            break
    cluster.shutdown()


class Nodes:
    """The cluster, as tests see it.

    address (str): Its address.
    raylet (int): Process id of the raylet of the last node that was added, not of the head.
    """

    def __init__(self, process):
        self.process = process
        self._read()

    def _read(self):
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        self.address, self.raylet = json.loads(line)

    def add(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self._read()


@contextmanager
def ray_nodes():
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__))],
        # Ray's workers are nice by default, and starve beside other tests.
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield Nodes(process)
        process.stdin.close()
        process.wait(30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stdin.close()


def wait_for(find, timeout=90):
    """The first result of a function that is not empty."""
    end = time.monotonic() + timeout
    while not (found := find()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


if __name__ == "__main__":
    serve()
