"""Runs of a comparison: trainings of each config with each seed, in processes of their own.

Every run has a folder with its log. A complete run is not repeated if its config and everything
that the config depends on are unchanged, and an interrupted one is resumed from its checkpoint.
"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from thinc.api import Config

from ..distributed.ray_cluster import RayCluster
from ..errors import describe_error
from ..escaping import folder_name, printable
from ..training.configs import is_spacy_config, with_seed
from ..training.fingerprints import describe_inputs, describe_settings, differences, is_exact
from ..training.logs import Log, Record, keep_records, read_log
from ..validation import check_int
from .entries import Entry
from .executors import LOST, Executor, Job, SharedRun, make_executor
from .folders import check_folder, prepare_folder
from .ray_executor import RayExecutor
from .run_checkpoints import (
    delete_checkpoints,
    find_last,
    name_of,
    read_names,
    read_reason,
)
from .run_logs import read_run_log
from .run_worker import CANNOT_RESUME, CANNOT_WRITE, LOG
from .sharing import sharing_key

# Seconds between reads of the logs.
REPORT_INTERVAL = 0.2

# Variables that limit the threads of numerical libraries. By default each run uses all cores.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# Maximum number of differences in the message about a run that is trained again.
MAX_DIFFERENCES = 3
# Nodes of a cluster that may die under a run before it has failed.
MAX_LOST = 3
EARLIER_VERSION = "an earlier version of thinc-swa has written its log"


@dataclass
class Run:
    """One training of a comparison, and its progress.

    name (str): Name of the entry.
    seed_index (int): Seed index: runs of different entries with the same one are paired.
    seed (int): The seed.
    text (str): The config, with the seed, interpolated.
    folder (Path): Folder for the log and the output.
    inputs (dict[str, str]): Fingerprints of what the config depends on.
    code (Path | None): A Python file that registers what the config names.
    output (Path | None): Output folder of the comparison.
    dataset (str | None): The sections [dataset] and [datasets] as JSON; None for spaCy configs.
    sharing_key (str): Runs with the same key can share a training.
    state (str): "waiting", "running", "done" or "failed".
    outdated (str | None): Reason why a complete run in the folder is not used.
    restarted (str | None): Reason why an interrupted training was not resumed.
    n_lost (int): How often it was lost with the node that it ran on.
    records (list[Record]): Records of the log that have been read.
    """

    name: str
    seed_index: int
    seed: int
    text: str
    folder: Path
    inputs: dict[str, str] = field(default_factory=dict)
    code: Path | None = None
    output: Path | None = None
    dataset: str | None = None
    sharing_key: str = ""
    state: str = "waiting"
    outdated: str | None = None
    restarted: str | None = None
    n_lost: int = 0
    records: list[Record] = field(default_factory=list)
    _n_bytes: int = field(default=0, init=False, repr=False)

    @property
    def evaluations(self) -> list[Record]:
        return [record for record in self.records if record["type"] == "evaluation"]

    @property
    def error(self) -> str | None:
        """Error of a failed run in one line."""
        errors = [record["error"] for record in self.records if record["type"] == "error"]
        return printable(str(errors[-1])) if errors else None

    @property
    def progress(self) -> tuple[int, int]:
        """Last known step, and maximum number of steps; 0 if it is unknown."""
        step = total_steps = 0
        for record in self.records:
            step = record.get("step", step)
            total_steps = record.get("total_steps", total_steps)
        return step, total_steps

    @property
    def data(self) -> dict[str, str] | None:
        """Fingerprint of the dataset; None if it is not in the log."""
        found = [record for record in self.records if record["type"] == "dataset"]
        content = found[0].get("content") if found else None
        return content if isinstance(content, dict) else None

    def read(self) -> None:
        """Read the results in the folder, if they are complete and the inputs are the same. The
        dataset is compared by `_check_data`."""
        self.records, self.outdated = [], None
        try:
            self.records = records = read_run_log(self.folder / LOG)
            changes = self._differences(records[0]) if records else []
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            self.records = []
            self.outdated = f"its log is damaged ({describe_error(error)})"
            return
        if not records:
            return
        is_done = records[-1]["type"] == "end"
        if not changes:
            if is_done:
                self.state = "done"
        elif is_done:
            self.discard(changes)
        else:
            self.records = []

    def discard(self, changes: Sequence[str]) -> None:
        """Discard a complete run, which will be trained again.

        changes (Sequence[str]): Differences between its inputs and the current ones.
        """
        more = len(changes) - MAX_DIFFERENCES
        self.state, self.records = "waiting", []
        self.outdated = "; ".join(changes[:MAX_DIFFERENCES])
        if more > 0:
            self.outdated += f"; and {more} more"

    @property
    def is_over(self) -> bool:
        """Whether a shared training, if it is resumed, goes on without this run, which is
        complete or whose averages have diverged."""
        if self.state == "done":
            return True
        has_failed = self.records[-1:] != [] and self.records[-1]["type"] == "error"
        last = self.evaluations[-1:]
        # NaN is null in JSON.
        return has_failed and any(None in (found["raw"], found["score"]) for found in last)

    def can_resume(self, step: int) -> bool:
        """Whether the training can be resumed after a step: the inputs are the same, and the
        log has the evaluation of this step.

        step (int): Step as the log counts.
        """
        return self.is_over or any(found["step"] == step for found in self.evaluations)

    def rewind(self, step: int) -> None:
        """Remove from the log what was recorded after a step.

        step (int): Step as the log counts.
        RAISES: OSError if the log cannot be written.
        """
        keep_records(
            self.folder / LOG,
            lambda record: record["type"] != "error" and record.get("step", 0) <= step,
        )

    def _differences(self, start: Record) -> list[str]:
        """Differences between the config and inputs in a log and the current ones.

        start (Record): The first record of the log.
        RAISES: ValueError if the config in the log cannot be read.
        """
        if "config" not in start:
            return [EARLIER_VERSION]
        inputs = [start["inputs"], self.inputs]
        if self.data is not None and is_exact(self.data):
            # The content of the dataset is compared instead of the files it was read from.
            inputs = [
                {name: value for name, value in found.items() if not _is_dataset(name)}
                for found in inputs
            ]
        changes = differences(*inputs)
        if start["config"] != self.text:
            try:
                saved = Config().from_str(start["config"])
            except Exception as error:  # Those of configparser have no common base class.
                raise ValueError(
                    f"{self.folder / LOG} is damaged: its config: {describe_error(error)}"
                ) from error
            before, now = (
                describe_settings(config, skip=())
                for config in (saved, Config().from_str(self.text))
            )
            # The order of sections can matter too.
            changes = differences(before, now) + changes or ["the order of the config"]
        return changes

    def follow(self) -> None:
        """Read new records from the log of a run in progress."""
        try:
            with (self.folder / LOG).open("rb") as file:
                file.seek(self._n_bytes)
                data = file.read()
        except OSError:
            return
        complete, _, _ = data.rpartition(b"\n")
        for line in complete.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and "type" in record:
                self.records.append(record)
        if complete:
            self._n_bytes += len(complete) + 1

    def fail(self, error: str) -> None:
        """Record an error that the process of the run could not log itself."""
        self.state = "failed"
        self.records.append({"type": "error", "error": error, "traceback": None})
        try:
            log = Log(self.folder / LOG)
            try:
                log.write("error", error=error, traceback=None)
            finally:
                log.close()
        except OSError:
            # The disk may be full. The error is still reported by this process.
            pass


def _is_dataset(name: str) -> bool:
    return name.startswith(("dataset.", "datasets."))


def make_runs(
    entries: Sequence[Entry],
    *,
    n_seeds: int,
    output: Path,
    code: Path | None = None,
    overwrite: bool = False,
    gpu_id: int = -1,
) -> list[Run]:
    """Make the runs of a comparison, ordered by seed. Results of earlier runs are read.

    entries (Sequence[Entry]): The entries, the baseline first.
    n_seeds (int): Number of seeds, from each config's own seed on.
    output (Path): Output directory of the comparison.
    code (Path | None): A Python file that registers what the configs name.
    overwrite (bool): Ignore the results of earlier runs.
    gpu_id (int): GPU id; -1 for the CPU.
    RETURNS (list[Run]): The runs, with the state "done" or "waiting".
    RAISES: OSError if a file that a config depends on cannot be read; FileExistsError if the
        folder of a run contains other files.
    """
    check_int("seeds", n_seeds, minimum=1)
    runs = []
    known: dict[str, dict[str, str]] = {}
    for i in range(n_seeds):
        for entry in entries:
            config = with_seed(entry.config, i)
            seed = config["training"]["seed"]
            text = config.to_str()
            # Digest the files once, unless their paths depend on the seed.
            key = _without_seed(config)
            if key not in known:
                known[key] = describe_inputs(config, code=code, output=output)
            folder = output / "runs" / folder_name(entry.name) / f"seed-{seed}"
            sections = [config.get("dataset"), config.get("datasets")]
            dataset = None if is_spacy_config(config) else json.dumps(sections)
            inputs = dict(known[key])
            shared = sharing_key(config)
            runs.append(
                Run(
                    *(entry.name, i, seed, text, folder, inputs),
                    code=code,
                    output=output,
                    dataset=dataset,
                    sharing_key=shared,
                )
            )
    if not overwrite:
        for run in runs:
            run.read()
        _check_data(runs, gpu_id)
    for run in runs:
        if run.state != "done":
            check_folder(run.folder)
    return runs


def _check_data(runs: Sequence[Run], gpu_id: int) -> None:
    """Discard complete runs whose config now loads another dataset."""
    sections: dict[str, list[Run]] = {}
    for run in runs:
        if run.state == "done" and run.dataset is not None:
            if run.data is None:
                run.discard([EARLIER_VERSION])
            else:
                sections.setdefault(run.dataset, []).append(run)
    # The dataset of a section is loaded once, unless it was different for each seed: a loader
    # may draw random numbers.
    groups: dict[tuple[str, int], list[Run]] = {}
    for section, found in sections.items():
        is_same = all(run.data == found[0].data for run in found)
        for run in found:
            groups.setdefault((section, 0 if is_same else run.seed), []).append(run)
    records = _load_datasets([group[0] for group in groups.values()], gpu_id)
    for group, record in zip(groups.values(), records, strict=True):
        for run in group:
            if record["type"] != "dataset":
                error = record.get("error", "the process was killed")
                run.discard([f"its data cannot be loaded ({error})"])
            elif changes := differences(run.data or {}, record["content"]):
                run.discard(changes)


def _load_datasets(runs: Sequence[Run], gpu_id: int) -> list[Record]:
    """Load the datasets of runs in processes of their own, one after another.

    RETURNS (list[Record]): The last record of the log of each process.
    """
    if not runs:
        return []
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for i, run in enumerate(runs):
            path = Path(folder, str(i))
            path.mkdir()
            code = None if run.code is None else str(run.code)
            jobs.append(Job(run.text, {}, str(path), gpu_id, code, only_dataset=True))
        executor = make_executor(jobs, environment=os.environ)
        try:
            for job in jobs:
                executor.start(job)
                while job.folder not in executor.poll(REPORT_INTERVAL):
                    pass
        finally:
            executor.close()
        return [_last_record(Path(job.folder, LOG)) for job in jobs]


def _last_record(log: Path) -> Record:
    try:
        return list(read_log(log))[-1]
    except (OSError, ValueError, IndexError):
        return {"type": "none"}


def _without_seed(config: Config) -> str:
    config = config.copy()
    for section in ("training", "system"):
        if "seed" in config.get(section, {}):
            config[section]["seed"] = None
    return config.to_str()


def train_runs(
    runs: Sequence[Run],
    *,
    n_jobs: int | None = None,
    gpu_id: int = -1,
    is_shared: bool = True,
    cluster: RayCluster | None = None,
    watch: Callable[[Sequence[Run]], None] = lambda runs: None,
) -> None:
    """Train the runs that are not done. A run that fails does not affect the others: if the
    training of several runs fails, they are trained one by one.

    runs (Sequence[Run]): All runs, whose states are updated.
    n_jobs (int | None): Number of parallel processes; None for one, or for as many as the
        cluster has room for.
    gpu_id (int): GPU id; -1 for the CPU.
    is_shared (bool): Train runs once that differ only in averages: see `make_trainings`.
    cluster (RayCluster | None): The cluster on which to train; None for this machine. Runs on a
        node that dies are trained elsewhere, from their last checkpoints.
    watch (Callable): Called with the runs several times a second, to show the progress.
    """
    if n_jobs is not None:
        check_int("jobs", n_jobs, minimum=1)
    _delete_leftovers(runs)
    waiting = make_trainings(runs, is_shared=is_shared)
    working: dict[str, Training] = {}
    executor: Executor
    if cluster is not None:
        n_cores = 1
        executor = RayExecutor(cluster, environment=_environment(n_threads=n_cores))
    else:
        n_jobs = n_jobs or 1
        n_threads = max((os.cpu_count() or 1) // n_jobs, 1) if n_jobs > 1 else None
        n_cores = max(_count_cores() // max(min(n_jobs, len(waiting)), 1), 1)
        jobs = [_make_job(training, gpu_id, n_cores) for training in waiting]
        environment = {**os.environ, **_environment(n_threads=n_threads)}
        executor = make_executor(jobs, environment=environment)
    try:
        while waiting or working:
            n_places = n_jobs or (1 if cluster is None else max(1, cluster.count_places()))
            while waiting and len(working) < n_places:
                training = _start(executor, waiting.pop(0), gpu_id, n_cores)
                if training.runs:
                    working[str(training.runs[0].folder)] = training
                watch(runs)
            if working:
                for folder, exit_code in executor.poll(REPORT_INTERVAL).items():
                    training = working.pop(folder)
                    if exit_code == LOST:
                        waiting[:0] = _start_again(training, is_shared=is_shared)
                    else:
                        waiting[:0] = _finish(training, exit_code)
            for training in working.values():
                for run in training.open_runs:
                    run.follow()
            watch(runs)
    finally:
        executor.close()
        for training in working.values():
            for run in training.open_runs:
                run.read()
                if run.state != "done":
                    run.state = "waiting"


def _environment(*, n_threads: int | None) -> dict[str, str]:
    """Environment variables that limit the threads of a run, unless they are set already.

    n_threads (int | None): None for no limit.
    """
    default = {} if n_threads is None else dict.fromkeys(THREADS, str(n_threads))
    return {**default, **{name: os.environ[name] for name in THREADS if name in os.environ}}


def _start_again(training: "Training", *, is_shared: bool) -> list["Training"]:
    """Trainings to start instead of one whose node has died, resumed where possible."""
    for run in training.open_runs:
        run.state = "failed"
        run.read()
        if run.state == "done" or run.error is not None:
            continue
        run.n_lost += 1
        if run.n_lost <= MAX_LOST:
            run.state, run.outdated = "waiting", None
        else:
            run.fail(f"{run.n_lost} nodes have died under it")
    if not any(run.state == "waiting" for run in training.runs):
        return []
    # Also those that a shared training goes on without.
    runs = [run for run in training.runs if run.state != "failed" or run.is_over]
    return make_trainings(runs, is_shared=is_shared)


@dataclass
class Training:
    """Training of one run, or of several runs with the same seed whose configs differ only in
    averages.

    runs (list[Run]): The runs. Only a training that is resumed has runs that are over.
    checkpoint (Path | None): Checkpoint from which it is resumed.
    step (int): Its step, as logs count.
    """

    runs: list[Run]
    checkpoint: Path | None = None
    step: int = 0
    open_runs: list[Run] = field(init=False)

    def __post_init__(self) -> None:
        # Runs that are not over at the start.
        is_new = self.checkpoint is None
        self.open_runs = [run for run in self.runs if is_new or not run.is_over]


def make_trainings(runs: Sequence[Run], *, is_shared: bool = True) -> list[Training]:
    """Make the trainings for the runs that are not done: first those that are resumed.

    runs (Sequence[Run]): All runs.
    is_shared (bool): Otherwise each run has a training of its own.
    RETURNS (list[Training]): The trainings, in the order of their first runs.
    """
    trainings = _find_interrupted(runs, is_shared=is_shared)
    resumed = [id(run) for training in trainings for run in training.runs]
    groups: dict[object, list[Run]] = {}
    for run in runs:
        if run.state != "done" and id(run) not in resumed:
            key = (run.seed_index, run.sharing_key) if is_shared else str(run.folder)
            groups.setdefault(key, []).append(run)
    return trainings + [Training(group) for group in groups.values()]


def _find_interrupted(runs: Sequence[Run], *, is_shared: bool) -> list[Training]:
    """Find interrupted trainings with checkpoints, all of whose runs are among `runs` and have
    the same inputs as before."""
    by_name = {name_of(run.folder): run for run in runs}
    found = []
    for run in runs:
        names = read_names(run.folder)
        members = [by_name[name] for name in names if name in by_name]
        if names[:1] != [name_of(run.folder)] or len(members) < len(names):
            continue
        if all(member.is_over for member in members) or not (is_shared or len(members) == 1):
            continue
        last = find_last(run.folder)
        if last is None:
            continue
        checkpoint, n_steps = last
        # Logs of spaCy configs count from 0.
        step = n_steps - 1 if run.dataset is None else n_steps
        if all(member.can_resume(step) for member in members):
            found.append(Training(members, checkpoint, step))
    return found


def _delete_leftovers(runs: Sequence[Run]) -> None:
    """Delete the checkpoints of trainings whose runs are complete: `compare` was killed before
    it has deleted them."""
    done = [name_of(run.folder) for run in runs if run.state == "done"]
    for run in runs:
        names = read_names(run.folder)
        if names and all(name in done for name in names):
            delete_checkpoints(run.folder)


def _make_job(training: Training, gpu_id: int, n_cores: int) -> Job:
    first, *others = training.runs
    code, output, checkpoint = (
        None if path is None else str(path)
        for path in (first.code, first.output, training.checkpoint)
    )
    return Job(
        first.text,
        first.inputs,
        str(first.folder),
        gpu_id,
        code,
        shared=tuple(SharedRun(run.text, run.inputs, str(run.folder)) for run in others),
        n_cores=n_cores,
        output=output,
        checkpoint=checkpoint,
    )


def _count_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(executor: Executor, training: Training, gpu_id: int, n_cores: int) -> Training:
    """Start a training.

    RETURNS (Training): The training of the runs that were started. The others have failed.
    """
    for run in training.runs:
        if any(run is other for other in training.open_runs):
            run.state, run.records, run._n_bytes = "running", [], 0
        elif run.state != "done":
            # Its averages have diverged before the checkpoint.
            run.state = "failed"
    started = training.open_runs
    try:
        if training.checkpoint is None:
            started = [run for run in started if _prepare(run)]
            training = Training(started)
        else:
            for run in started:
                run.rewind(training.step)
        if started:
            executor.start(_make_job(training, gpu_id, n_cores))
    except OSError as error:
        for run in started:
            run.fail(describe_error(error))
        return Training([])
    return training


def _prepare(run: Run) -> bool:
    """Prepare the folder of a run. RETURNS (bool): False if it has failed."""
    try:
        prepare_folder(run.folder)
    except OSError as error:
        run.fail(describe_error(error))
        return False
    return True


def _finish(training: Training, exit_code: int) -> list[Training]:
    """Read the results of a training that has ended.

    RETURNS (list[Training]): Trainings to start instead: that of all runs from the beginning if
        it could not be resumed, or of each run on its own.
    """
    first = training.runs[0]
    if exit_code == CANNOT_RESUME:
        runs = [run for run in training.runs if run.state != "done"]
        for run in runs:
            run.restarted = read_reason(first.folder)
        return [Training(runs)]
    if len(training.runs) == 1:
        _finish_run(first, exit_code)
        # After an error the run may be resumed, for example if it was killed.
        if first.state == "done":
            delete_checkpoints(first.folder)
        return []
    delete_checkpoints(first.folder)
    again = []
    for run in training.open_runs:
        run.state = "failed"
        run.read()
        if run.state != "done" and run.error is None:
            run.state, run.outdated = "waiting", None
            again.append(Training([run]))
    return again


def _finish_run(run: Run, exit_code: int) -> None:
    run.state = "failed"
    run.read()
    if run.state == "done" or run.error is not None:
        return
    # The process could not log the error: it was killed, or the disk is full.
    if exit_code == CANNOT_WRITE:
        error = f"the log in {run.folder} could not be written: is the disk full?"
    else:
        error = f"the process ended with exit code {exit_code}"
    if run.outdated is not None:
        error += f"; {run.outdated}"
    run.fail(error)
