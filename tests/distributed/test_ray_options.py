"""Options of `train` and `compare` for Ray clusters, and clusters that are not there."""

import importlib.util
import os
import signal
import socket
import threading
import time

import pytest
from helpers import require
from tiny import ADAM, LOCAL_SGD, write_config

from thinc_swa.distributed import ray_broker, ray_cluster, ray_launcher
from thinc_swa.distributed.launcher import WorkerFailure
from thinc_swa.distributed.ray_launcher import INTERRUPTED, ClusterWorkers, WorkerRange

for package in ("typer", "rich", "filelock", "scipy", "matplotlib"):
    require(package)

HAS_RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture
def path(tmp_path):
    return write_config(tmp_path, optimizer=LOCAL_SGD)


@pytest.fixture
def closed_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        yield found.getsockname()[1]


def test_usage_errors(tmp_path, path, run):
    for arguments, message in (
        (["--workers", "4:1"], "must be a number from 1 on, or MIN:MAX such as 1:4"),
        (["--workers", "1:4"], "--workers 1:4 requires --ray"),
        (["--storage", "folder"], "--storage requires --ray"),
        (["--ray", "auto"], "--ray requires --output or --storage"),
        (["--ray", "auto", "-o", "out", "--max-restarts", "-1"], "--max-restarts"),
    ):
        result = run(tmp_path, "train", path.name, *arguments)
        assert result.returncode == 2, arguments
        assert message in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("command", ["train", "compare"])
def test_without_ray(tmp_path, path, run, monkeypatch, command):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ray" else find(name)
    )
    result = run(tmp_path, command, path.name, "--ray", "auto", "-o", "out")
    assert result.returncode == 1
    assert result.stderr == (
        'Error: Ray is not installed: pip install "thinc-swa[distributed]"\n'
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["train", "compare"])
def test_an_address_without_a_server(tmp_path, path, run, monkeypatch, command, closed_port):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    address = f"127.0.0.1:{closed_port}"
    start = time.monotonic()
    result = run(tmp_path, command, path.name, "--ray", address, "-o", "out")
    assert time.monotonic() - start < 5
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: No Ray cluster could be reached at '{address}': ")
    assert "ray start --head" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["there", "host:", ":6379", "host:port", "ray://host"])
def test_malformed_addresses(monkeypatch, address):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match="must be auto, HOST:PORT or ray://HOST:PORT"):
        ray_cluster.RayCluster(address)


@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")
@pytest.mark.slow
def test_a_server_that_is_not_ray(monkeypatch):
    monkeypatch.setattr(ray_cluster, "CONNECT_TIMEOUT", 6.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(ConnectionError, match="did not answer within 6 seconds"):
            ray_cluster.RayCluster(address)
        assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    "text, n_failures, n_calls",
    [
        (ray_cluster.SERVER_FAILURE, 2, 3),
        (ray_cluster.SERVER_FAILURE, 3, 3),
        ("Version mismatch", 1, 1),
    ],
)
def test_servers_that_cannot_start_a_process(monkeypatch, tmp_path, text, n_failures, n_calls):
    """A connection is tried three times. The script is in the place of the process that
    imports Ray, whose servers fail like that now and then."""
    calls, script = tmp_path / "calls.txt", tmp_path / "broker.py"
    script.write_text(
        "import json, pathlib, sys\n"
        f"calls = pathlib.Path({str(calls)!r})\n"
        "n_before = len(calls.read_text()) if calls.exists() else 0\n"
        "calls.write_text('.' * (n_before + 1))\n"
        f"failure = {{'error': {text!r}, 'kind': 'ConnectionError'}}\n"
        f"reply = failure if n_before < {n_failures} else {{'result': None}}\n"
        "print(json.dumps(reply), flush=True)\n"
        "sys.stdin.read()\n"
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(ray_cluster.ray_broker, "__file__", str(script))
    if n_failures < n_calls:
        ray_cluster.RayCluster("local").close()
    else:
        with pytest.raises(ConnectionError, match=f"could be reached at 'local': {text}"):
            ray_cluster.RayCluster("local")
    assert calls.read_text() == "." * n_calls


@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")
@pytest.mark.slow
def test_no_cluster_on_this_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(ConnectionError, match="No Ray cluster could be reached at 'auto': "):
        ray_cluster.RayCluster("auto")


# Restarts, on a cluster that follows a script


def ended(exit_code, *, text=None, **details):
    report = None if text is None else {"message": text, "extraInfo": details}
    return {"output": "", "errors": "", "exit_code": exit_code, "report": report}


CONSEQUENCE = ended(1, text="Rank 0 waited", is_consequence=True)


class ScriptedCluster:
    """A cluster with what its commands do in each attempt: results of `poll`, by rank.

    n_places (Sequence[int]): The room for commands when the first attempt begins, and so on.
    """

    def __init__(self, attempts, n_places):
        self._attempts = list(attempts)
        self._n_places = list(n_places)
        self.started = []
        self.ended = []
        self.interrupted = []

    def count_places(self, *, are_free=False):
        return self._n_places[0]

    def reserve(self, n_commands, *, timeout):
        self._n_places = self._n_places[1:] or self._n_places
        self._news = dict(self._attempts.pop(0))
        self.started.append([])
        return True

    def release(self):
        pass

    def prepare(self, name, *, place):
        pass

    def find_address(self, name):
        return "127.0.0.1", 1234

    def start(self, name, arguments, *, environment, is_captured):
        self.started[-1].append((arguments, environment["RANK"], environment["WORLD_SIZE"]))

    def poll(self, timeout):
        news, self._news = self._news, {}
        return {f"worker-{rank}": found for rank, found in news.items()}

    def interrupt(self, name):
        self.interrupted.append(name)

    def end(self, names):
        self.ended.append(list(names))


def train_on(cluster, smallest, largest, max_restarts=3, grows_from_one=True):
    """The exit code, and the warnings."""
    warnings = []
    training = ClusterWorkers(
        cluster,
        n_workers=WorkerRange(smallest, largest),
        grows_from_one=grows_from_one,
        max_restarts=max_restarts,
        show=lambda text, is_error: None,
        warn=warnings.append,
    )
    return training.run(["first"], ["again"]), warnings


def test_as_many_workers_as_there_is_room_for():
    lost = {0: {"output": "table\n", **CONSEQUENCE}, 1: {"lost": "ActorDiedError"}}
    lost[0]["output"] = "table\n"
    cluster = ScriptedCluster([lost, {0: ended(0)}], n_places=[2, 1])
    exit_code, warnings = train_on(cluster, 1, 4)
    assert exit_code == 0
    assert warnings == [
        "Worker 1 was lost with its process or node. Restarting from the last checkpoint "
        "(restart 1 of 3)"
    ]
    assert cluster.started == [
        [(["first"], "0", "2"), (["first"], "1", "2")],
        [(["again"], "0", "1")],
    ]
    assert cluster.ended == [["worker-0", "worker-1"], ["worker-0"]]


@pytest.mark.parametrize("grows_from_one, n_workers", [(True, 2), (False, 1)])
def test_more_workers_after_a_restart(grows_from_one, n_workers):
    begun = {0: {**ended(-9), "output": "table\n"}}
    done = {rank: ended(0) for rank in range(n_workers)}
    cluster = ScriptedCluster([begun, done], n_places=[1, 2])
    exit_code, _ = train_on(cluster, 1, 2, grows_from_one=grows_from_one)
    assert exit_code == 0
    assert [len(started) for started in cluster.started] == [1, n_workers]


def test_a_restart_waits_for_room(monkeypatch):
    monkeypatch.setattr(ray_launcher, "POLL_INTERVAL", 0.0)
    cluster = ScriptedCluster([{0: ended(-9)}, {0: ended(0), 1: ended(0)}], n_places=[2, 1])
    count, checks = cluster.count_places, []

    def count_places(*, are_free=False):
        checks.append(count())
        if len(checks) == 6:
            cluster._n_places = [2]
        return checks[-1]

    cluster.count_places = count_places
    exit_code, _ = train_on(cluster, 2, 2)
    assert exit_code == 0
    assert checks == [2, 2, 1, 1, 1, 1, 2]
    assert [len(started) for started in cluster.started] == [2, 2]


def test_a_training_that_has_not_begun_is_not_resumed():
    """It may have been lost before it has deleted an earlier one."""
    cluster = ScriptedCluster([{0: ended(-9), 1: CONSEQUENCE}, {0: ended(0), 1: ended(0)}], [2])
    _, (warning,) = train_on(cluster, 2, 2)
    assert warning.startswith("Worker 0 was ended by SIGKILL. ")
    assert cluster.started[1][0][0] == ["first"]


def test_errors_of_the_training_are_not_repeated():
    error = ended(1, text="unknown setting", is_consequence=False)
    cluster = ScriptedCluster([{0: CONSEQUENCE, 1: error}], [2])
    with pytest.raises(WorkerFailure, match="^unknown setting$") as failure:
        train_on(cluster, 2, 2)
    assert failure.value.exit_code == 1


@pytest.mark.parametrize("max_restarts, after", [(0, ""), (1, " after 1 restart")])
def test_the_number_of_restarts_is_limited(max_restarts, after):
    lost = {0: {"lost": "ActorDiedError"}}
    cluster = ScriptedCluster([lost] * (max_restarts + 1), [1])
    with pytest.raises(WorkerFailure, match=f"node{after}: use --resume to continue"):
        train_on(cluster, 1, 1, max_restarts)


def test_the_folder_may_be_locked_for_a_moment_after_a_restart(monkeypatch):
    """By a worker that does not know yet that its node has died."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    locked = {0: ended(1, text="in use", error_type="BlockingIOError")}
    cluster = ScriptedCluster([{0: ended(-9)}, locked, locked, {0: ended(0)}], [1])
    exit_code, warnings = train_on(cluster, 1, 1, max_restarts=1)
    assert exit_code == 0 and len(warnings) == 1
    with pytest.raises(WorkerFailure, match="in use"):
        train_on(ScriptedCluster([locked], [1]), 1, 1)


def test_too_little_room():
    with pytest.raises(ValueError, match="room for 2 workers, but --workers asks for 3"):
        train_on(ScriptedCluster([], [2]), 3, 5)


def test_an_interrupted_training_is_no_failure():
    cluster = ScriptedCluster([{0: ended(INTERRUPTED), 1: ended(INTERRUPTED)}], [2])
    assert train_on(cluster, 2, 2) == (INTERRUPTED, [])


def test_ctrl_c_while_workers_start(interruptible):
    """A process that starts may not notice it."""
    cluster = ScriptedCluster([{}], [2])
    start = cluster.start

    def start_and_interrupt(*arguments, **options):
        start(*arguments, **options)
        signal.raise_signal(signal.SIGINT)

    cluster.start = start_and_interrupt
    with pytest.raises(WorkerFailure) as failure:
        train_on(cluster, 1, 1)
    assert (failure.value.exit_code, str(failure.value)) == (INTERRUPTED, "")
    assert cluster.ended == [["worker-0"]]


# The process on a node


def poll_to_the_end(host):
    news = [host.poll(5.0)]
    while news[-1]["exit_code"] is None:
        news.append(host.poll(5.0))
    output = "".join(found["output"] for found in news)
    return news[-1]["exit_code"], output, news[-1]["report"]


@pytest.fixture
def host(monkeypatch):
    """In this process, which must not end."""
    monkeypatch.setattr(ray_broker.Host, "_watch", lambda host: None)
    found = ray_broker.Host()
    yield found
    found.end()
    for reader in found._readers:
        reader.join(5.0)


def start(host, program, folder, request=""):
    host.start(["-c", program], {"NAME": "value"}, str(folder), request, True)


def test_a_command_on_a_node(tmp_path, host):
    program = "import os; print(os.environ['NAME'], os.getcwd(), input()); raise SystemExit(3)"
    start(host, program, tmp_path, "text\n")
    assert poll_to_the_end(host) == (3, f"value {tmp_path} text{os.linesep}", None)


def test_the_report_of_an_error(tmp_path, host):
    program = (
        "import os; open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w').write("
        '\'{"message": {"message": "wrong", "extraInfo": {}}}\'); raise SystemExit(1)'
    )
    start(host, program, tmp_path)
    assert poll_to_the_end(host) == (1, "", {"message": "wrong", "extraInfo": {}})
    # Asked again, if the answer was lost.
    assert host.poll(0.0)["report"] == {"message": "wrong", "extraInfo": {}}


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_the_end_of_a_command(tmp_path, host):
    start(host, "import time; print('started', flush=True); time.sleep(60)", tmp_path)
    assert host.poll(10.0)["output"] == "started\n"
    threading.Timer(0.1, host.end).start()
    assert poll_to_the_end(host) == (-9, "", None)


def test_files_that_a_node_sees(tmp_path, host, monkeypatch):
    monkeypatch.setattr(ray_broker, "VISIBLE_AFTER", 0.0)
    probe = host.write_probe(str(tmp_path / "new"))
    assert host.find_missing([probe, str(tmp_path / "other")]) == [str(tmp_path / "other")]
    host.delete(probe)
    assert host.find_missing([probe]) == [probe]


def test_storage_that_only_one_node_sees(tmp_path, monkeypatch):
    class Actor:
        def __init__(self, sees_files):
            self._sees_files = sees_files

        def __getattr__(self, name):
            class Method:
                @staticmethod
                def remote(*arguments):
                    if name == "write_probe":
                        return "probe"
                    return None if name == "delete" or self._sees_files else arguments[0]

            return Method

    class Ray:
        actors = [Actor(True), Actor(False)]

        def nodes(self):
            return [
                {"Alive": True, "NodeID": i, "Resources": {"CPU": 1}, "NodeManagerAddress": i}
                for i in "ab"
            ]

        def get(self, references, timeout):
            if isinstance(references, list):
                return [found or [] for found in references]
            return references

        def kill(self, actor):
            pass

    broker = object.__new__(ray_broker.Broker)
    broker._ray = Ray()
    actors = iter(Ray.actors)

    class Class:
        @staticmethod
        def options(**options):
            return Class

        @staticmethod
        def remote():
            return next(actors)

    class Strategies:
        NodeAffinitySchedulingStrategy = staticmethod(lambda node, soft: None)

    broker._host, broker._strategies = Class, Strategies
    monkeypatch.setattr(broker, "_get", lambda found: broker._ray.get(found, timeout=1))
    message = "is not on storage that all nodes share: the node b does not see what the node a"
    with pytest.raises(FileNotFoundError, match=message):
        broker.check_files(str(tmp_path), [])


def test_an_optimizer_without_local_sgd_needs_no_cluster(tmp_path, run):
    """The number of workers is 1 by default."""
    path = write_config(tmp_path, optimizer=ADAM)
    assert run(tmp_path, "train", path.name, "--workers", "1").returncode == 0
