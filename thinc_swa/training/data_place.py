"""Place of a training in its data, also after the number of workers has changed."""

from dataclasses import dataclass
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where the batches of a step are.

    epoch (int): The epoch, from 0.
    n_used (int): Examples of the epoch that another number of workers has used. The others are
        divided among the workers.
    start (int): The first example of the batch in a worker's share.
    """

    epoch: int
    n_used: int
    start: int


@dataclass(frozen=True)
class DataPlaces:
    """Places of the steps in epochs of a fixed number of examples.

    n_examples (int): Examples per epoch.
    batch_size (int): Examples per step and worker.
    n_workers (int): Number of workers.
    step (int): Step from which on there is this number of workers.
    epoch (int): The epoch of this step.
    n_used (int): Examples of this epoch that have been used before.
    """

    n_examples: int
    batch_size: int
    n_workers: int
    step: int = 0
    epoch: int = 0
    n_used: int = 0

    def _count_batches(self, n_used: int = 0) -> int:
        n_examples = -(-(self.n_examples - n_used) // self.n_workers)
        return -(-n_examples // self.batch_size)

    def find(self, step: int) -> Place:
        """The place of a step, from 0."""
        n_steps, n_first = step - self.step, self._count_batches(self.n_used)
        if n_steps < n_first:
            return Place(self.epoch, self.n_used, n_steps * self.batch_size)
        n_epochs, position = divmod(n_steps - n_first, self._count_batches())
        return Place(self.epoch + 1 + n_epochs, 0, position * self.batch_size)

    def count_steps(self, max_epochs: int) -> int:
        """The number of steps of this many epochs."""
        n_epochs = max_epochs - self.epoch - 1
        return self.step + self._count_batches(self.n_used) + n_epochs * self._count_batches()

    def describe(self, step: int) -> dict[str, Any]:
        """What another number of workers needs to continue after a step: the arguments of
        `DataPlaces`, as JSON values."""
        epoch, n_used, start = self.find(step)
        # The workers' shares begin with the first examples of the epoch in turn.
        return {"step": step, "epoch": epoch, "n_used": n_used + start * self.n_workers}
