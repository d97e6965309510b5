"""Training callbacks for spaCy: saving of pipelines, the config's logger, and a table."""

import io
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

from ..errors import TrainingWarning
from ..serialization.folders import atomic_folder, copy_folder
from .callbacks import Callback, is_best, model_names
from .checkpoints import keeping_random_state
from .console_logger import RAW_SCORE
from .evaluation import Evaluation, evaluated_averages
from .spacy_pipelines import save_pipeline
from .spacy_trainer import SpacyTrainer

# Loggers that print a table, without their versions.
CONSOLE_LOGGERS = ("spacy.ConsoleLogger.", "thinc_swa.ConsoleLogger.")
# Config name of a logger that prints nothing, in processes of trainings only.
QUIET = "thinc_swa.quiet_logger.v1"


class SavePipelines(Callback):
    """Save the pipeline at every evaluation and at the end, as `spacy train` does, with the
    averages as its weights if there are any: `model-last`, and `model-best` when its score is
    the best so far.

    folder (Path): An existing folder.
    save_all (bool): Also save the pipeline with each of the averages of a nesting, as
        `SaveModels` does: `model-best-NAME` and `model-last-NAME`.
    """

    def __init__(self, folder: Path, *, save_all: bool = False) -> None:
        self._folder = folder
        self._save_all = save_all

    def on_evaluate(self, trainer: SpacyTrainer, evaluation: Evaluation) -> None:  # type: ignore[override]
        self._save_last(trainer)
        if evaluation.is_best:
            self._copy_to_best("")
        evaluations = trainer.state.evaluations
        for name in evaluation.all_averages if self._save_all else ():
            suffix = self._save_averages(trainer, name)
            if is_best(name, evaluations, ties=True):
                self._copy_to_best(suffix)

    def on_end(self, trainer: SpacyTrainer) -> None:  # type: ignore[override]
        # After an error weights may be half updated; those of the last evaluation are saved.
        if trainer.state.error is None:
            self._save_last(trainer)
            if self._save_all and not trainer.state.is_evaluated:
                for name in evaluated_averages(trainer.optimizer):
                    self._save_averages(trainer, name)

    def _save_last(self, trainer: SpacyTrainer) -> None:
        with trainer.use_averages():
            save_pipeline(trainer.before_to_disk(trainer.model), self._folder / "model-last")

    def _save_averages(self, trainer: SpacyTrainer, name: str) -> str:
        """RETURNS (str): Suffix of the folder."""
        suffix = f"-{model_names(trainer.optimizer)[name]}"
        # `before_to_disk` may draw random numbers.
        with keeping_random_state(), trainer.use_averages(name), trainer.use_scores_of(name):
            pipeline = trainer.before_to_disk(trainer.model)
            save_pipeline(pipeline, self._folder / f"model-last{suffix}")
        return suffix

    def _copy_to_best(self, suffix: str) -> None:
        with atomic_folder(self._folder / f"model-best{suffix}") as temporary:
            copy_folder(self._folder / f"model-last{suffix}", temporary)


class ConfigLogger(Callback):
    """Logger that `[training.logger]` names, with the calls that it gets from `spacy train`.

    In a resumed training it first gets those of the steps before the checkpoint, so that its
    output is complete. Tables of console loggers are not printed, also not those of one among
    the arguments of another logger: `SpacyTable` has their columns.
    """

    def __init__(self) -> None:
        self._log_step: Callable[[dict[str, Any] | None], None] | None = None
        self._finalize: Callable[[], None] | None = None

    def on_start(self, trainer: SpacyTrainer) -> None:  # type: ignore[override]
        section = trainer.model.config.interpolate()["training"]["logger"]
        consoles = _console_loggers(section)
        if consoles:
            files = [found["output_file"] for found in consoles if found.get("output_file")]
            _prepare_files(trainer, files)
            trainer.settings["logger"] = _make_quiet(trainer, section)
        is_resumed = trainer.state.step > 0
        with keeping_random_state() if is_resumed else nullcontext():
            with trainer.without_frozen():
                set_up = trainer.settings["logger"]
                self._log_step, self._finalize = set_up(
                    trainer.model, _Stream("stdout"), _Stream("stderr")
                )
            if is_resumed:
                for info in trainer.earlier_infos():
                    self._log_step(info)

    def on_step(self, trainer: SpacyTrainer) -> None:  # type: ignore[override]
        if self._log_step is not None and not trainer.needs_evaluation:
            self._log_step(None)

    def on_evaluate(self, trainer: SpacyTrainer, evaluation: Evaluation) -> None:  # type: ignore[override]
        if self._log_step is not None:
            self._log_step(trainer.info)

    def on_end(self, trainer: SpacyTrainer) -> None:  # type: ignore[override]
        if self._finalize is not None:
            self._finalize()


def _console_loggers(section: Any) -> list[dict[str, Any]]:
    """Sections of console loggers in the section of a logger."""
    if not isinstance(section, dict):
        return []
    if _is_console(section):
        return [section]
    return [found for value in section.values() for found in _console_loggers(value)]


def _is_console(section: dict[str, Any]) -> bool:
    return str(section.get("@loggers")).startswith(CONSOLE_LOGGERS)


def _make_quiet(trainer: SpacyTrainer, section: dict[str, Any]) -> Any:
    """Make a logger whose console loggers print nothing.

    section (dict[str, Any]): The section [training.logger].
    """
    from spacy.util import registry

    def make_quiet_logger(logger: Callable[..., Any]) -> Callable[..., Any]:
        return lambda nlp, stdout, stderr: _set_up_quiet(logger, nlp, trainer)

    # Registered in this process only.
    registry.loggers(QUIET, func=make_quiet_logger)
    with keeping_random_state():
        # Console loggers look for their file when they are made.
        return registry.resolve({"logger": _with_quiet(section)})["logger"]


def _with_quiet(section: Any) -> Any:
    if not isinstance(section, dict):
        return section
    if _is_console(section):
        return {"@loggers": QUIET, "logger": section}
    return {name: _with_quiet(value) for name, value in section.items()}


def _set_up_quiet(logger: Callable[..., Any], nlp: Any, trainer: SpacyTrainer) -> Any:
    """Set up a console logger that prints nothing, and that need not evaluate raw weights.

    RETURNS (tuple[Callable, Callable]): As spaCy defines it.
    """
    log_step, finalize = logger(nlp, io.StringIO(), io.StringIO())

    def log_quietly(info: dict[str, Any] | None) -> None:
        if info is not None:
            evaluations = trainer.state.evaluations
            raw = next(found.raw for found in evaluations if found.step == info["step"] + 1)
            info = {**info, "other_scores": {**info["other_scores"], RAW_SCORE: raw}}
        log_step(info)

    return log_quietly, finalize


def _prepare_files(trainer: SpacyTrainer, names: Sequence[str]) -> None:
    """Prepare the files of console loggers, which never write to existing ones. Those of a
    resumed training are written again.

    names (Sequence[str]): The files.
    """
    own = trainer.state.extra.setdefault("logger_files", [])
    for name in map(str, names):
        path = Path(name)
        if not path.exists():
            own.append(name)
        elif name in own:
            path.unlink()
        else:
            warnings.warn(
                f"The logger in [training.logger] does not write to {path}, which exists "
                "already",
                TrainingWarning,
                stacklevel=3,
            )


class _Stream(io.TextIOBase):
    """Standard output or standard error of the moment: a progress bar replaces them while it is
    shown.

    name (str): "stdout" or "stderr".
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def write(self, text: str) -> int:
        return int(getattr(sys, self._name).write(text))

    def flush(self) -> None:
        getattr(sys, self._name).flush()

    def isatty(self) -> bool:
        return bool(getattr(sys, self._name).isatty())


class SpacyTable(Callback):
    """Table with a row per evaluation: the losses of all components, learning rate, words per
    second, number of snapshots, the scores in `[training.score_weights]`, and the final score
    of the raw weights and of the averages.

    file (TextIO | None): By default the standard output.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self._components: list[str] = []
        self._scores: list[str] = []
        self._widths: list[int] = []
        # Words and seconds at the previous evaluation.
        self._last = (0, 0.0)

    def on_start(self, trainer: SpacyTrainer) -> None:  # type: ignore[override]
        weights = trainer.settings["score_weights"]
        self._components = trainer.trained_components
        self._scores = [name for name, weight in weights.items() if weight is not None]
        titles = [
            *("step", "epoch"),
            *(f"loss {name}" for name in self._components),
            *("learn rate", "words/s", "snapshots"),
            *self._scores,
            *("raw", "averages"),
        ]
        self._widths = [max(len(title), 8) + 2 for title in titles]
        self._write(titles)
        for info, evaluation in zip(
            trainer.state.extra["infos"], trainer.state.evaluations, strict=True
        ):
            self._write_row(info, evaluation)

    def on_evaluate(self, trainer: SpacyTrainer, evaluation: Evaluation) -> None:  # type: ignore[override]
        self._write_row(trainer.state.extra["infos"][-1], evaluation)

    def _write_row(self, info: dict[str, Any], evaluation: Evaluation) -> None:
        words, seconds = self._last
        self._last = (info["words"], info["training_seconds"])
        speed = (info["words"] - words) / max(info["training_seconds"] - seconds, 1e-9)
        averages = "-" if evaluation.averages is None else _percent(evaluation.averages)
        self._write(
            [
                *(str(evaluation.step), str(evaluation.epoch)),
                *(f"{info['losses'].get(name, 0.0):.2f}" for name in self._components),
                *(f"{evaluation.learn_rate:.3g}", f"{speed:,.0f}"),
                "-" if evaluation.n_averaged is None else str(evaluation.n_averaged),
                *(_percent(info["other_scores"].get(name, 0.0), name) for name in self._scores),
                *(_percent(evaluation.raw), averages),
            ],
            "  best" if evaluation.is_best else "",
        )

    def _write(self, values: list[str], end: str = "") -> None:
        row = "".join(
            value.rjust(width) for value, width in zip(values, self._widths, strict=True)
        )
        # Looked up each time: a progress bar replaces the standard output while it is shown.
        file = self._file or sys.stdout
        file.write(f"{row}{end}\n")
        file.flush()


def _percent(score: Any, name: str = "") -> str:
    if not isinstance(score, (int, float)):
        return "-"
    return f"{score:,.0f}" if name == "speed" else f"{100.0 * score:.2f}"
