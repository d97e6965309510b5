"""Processes of runs, with both executors."""

import os
import signal
import time

import pytest
from processes import IS_LINUX, assert_end, wait_for_files
from thinc.api import Config
from tiny import ADAM, write_config

from thinc_swa.comparison.executors import ForkExecutor, Job, SubprocessExecutor
from thinc_swa.training.configs import with_seed
from thinc_swa.training.logs import read_log

# User code with a behaviour per dataset name. The run and the processes that it starts write
# their ids to files.
CODE = """
import ctypes, os, signal, subprocess, sys, time
import multiprocessing
from pathlib import Path
from thinc.api import registry

@registry.datasets("odd.v1")
def make(how, folder):
    Path(folder, "run").write_text(str(os.getpid()))
    if how == "exits":
        os._exit(3)
    if how == "pool":
        with multiprocessing.get_context("fork").Pool(2) as pool:
            raise ValueError(f"the sum is {sum(pool.map(abs, [-1, 2]))}")
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(100,))
    process.start()
    Path(folder, "child").write_text(str(process.pid))
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    Path(folder, "grandchild").write_text(str(process.pid))
    if how == "busy":
        # Holds the lock of the interpreter, so that no other thread can run.
        ctypes.PyDLL(None).sleep(100)
    if how == "leaves":
        os._exit(0)
    time.sleep(100)
"""


def make_fork_executor():
    return ForkExecutor(["thinc_swa.comparison.recording"], environment=os.environ)


def make_subprocess_executor():
    return SubprocessExecutor(environment=os.environ)


MAKERS = [make_subprocess_executor] + ([make_fork_executor] if IS_LINUX else [])


@pytest.fixture(params=MAKERS)
def executor(request):
    executor = request.param()
    yield executor
    executor.close()


def make_job(folder, how=None, seed=1):
    path = write_config(folder, "adam", ADAM)
    config = with_seed(Config().from_disk(path), seed - 1)
    if how is not None:
        config["dataset"] = {"@datasets": "odd.v1", "how": how, "folder": str(folder)}
    (folder / "code.py").write_text(CODE)
    run_folder = folder / f"run-{seed}"
    run_folder.mkdir()
    return Job(config.to_str(), {"thinc": "8"}, str(run_folder), -1, str(folder / "code.py"))


def wait_for(executor, n=1, timeout=60.0):
    ended = {}
    end = time.monotonic() + timeout
    while len(ended) < n:
        assert time.monotonic() < end, "a process did not end"
        ended.update(executor.poll(0.1))
    return ended


def test_runs_write_logs(tmp_path, executor):
    jobs = [make_job(tmp_path, seed=seed) for seed in (1, 2)]
    for job in jobs:
        executor.start(job)
    assert wait_for(executor, 2) == {job.folder: 0 for job in jobs}
    logs = [list(read_log(tmp_path / f"run-{seed}" / "log.jsonl")) for seed in (1, 2)]
    for job, log in zip(jobs, logs, strict=True):
        assert log[0] == {"type": "start", "config": job.config, "inputs": {"thinc": "8"}}
        assert [record["step"] for record in log if record["type"] == "evaluation"] == [
            10,
            20,
            30,
            40,
            50,
            60,
        ]
        assert log[-1]["type"] == "end"
    evaluations = [[r for r in log if r["type"] == "evaluation"] for log in logs]
    assert evaluations[0] != evaluations[1]
    assert executor.poll(0.0) == {}


@pytest.mark.skipif(not IS_LINUX, reason="there is one executor only")
def test_both_executors_give_the_same_numbers(tmp_path):
    scores = []
    for name, make in (("fork", make_fork_executor), ("fresh", make_subprocess_executor)):
        (tmp_path / name).mkdir()
        executor = make()
        executor.start(make_job(tmp_path / name))
        wait_for(executor)
        executor.close()
        log = read_log(tmp_path / name / "run-1" / "log.jsonl")
        scores.append([(r["loss"], r["score"]) for r in log if r["type"] == "evaluation"])
    assert scores[0] == scores[1]


def test_executors_report_exit_codes(tmp_path, executor):
    job = make_job(tmp_path, "exits")
    executor.start(job)
    assert wait_for(executor) == {job.folder: 3}


@pytest.mark.skipif(not IS_LINUX, reason="fork")
def test_user_code_can_start_processes(tmp_path, executor):
    job = make_job(tmp_path, "pool")
    executor.start(job)
    assert wait_for(executor) == {job.folder: 0}
    *_, last = read_log(tmp_path / "run-1" / "log.jsonl")
    assert last["error"] == "the sum is 3"


@pytest.mark.slow
@pytest.mark.skipif(not IS_LINUX, reason="processes are looked up in /proc")
@pytest.mark.parametrize("how", ["sleeps", "busy"])
def test_cancelled_runs_end_with_all_their_processes(tmp_path, executor, how):
    jobs = [make_job(tmp_path, how), make_job(tmp_path, seed=2)]
    executor.start(jobs[0])
    names = ("run", "child", "grandchild")
    pids = wait_for_files(*(tmp_path / name for name in names))
    executor.cancel(jobs[0].folder)
    assert_end(pids)
    assert wait_for(executor) == {jobs[0].folder: -9}
    # The others continue.
    executor.start(jobs[1])
    assert wait_for(executor) == {jobs[1].folder: 0}


@pytest.mark.slow
@pytest.mark.skipif(not IS_LINUX, reason="processes are looked up in /proc")
@pytest.mark.parametrize("how", ["sleeps", "busy", "leaves"])
def test_closing_an_executor_ends_all_processes(tmp_path, executor, how):
    job = make_job(tmp_path, how)
    executor.start(job)
    names = ("run", "child", "grandchild")
    pids = wait_for_files(*(tmp_path / name for name in names))
    if how == "leaves":
        assert wait_for(executor) == {job.folder: 0}
    else:
        executor.close()
    assert_end(pids)


@pytest.mark.skipif(not IS_LINUX, reason="forks")
def test_runs_end_with_the_server_and_a_new_one_is_started(tmp_path):
    executor = make_fork_executor()
    try:
        jobs = [make_job(tmp_path, "sleeps"), make_job(tmp_path, seed=2)]
        executor.start(jobs[0])
        pids = wait_for_files(*(tmp_path / name for name in ("run", "child", "grandchild")))
        executor._server.kill()
        assert wait_for(executor) == {jobs[0].folder: -9}
        assert_end(pids)
        executor.start(jobs[1])
        assert wait_for(executor) == {jobs[1].folder: 0}
    finally:
        executor.close()


@pytest.mark.slow
@pytest.mark.skipif(not IS_LINUX, reason="forks")
@pytest.mark.parametrize("is_polled", [True, False])
def test_runs_end_with_a_suspended_server(tmp_path, is_polled):
    executor = make_fork_executor()
    try:
        executor.start(make_job(tmp_path, "sleeps"))
        pids = wait_for_files(*(tmp_path / name for name in ("run", "child", "grandchild")))
        if is_polled:
            assert executor.poll(0.0) == {}
        executor._server.send_signal(signal.SIGSTOP)
    finally:
        executor.close()
    assert_end(pids)
