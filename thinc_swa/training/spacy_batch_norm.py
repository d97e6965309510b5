"""BatchNorm statistics of averages in the training of a spaCy pipeline."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy
from thinc.api import Config

from ..models.batch_norm import get_batch_norm, set_batch_norm, update_batch_norm
from .checkpoints import keeping_random_state
from .spacy_pipelines import keeping_strings


class AverageStatistics:
    """BatchNorm statistics of the averages of a pipeline, estimated from training batches.

    nlp (Language): The pipeline, whose config has the training corpus and the batcher.
    n_batches (int): Number of training batches; 0 to leave the statistics as they are.
    """

    def __init__(self, nlp: Any, n_batches: int) -> None:
        self._nlp = nlp
        self._n_batches = n_batches
        self._config: Config = nlp.config.interpolate()
        # The batches, read when they are first needed.
        self._sample: list[list[Any]] = []
        # Statistics of the averages of this step, by the place of their optimizer in the
        # nesting.
        self._found: dict[int, list[dict[str, Any]]] = {}

    def reset(self) -> None:
        """Discard the statistics, because the weights have changed."""
        self._found = {}

    @contextmanager
    def use(self, place: int) -> Iterator[None]:
        """Context manager in which BatchNorm layers have statistics of the current weights. At
        its end the earlier statistics and random states are restored bit for bit.

        place (int): Place in the nesting of the optimizer whose averages are the weights.
        """
        excluded = self._config["training"]["frozen_components"]
        earlier = get_batch_norm(self._nlp, exclude=excluded) if self._n_batches else []
        if not earlier:
            yield
            return
        try:
            if place not in self._found:
                with keeping_random_state():
                    self._estimate(excluded)
                self._found[place] = get_batch_norm(self._nlp, exclude=excluded)
            set_batch_norm(self._nlp, self._found[place], exclude=excluded)
            yield
        finally:
            set_batch_norm(self._nlp, earlier, exclude=excluded)

    def _estimate(self, excluded: list[str]) -> None:
        self._sample = self._sample or self._read_sample()
        # Copies, because predictions add annotations to Docs.
        batches = ([doc.copy() for doc in batch] for batch in self._sample)
        with keeping_strings(self._nlp.vocab):
            update_batch_norm(self._nlp, batches, exclude=excluded)

    def _read_sample(self) -> list[list[Any]]:
        """Batches of training Docs. The random sample is always the same, so that differences
        between evaluations come from the weights. Changes random states."""
        from spacy.training import loop
        from spacy.util import registry, resolve_dot_names

        subdivide_batch: Any = loop.subdivide_batch
        settings = self._config["training"]
        (corpus,) = resolve_dot_names(self._config, [settings["train_corpus"]])
        batcher = registry.resolve({"batcher": settings["batcher"]})["batcher"]
        # Augmenters and batchers draw from these generators.
        seed = settings["seed"] or 0
        random.seed(seed)
        numpy.random.seed(seed)
        examples = corpus(self._nlp)
        if settings["max_epochs"] >= 0:  # Otherwise it is streamed and may be infinite.
            examples = list(examples)
            random.shuffle(examples)
        # Without the last batch, which may be smaller than the others.
        batches = list(islice(batcher(examples), self._n_batches + 1))
        return [
            [example.predicted for example in part]
            for batch in batches[:-1] or batches
            for part in subdivide_batch(batch, settings["accumulate_gradient"])
        ]
