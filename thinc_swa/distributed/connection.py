"""Connection of an optimizer with those of other workers."""

from collections.abc import Collection

from thinc.api import Optimizer

from ..models.parameters import ModelT
from ..optimizers.averaging_optimizer import AveragingOptimizer
from ..optimizers.base import OptimizerWrapper, unwrap
from ..optimizers.local_sgd import LocalSGD
from .communicator import Communicator
from .exchange import ParameterExchange


def find_local_sgd(optimizer: Optimizer) -> LocalSGD:
    """Find the LocalSGD of a nesting, which can train on several workers.

    optimizer (Optimizer): Any Thinc optimizer, wrapped or not.
    RAISES: ValueError if there is none or more than one, or if a wrapper around it changes the
        weights.
    """
    levels = unwrap(optimizer)
    found = [level for level in levels if isinstance(level, LocalSGD)]
    if len(found) != 1:
        names = "(".join(type(level).__name__ for level in levels) + ")" * (len(levels) - 1)
        raise ValueError(
            f"Training on several workers needs an optimizer with one LocalSGD, but {names} "
            f"has {len(found) or 'none'}: wrap the optimizer in LocalSGD"
        )
    for level in levels[: levels.index(found[0])]:
        if not isinstance(level, AveragingOptimizer) and type(level) is not OptimizerWrapper:
            raise ValueError(
                f"On several workers {type(level).__name__} cannot wrap LocalSGD, only "
                f"averages can: wrap {type(level).__name__} in LocalSGD"
            )
    return found[0]


def connect(
    optimizer: Optimizer,
    model: ModelT,
    communicator: Communicator,
    *,
    broadcast: bool = True,
    exclude: Collection[str] = (),
) -> ParameterExchange | None:
    """Connect an optimizer with those of other workers, which call this too, before the first
    step. The training loop must call `optimizer.step_schedules()` after every step, equally
    often on all workers, also on one that has no data left.

    optimizer (Optimizer): A nesting of optimizers with one `LocalSGD`. With a communicator of
        one worker any Thinc optimizer; nothing happens then.
    model (Model | Language): The initialized model of this worker, with the same layers as
        those of the others.
    communicator (Communicator): The connection of this worker.
    broadcast (bool): Whether all workers get the weights of rank 0.
    exclude (Collection[str]): Names of pipeline components that are not trained, and so not
        exchanged.
    RETURNS (ParameterExchange | None): What the optimizer exchanges with; None for one worker.
    RAISES: ValueError if the optimizer or the model cannot be trained on several workers, or
        if the models differ; WorkerError if another worker does not take part.
    """
    if communicator.size == 1:
        return None
    local_sgd = find_local_sgd(optimizer)
    exchange = ParameterExchange(
        model,
        communicator,
        local_sgd._is_frozen,
        exclude=exclude,
        reduce_dtype=local_sgd.reduce_dtype,
    )
    check_equal(communicator, "models", exchange.describe())
    if broadcast:
        exchange.broadcast_weights()
    local_sgd._exchange = exchange
    return exchange


def check_equal(communicator: Communicator, what: str, description: str) -> None:
    """Check that something is the same on all workers.

    communicator (Communicator): The connection of this worker.
    what (str): What it is, for the error.
    description (str): Its description on this worker.
    RAISES: ValueError on all workers if it differs: it names the first worker with another
        description than rank 0, and the first line that differs.
    """
    first, *others = communicator.gather_texts(description)
    for rank, other in enumerate(others, start=1):
        if other != first:
            lines, expected = other.splitlines(), first.splitlines()
            n_common = min(len(lines), len(expected))
            i = next((i for i in range(n_common) if lines[i] != expected[i]), n_common)
            found = lines[i] if i < len(lines) else "nothing"
            wanted = expected[i] if i < len(expected) else "nothing"
            raise ValueError(
                f"The {what} of the workers differ: rank 0 has {wanted!r}, rank {rank} has "
                f"{found!r}"
            )
