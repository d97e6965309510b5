"""Training callback that saves snapshots of averages."""

import warnings
from pathlib import Path

from ..errors import TrainingWarning
from ..serialization.average_snapshots import (
    AVERAGES,
    DTYPES,
    AverageSnapshot,
    find_snapshots,
    power_function_averages,
    save_averages,
)
from ..validation import check_choice, check_int
from .callbacks import Callback
from .interface import TrainerInterface


class KeepAverages(Callback):
    """Save snapshots of the power-function averages during a training, from which
    `reconstruct_average` and `thinc-swa reconstruct` make the averages of other widths after
    it. See `save_averages`.

    They are saved after every `freq` steps and at the end of the training, to the folder
    `averages` in its output folder. A resumed training writes the same files. Without an output
    folder nothing is saved.

    freq (int): Steps from one snapshot to the next. About 20 snapshots give widths between the
        stored ones with an error of less than 1 %; more extend the range.
    dtype (str): Precision of the files: "float32", or "float16" for half the size.
    folder (Path | None): Another folder for the snapshots.
    RAISES: ValueError if an argument is out of its range.
    """

    def __init__(
        self, *, freq: int, dtype: str = "float32", folder: Path | None = None
    ) -> None:
        self.freq = check_int("freq", freq, minimum=1)
        self.dtype = check_choice("dtype", dtype, DTYPES)
        self._folder = folder
        # The folder of this training; None if nothing is saved.
        self._target: Path | None = None

    def on_start(self, trainer: TrainerInterface) -> None:
        power_function_averages(trainer.optimizer)
        output = trainer.state.output
        self._target = self._folder
        if self._folder is None and output is not None:
            self._target = output / AVERAGES
        if self._target is None:
            warnings.warn(
                "keep_averages.v1 saves no averages, because the training has no output folder",
                TrainingWarning,
                stacklevel=2,
            )
            return
        for path in find_snapshots(self._target):
            if AverageSnapshot(path).run_id != trainer.state.run_id:
                raise FileExistsError(
                    f"{path} is a snapshot of another training: move it away, or choose "
                    "another folder"
                )

    def on_step(self, trainer: TrainerInterface) -> None:
        if trainer.state.step % self.freq == 0:
            self._save(trainer)

    def on_end(self, trainer: TrainerInterface) -> None:
        state = trainer.state
        # An interrupted training is resumed, and then has its snapshots at the usual steps.
        if state.error is None and state.stop_reason != "interrupted":
            if state.step % self.freq != 0:
                self._save(trainer)

    def _save(self, trainer: TrainerInterface) -> None:
        if self._target is not None:
            save_averages(
                self._target,
                trainer.optimizer,
                trainer.model,
                dtype=self.dtype,
                run_id=trainer.state.run_id,
            )


def make_keep_averages(freq: int, dtype: str = "float32") -> KeepAverages:
    """`keep_averages.v1`: save snapshots of averages during a training.

    See `KeepAverages`.

    RETURNS (KeepAverages): The callback.
    """
    return KeepAverages(freq=freq, dtype=dtype)
