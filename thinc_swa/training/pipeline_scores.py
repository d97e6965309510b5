"""Scores of saved spaCy pipelines."""

from pathlib import Path

from .configs import check_spacy


class PipelineScorer:
    """Evaluates saved pipelines on a corpus. The score is the weighted one of spaCy's training,
    with the weights in [training.score_weights] of the pipeline.

    dev (Path): The corpus: a .spacy file, or a folder of them.
    RAISES: ImportError if spaCy is not installed; FileNotFoundError if there is no corpus.
    """

    def __init__(self, dev: Path) -> None:
        check_spacy()
        dev.stat()
        self._dev = dev

    def __call__(self, path: Path) -> float:
        """Load and evaluate a pipeline.

        path (Path): The folder of the pipeline.
        RETURNS (float): Its score, from 0 to 1.
        RAISES: ValueError if it is not a pipeline, or if the corpus is empty or damaged, or has
            none of the scores.
        """
        if not path.is_dir():
            raise ValueError(f"{path} is not a spaCy pipeline: only pipelines can be evaluated")
        from spacy import load
        from spacy.training import Corpus
        from spacy.training.loop import create_evaluation_callback

        nlp = load(path)
        try:
            examples = list(Corpus(self._dev)(nlp))
        except Exception as error:
            raise ValueError(f"{self._dev} cannot be read: {error}") from error
        if not examples:
            raise ValueError(f"{self._dev} has no documents")
        weights = nlp.config["training"]["score_weights"]
        score, scores = create_evaluation_callback(nlp, lambda nlp: examples, weights)()
        if not any(scores.get(name) is not None for name, weight in weights.items() if weight):
            names = ", ".join(name for name, weight in weights.items() if weight) or "nothing"
            raise ValueError(
                f"{self._dev} gives no score: [training.score_weights] of {path} weighs {names}"
            )
        return float(score)
