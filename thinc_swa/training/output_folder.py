"""Output folder of a training: which files belong to the training, and where to resume it.
Files that do not belong to a training are never changed or deleted."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thinc.api import Config, Optimizer

from ..distributed.communicator import Communicator, SingleWorker
from ..errors import TrainingWarning, describe_error
from ..serialization.average_snapshots import AVERAGES, delete_snapshots, find_snapshots
from ..serialization.files import follow_link, replace_text
from ..serialization.folders import temporary_folder
from .callbacks import MODELS, Callback, SaveCheckpoints, SaveModels, TrainingLog, model_names
from .checkpoints import (
    check_names,
    checkpoints,
    delete_checkpoint,
    find_checkpoint,
    find_run,
    load_checkpoint,
    sweep,
)
from .fingerprints import DIGEST, SKIPPED, describe_settings, differences
from .interface import TrainerInterface
from .locks import lock_folder
from .logs import Record, find_disorder, keep_records, read_log
from .state import TrainerState

LOG = "log.jsonl"
CONFIG = "config.cfg"
CURVES = ("learning-curve.png", "learning-curve.svg")
REPORT = "report.html"
# Beginning of the report, see `thinc_swa.report`.
REPORT_MARKER = "<!doctype html><!-- Report of thinc-swa -->"
# First line of the saved config.
MARKER = "# The config of the training in this folder, as thinc-swa train has resolved it."
# Second line, with the digest of the rest: a damaged config can still be a valid one.
DIGEST_LINE = "# The text below this line has the digest "
# First line while an earlier training is being deleted.
PENDING = "# The config of a training that replaces the one in this folder."
# Settings that may differ when a training is resumed: it can be made longer.
CHANGEABLE = ("training.max_steps", "training.max_epochs", "training.patience")


class TrainingFolder:
    """Output folder of a training.

    path (Path): The folder.
    config (Config): The config of the training, without variables.
    save_all (bool): Whether to save a model with each of the averages.
    communicator (Communicator | None): The connection to other workers, for which rank 0 locks
        and checks the folder.
    """

    def __init__(
        self,
        path: Path,
        config: Config,
        *,
        save_all: bool = False,
        communicator: Communicator | None = None,
    ) -> None:
        self.path = path
        self._communicator = SingleWorker() if communicator is None else communicator
        self._save_all = save_all
        text = config.to_str()
        self._text = f"{DIGEST_LINE}{_digest_text(text)}\n{text}"

    def callbacks(self) -> list[Callback]:
        """Callbacks that save to the folder."""
        log = TrainingLog(self.path / LOG, saves_all=self._save_all)
        models = SaveModels(self.path, save_all=self._save_all)
        checkpoints = SaveCheckpoints(self.path, log, communicator=self._communicator)
        return [log, models, checkpoints]

    @contextmanager
    def open(
        self, *, source: Path | None, resume: bool, overwrite: bool
    ) -> Iterator[Path | None]:
        """Context manager in which the folder is locked, after `check`.

        RETURNS (Path | None): The checkpoint from which to resume.
        RAISES: BlockingIOError if another process trains in the folder; errors of `check` and
            `find_checkpoint`.
        """
        if self._communicator.rank:
            yield self.find_checkpoint()
            return
        with lock_folder(self.path):
            self.check(source=source, resume=resume, overwrite=overwrite)
            yield self.find_checkpoint(resume=resume)

    def check(self, *, source: Path | None, resume: bool, overwrite: bool) -> None:
        """Check that the training can write to the folder.

        source (Path | None): The file that the config comes from.
        resume (bool): Whether a training in the folder will be resumed.
        overwrite (bool): Whether a training in the folder will be deleted.
        RAISES: FileExistsError if files would be overwritten that do not belong to a training,
            or if there is a training that is neither to be resumed nor to be overwritten;
            ValueError if the training to resume has other settings.
        """
        self._check_source(source, resume)
        present = self._check_foreign(CONFIG, LOG, *MODELS, *CURVES)
        self._check_foreign(REPORT)
        has_training = (
            present
            or find_snapshots(self.path / AVERAGES)
            or any(map(find_run, checkpoints(self.path)))
        )
        if has_training and not (resume or overwrite):
            raise FileExistsError(
                f"{self.path} already contains a training: resume it, overwrite it, or choose "
                "another folder"
            )
        if resume and CONFIG in present:
            self._check_settings()

    def check_models(self, optimizer: Optimizer) -> None:
        """Check that the models of all averages can be saved, if they are to be saved.

        optimizer (Optimizer): The optimizer of the training.
        RAISES: FileExistsError if files would be overwritten that do not belong to a training.
        """
        if self._save_all and self._communicator.rank == 0:
            suffixes = model_names(optimizer).values()
            names = {f"{name}-{suffix}" for suffix in suffixes for name in MODELS}
            others = sorted(names - set(self._models_of_averages()))
            # The log names those of the training. Without it the other files decide.
            is_strict = (self.path / LOG).is_file()
            self._check_foreign(*others, is_strict=is_strict)

    def _check_foreign(self, *names: str, is_strict: bool = False) -> list[str]:
        """RETURNS (list[str]): The names of those that exist."""
        present = [name for name in names if os.path.lexists(self.path / name)]
        foreign = [name for name in present if is_strict or not self._is_own(name)]
        if foreign:
            raise FileExistsError(
                f"{self.path} contains {', '.join(foreign)}, which thinc-swa has not written: "
                "move it away, or choose another folder"
            )
        return present

    def _models_of_averages(self) -> list[str]:
        """Models of single averages that the training in the folder has saved, from its log."""
        try:
            records = list(read_log(self.path / LOG))
        except (OSError, ValueError):
            return []
        listed = [record.get("models", []) for record in records if record["type"] == "start"]
        return [
            name
            for names in listed
            for name in names
            # The log may have been edited: never a path to another folder.
            if isinstance(name, str) and name.startswith(MODELS) and Path(name).name == name
        ]

    def _check_source(self, source: Path | None, resume: bool) -> None:
        path = self.path / CONFIG
        try:
            is_same = source is not None and os.path.samefile(source, path)
        except OSError:
            return
        # Resuming from the saved config itself does not change it.
        if is_same and not (resume and self._is_written()):
            raise FileExistsError(
                f"{path} is the config of this training and would be overwritten: choose "
                "another output folder"
            )

    def _is_written(self) -> bool:
        return (self.path / CONFIG).read_bytes() == f"{MARKER}\n{self._text}".encode()

    def _is_own(self, name: str) -> bool:
        path = self.path / name
        if name == CONFIG:
            return path.is_file() and self._has_marker()
        if name == REPORT:
            return is_report(path)
        # The target of a link may have been deleted by `begin`.
        is_pipeline = name.startswith(MODELS) and (path / "meta.json").is_file()
        if not path.is_file() and path.exists() and not is_pipeline:
            return False
        has_mark = self._has_marker() or any(map(find_run, checkpoints(self.path)))
        if name == LOG and path.is_file():
            with path.open("rb") as file:
                first = file.readline()
            # A crash may have left an incomplete first record.
            return _is_start(first) or (has_mark and not first.endswith(b"\n"))
        return has_mark or ((self.path / LOG).is_file() and self._is_own(LOG))

    def _has_marker(self) -> bool:
        return self._first_line() in (MARKER, PENDING)

    def _first_line(self) -> str:
        try:
            with (self.path / CONFIG).open("rb") as file:
                return file.readline().decode("utf8", "replace").rstrip()
        except OSError:
            return ""

    def _check_settings(self) -> None:
        path = self.path / CONFIG
        try:
            saved = _read_config(path)
        except OSError:
            raise
        except Exception as error:  # Of any kind: configparser has some of its own.
            # The checkpoint contains the settings too, and they are compared.
            warnings.warn(
                f"{path} is damaged ({describe_error(error)}) and will be replaced",
                TrainingWarning,
                stacklevel=2,
            )
            return
        skip = (*SKIPPED, *CHANGEABLE)
        now = Config().from_str(self._text)
        found = differences(
            describe_settings(saved, skip=skip), describe_settings(now, skip=skip)
        )
        if found:
            raise ValueError(
                f"The training in {self.path} has another config and cannot be resumed with "
                f"this one: {'; '.join(found)}. (Settings that refer to max_steps change with "
                "it.)"
            )

    def find_checkpoint(self, *, resume: bool = True) -> Path | None:
        """Find the checkpoint from which to resume; on several workers, that of rank 0.

        resume (bool): Whether to resume; on several workers, only that of rank 0 counts.
        RETURNS (Path | None): None if the training has not saved any checkpoint yet.
        RAISES: FileNotFoundError if all its checkpoints are missing; ValueError if all are
            damaged, or the log is.
        """
        is_first = self._communicator.rank == 0
        checkpoint = self._find_checkpoint() if resume and is_first else None
        if self._communicator.size > 1:
            name = "" if checkpoint is None else checkpoint.name
            name = self._communicator.broadcast_text(name)
            checkpoint = self.path / name if name else None
        return checkpoint

    def _find_checkpoint(self) -> Path | None:
        if self._first_line() == PENDING:
            return None
        checkpoint = find_checkpoint(self.path)
        if checkpoint is None:
            log = self.path / LOG
            records = self._read_log() if log.is_file() else []
            reached = max((record.get("step", 0) for record in records), default=0)
            if _had_checkpoint(records):
                raise FileNotFoundError(
                    f"{log} ends at step {reached}, but {self.path} contains no checkpoint: "
                    "restore a step-… folder to resume the training, or overwrite it"
                )
            models = [name for name in MODELS if (self.path / name).exists()]
            # Evaluations are logged before models are saved.
            if models and not any(record["type"] == "evaluation" for record in records):
                what = "has no evaluation" if log.is_file() else "is missing"
                raise FileNotFoundError(
                    f"{self.path} contains {', '.join(models)}, but no checkpoint, and {LOG} "
                    f"{what}: restore a step-… folder to resume the training, or overwrite it"
                )
        return checkpoint

    def resume_log(self, state: TrainerState) -> None:
        """Remove the records after the checkpoint that was loaded, as their steps are repeated.

        state (TrainerState): State from the checkpoint.
        RAISES: ValueError if the log is damaged or does not belong to the checkpoint.
        """
        for name in MODELS:
            if not (self.path / name).exists() and state.evaluations:
                self._warn(name, "it will be saved again at a later evaluation")
        log = self.path / LOG
        if not log.exists():
            self._warn(LOG, f"a new log begins after step {state.step}")
            return
        kept = [record for record in self._read_log() if _is_before(record, state.step)]
        wrong = find_disorder(kept)
        runs = {record["run"] for record in kept if record["type"] == "start"}
        last = max((record.get("step", 0) for record in kept), default=0)
        if wrong is None and runs != {state.run_id}:
            wrong = "it belongs to another training"
        if wrong is None and last != state.step:
            wrong = f"it ends at step {last}, before the checkpoint of step {state.step}"
        if wrong is not None:
            raise ValueError(f"{log} is damaged: {wrong}. {_ADVICE}")
        keep_records(log, lambda record: _is_before(record, state.step))

    def _warn(self, name: str, what: str) -> None:
        warnings.warn(f"{self.path / name} is missing: {what}", TrainingWarning, stacklevel=3)

    def _read_log(self) -> list[Record]:
        try:
            return list(read_log(self.path / LOG))
        except ValueError as error:
            raise ValueError(f"{error}. {_ADVICE}") from error

    def prepare(
        self, trainer: TrainerInterface, checkpoint: Path | None, *, trust: bool
    ) -> None:
        """Prepare the folder and the trainer for the first step, of a new training or of one
        that is resumed.

        checkpoint (Path | None): The checkpoint to load; None for a new training.
        trust (bool): See `load_checkpoint`.
        RAISES: As `load_checkpoint`; ValueError if the log does not belong to the checkpoint;
            FileExistsError if files that are not of a training have the names of checkpoints.
        """
        is_first = self._communicator.rank == 0
        if checkpoint is not None:
            load_checkpoint(checkpoint, trainer, trust=trust, communicator=self._communicator)
        if not is_first:
            return
        if checkpoint is None:
            check_names(self.path, trainer.state)
            self.begin()
        else:
            self.resume_log(trainer.state)
            self.write_config()
        sweep(self.path)

    def begin(self) -> None:
        """Delete the files of an earlier training, and save the config, which marks the folder
        as that of a training. After an interruption, resuming begins the new training."""
        replace_text(self.path / CONFIG, f"{PENDING}\n{self._text}")
        # The log last, as it names the models.
        for name in (*MODELS, *CURVES, REPORT, *self._models_of_averages(), LOG):
            # Links stay: the new files are written to their targets.
            path = follow_link(self.path / name)
            if path.is_dir():
                # Renamed first: a crash leaves no part of it under its name.
                temporary = temporary_folder(path)
                os.rename(path, temporary)
                shutil.rmtree(temporary)
            else:
                path.unlink(missing_ok=True)
        for path in checkpoints(self.path):
            if find_run(path) is not None:
                delete_checkpoint(path)
        delete_snapshots(self.path / AVERAGES)
        self.write_config()

    def write_config(self) -> None:
        """Save the config, whose limits may have changed."""
        path = self.path / CONFIG
        if not (path.exists() and self._is_written()):
            replace_text(path, f"{MARKER}\n{self._text}")


def is_report(path: Path) -> bool:
    """Whether a file is a report of thinc-swa."""
    if not path.is_file():
        # The target of a link may have been deleted by `begin`.
        return path.is_symlink()
    with path.open("rb") as file:
        return file.read(len(REPORT_MARKER)) == REPORT_MARKER.encode("ascii")


def load_config(folder: Path) -> Config:
    """Load the config of the training in an output folder.

    folder (Path): Output folder of `train`.
    RETURNS (Config): The config, without variables.
    RAISES: FileNotFoundError if the folder has no training; ValueError if the config is
        damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {CONFIG}: give the output folder of a training by thinc-swa train"
        )
    try:
        return _read_config(path)
    except OSError:
        raise
    except Exception as error:  # Of any kind: configparser has some of its own.
        raise ValueError(f"{path} is damaged: {describe_error(error)}") from error


_ADVICE = "Move it away to resume the training with a new log"


def _read_config(path: Path) -> Config:
    """RAISES: ValueError if the file does not match its digest; other errors if it cannot be
    parsed."""
    content = path.read_text(encoding="utf8")
    _, line, text = (content.split("\n", 2) + ["", ""])[:3]
    # Earlier versions wrote no digest.
    is_wrong = line.startswith(DIGEST_LINE) and line != DIGEST_LINE + _digest_text(text)
    if is_wrong or not text:
        raise ValueError("it does not match its digest")
    return Config().from_str(content)


def _digest_text(text: str) -> str:
    return DIGEST + hashlib.sha256(text.encode("utf8")).hexdigest()


def _is_start(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and record.get("type") == "start" and "run" in record


def _is_before(record: Record, step: int) -> bool:
    return bool(record["type"] != "end" and record.get("step", 0) <= step)


def _had_checkpoint(records: list[Record]) -> bool:
    """Whether a checkpoint was saved according to the records."""
    return any(
        record["type"] == "checkpoint"
        or (record["type"] == "start" and record.get("step", 0) > 0)
        # A training without an error ends with a checkpoint.
        or (record["type"] == "end" and not record.get("error"))
        for record in records
    )
