"""Restoring of optimizer state from its description, all or nothing."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from thinc.api import get_array_module

from ..types import Array, KeyT
from .state_checks import OPTIONAL, has_form_of
from .state_fields import state_fields


class StateRestorer:
    """Collects and checks all changes, so that `commit` cannot fail.

    path (Path): The file, for error messages.
    version (int): The version of the file's format. Before version 3, an object of the
        state may convert its saved state with its method `_upgrade`.
    parameters (dict[KeyT, tuple[str, Array]]): The names and weights of the model's parameters.
    arrays (dict[str, Array]): The arrays of the file by name.
    """

    def __init__(
        self,
        path: Path,
        version: int,
        parameters: dict[KeyT, tuple[str, Array]],
        arrays: dict[str, Array],
    ) -> None:
        self.path = path
        self.version = version
        self.keys = {name: (key, array) for key, (name, array) in parameters.items()}
        self.arrays = arrays
        self.changes: list[Callable[[], None]] = []

    def commit(self) -> None:
        """Apply all changes."""
        for change in self.changes:
            change()

    def add_fields(self, owner: Any, saved: dict[str, Any]) -> None:
        """Add a change for each state field of an object.

        owner (Any): The optimizer or another object with state fields.
        saved (dict[str, Any]): The description of its state.
        RAISES: ValueError if a value has the wrong form.
        """
        for name, value in saved.items():
            current = getattr(owner, name)
            if state_fields(current):
                self._check(isinstance(value, dict), name)
                if self.version < 3 and hasattr(current, "_upgrade"):
                    value = current._upgrade(value)
                self._check(set(value) == set(state_fields(current)), name)
                self.add_fields(current, value)
                continue
            value = self._read_value(name, current, value)
            if isinstance(current, defaultdict):
                value = defaultdict(current.default_factory, value)
            elif name == "_last_score" and value is not None:
                value = tuple(value)
            self.changes.append(partial(setattr, owner, name, value))

    def _read_value(self, name: str, current: Any, saved: Any) -> Any:
        """Make a value of the state from its description.

        current (Any): The value in the optimizer, which has the same form. If the value is
            optional, one of the two may be None.
        """
        form = OPTIONAL.get(name, current)
        if not isinstance(saved, dict):
            self._check(has_form_of(form, saved, is_optional=name in OPTIONAL), name)
            return saved
        self._check(isinstance(form, dict), name)
        self._check(len(saved) == 1 and all(isinstance(p, dict) for p in saved.values()), name)
        ((kind, parts),) = saved.items()
        if kind == "parts":
            self._check(current is not None and set(parts) == set(current), name)
            return {part: self._read_value(name, current[part], parts[part]) for part in parts}
        kinds = {"by parameter": int, "numbers": float, "arrays": str}
        self._check(kind in kinds and set(parts) <= set(self.keys), name)
        self._check(all(type(part) is kinds[kind] for part in parts.values()), name)
        if kind != "arrays":
            return {self.keys[place][0]: part for place, part in parts.items()}
        return {
            self.keys[place][0]: self._read_array(place, path) for place, path in parts.items()
        }

    def _read_array(self, place: str, path: str) -> Array:
        """An array of the file on the device of its parameter."""
        weights = self.keys[place][1]
        array = self.arrays.get(path)
        is_valid = array is not None and array.dtype.kind == "f" and array.size == weights.size
        self._check(is_valid, f"{path} of the parameter {place}")
        xp = get_array_module(weights)  # type: ignore[no-untyped-call]
        return xp.asarray(array)

    def _check(self, condition: bool, name: str) -> None:
        if not condition:
            raise ValueError(
                f"{self.path} is damaged: {name} has another form than in this optimizer"
            )
