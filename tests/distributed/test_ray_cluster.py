"""`train` and `compare` on a Ray cluster of two nodes on this machine, and nodes that die."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from helpers import require, run_command
from output_folders import results_of
from processes import IS_LINUX, descendants, end_group, is_alive, start_training
from ray_nodes import ray_nodes, wait_for
from thinc.api import Config
from tiny import ADAM, LOCAL_SGD, SWA, write_config

from thinc_swa.comparison.entries import read_entries
from thinc_swa.comparison.runs import make_runs, train_runs
from thinc_swa.distributed import run_simulated
from thinc_swa.distributed.ray_cluster import RayCluster
from thinc_swa.training import train

for package in ("ray", "typer", "rich", "filelock", "torch", "scipy", "matplotlib"):
    require(package)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not IS_LINUX, reason="finds processes in /proc"),
]


@pytest.fixture(scope="module")
def nodes():
    with ray_nodes() as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_is_left(nodes):
    """Every command ends its processes on the cluster."""
    yield
    wait_for(lambda: not commands(nodes), timeout=15)


def commands(nodes):
    """Process ids of the commands on the cluster by their command lines."""
    found = {}
    for pid in descendants(nodes.process.pid):
        line = _command_line(pid)
        if re.search(r"thinc_swa\.cli\.cluster_worker|thinc_swa\.comparison\.run_worker", line):
            found[pid] = line
    return found


def brokers():
    own = descendants(os.getpid())
    return [pid for pid in own if "ray_broker" in _command_line(pid)]


def _command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", errors="replace") as file:
            return file.read().replace("\0", " ")
    except OSError:
        return ""


def slow_config(tmp_path, **settings):
    """A training of seconds, with many evaluations."""
    return write_config(tmp_path, optimizer=LOCAL_SGD, eval_frequency=100, **settings)


def n_checkpoints_since(folder, step):
    return [path for path in folder.glob("step-*") if int(path.name[5:]) > step]


def assert_as_simulated(tmp_path, path, n_workers=2):
    config = Config().from_disk(path)
    whole = tmp_path / "whole"
    run_simulated(n_workers, lambda c: train(config, output=whole, communicator=c))
    assert results_of(tmp_path / "out") == results_of(whole)


def finish(process, timeout=120):
    try:
        output, errors = process.communicate(timeout=timeout)
    finally:
        end_group(process)
    return process.returncode, output, errors


def test_workers_on_a_cluster_are_simulated_workers_bit_for_bit(tmp_path, nodes):
    path = write_config(tmp_path, optimizer=LOCAL_SGD)
    arguments = ["--ray", nodes.address, "--workers", "2", "--storage", tmp_path, "-o", "out"]
    result = run_command(tmp_path, "train", path, *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:7]] == ["10", "20", "30", "40", "50", "60"]
    assert lines[-1].startswith("Saved to ")
    assert_as_simulated(tmp_path, path)
    # No probe.
    assert not list((tmp_path / "out").glob(".thinc-swa-probe*"))


@contextmanager
def client_server(address):
    """A server for clients that do not belong to the cluster.

    RETURNS (str): Its address.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "ray.util.client.server", "--address", address]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def is_ready():
        assert process.poll() is None
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(is_ready)
        yield f"ray://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_from_a_machine_outside_of_the_cluster(tmp_path, nodes):
    require("grpc")
    path = write_config(tmp_path, optimizer=LOCAL_SGD)
    with client_server(nodes.address) as address:
        arguments = ["--ray", address, "--workers", "2", "--storage", tmp_path, "-o", "out"]
        result = run_command(tmp_path, "train", path, *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert_as_simulated(tmp_path, path)


def test_a_spacy_config_on_a_cluster_is_simulated_workers_bit_for_bit(tmp_path, nodes):
    require("spacy")
    from spacy.util import load_config
    from spacy_config_cases import ner
    from spacy_trainings import ADAM, results_of

    from thinc_swa.training.spacy_training import train_spacy

    optimizer = {"@optimizers": "LocalSGD.v1", "freq": 5, "optimizer": ADAM}
    ner(tmp_path, training__optimizer=optimizer, training__max_steps=29)
    path = tmp_path / "config.cfg"
    arguments = ["--ray", nodes.address, "--workers", "2", "-o", "out"]
    result = run_command(tmp_path, "train", path, *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    config = load_config(path, interpolate=False)
    whole = tmp_path / "whole"
    run_simulated(2, lambda c: train_spacy(config, output=whole, communicator=c))
    assert results_of(tmp_path / "out") == results_of(whole)


def test_errors_of_workers_are_shown_once(tmp_path, nodes):
    path = write_config(tmp_path, optimizer=ADAM)
    arguments = ["--ray", nodes.address, "--workers", "2", "-o", "out"]
    result = run_command(tmp_path, "train", path, *arguments)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ") and "needs an optimizer with one LocalSGD" in line


def test_files_that_nodes_do_not_see(tmp_path, nodes):
    with RayCluster(nodes.address) as cluster:
        cluster.check_files(tmp_path / "new", [tmp_path])
        with pytest.raises(FileNotFoundError, match="does not see .*/missing"):
            cluster.check_files(tmp_path, [tmp_path / "missing"])
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="file"):
            cluster.check_files(tmp_path / "file", [])
    assert not brokers()


def test_a_killed_worker_costs_nothing_but_time(tmp_path, nodes):
    path = slow_config(tmp_path, max_steps=1200)
    process = start_training(tmp_path, path, "--ray", nodes.address, "--workers", "2")
    try:
        wait_for(lambda: n_checkpoints_since(tmp_path / "out", 0))
        os.kill(max(commands(nodes)), signal.SIGKILL)
    finally:
        returncode, _, errors = finish(process)
    assert returncode == 0, errors
    (line,) = errors.splitlines()
    assert re.match(
        r"Warning: Worker \d was ended by SIGKILL\. Restarting from the last checkpoint "
        r"\(restart 1 of 3\)",
        line,
    )
    assert_as_simulated(tmp_path, path)


def test_ctrl_c_stops_all_workers_after_the_same_step(tmp_path, nodes, interruptible):
    path = slow_config(tmp_path, max_steps=1_000_000)
    process = start_training(tmp_path, path, "--ray", nodes.address, "--workers", "2")
    try:
        wait_for(lambda: n_checkpoints_since(tmp_path / "out", 0))
        os.killpg(process.pid, signal.SIGINT)
    finally:
        returncode, output, errors = finish(process)
    assert returncode == 130, errors
    assert errors == ""
    assert "use --resume to continue" in output


def test_a_killed_command_ends_its_workers(tmp_path, nodes):
    path = slow_config(tmp_path, max_steps=1_000_000)
    process = start_training(tmp_path, path, "--ray", nodes.address, "--workers", "2")
    try:
        wait_for(lambda: n_checkpoints_since(tmp_path / "out", 0))
        started = [*descendants(process.pid), *commands(nodes)]
        process.kill()
    finally:
        finish(process)
    wait_for(lambda: not any(map(is_alive, started)), timeout=20)


def test_a_training_goes_on_with_fewer_workers(tmp_path, nodes, interruptible):
    path = slow_config(tmp_path, max_steps=1_000_000)
    process = start_training(tmp_path, path, "--ray", nodes.address, "--workers", "1:4")
    try:
        wait_for(lambda: n_checkpoints_since(tmp_path / "out", 0))
        first = set(commands(nodes))
        assert len(first) == 2
        os.kill(nodes.raylet, signal.SIGKILL)
        wait_for(lambda: set(commands(nodes)) - first)
        assert len(commands(nodes)) == 1
        last = max(int(path.name[5:]) for path in (tmp_path / "out").glob("step-*"))
        # More than one evaluation after the restart, in which the steps may be repeated.
        wait_for(lambda: n_checkpoints_since(tmp_path / "out", last + 200), timeout=60)
        os.killpg(process.pid, signal.SIGINT)
    finally:
        returncode, output, errors = finish(process)
        nodes.add()
    assert returncode == 130, errors
    restart, change = errors.splitlines()
    assert restart.startswith("Warning: ") and "(restart 1 of 3)" in restart
    assert "saved with 2 workers, and the training continues with 1 worker" in change
    # The table begins again, with the evaluations before the checkpoint. Only the last one of
    # two workers may have been repeated by one.
    _, before, after = (text.splitlines()[1:] for text in re.split(r"(?m)^(?= +step )", output))
    steps = [int(line.split()[0]) for line in after if re.match(r" +\d+ ", line)]
    assert steps == [100 * (i + 1) for i in range(len(steps))]
    assert after[: len(before) - 1] == before[:-1]


def test_comparisons_on_a_cluster_and_a_node_that_dies(tmp_path, nodes):
    paths = [
        write_config(tmp_path, name, optimizer, max_steps=20_000, eval_frequency=1000)
        for name, optimizer in (("adam", ADAM), ("swa", SWA))
    ]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "thinc_swa", "compare", *map(str, paths)),
            *("--seeds", "1", "--no-sharing", "--ray", nodes.address, "-o", "output"),
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    output = tmp_path / "output"
    try:
        wait_for(
            lambda: (
                len(commands(nodes)) == 2
                and len(list(output.glob("runs/*/*/checkpoints/step-*"))) >= 2
            )
        )
        os.kill(nodes.raylet, signal.SIGKILL)
    finally:
        returncode, printed, errors = finish(process)
        nodes.add()
    assert returncode == 0, errors
    assert errors == ""
    assert "adam, seed 1: " in printed and "swa, seed 1: " in printed
    found = []
    for folder in (output, tmp_path / "local"):
        runs = make_runs(read_entries(paths, [], {}), n_seeds=1, output=folder)
        if folder == output:
            assert [run.state for run in runs] == ["done", "done"]
        else:
            train_runs(runs, is_shared=False)
        found.append([run.evaluations for run in runs])
    assert found[0] == found[1]
