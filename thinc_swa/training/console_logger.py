"""Logger for `spacy train` that also shows the score of the raw weights."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import IO, Any

from .checkpoints import keeping_random_state

# The name of the column, and of the score in `output_file`.
RAW_SCORE = "raw_score"


def make_console_logger(
    progress_bar: str | bool | None = None,
    console_output: bool = True,
    output_file: str | None = None,
) -> Callable[..., tuple[Callable[[dict[str, Any] | None], None], Callable[[], None]]]:
    """`thinc_swa.ConsoleLogger.v1`: `spacy.ConsoleLogger.v3` with the column RAW_SCORE.

    In `spacy train`, SCORE is that of the averages as soon as there are any. RAW_SCORE is the
    score of the weights that are trained, for which the development corpus is evaluated a
    second time. The training itself does not change.

    progress_bar (str | bool | None): The kind of progress bar: "train" for the whole training,
        "eval" up to the next evaluation, None for none. As in earlier versions of spaCy's
        logger, True is "eval" and False is None.
    console_output (bool): Whether to print the table.
    output_file (str | None): A file for a JSON line for each evaluation.
    RETURNS (Callable): A logger as spaCy defines it.
    """
    # Optional, and only needed here.
    from spacy.training.loggers import console_logger_v3
    from spacy.training.loop import create_evaluation_callback
    from spacy.util import resolve_dot_names

    if isinstance(progress_bar, bool):
        progress_bar = "eval" if progress_bar else None
    setup_printer = console_logger_v3(progress_bar, console_output, output_file)

    def setup(
        nlp: Any, stdout: IO[str], stderr: IO[str]
    ) -> tuple[Callable[[dict[str, Any] | None], None], Callable[[], None]]:
        config = nlp.config.interpolate()
        training = config["training"]
        (dev_corpus,) = resolve_dot_names(config, [training["dev_corpus"]])
        evaluate = create_evaluation_callback(nlp, dev_corpus, training["score_weights"])
        # The logger of spaCy takes its columns from here.
        shown = {**training, "score_weights": {**training["score_weights"], RAW_SCORE: 0.0}}
        log_step, finalize = setup_printer(
            SimpleNamespace(pipeline=nlp.pipeline, config={**config, "training": shown}),
            stdout,
            stderr,
        )

        def log_step_with_raw_score(info: dict[str, Any] | None) -> None:
            # `thinc-swa train` has evaluated the raw weights already.
            if info is None or RAW_SCORE in info["other_scores"]:
                log_step(info)
                return
            # Outside of `nlp.use_params`: the weights are the raw ones.
            with keeping_random_state():
                raw_score, _ = evaluate()
            log_step({**info, "other_scores": {**info["other_scores"], RAW_SCORE: raw_score}})

        return log_step_with_raw_score, finalize

    return setup
