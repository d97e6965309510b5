"""Many trainings: each config with each seed, in processes of their own.

Every run has a folder with its log. A run that is complete there, with the same config, is not
done again.
"""

import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

from thinc.api import Config, ConfigValidationError
from thinc.compat import has_cupy

from .arguments import check_int
from .errors import describe_error
from .logs import Log, Record, read_log
from .runs import (
    is_spacy_config,
    optimizer_section,
    prepare_process,
    score_of,
    train_config,
    with_seed,
)

LOG = "log.jsonl"
OUTPUT = "output.txt"
# Seconds from one report of a run to the next.
REPORT_INTERVAL = 0.2
# For these many threads the libraries of the runs look, and each run would take all cores.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Entry:
    """Something to compare: a config under a name."""

    name: str
    config: Config


@dataclass
class Run:
    """One training of a comparison, and how far it is.

    seed_index (int): The how-manieth of the seeds it has: runs with the same belong together.
    state (str): "waiting", "running", "done" or "failed".
    records (List[Record]): The log's, once it is at its end.
    """

    name: str
    seed_index: int
    seed: int
    text: str
    folder: Path
    state: str = "waiting"
    step: int = 0
    total_steps: int = 0
    score: Optional[float] = None
    records: List[Record] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.text.encode("utf8")).hexdigest()

    @property
    def evaluations(self) -> List[Record]:
        return [record for record in self.records if record["type"] == "evaluation"]

    @property
    def error(self) -> Optional[str]:
        """Why it failed, in a line."""
        errors = [record["error"] for record in self.records if record["type"] == "error"]
        return errors[-1] if errors else None

    def read(self) -> None:
        """Take over what is in the folder, if it belongs to the same config."""
        try:
            records = list(read_log(self.folder / LOG))
        except (OSError, ValueError):
            return
        kinds = [record["type"] for record in records]
        if kinds and records[0].get("fingerprint") == self.fingerprint:
            self.records = records
            if "end" in kinds:
                self.state = "done"


def read_entries(
    configs: Sequence[Path], optimizers: Sequence[Path], overrides: Dict[str, Any]
) -> List[Entry]:
    """What is to be compared.

    configs (Sequence[Path]): Config files, for Thinc or for spaCy.
    optimizers (Sequence[Path]): Files with an [optimizer] or [training.optimizer] each. The
        one config that is given then stands for itself, and once more with each of them.
    overrides (Dict[str, Any]): Settings to change in all configs: {"training.max_steps": 100}.
    RAISES: OSError if a file cannot be read; ValueError if it is no config, or if the configs
        do not belong together.
    """
    if optimizers and len(configs) != 1:
        raise ValueError(
            f"Optimizers from other files need one config to go into, but got {len(configs)}"
        )
    for name in overrides if optimizers else ():
        if name.startswith(("optimizer.", "training.optimizer.")):
            raise ValueError(
                f"{name} would be changed in {configs[0]} alone, and not in the optimizers "
                "that replace its own: change it in the files"
            )
    entries = [
        Entry(name, Config().from_disk(path, overrides=overrides, interpolate=False))
        for name, path in _names(configs)
    ]
    for entry in entries:
        optimizer_section(entry.config)
    for name, path in _names(optimizers):
        config = entries[0].config.copy()
        optimizer_section(config)["optimizer"] = _read_optimizer(path)
        entries.append(Entry(name if name != entries[0].name else f"{name}-2", config))
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Every entry needs a name of its own, but two have the name {name}"
            )
    if len({(is_spacy_config(entry.config), score_of(entry.config)) for entry in entries}) > 1:
        raise ValueError("Configs with different scores cannot be compared")
    return entries


def _read_optimizer(path: Path) -> Any:
    """Only the optimizer of a file matters, in either place."""
    text = path.read_text(encoding="utf8")
    if "[training.optimizer]" in text and "[training]" not in text:
        # As it is copied from a config of spaCy. No section can be without the one around it.
        text = f"[training]\n{text}"
    try:
        config = Config().from_str(text, interpolate=False)
    except ConfigValidationError as error:
        raise ValueError(f"{path} cannot be read: {describe_error(error)}") from error
    for section in (config, config.get("training", {})):
        if "optimizer" in section:
            return section["optimizer"]
    raise ValueError(f"{path} has no section [optimizer] or [training.optimizer]")


def _names(paths: Sequence[Path]) -> Iterator[Any]:
    """The paths with names: without the folder where that is enough."""
    for path in paths:
        is_unique = sum(other.stem == path.stem for other in paths) == 1
        yield path.stem if is_unique else "-".join(path.with_suffix("").parts[-2:]), path


def make_runs(entries: Sequence[Entry], *, n_seeds: int, output: Path) -> List[Run]:
    """All runs, those of one seed beside each other.

    n_seeds (int): From each config's own seed on.
    output (Path): The folder that they go to. What is there already is read.
    """
    check_int("seeds", n_seeds, minimum=1)
    runs = []
    for i in range(n_seeds):
        for entry in entries:
            config = with_seed(entry.config, i)
            seed = config["training"]["seed"]
            folder = output / "runs" / entry.name / f"seed-{seed}"
            runs.append(Run(entry.name, i, seed, config.to_str(), folder))
    for run in runs:
        run.read()
    return runs


def train_runs(
    runs: Sequence[Run],
    *,
    n_jobs: int = 1,
    gpu_id: int = -1,
    code: Optional[Path] = None,
    watch: Callable[[Sequence[Run]], None] = lambda runs: None,
) -> None:
    """Train what is not done yet. Runs that fail leave the others alone.

    n_jobs (int): Processes at a time.
    gpu_id (int): Which GPU; -1 for the CPU.
    code (Optional[Path]): A Python file that registers what the configs name.
    watch (Callable): Called with the runs now and then.
    """
    check_int("jobs", n_jobs, minimum=1)
    waiting = [run for run in runs if run.state != "done"]
    context = _process_context(is_spacy=any("[nlp]" in run.text for run in waiting))
    working: Dict[Connection, Any] = {}
    environment = dict(os.environ)
    if n_jobs > 1:
        for name in THREADS:
            os.environ.setdefault(name, str(max((os.cpu_count() or 1) // n_jobs, 1)))
    try:
        while waiting or working:
            while waiting and len(working) < n_jobs:
                run = waiting.pop(0)
                receiver, process = _start(context, run, gpu_id, code)
                working[receiver] = (run, process)
                watch(runs)
            for receiver in wait(list(working), timeout=REPORT_INTERVAL):
                run, process = working[receiver]  # type: ignore[index]
                try:
                    run.step, run.total_steps, run.score = receiver.recv()  # type: ignore
                except EOFError:
                    # It has closed its end: it is over, in whatever way.
                    del working[receiver]  # type: ignore[arg-type]
                    _finish(run, process)
            watch(runs)
    finally:
        for _, process in working.values():
            process.terminate()
        for run, process in working.values():
            process.join()
            run.state = "waiting"
        os.environ.clear()
        os.environ.update(environment)


def _process_context(is_spacy: bool) -> Any:
    """How processes are made. Each run has a new one, for what a run does must not depend on
    those before: Thinc gives seeds to some layers by counting them. On Linux they are split off
    from one that has imported everything; a GPU cannot be used in such ones."""
    if not sys.platform.startswith("linux") or has_cupy:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    modules = ["thinc_swa.runs", "sklearn.datasets", "sklearn.model_selection"]
    context.set_forkserver_preload([*modules, *(["spacy"] if is_spacy else [])])
    return context


def _start(context: Any, run: Run, gpu_id: int, code: Optional[Path]) -> Any:
    if run.folder.exists():
        shutil.rmtree(run.folder)
    run.folder.mkdir(parents=True)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_work,
        args=(run.text, run.fingerprint, run.folder, sender, gpu_id, code),
        daemon=True,
    )
    process.start()
    sender.close()
    run.state, run.records = "running", []
    return receiver, process


def _finish(run: Run, process: Any) -> None:
    process.join()
    run.read()
    if run.state != "done":
        run.state = "failed"
        if run.error is None:
            # It could not say so itself: killed, or out of memory.
            how = f"the process ended with exit code {process.exitcode}"
            log = Log(run.folder / LOG)
            log.write("error", error=how, traceback=None)
            log.close()
            run.records.append({"type": "error", "error": how, "traceback": None})


def _work(
    text: str,
    fingerprint: str,
    folder: Path,
    sender: Connection,
    gpu_id: int,
    code: Optional[Path],
) -> None:
    """What the process of a run does."""
    # Ctrl-C reaches all processes of a terminal. The first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (folder / OUTPUT).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    log = Log(folder / LOG)
    log.write("start", fingerprint=fingerprint)
    log.flush()
    last_report = 0.0

    def report(step: int, total_steps: int, score: Optional[float]) -> None:
        nonlocal last_report
        now = time.monotonic()
        if now - last_report > REPORT_INTERVAL or step == total_steps:
            last_report = now
            sender.send((step, total_steps, score))

    try:
        prepare_process(gpu_id, code)
        train_config(Config().from_str(text), log, report, gpu_id=gpu_id)
    except Exception as error:
        log.write("error", error=describe_error(error), traceback=traceback.format_exc())
    finally:
        log.close()
