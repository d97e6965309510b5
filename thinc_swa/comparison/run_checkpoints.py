"""Checkpoints of the trainings of a comparison, from which interrupted ones are resumed.

They are in the folder of the first run of a training, until all of its runs are complete.
"""

import json
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import ResumeError, TrainingWarning, describe_error
from ..serialization.files import replace_text
from ..training.checkpoints import (
    find_checkpoint,
    keeping_random_state,
    load_checkpoint,
    save_checkpoint,
)
from ..training.interface import TrainerInterface
from ..training.logs import Log

# Folder in that of the first run, and the file in it with the names of all runs.
CHECKPOINTS = "checkpoints"
RUNS = "runs.json"
# File with the reason why a training cannot be resumed.
REASON = "reason.txt"
# Minimum number of seconds from one checkpoint to the next, and the largest part of the
# duration of a training that checkpoints take.
MIN_INTERVAL = 1.0
MAX_PART = 0.05


class RunCheckpoints:
    """Checkpoints of a training in its own process.

    folder (Path): Folder of the first run.
    names (Sequence[str]): Names of all runs of the training: see `name_of`.
    checkpoint (Path | None): Checkpoint to resume from.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], checkpoint: Path | None = None
    ) -> None:
        self._folder = folder / CHECKPOINTS
        self._names = list(names)
        self._checkpoint = checkpoint
        # The end and the duration of the last save.
        self._last = time.monotonic()
        self._duration = 0.0
        # Whether a checkpoint could not be saved.
        self._has_failed = False

    @property
    def is_resumed(self) -> bool:
        """Whether the training is resumed."""
        return self._checkpoint is not None

    def resume(self, trainer: TrainerInterface) -> None:
        """Load the checkpoint, if there is one to resume from. Called before the training.

        RAISES: ResumeError if that is not possible. The trainer must not be used then.
        """
        if self._checkpoint is not None:
            try:
                load_checkpoint(self._checkpoint, trainer)
            except Exception as error:
                raise ResumeError(describe_error(error)) from error
        self._last = time.monotonic()

    def save_if_due(
        self,
        trainer: TrainerInterface,
        logs: Sequence[Log],
        complete: Callable[[], None] = lambda: None,
    ) -> None:
        """Save a checkpoint after an evaluation, unless the last one is too recent or the
        training is at its end. A model that cannot be saved is trained without checkpoints,
        with a warning.

        logs (Sequence[Log]): Logs of the runs that are not complete.
        complete (Callable): Called before, to complete the logs.
        """
        state, start = trainer.state, time.monotonic()
        is_over = state.stop_reason is not None or state.step == state.total_steps
        interval = max(MIN_INTERVAL, self._duration / MAX_PART)
        # spaCy evaluates after the first step.
        is_early = state.step == 1 or start - self._last < interval
        if is_over or is_early or self._has_failed:
            return
        complete()
        # A checkpoint must not be ahead of the logs.
        for log in logs:
            log.sync()
        try:
            if not self._folder.exists():
                self._folder.mkdir()
                replace_text(self._folder / RUNS, json.dumps({"runs": self._names}))
            with keeping_random_state():
                save_checkpoint(self._folder, trainer)
        except Exception as error:
            self._has_failed = True
            warnings.warn(
                "The training continues without checkpoints, as they cannot be saved: "
                f"{describe_error(error)}",
                TrainingWarning,
                stacklevel=2,
            )
        self._last = time.monotonic()
        self._duration = self._last - start


def name_of(folder: Path) -> str:
    """Name of a run by its folder, for `RunCheckpoints`."""
    return f"{folder.parent.name}/{folder.name}"


def read_names(folder: Path) -> list[str]:
    """Names of the runs whose checkpoints are in the folder of the first one; empty without
    checkpoints.

    folder (Path): Folder of a run.
    """
    try:
        names = json.loads((folder / CHECKPOINTS / RUNS).read_text(encoding="utf8"))["runs"]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return list(names) if is_list else []


def find_last(folder: Path) -> tuple[Path, int] | None:
    """Last intact checkpoint in the folder of a run, and its step; None without one."""
    try:
        with warnings.catch_warnings():
            # Of a damaged one, for which there is an earlier one.
            warnings.simplefilter("ignore", TrainingWarning)
            path = find_checkpoint(folder / CHECKPOINTS)
    except (ValueError, OSError):
        return None
    return None if path is None else (path, int(path.name.partition("-")[2]))


def write_reason(folder: Path, error: ResumeError) -> None:
    """Save the reason why a training cannot be resumed in the folder of its first run."""
    replace_text(folder / CHECKPOINTS / REASON, str(error))


def read_reason(folder: Path) -> str:
    """Reason that `write_reason` has saved."""
    try:
        return (folder / CHECKPOINTS / REASON).read_text(encoding="utf8")
    except OSError:
        return "its checkpoint cannot be used"


def delete_checkpoints(folder: Path) -> None:
    """Delete the checkpoints in the folder of a run."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
