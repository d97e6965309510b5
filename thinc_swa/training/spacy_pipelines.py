"""Saving and loading of spaCy pipelines."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from ..serialization.folders import atomic_folder


def save_pipeline(nlp: Any, path: Path) -> None:
    """Save a pipeline with its current weights, atomically.

    nlp (Language): The pipeline.
    path (Path): The folder. An earlier one is replaced.
    """
    with atomic_folder(path) as temporary:
        nlp.to_disk(temporary)


def load_pipeline(nlp: Any, path: Path) -> None:
    """Load everything that components have saved into an initialized pipeline with the same
    components. The config of the pipeline stays as it is.

    nlp (Language): The pipeline.
    path (Path): A folder that `save_pipeline` has written.
    """
    from spacy.pipeline import AttributeRuler, EditTreeLemmatizer

    for _, component in nlp._components:
        # Loading adds to what initialization has made.
        if isinstance(component, AttributeRuler):
            component.clear()
        elif isinstance(component, EditTreeLemmatizer):
            component.trees.from_json([])
    nlp.from_disk(path, exclude=["config"])


@contextmanager
def keeping_strings(vocab: Any) -> Iterator[None]:
    """Context manager that removes the strings which were added to a vocabulary inside, such as
    predicted lemmas: they would be saved with the pipeline.

    vocab (Vocab): The vocabulary.
    """
    n_strings = len(vocab.strings)
    try:
        yield
    finally:
        if len(vocab.strings) > n_strings:
            # In the order of their addition.
            kept = list(islice(vocab.strings, n_strings))
            vocab.strings._reset_and_load(kept)
