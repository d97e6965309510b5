"""Workers of a training: what the trainers for Thinc and for spaCy have in common."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy
from thinc.api import Optimizer, fix_random_seed

from ..distributed.communicator import Communicator, SingleWorker
from ..distributed.connection import check_equal, connect
from ..distributed.exchange import ParameterExchange
from ..models.parameters import ModelT, named_parameters
from ..types import Array
from .callbacks import Callback
from .fingerprints import digest
from .state import TrainerState

ResultT = TypeVar("ResultT")


class Workers:
    """The workers of a training, as one of them sees them. With a single worker no method
    changes anything.

    communicator (Communicator | None): The connection to other workers; None for a single
        worker.
    """

    def __init__(self, communicator: Communicator | None = None) -> None:
        self.communicator = SingleWorker() if communicator is None else communicator
        self.rank = self.communicator.rank
        self.size = self.communicator.size
        self._exchange: ParameterExchange | None = None
        self._stop_reason = "stopped"

    @property
    def are_several(self) -> bool:
        """Whether there are other workers."""
        return self.size > 1

    def own_callbacks(self, callbacks: Iterable[Callback]) -> list[Callback]:
        """The callbacks that this worker calls."""
        return [found for found in callbacks if self.rank == 0 or found.runs_on_all_workers]

    def check_examples(self, n_examples: int) -> None:
        """RAISES: ValueError if there are more workers than training examples."""
        if self.size > n_examples:
            raise ValueError(
                f"There are {self.size} workers, but only {n_examples} training examples: use "
                "fewer workers"
            )

    def check_equal(self, what: str, description: Callable[[], str]) -> None:
        """Check that something is the same on all workers. See `check_equal`.

        description (Callable[[], str]): Makes its description, with several workers only.
        """
        if self.are_several:
            check_equal(self.communicator, what, description())

    def connect(
        self,
        state: TrainerState,
        optimizer: Optimizer,
        model: ModelT,
        *,
        seed: int,
        exclude: Collection[str] = (),
    ) -> None:
        """Connect the optimizer, after checking that all workers have the same weights. The
        training gets the id of rank 0, and this worker random numbers of its own, for dropout:
        rank 0 draws what a single worker draws.

        state (TrainerState): The state of the training.
        optimizer (Optimizer): A nesting of optimizers with one `LocalSGD`.
        model (Model | Language): The initialized model.
        seed (int): The seed of the training.
        exclude (Collection[str]): Names of pipeline components that are not trained.
        RAISES: ValueError on all workers if their weights differ, or if the optimizer cannot be
            trained on several workers.
        """
        self.check_equal("initial weights", lambda: _describe_weights(model))
        self._exchange = connect(
            optimizer, model, self.communicator, broadcast=False, exclude=exclude
        )
        if self.are_several:
            state.run_id = self.communicator.broadcast_text(state.run_id)
        if self.rank:
            seeds = numpy.random.SeedSequence((seed, self.rank))
            fix_random_seed(int(seeds.generate_state(1)[0]))

    def shuffled_share(
        self,
        n_examples: int,
        *,
        seed: int,
        epoch: int,
        n_used: int = 0,
        used: Sequence[int] = (),
    ) -> Array:
        """The examples of this worker in an epoch, in random order. Over all workers each
        example occurs once.

        n_used (int): Number of the first examples that another number of workers has used.
        used (Sequence[int]): Indices of further ones.
        RETURNS (Ints1d): Their indices.
        """
        # A generator for each epoch: the order can be restored in the middle of an epoch, and
        # is the same whatever dropout has drawn.
        order = numpy.random.default_rng((seed, epoch)).permutation(n_examples)
        order = order[n_used:]
        if used:
            order = order[~numpy.isin(order, used)]
        share: Array = order[self.rank :: self.size]
        return share

    def request_stop(self, reason: str) -> bool:
        """Ask all workers to stop, with the next exchange.

        reason (str): The first of several counts.
        RETURNS (bool): False for a single worker, which can stop at once.
        """
        if self._exchange is None:
            return False
        if not self._exchange.wants_stop:
            self._exchange.wants_stop = True
            self._stop_reason = reason
        return True

    @property
    def stop_reason(self) -> str | None:
        """Why all workers stop now; None if they do not."""
        is_stopping = self._exchange is not None and self._exchange.is_stopping
        return self._stop_reason if is_stopping else None

    def from_rank(self, rank: int, evaluate: Callable[[], ResultT]) -> ResultT:
        """The result of an evaluation, which only one worker does. What the others do before
        they call this, they do at the same time.

        rank (int): The rank of that worker.
        evaluate (Callable): Returns values that JSON can represent.
        """
        if not self.are_several:
            return evaluate()
        found = json.dumps(evaluate()) if self.rank == rank else ""
        result: ResultT = json.loads(self.communicator.broadcast_text(found, source=rank))
        return result

    def sum_progress(
        self, state: TrainerState, others: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Sum the losses since the last evaluation and requests to stop over all workers.

        state (TrainerState): The state of the training, which gets the sums.
        others (Mapping[str, int] | None): Further counts.
        RETURNS (dict[str, int]): Their sums.
        """
        totals = dict(others or {})
        if self._exchange is None:
            return totals
        own = [self._exchange.wants_stop, state.n_losses, state.losses, totals]
        found = [json.loads(text) for text in self.communicator.gather_texts(json.dumps(own))]
        wants_stop, n_losses, losses, counts = zip(*found, strict=True)
        self._exchange.is_stopping = any(wants_stop)
        state.n_losses = sum(n_losses)
        # Names may be missing on a worker that had no data.
        state.losses = _sum_by_name(losses)
        return _sum_by_name(counts)


def _sum_by_name(values: Iterable[dict[str, Any]]) -> dict[str, Any]:
    sums: dict[str, Any] = {}
    for found in values:
        for name, value in found.items():
            sums[name] = sums.get(name, 0) + value
    return sums


def _describe_weights(model: ModelT) -> str:
    """A digest of the weights of each parameter."""
    return "\n".join(
        f"{place}: {digest(parameter.get())}" for place, _, parameter in named_parameters(model)
    )
