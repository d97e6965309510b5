"""The batches of a Thinc config: their places in the data, on any number of workers and with
training phases."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

from .training_phases import PhaseSpan


@dataclass(frozen=True)
class PlannedBatch:
    """Batch of a step.

    index (int): Number of the span, from 0.
    step (int): Number of the step in its span, from 0.
    first_epoch (int): The epoch with which the span began.
    epoch (int): Number of the pass over the data, from 0.
    n_used (int): Examples of the epoch that another number of workers has used. The others are
        divided among the workers.
    start (int): Number of the first example in a worker's share.
    size (int): Number of examples. At the end of a pass there may be fewer.
    """

    index: int
    step: int
    first_epoch: int
    epoch: int
    n_used: int
    start: int
    size: int


@dataclass(frozen=True)
class PlanStart:
    """Where a plan begins, after steps of another number of workers.

    n_steps (int): Number of steps before.
    index, step, first_epoch, epoch, n_used (int): As in `PlannedBatch`, of the next step.
    """

    n_steps: int = 0
    index: int = 0
    step: int = 0
    first_epoch: int = 0
    epoch: int = 0
    n_used: int = 0


class BatchPlan:
    """The batches of a training.

    A pass over the data continues from one phase to the next. A phase with another dataset than
    the phase before it, or with a length in epochs, begins a new pass.

    spans (Sequence[PhaseSpan]): The phases, as `make_spans` returns them.
    n_examples (Mapping[str | None, int]): Number of examples of each dataset by its name, that
        of the training under None.
    batch_size (int): Examples per step and worker outside of phases with a size of their own.
    n_workers (int): Number of workers.
    start (PlanStart | None): Where it begins; by default at the start of the training.
    drop_last (bool): Leave out the incomplete batch at the end of a pass, unless it is the only
        one.
    in_streams (bool): Whether the examples are divided into streams, so that all batches have
        the same size: see `stream_rows`. Another number of workers begins a new pass.
    """

    def __init__(
        self,
        spans: Sequence[PhaseSpan],
        *,
        n_examples: Mapping[str | None, int],
        batch_size: int,
        n_workers: int = 1,
        start: PlanStart | None = None,
        drop_last: bool = False,
        in_streams: bool = False,
    ) -> None:
        self.spans = list(spans)
        self._n_examples = dict(n_examples)
        self._batch_size = batch_size
        self._n_workers = n_workers
        self._start = PlanStart() if start is None else start
        self._drop_last = drop_last
        self._in_streams = in_streams

    def batches(self, step: int | None = None) -> Iterator[PlannedBatch]:
        """The batches of all steps, without end.

        step (int | None): Number of the first step, from 0; by default that of the start.
        """
        first = self._start.n_steps
        return islice(self._batches(), (first if step is None else step) - first, None)

    def _batches(self) -> Iterator[PlannedBatch]:
        first = self._start
        step, first_epoch = first.step, first.first_epoch
        epoch, n_used, start = first.epoch, first.n_used, 0
        dataset = self.spans[first.index].phase.dataset
        for index, span in list(enumerate(self.spans))[first.index :]:
            if index > first.index:
                is_new = span.phase.dataset != dataset or span.n_epochs is not None
                if is_new and (start or n_used):
                    epoch, n_used, start = epoch + 1, 0, 0
                dataset = span.phase.dataset
                step, first_epoch = 0, epoch
            size_at = span.phase.batch_size
            end = None if span.n_epochs is None else first_epoch + span.n_epochs
            while step != span.n_steps and epoch != end:
                size = self._batch_size if size_at is None else size_at(step)
                yield PlannedBatch(index, step, first_epoch, epoch, n_used, start, size)
                step, start = step + 1, start + size
                next_end = start + size if self._drop_last else start + 1
                if next_end > self._count_share(dataset, n_used):
                    epoch, n_used, start = epoch + 1, 0, 0

    def _count_share(self, dataset: str | None, n_used: int = 0) -> int:
        """Number of examples of the largest share."""
        if self._in_streams:
            n_streams = self._n_workers * self._batch_size
            return self._n_examples[dataset] // n_streams * self._batch_size
        return -(-(self._n_examples[dataset] - n_used) // self._n_workers)

    def describe(self, step: int) -> dict[str, int]:
        """Where another number of workers continues: the arguments of `PlanStart`.

        step (int): Number of steps before.
        """
        batch = asdict(next(self.batches(step)))
        del batch["size"]
        start = batch.pop("start")
        if self._in_streams:
            batch["epoch"] += start > 0
        else:
            # The workers' shares begin with the first examples of the epoch in turn.
            batch["n_used"] += start * self._n_workers
        return {"n_steps": step, **batch}

    def starts(self) -> list[int]:
        """The number of steps before each span of a plan from the start of the training."""
        if all(span.n_epochs is None for span in self.spans):
            starts = [0]
            for span in self.spans[:-1]:
                starts.append(starts[-1] + (span.n_steps or 0))
            return starts
        starts = []
        for step, batch in enumerate(self.batches()):
            starts += [step] * (batch.index + 1 - len(starts))
            if batch.index == len(self.spans) - 1:
                break
        return starts

    def count_steps(self, *, max_steps: int, max_epochs: int) -> int:
        """Number of steps of a training, from its limits, of which one may be 0 for none."""
        if not max_epochs:
            return max_steps
        is_plain = len(self.spans) == 1 and self.spans[0].phase.batch_size is None
        if is_plain and self._start == PlanStart() and not self._drop_last:
            # One multiplication instead of all steps.
            share = self._count_share(self.spans[0].phase.dataset)
            found = max_epochs * -(-share // self._batch_size)
            return min(found, max_steps or found)
        n_steps = self._start.n_steps
        for batch in self.batches():
            if batch.epoch >= max_epochs or n_steps == (max_steps or None):
                break
            n_steps += 1
        return n_steps

    def changed(self, n_workers: int, start: Mapping[str, int] | None) -> "BatchPlan":
        """The same plan for another number of workers.

        start (Mapping[str, int] | None): Where it begins, as `describe` returns it; None for
            the start of the training.
        """
        return BatchPlan(
            self.spans,
            n_examples=self._n_examples,
            batch_size=self._batch_size,
            n_workers=n_workers,
            start=None if start is None else PlanStart(**start),
            drop_last=self._drop_last,
            in_streams=self._in_streams,
        )
