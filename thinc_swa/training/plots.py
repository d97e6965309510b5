"""Learning curve of a training, and the saving of all figures. Needs matplotlib, which is
imported when a plot is made."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import TrainingWarning
from ..schedules.plots import COLOURS
from ..serialization.files import atomic_write
from .callbacks import Callback
from .evaluation import Evaluation
from .interface import TrainerInterface

FORMATS = ("png", "svg")


def plot_learning_curve(evaluations: Sequence[Evaluation], score: str) -> Any:
    """Plot the scores of averages and raw weights, and the training loss.

    evaluations (Sequence[Evaluation]): At least one.
    score (str): Kind of score: "accuracy" (plotted in per cent) or "loss".
    RETURNS (Figure): The figure.
    """
    from matplotlib.figure import Figure

    factor = score_factor(score)
    steps = [evaluation.step for evaluation in evaluations]
    averaged = [found for found in evaluations if found.averages is not None]
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    scores, losses = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    raw = [factor * evaluation.raw for evaluation in evaluations]
    scores.plot(steps, raw, color=COLOURS[1], linestyle="--", label="raw weights")
    scores.plot(
        [evaluation.step for evaluation in averaged],
        [factor * evaluation.score for evaluation in averaged],
        color=COLOURS[0],
        label="averages",
    )
    best = [found for found in evaluations if found.is_best][-1:]
    scores.scatter(
        [evaluation.step for evaluation in best],
        [factor * evaluation.score for evaluation in best],
        color=COLOURS[0] if averaged else COLOURS[1],
        zorder=3,
        label="model-best",
    )
    scores.set_ylabel(score_label(score))
    scores.legend(frameon=False)
    losses.plot(steps, [evaluation.loss for evaluation in evaluations], color="#404040")
    losses.set_ylabel("loss per step")
    losses.set_xlabel("step")
    for panel in (scores, losses):
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def score_factor(score: str) -> float:
    """Factor of plotted scores: accuracies are in per cent."""
    return 100.0 if score == "accuracy" else 1.0


def score_label(score: str) -> str:
    """Label of an axis of scores."""
    return "score in %" if score == "accuracy" else "score (minus the loss)"


def save_figure(figure: Any, path: Path) -> list[Path]:
    """Save a figure as PNG and as SVG. Equal figures give equal files.

    figure (Figure): The figure.
    path (Path): Path without suffix.
    RETURNS (list[Path]): The files.
    """
    import matplotlib

    paths = [path.with_name(f"{path.name}.{name}") for name in FORMATS]
    for file in paths:
        metadata = {"Date": None} if file.suffix == ".svg" else None
        with (
            atomic_write(file) as temporary,
            matplotlib.rc_context({"svg.hashsalt": "thinc-swa"}),
            warnings.catch_warnings(),
        ):
            # Names may have characters that are missing in the font.
            warnings.filterwarnings("ignore", "Glyph .* missing")
            figure.savefig(temporary, dpi=150, format=file.suffix[1:], metadata=metadata)
    return paths


class SaveLearningCurve(Callback):
    """Save the learning curve as PNG and SVG at the end of a training. Without matplotlib there
    is a warning instead.

    path (Path): Path without suffix, in an existing folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_end(self, trainer: TrainerInterface) -> None:
        evaluations = trainer.state.evaluations
        if not evaluations or trainer.state.error is not None:
            return
        try:
            figure = plot_learning_curve(evaluations, trainer.score)
        except ImportError:
            warnings.warn(
                "There is no learning curve, because matplotlib is missing: pip install "
                '"thinc-swa[cli]"',
                TrainingWarning,
                stacklevel=2,
            )
            return
        save_figure(figure, self._path)
