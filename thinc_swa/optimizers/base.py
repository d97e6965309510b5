"""The base class of all optimizers of this package."""

import warnings
from collections.abc import Collection
from typing import Any, ClassVar

from thinc.api import Optimizer

from ..models.pytorch_shim import fix_pytorch_shim
from ..schedules.iterator_positions import count_values
from ..schedules.learn_rate import current_rate
from ..types import Array, FloatsXd, KeyT
from .dtypes import check_dtypes
from .step_counter import StepCounter


class OptimizerWrapper(Optimizer):
    """Base class of the optimizers that wrap an optimizer.

    On its own it changes nothing. It has no optimizer state: the learning rate, the
    moments, the schedules and all other attributes of Thinc's `Optimizer` are read from and
    written to the wrapped optimizer, which may be a wrapper too.

    It counts the steps of the whole model; `StepCounter` defines what a step is. In a loop that
    never calls `step_schedules()`, a step is complete when the next one begins or when the
    averages are read. If the weights are to be overwritten at its end (`end_step`,
    `overwrite_freq`), it is complete as soon as every parameter that was updated in an earlier
    step has been updated in this one. Where the first call of `step_schedules()` merges steps
    into one, averages are taken back and made anew; weights that were overwritten with
    averages in between stay overwritten.

    A subclass extends `_make_averages` and one or more of the methods whose names begin with
    `_on_`. They are called after the wrapped optimizer has done its part, so a call that it
    refuses leaves no trace. A subclass with schedules of its own, or that leaves out
    parameters, overrides `_has_schedules` and `_is_frozen`. It declares `__slots__`: they lock
    the class, as Thinc's do, and they are what is copied and pickled. It puts its arguments
    into `_arguments`, for `repr()`, and names the attributes that training changes in
    `_state`: `save_optimizer` saves these.

    optimizer (Optimizer): The optimizer to wrap: any Thinc optimizer.
    RAISES: TypeError if it is not a Thinc optimizer.
    """

    optimizer: Optimizer
    # The attributes that save_optimizer saves; a subclass names its own. Each is a plain
    # value, a dict by parameter of arrays or of ints, a dict of such dicts, or an object
    # that has a `_state` itself.
    _state: ClassVar[tuple[str, ...]] = ("_steps",)

    __slots__ = [
        "optimizer",
        "_arguments",
        "_steps",
        "_weights",
        "_shapes",
        "_averages",
        "_is_wrapped",
    ]

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"{type(self).__name__} wraps a Thinc Optimizer, but got "
                f"{type(optimizer).__name__}: {optimizer!r}"
            )
        fix_pytorch_shim()
        count_values(unwrap(optimizer)[-1])
        self.optimizer = optimizer
        self._arguments: dict[str, Any] = {}
        # The weights of every parameter as last returned. Thinc and its PyTorch shim
        # keep using that very memory, so these are the weights as they stand.
        self._weights: dict[KeyT, Array] = {}
        # What `averages` gave last, until something changes.
        self._averages: dict[KeyT, FloatsXd] | None = None
        # The shapes of parameters whose memory is not known: those of a copied optimizer, until
        # their next update.
        self._shapes: dict[KeyT, tuple[int, ...]] = {}
        self._steps = StepCounter()
        # Whether a wrapper further out decides when a step is complete.
        self._is_wrapped = False
        if isinstance(optimizer, OptimizerWrapper):
            optimizer._is_wrapped = True

    def __call__(
        self,
        key: KeyT,
        weights: FloatsXd,
        gradient: FloatsXd,
        *,
        lr_scale: float = 1.0,
    ) -> tuple[FloatsXd, FloatsXd]:
        """Update a parameter.

        key (KeyT): The parameter: the id of its node and its name.
        weights (FloatsXd): Its weights, changed in place where Thinc does so.
        gradient (FloatsXd): The gradient, of the same shape; zeroed in place by Thinc.
        lr_scale (float): A factor for the learning rate of this call.
        RETURNS (tuple[FloatsXd, FloatsXd]): The weights and the gradient.
        RAISES: ValueError if the shape has changed during training, or if Thinc cannot update
            weights of this dtype, such as float16 with Adam.
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
        expected = self._shapes.get(key, shape) if known is None else known.shape
        if gradient.shape != shape or expected != shape:
            self._raise_shape_error(key, weights, gradient, expected)
        # NumPy has one object per dtype, so this takes no time.
        if known is None or known.dtype is not weights.dtype:
            self._check_dtypes(key, weights, gradient)
        steps = self._steps
        if steps.begins_step(key):
            self._flush_step()
        initial = weights.copy() if known is None else None
        weights, gradient = self.optimizer(key, weights, gradient, lr_scale=lr_scale)
        has_begun = steps.add_update(key)
        if has_begun and steps.n_steps and not self._is_wrapped and self._overwrites_next():
            steps.wait_for_all()
        self._averages = None
        self._weights[key] = weights
        if initial is not None:
            self._shapes.pop(key, None)
            self._on_new_parameter(key, initial)
        self._on_update(key, weights)
        if steps.unfinished and steps.completes_step(key):
            self._flush_step()
        return weights, gradient

    def step_schedules(self) -> None:
        """Complete a step: of the wrapped optimizer, then of this one."""
        if self._steps.begin_call():
            self._averages = None
            self._on_steps_merged()
        self._on_step_end()
        self.optimizer.step_schedules()  # type: ignore[no-untyped-call]
        if self._steps.end_call():
            self._complete_step()
        n_updates = self._steps.updates_per_epoch()
        if n_updates and not isinstance(self.optimizer, OptimizerWrapper):
            warnings.warn(
                f"Every parameter was updated {n_updates} times before step_schedules() was "
                "called. It completes a step of training, so start_step, freq and the like "
                "count these calls: call it after every update of the model, not after every "
                "epoch",
                UserWarning,
                stacklevel=2,
            )

    @property
    def averages(self) -> dict[KeyT, FloatsXd]:
        """The averages of the weights by parameter: this optimizer's, if it has any, else
        those of the optimizer that it wraps; empty as long as there are none. They are
        arrays of their own, which later updates leave as they are. Reading them again
        before the next update costs nothing.
        """
        return self.own_averages or self.optimizer.averages or {}

    @averages.setter
    def averages(self, averages: dict[KeyT, FloatsXd] | None) -> None:
        self.optimizer.averages = averages

    @property
    def own_averages(self) -> dict[KeyT, FloatsXd]:
        """The averages of this optimizer alone, not those of the optimizer that it wraps."""
        self._count_step()
        if self._averages is None:
            self._averages = self._make_averages()
        return self._averages

    @property
    def is_passive(self) -> bool:
        """Whether it never changes the trajectory of the weights: training with it and without
        it gives the same weights, bit for bit."""
        return type(self) is OptimizerWrapper

    def add_score(self, score: float) -> None:
        """Take note of the score of an evaluation, in this and all wrapped optimizers.

        score (float): The score of the raw weights; higher is better.
        """
        if isinstance(self.optimizer, OptimizerWrapper):
            self.optimizer.add_score(score)

    def _on_new_parameter(self, key: KeyT, initial: Array) -> None:
        """Called after the first update of a parameter, and after the first one since the
        optimizer was copied or loaded without knowing the memory of its weights.

        initial (FloatsXd): A copy of its weights before that update, which may be kept.
        """

    def _on_update(self, key: KeyT, weights: FloatsXd) -> None:
        """Called after every update of a parameter.

        weights (FloatsXd): The updated weights, which may be changed in place.
        """

    def _on_step(self, step: int) -> None:
        """Called after every step of the whole model.

        step (int): Its number, from 1.
        """

    def _on_step_end(self) -> None:
        """Called before a step is completed, when schedules still have its values."""

    def _on_steps_merged(self) -> None:
        """Called when all steps so far turn out to be the updates of one step. Reset the
        averages: the first step is completed again after this call."""

    def _overwrites_after(self, step: int) -> bool:
        """Whether this wrapper overwrites the weights with averages after a step."""
        return False

    def _on_overwritten(self, keys: Collection[KeyT]) -> None:
        """Called when weights have been overwritten with averages from outside, by an outer
        wrapper or by `apply_averages`. Replace state that depends on the old weights.

        keys (Collection[KeyT]): Their parameters. Some may be unknown here.
        """
        if isinstance(self.optimizer, OptimizerWrapper):
            self.optimizer._on_overwritten(keys)

    def _is_frozen(self, key: KeyT) -> bool:
        """Whether an inner wrapper never updates this parameter. Only called for parameters
        that have not been updated yet."""
        return isinstance(self.optimizer, OptimizerWrapper) and self.optimizer._is_frozen(key)

    def _check_snapshot_steps(self, start_step: int | None, freq: int) -> None:
        """Called by a wrapper further out that takes snapshots, with its settings, when they
        are known. Check that snapshots of the whole training can be taken at these steps.

        start_step (int | None): The step of the first snapshot; None if it is not known yet.
        freq (int): Steps from one snapshot to the next.
        RAISES: ValueError if workers have different weights at these steps.
        """
        if isinstance(self.optimizer, OptimizerWrapper):
            self.optimizer._check_snapshot_steps(start_step, freq)

    def _next_snapshot_step(self, step: int) -> int:
        """The first step, from a given one on, after which snapshots can be taken."""
        if isinstance(self.optimizer, OptimizerWrapper):
            return self.optimizer._next_snapshot_step(step)
        return step

    def _has_schedules(self) -> bool:
        """Whether this wrapper has schedules of its own, which cannot go back."""
        return False

    def _make_averages(self) -> dict[KeyT, FloatsXd]:
        """The averages of this optimizer alone, in arrays of their own."""
        return {}

    def _before_load(self) -> None:
        """Called before the state is replaced by that of a file."""

    def _on_loaded(self, weights: dict[KeyT, FloatsXd]) -> None:
        """Called when the state has been loaded from a file, for the wrappers further in first.

        weights (dict[KeyT, FloatsXd]): The weights of the model, its own arrays.
        """
        if isinstance(self.optimizer, OptimizerWrapper):
            self.optimizer._on_loaded(weights)
        self._weights = {key: weights[key] for key in self._steps.n_updates}
        self._shapes = {}
        self._averages = None

    def _forget_memory(self, keys: Collection[KeyT]) -> None:
        """Drop the references to the weights of these parameters, which their next updates
        renew."""
        for key in list(keys):
            self._shapes[key] = tuple(self._weights.pop(key).shape)

    def _known_shapes(self) -> dict[KeyT, tuple[int, ...]]:
        shapes = {key: tuple(array.shape) for key, array in self._weights.items()}
        return {**self._shapes, **shapes}

    def _overwrites_next(self) -> bool:
        """Whether this or an inner wrapper overwrites the weights after the step under way."""
        return self._overwrites_after(self._steps.n_steps + 1) or (
            isinstance(self.optimizer, OptimizerWrapper) and self.optimizer._overwrites_next()
        )

    def _forget(self, keys: Collection[KeyT]) -> None:
        """Drop the state of parameters that the model no longer has. A subclass extends it
        if it has state by parameter that is not in its `_state`.

        keys (Collection[KeyT]): The parameters. Some may be unknown here.
        """
        for key in keys:
            self._weights.pop(key, None)
            self._shapes.pop(key, None)
        forget_keys(self, keys)
        self._steps.forget(keys)
        self._averages = None

    def _count_step(self) -> None:
        """In a loop without `step_schedules()`, count the step under way as complete, so that
        averages and counts include it."""
        if not self._steps.uses_step_schedules:
            self._flush_step()

    def _flush_step(self) -> None:
        """Count the step under way as complete. Updates that follow before it ends belong to
        the next one."""
        is_due = self._steps.can_flush
        if is_due:
            self._on_step_end()
        if isinstance(self.optimizer, OptimizerWrapper):
            self.optimizer._flush_step()
        self._steps.unfinished = {}
        if is_due:
            self._steps.flush()
            self._complete_step()

    def _check_dtypes(self, key: KeyT, weights: FloatsXd, gradient: FloatsXd) -> None:
        # Only in the innermost wrapper: ScheduleFree passes on another dtype, and ParamGroups
        # other settings.
        if not isinstance(self.optimizer, OptimizerWrapper):
            check_dtypes(self.optimizer, key, weights, gradient)

    def _complete_step(self) -> None:
        self._averages = None
        self._on_step(self._steps.n_steps)

    def _raise_shape_error(
        self, key: KeyT, weights: FloatsXd, gradient: FloatsXd, expected: tuple[int, ...]
    ) -> None:
        if gradient.shape != weights.shape:
            raise ValueError(
                f"The gradient of parameter {key} has the shape {gradient.shape}, but its "
                f"weights have the shape {weights.shape}"
            )
        raise ValueError(
            f"Parameter {key} has changed its shape from {expected} to "
            f"{weights.shape} during training. Weights of different shapes cannot be averaged: "
            "make a new optimizer for the resized model"
        )

    def _set_arguments(self, **arguments: Any) -> None:
        """Set what `repr()` shows and what a file to load must have in common. Arguments that
        are None are left out."""
        self._arguments = {
            name: value for name, value in arguments.items() if value is not None
        }

    def __repr__(self) -> str:
        arguments = [_describe(self.optimizer)]
        arguments += [f"{name}={value!r}" for name, value in self._arguments.items()]
        return f"{type(self).__name__}({', '.join(arguments)})"

    def __getstate__(self) -> dict[str, Any]:
        # Not what `object` would do: that reads every slot of Thinc's class too, and all
        # of them lead to the wrapped optimizer.
        state = {
            name: getattr(self, name)
            for cls in type(self).__mro__
            if issubclass(cls, OptimizerWrapper)
            for name in cls.__dict__.get("__slots__", ())
        }
        # The model's own arrays are not the optimizer's to copy. A copy learns from the next
        # updates where the weights are.
        state["_shapes"] = self._known_shapes()
        del state["_weights"], state["_averages"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._weights = {}
        self._averages = None
        for name, value in state.items():
            setattr(self, name, value)


def unwrap(optimizer: Any) -> list[Any]:
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
