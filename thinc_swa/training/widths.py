"""Scores of reconstructed averages of a finished training, by their width."""

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from thinc.api import Config, Optimizer

from ..errors import TrainingWarning, naming_config
from ..models.pytorch_loading import check_pytorch_loading
from ..schedules.plots import COLOURS
from ..serialization.reconstruction import LARGE_ERROR, StoredAverages
from ..types import FloatsXd, KeyT
from .checkpoints import STATE, checkpoints, find_run
from .configs import is_spacy_config
from .fingerprints import differences
from .output_folder import CONFIG, load_config
from .trainer import Trainer

MODEL_LAST = "model-last"


class WidthScore(NamedTuple):
    """Score of a reconstructed average on the dev data.

    sigma_rel (float): Its width.
    score (float): Its score; higher is better.
    error (float): Its profile error, relative: see `Reconstruction`.
    """

    sigma_rel: float
    score: float
    error: float


class WidthEvaluator:
    """Evaluates reconstructed averages of a training on its dev data, as the training has
    evaluated its own averages: BatchNorm statistics are estimated for each of them.

    folder (Path): Output folder of the training, with snapshots of averages.
    step (int | None): Step of the averages, by default the last with snapshots.
    code (Path | None): The Python file that registers what the config names.
    trust (bool): Load PyTorch layers also where that can execute code from the file: see
        `check_pytorch_loading`.
    RAISES: FileNotFoundError if the folder has no training or no model; ValueError if there are
        no snapshots of this training, for spaCy configs, or if loading is not safe; OSError if
        a file cannot be read.
    """

    stored: StoredAverages
    step: int
    score: str

    def __init__(
        self,
        folder: Path,
        *,
        step: int | None = None,
        code: Path | None = None,
        trust: bool = False,
    ) -> None:
        config = load_config(folder)
        if is_spacy_config(config):
            raise ValueError(
                f"{folder / CONFIG} is a config for spaCy, whose pipelines cannot be evaluated "
                "here: use reconstruct_average() in Python"
            )
        self.stored = StoredAverages(folder)
        self.step = self.stored.check_step(step)
        runs = {run: path for path in checkpoints(folder) if (run := find_run(path))}
        if runs and self.stored.run_id not in runs:
            raise ValueError(
                f"The snapshots in {self.stored.folder} do not belong to the training in "
                f"{folder}: delete them, or move them to a folder of their own"
            )
        # Callbacks belong to the training itself.
        config = Config({name: part for name, part in config.items() if name != "callbacks"})
        with naming_config(folder / CONFIG):
            self._trainer = Trainer.from_config(config, code=code, output=folder)
        self.score = self._trainer.score
        if runs:
            self._check_inputs(runs[self.stored.run_id or ""])
        # Parameters that the training did not average are those of the saved model.
        check_pytorch_loading(self._trainer.model, trust=trust)
        try:
            self._trainer.load_model(folder / MODEL_LAST)
        except OSError:
            raise
        except Exception as error:
            raise ValueError(
                f"The model of {folder / CONFIG} does not fit {folder / MODEL_LAST}: {error}"
            ) from error

    def _check_inputs(self, checkpoint: Path) -> None:
        try:
            content = json.loads((checkpoint / STATE).read_text(encoding="utf8"))
            before = dict(content["fingerprint"]["inputs"])
        except (OSError, ValueError, LookupError, TypeError):
            return  # The checkpoint is damaged, and is not needed here.
        found = differences(before, self._trainer.fingerprint.inputs)
        if found:
            warnings.warn(
                f"The training had other data or code: {'; '.join(found)}",
                TrainingWarning,
                stacklevel=3,
            )

    def evaluate(self, sigma_rel: float) -> WidthScore:
        """Score the average of a width on the dev data.

        sigma_rel (float): The width.
        RETURNS (WidthScore): Its score.
        RAISES: ValueError if the width is out of range or the snapshots are damaged.
        """
        averages, error = self._reconstruct(sigma_rel)
        with self._using(averages):
            return WidthScore(sigma_rel, self._trainer._score(), error)

    def save(self, path: Path, sigma_rel: float) -> None:
        """Save the model with the average of a width as its weights, as `model-best` is saved.

        path (Path): The file.
        sigma_rel (float): The width.
        RAISES: As `evaluate`; OSError if the file cannot be written.
        """
        averages, _ = self._reconstruct(sigma_rel)
        with self._using(averages):
            self._trainer.save_model(path)

    def _reconstruct(self, sigma_rel: float) -> tuple[dict[KeyT, FloatsXd], float]:
        return self.stored.reconstruct(self._trainer.model, sigma_rel=sigma_rel, step=self.step)

    @contextmanager
    def _using(self, averages: dict[KeyT, FloatsXd]) -> Iterator[None]:
        # To the trainer they are the averages of its optimizer.
        optimizer: Any = Optimizer(0.0)
        optimizer.averages = averages
        self._trainer.optimizer = optimizer
        # BatchNorm statistics are those of earlier averages.
        self._trainer.restore(self._trainer.state)
        with self._trainer.use_averages():
            yield

    def describe_roughness(self, score: WidthScore) -> str | None:
        """Say that an average is approximated only roughly; None if it is not."""
        if score.error <= LARGE_ERROR:
            return None
        return self.stored.describe_error(score.sigma_rel, score.error)


def find_best(scores: Sequence[WidthScore]) -> WidthScore:
    """The width with the highest score, the first of several. Any number is higher than NaN."""
    return max(scores, key=lambda found: -math.inf if math.isnan(found.score) else found.score)


def plot_widths(scores: Sequence[WidthScore], stored: Sequence[float], score: str) -> Any:
    """Plot scores against widths. Needs matplotlib.

    scores (Sequence[WidthScore]): The scores, in the order of the widths.
    stored (Sequence[float]): The widths that the training has kept, which are marked.
    score (str): Kind of score: "accuracy" or "loss".
    RETURNS (Figure): The figure.
    """
    from matplotlib.figure import Figure

    factor, label = (
        (100.0, "score in %") if score == "accuracy" else (1.0, "score (minus loss)")
    )
    widths = [found.sigma_rel for found in scores]
    values = [factor * found.score for found in scores]
    rough = [i for i, found in enumerate(scores) if found.error > LARGE_ERROR]
    best = find_best(scores)
    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    panel = figure.subplots()
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    for i, width in enumerate(stored):
        if min(widths) <= width <= max(widths):
            panel.axvline(
                width,
                color="#8C8C8C",
                linestyle=(0, (2, 1.5)),
                linewidth=1.0,
                label="kept during the training" if i == 0 else None,
            )
    panel.plot(widths, values, color=COLOURS[0], linewidth=1.8, label="reconstructed")
    style: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4.5, "zorder": 3}
    panel.plot(widths, values, color=COLOURS[0], **style)
    if rough:
        panel.plot(
            [widths[i] for i in rough],
            [values[i] for i in rough],
            markerfacecolor="white",
            markeredgecolor=COLOURS[0],
            label="approximated only roughly",
            **style,
        )
    panel.plot(
        [best.sigma_rel],
        [factor * best.score],
        color=COLOURS[5],
        label=f"best: {best.sigma_rel:g}",
        **{**style, "markersize": 8},
    )
    panel.set_xlabel("width of the average, sigma_rel")
    panel.set_ylabel(label)
    panel.legend(frameon=False, fontsize=9)
    return figure
