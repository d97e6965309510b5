"""The base class of all optimizers of this package."""

from typing import Any, ClassVar, Collection, Dict, List, Optional, Tuple

from thinc.api import Optimizer

from .generators import count_draws
from .learn_rate import current_rate
from .models import fix_pytorch_shim
from .types import Array, FloatsXd, KeyT


class OptimizerWrapper(Optimizer):
    """An optimizer that wraps another one and is one itself.

    On its own it changes nothing. It has no optimizer state: the learning rate, the
    moments, the schedules and all else that Thinc's `Optimizer` has are read from and
    written to the wrapped optimizer, which may be a wrapper again.

    It counts the steps of the whole model. `step_schedules()` completes a step. In a
    loop that never calls it, a step is an update of the most often updated parameter,
    and it is complete when the next one begins or when somebody looks at the result.

    A subclass extends `_make_averages` and one or more of the methods that begin with
    `_on_`. These are called when the wrapped optimizer has done its part, so a call that it
    refuses leaves no trace. One with schedules of its own, or that leaves out parameters,
    says so in `_has_schedules` and `_is_frozen`. A subclass declares `__slots__`: they lock
    the class, as Thinc's do, and they are what is copied and pickled. It puts its arguments
    into `_arguments`, for `repr()`, and names those of its attributes that training changes
    in `_state`: they are what `save_optimizer` saves.

    optimizer (Optimizer): The optimizer to wrap: any Thinc optimizer.
    """

    optimizer: Optimizer
    # The attributes that save_optimizer saves; a subclass names its own. Each is a plain
    # value, a dict by parameter of arrays or of ints, a dict of such dicts, or an object
    # that has a `_state` itself.
    _state: ClassVar[Tuple[str, ...]] = (
        "_n_steps",
        "_n_calls",
        "_is_open",
        "_is_settled",
        "_is_stepped",
        "_n_updates",
        "_most_updates",
    )

    __slots__ = [
        "optimizer",
        "_arguments",
        "_weights",
        "_averages",
        "_n_steps",
        "_n_calls",
        "_is_open",
        "_is_settled",
        "_is_stepped",
        "_n_updates",
        "_most_updates",
    ]

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"{type(self).__name__} wraps a Thinc Optimizer, but got "
                f"{type(optimizer).__name__}: {optimizer!r}"
            )
        fix_pytorch_shim()
        count_draws(nesting(optimizer)[-1])
        self.optimizer = optimizer
        self._arguments: Dict[str, Any] = {}
        # The weights of every parameter as last returned. Thinc and its PyTorch shim
        # keep using that very memory, so these are the weights as they stand.
        self._weights: Dict[KeyT, Array] = {}
        # What `averages` gave last, until something changes.
        self._averages: Optional[Dict[KeyT, FloatsXd]] = None
        # Steps that are complete, and calls of step_schedules().
        self._n_steps = 0
        self._n_calls = 0
        # Whether there was an update since the last step ended, and whether that step
        # already counts as complete.
        self._is_open = False
        self._is_settled = False
        # Whether the loop calls step_schedules(). If not, the updates of each parameter
        # and of the most often updated one tell where a step ends.
        self._is_stepped = False
        self._n_updates: Dict[KeyT, int] = {}
        self._most_updates = 0

    def __call__(
        self,
        key: KeyT,
        weights: FloatsXd,
        gradient: FloatsXd,
        *,
        lr_scale: float = 1.0,
    ) -> Tuple[FloatsXd, FloatsXd]:
        """Update a parameter.

        key (KeyT): The parameter: the id of its node and its name.
        weights (FloatsXd): Its weights, changed in place where Thinc does so.
        gradient (FloatsXd): The gradient, of the same shape; zeroed in place by Thinc.
        lr_scale (float): A factor for the learning rate of this call.
        RETURNS (Tuple[FloatsXd, FloatsXd]): The weights and the gradient.
        """
        if len(gradient) < 1:  # Thinc: no update at all.
            weights, gradient = self.optimizer(key, weights, gradient, lr_scale=lr_scale)
            return weights, gradient
        known = self._weights.get(key)
        if known is None and self._is_frozen(key):
            # Not even an average of it is kept, so it costs no memory.
            weights, gradient = self.optimizer(key, weights, gradient, lr_scale=lr_scale)
            return weights, gradient
        shape = weights.shape
        if gradient.shape != shape or (known is not None and known.shape != shape):
            self._refuse_shape(key, weights, gradient)
        n_updates = self._n_updates.get(key, 0) + 1
        begins_step = n_updates > self._most_updates
        if begins_step and not self._is_stepped:
            self._settle()
        initial = weights.copy() if known is None else None
        weights, gradient = self.optimizer(key, weights, gradient, lr_scale=lr_scale)
        self._n_updates[key] = n_updates
        if begins_step:
            self._most_updates = n_updates
            if not self._is_stepped:
                self._is_settled = False
        self._is_open = True
        self._averages = None
        self._weights[key] = weights
        if initial is not None:
            self._on_new_parameter(key, initial)
        self._on_update(key, weights)
        return weights, gradient

    def step_schedules(self) -> None:
        """Complete a step: of the wrapped optimizer, then of this one."""
        self.optimizer.step_schedules()  # type: ignore[no-untyped-call]
        self._n_calls += 1
        self._is_stepped = True
        if not self._is_settled:
            self._complete_step()
        self._is_open = self._is_settled = False

    @property
    def averages(self) -> Dict[KeyT, FloatsXd]:
        """The averages of the weights by parameter: this optimizer's, if it has any, else
        those of the optimizer that it wraps; empty as long as there are none. They are
        arrays of their own, which later updates leave as they are. Reading them again
        before the next update costs nothing.
        """
        if not self._is_stepped:
            self._settle()
        if self._averages is None:
            self._averages = self._make_averages()
        return self._averages or self.optimizer.averages or {}

    @averages.setter
    def averages(self, averages: Optional[Dict[KeyT, FloatsXd]]) -> None:
        self.optimizer.averages = averages

    def _on_new_parameter(self, key: KeyT, initial: Array) -> None:
        """Called after the first update of a parameter.

        initial (FloatsXd): A copy of its weights before that update, to be kept if need be.
        """

    def _on_update(self, key: KeyT, weights: FloatsXd) -> None:
        """Called after every update of a parameter.

        weights (FloatsXd): The updated weights, which may be changed in place.
        """

    def _on_step(self, step: int) -> None:
        """Called after every step of the whole model.

        step (int): Its number, from 1.
        """

    def _on_overwritten(self) -> None:
        """Called when a wrapper further out has overwritten the weights with averages:
        whoever keeps something that belongs to the old weights starts again."""
        if isinstance(self.optimizer, OptimizerWrapper):
            self.optimizer._on_overwritten()

    def _is_frozen(self, key: KeyT) -> bool:
        """Whether a wrapper further in never updates this parameter. It is only asked about
        parameters that have not been updated yet."""
        return isinstance(self.optimizer, OptimizerWrapper) and self.optimizer._is_frozen(key)

    def _has_schedules(self) -> bool:
        """Whether this wrapper has schedules of its own, which cannot go back."""
        return False

    def _make_averages(self) -> Dict[KeyT, FloatsXd]:
        """The averages of this optimizer alone, in arrays of their own."""
        return {}

    def _on_loaded(self, weights: Dict[KeyT, FloatsXd]) -> None:
        """Called when the state has been loaded from a file.

        weights (Dict[KeyT, FloatsXd]): The weights of the model, its own arrays.
        """
        self._weights = {key: weights[key] for key in self._n_updates}
        self._averages = None

    def _forget(self, keys: Collection[KeyT]) -> None:
        """Drop everything about parameters that the model no longer has. A subclass extends it
        if it keeps anything by parameter that is not in its `_state`.

        keys (Collection[KeyT]): The parameters. Some may be unknown here.
        """
        for key in keys:
            self._weights.pop(key, None)
        forget_keys(self, keys)
        # In a loop that never calls step_schedules(), the others tell where a step ends.
        self._most_updates = max(self._n_updates.values(), default=0)
        self._averages = None

    def _settle(self) -> None:
        """Count the step that is under way as complete. Updates that still come before
        it ends belong to the next one."""
        if isinstance(self.optimizer, OptimizerWrapper):
            self.optimizer._settle()
        if self._is_open and not self._is_settled:
            self._is_settled = True
            self._complete_step()

    def _complete_step(self) -> None:
        self._n_steps += 1
        self._averages = None
        self._on_step(self._n_steps)

    def _refuse_shape(self, key: KeyT, weights: FloatsXd, gradient: FloatsXd) -> None:
        if gradient.shape != weights.shape:
            raise ValueError(
                f"The gradient of parameter {key} has the shape {gradient.shape}, but its "
                f"weights have the shape {weights.shape}"
            )
        raise ValueError(
            f"Parameter {key} has changed its shape from {self._weights[key].shape} to "
            f"{weights.shape} in the middle of training. Averages of weights of different "
            "shapes do not exist: make a new optimizer for the resized model"
        )

    def __repr__(self) -> str:
        arguments = [_describe(self.optimizer)]
        arguments += [f"{name}={value!r}" for name, value in self._arguments.items()]
        return f"{type(self).__name__}({', '.join(arguments)})"

    def __getstate__(self) -> Dict[str, Any]:
        # Not what `object` would do: that reads every slot of Thinc's class too, and all
        # of them lead to the wrapped optimizer.
        return {
            name: getattr(self, name)
            for cls in type(self).__mro__
            if issubclass(cls, OptimizerWrapper)
            for name in cls.__dict__.get("__slots__", ())
        }

    def __setstate__(self, state: Dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def nesting(optimizer: Any) -> List[Any]:
    """An optimizer and those that it wraps, outermost first.

    optimizer (Optimizer): Typed as Any: what the innermost has depends on the Thinc version.
    """
    levels = [optimizer]
    while isinstance(levels[-1], OptimizerWrapper):
        levels.append(levels[-1].optimizer)
    return levels


def forget_keys(value: Any, keys: Collection[KeyT]) -> None:
    """Drop parameters from dicts by parameter, in place: from one, from dicts of such dicts,
    and from the attributes that an object declares in `_state`."""
    if isinstance(value, dict):
        for key in keys:
            value.pop(key, None)
        for part in value.values():
            forget_keys(part, keys)
    for cls in type(value).__mro__:
        for name in cls.__dict__.get("_state", ()):
            forget_keys(getattr(value, name), keys)


def _describe(optimizer: Optimizer) -> str:
    if isinstance(optimizer, OptimizerWrapper):
        return repr(optimizer)
    return f"{type(optimizer).__name__}(learn_rate={current_rate(optimizer):g})"


def _delegate(name: str) -> property:
    """A property that stands for an attribute of the wrapped optimizer."""

    def getter(self: OptimizerWrapper) -> Any:
        return getattr(self.optimizer, name)

    def setter(self: OptimizerWrapper, value: Any) -> None:
        setattr(self.optimizer, name, value)

    return property(getter, setter)


# Thinc's `Optimizer` names its attributes in its slots, and which ones there are depends
# on the Thinc version.
for _name in Optimizer.__slots__:
    if _name != "averages":
        setattr(OptimizerWrapper, _name, _delegate(_name))
