"""The output folder of a training: which files in it belong to the training, and what there is
to resume. Files without the mark of a training are never changed or deleted."""

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from thinc.api import Config

from ..errors import TrainingWarning, describe_error
from ..serialization.files import follow_link, replace_text
from .callbacks import Callback, SaveCheckpoints, SaveModels, TrainingLog
from .checkpoints import checkpoints, delete_checkpoint, find_checkpoint, find_run
from .fingerprints import DIGEST, SKIPPED, describe_settings, differences
from .logs import Record, find_disorder, keep_records, read_log

if TYPE_CHECKING:
    from .trainer import Trainer

LOG = "log.jsonl"
CONFIG = "config.cfg"
MODELS = ("model-best", "model-last")
# The first line of the config that is saved.
MARKER = "# The config of the training in this folder, as thinc-swa train has resolved it."
# The second line, before the digest of the config: whether it is damaged cannot be told from
# the config alone.
DIGEST_LINE = "# The text below this line has the digest "
# Instead of the marker, as long as an earlier training is being deleted.
PENDING = "# The config of a training that replaces the one in this folder."
# A training can be made longer.
CHANGEABLE = ("training.max_steps", "training.max_epochs", "training.patience")


class TrainingFolder:
    """The output folder of a training, which this process has locked.

    path (Path): The folder.
    config (Config): The config of the training, without variables.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        text = config.to_str()
        self._text = f"{DIGEST_LINE}{_digest_text(text)}\n{text}"

    def callbacks(self) -> list[Callback]:
        """The callbacks that save to the folder."""
        log = TrainingLog(self.path / LOG)
        return [log, SaveModels(self.path), SaveCheckpoints(self.path, log)]

    def check(self, *, source: Path | None, resume: bool, overwrite: bool) -> None:
        """Check that the training can write to the folder.

        source (Path | None): The file that the config comes from.
        resume (bool): Whether a training in the folder is going to be resumed.
        overwrite (bool): Whether it is going to be deleted.
        RAISES: FileExistsError if files would be overwritten that are not those of a training,
            or if there is a training that is neither to be resumed nor to be overwritten;
            ValueError if it is to be resumed and has other settings.
        """
        self._check_source(source, resume)
        present = [name for name in (CONFIG, LOG, *MODELS) if os.path.lexists(self.path / name)]
        foreign = [name for name in present if not self._is_own(name)]
        if foreign:
            raise FileExistsError(
                f"There is {', '.join(foreign)} in {self.path}, which is not of a training by "
                "thinc-swa: move it away, or choose another folder"
            )
        has_training = present or any(map(find_run, checkpoints(self.path)))
        if has_training and not (resume or overwrite):
            raise FileExistsError(
                f"There is a training in {self.path} already: resume it, overwrite it, or "
                "choose another folder"
            )
        if resume and CONFIG in present:
            self._check_settings()

    def _check_source(self, source: Path | None, resume: bool) -> None:
        path = self.path / CONFIG
        try:
            is_same = source is not None and os.path.samefile(source, path)
        except OSError:
            return
        # Resuming with the saved config itself changes nothing.
        if is_same and not (resume and self._is_written()):
            raise FileExistsError(
                f"{path} is the config to train and would be overwritten: choose another "
                "output folder"
            )

    def _is_written(self) -> bool:
        return (self.path / CONFIG).read_bytes() == f"{MARKER}\n{self._text}".encode()

    def _is_own(self, name: str) -> bool:
        path = self.path / name
        if name == CONFIG:
            return path.is_file() and self._has_marker()
        # What a link leads to may have been deleted to be written anew.
        if not path.is_file() and path.exists():
            return False
        has_mark = self._has_marker() or any(map(find_run, checkpoints(self.path)))
        if name == LOG and path.is_file():
            with path.open("rb") as file:
                first = file.readline()
            # A crash may have come before the first record was complete.
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
            # The checkpoint has the settings too, and is compared with them.
            warnings.warn(
                f"{path} is damaged ({describe_error(error)}) and is written again",
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
                f"The config differs from that of the training in {self.path}, which cannot be "
                f"resumed with it: {'; '.join(found)}. (A setting that refers to max_steps "
                "changes with it.)"
            )

    def find_checkpoint(self) -> Path | None:
        """The checkpoint from which to resume; None if the training has not saved any yet.

        RAISES: FileNotFoundError if all its checkpoints are missing; ValueError if all are
            damaged, or the log is.
        """
        if self._first_line() == PENDING:
            return None
        checkpoint = find_checkpoint(self.path)
        if checkpoint is None:
            log = self.path / LOG
            records = self._read_log() if log.is_file() else []
            reached = max((record.get("step", 0) for record in records), default=0)
            if _had_checkpoint(records):
                raise FileNotFoundError(
                    f"{log} goes to step {reached}, but there is no checkpoint in {self.path}: "
                    "restore its step-… folder to resume the training, or overwrite it"
                )
            models = [name for name in MODELS if (self.path / name).exists()]
            # An evaluation is in the log before its models are saved.
            if models and not any(record["type"] == "evaluation" for record in records):
                what = "has no evaluation" if log.is_file() else "is missing"
                raise FileNotFoundError(
                    f"There is {', '.join(models)} in {self.path}, but no checkpoint, and "
                    f"{LOG} {what}: restore a step-… folder to resume the training, or "
                    "overwrite it"
                )
        return checkpoint

    def resume_log(self, training: "Trainer") -> None:
        """Remove the records after the checkpoint that was loaded: the steps are repeated.

        RAISES: ValueError if the log is damaged or does not belong to the checkpoint.
        """
        for name in MODELS:
            if not (self.path / name).exists() and training.evaluations:
                self._warn(name, "it is saved again after an evaluation that calls for it")
        log = self.path / LOG
        if not log.exists():
            self._warn(LOG, f"a new one begins after step {training.step}")
            return
        kept = [record for record in self._read_log() if _is_before(record, training.step)]
        wrong = find_disorder(kept)
        runs = {record["run"] for record in kept if record["type"] == "start"}
        last = max((record.get("step", 0) for record in kept), default=0)
        if wrong is None and runs != {training.run_id}:
            wrong = "it is the log of another training"
        if wrong is None and last != training.step:
            wrong = f"it ends at step {last}, before the checkpoint of step {training.step}"
        if wrong is not None:
            raise ValueError(f"{log} is damaged: {wrong}. {_ADVICE}")
        keep_records(log, lambda record: _is_before(record, training.step))

    def _warn(self, name: str, what: str) -> None:
        warnings.warn(f"{self.path / name} is missing: {what}", TrainingWarning, stacklevel=3)

    def _read_log(self) -> list[Record]:
        try:
            return list(read_log(self.path / LOG))
        except ValueError as error:
            raise ValueError(f"{error}. {_ADVICE}") from error

    def begin(self) -> None:
        """Delete what an earlier training has left, and save the config, which marks the folder
        as that of a training. After an interruption, resuming begins the new training."""
        replace_text(self.path / CONFIG, f"{PENDING}\n{self._text}")
        for name in (*MODELS, LOG):
            # Links stay: the new files go where they lead.
            follow_link(self.path / name).unlink(missing_ok=True)
        for path in checkpoints(self.path):
            if find_run(path) is not None:
                delete_checkpoint(path)
        self.write_config()

    def write_config(self) -> None:
        """Save the config, in which the limits may have changed."""
        path = self.path / CONFIG
        if not (path.exists() and self._is_written()):
            replace_text(path, f"{MARKER}\n{self._text}")


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
    """Whether the records show that a checkpoint was saved."""
    return any(
        record["type"] == "checkpoint"
        or (record["type"] == "start" and record.get("step", 0) > 0)
        # At the end a checkpoint is saved if there has been no error.
        or (record["type"] == "end" and not record.get("error"))
        for record in records
    )
