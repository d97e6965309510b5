"""Reconstruction of power-function averages of any width from stored ones."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from thinc.api import get_array_module

from ..averaging.power_profiles import (
    MAX_SIGMA_REL,
    Combination,
    Profile,
    combine_profiles,
    power_exponent,
)
from ..models.parameters import ModelT
from ..types import Array, FloatsXd, KeyT
from ..validation import check_int, check_number
from .average_snapshots import AverageSnapshot, find_snapshots, snapshot_folder
from .state_fields import parameters_by_key

# From this profile error on, a reconstruction can differ visibly from the average that would
# have been kept.
LARGE_ERROR = 0.1
# Smaller coefficients are below the precision of float32. Their files need not be read.
NEGLIGIBLE = 2.0**-27
# The number of weights that are added at once: they and their sums fit into the cache.
BLOCK = 2**15


def reconstruct_average(
    folder: str | Path,
    model: ModelT,
    *,
    sigma_rel: float,
    step: int | None = None,
) -> dict[KeyT, FloatsXd]:
    """Reconstruct the power-function average of any width from the snapshots of a training,
    without training again (arXiv:2312.02696, section 3.2).

        averages = reconstruct_average("output", model, sigma_rel=0.15)
        with use_averages(model, averages): ...

    The average is a linear combination of stored ones, whose coefficients are the least-squares
    solution for their profiles. It is the more exact the more snapshots there are, and the
    nearer its width is to the stored ones.

    Arrays are read one by one: besides the averages, this needs memory for a few copies of the
    largest parameter.

    folder (str | Path): The folder that `save_averages` or the callback `keep_averages.v1` has
        written to, or the output folder of the training.
    model (Model | Language): The model, initialized. Its weights are not read or changed.
    sigma_rel (float): The width, in (0, 0.2886]. See `EMA`.
    step (int | None): The time of the average: a step of which snapshots are stored. By default
        the last one.
    RETURNS (dict[KeyT, FloatsXd]): The averages by parameter, like `optimizer.averages`, on the
        device of the model: for `use_averages`, `apply_averages` and `model.use_params`.
        Parameters that the training did not average are left out. A warning says when the
        snapshots approximate this width only roughly.
    RAISES: ValueError if sigma_rel is out of range, if there are no snapshots or none of this
        step, if they are damaged or belong to different trainings or to another model; OSError
        if a file cannot be read.
    """
    stored = StoredAverages(folder)
    averages, error = stored.reconstruct(model, sigma_rel=sigma_rel, step=step)
    if error > LARGE_ERROR:
        warnings.warn(stored.describe_error(sigma_rel, error), UserWarning, stacklevel=2)
    return averages


class Reconstruction(NamedTuple):
    """A reconstructed average.

    averages (dict[KeyT, FloatsXd]): The averages by parameter.
    error (float): The norm of the difference between its profile, the share of each step, and
        that of the average that would have been kept, relative to the norm of the latter: 0 is
        exact. Weights usually differ by a fraction of it, relative to their distance from the
        raw weights.
    """

    averages: dict[KeyT, FloatsXd]
    error: float


class StoredAverages:
    """The snapshots of a training. See `reconstruct_average`.

    folder (str | Path): The folder.
    RAISES: ValueError if there are no snapshots, or if they are damaged or belong to different
        trainings; OSError if a file cannot be read.
    """

    folder: Path
    snapshots: list[AverageSnapshot]

    def __init__(self, folder: str | Path) -> None:
        self.folder = snapshot_folder(folder)
        self.snapshots = [AverageSnapshot(path) for path in find_snapshots(self.folder)]
        if not self.snapshots:
            raise ValueError(
                f"{self.folder} contains no snapshots of averages: add the callback "
                "keep_averages.v1 to the config, or call save_averages() during the training"
            )
        for one, other in zip(self.snapshots, self.snapshots[1:], strict=False):
            _check_pair(one, other)

    @property
    def steps(self) -> list[int]:
        """The steps with snapshots, ascending."""
        return sorted({snapshot.step for snapshot in self.snapshots})

    @property
    def sigma_rels(self) -> list[float]:
        """The stored widths, ascending."""
        return sorted({snapshot.sigma_rel for snapshot in self.snapshots})

    @property
    def run_id(self) -> str | None:
        """The id of the training."""
        return self.snapshots[0].run_id

    def describe_error(self, sigma_rel: float, error: float) -> str:
        """Say that an average is approximated only roughly, and what to do."""
        return (
            f"The average with sigma_rel = {sigma_rel:g} is approximated only roughly by the "
            f"{len(self.snapshots)} snapshots in {self.folder} (profile error {error:.2g}): "
            "save more snapshots, or averages of nearer widths (there are "
            f"{', '.join(f'{width:g}' for width in self.sigma_rels)})"
        )

    def reconstruct(
        self, model: ModelT, *, sigma_rel: float, step: int | None = None
    ) -> "Reconstruction":
        """Reconstruct an average. See `reconstruct_average`."""
        used = self._until(self.check_step(step))
        parameters = parameters_by_key(model)
        self._check_model({name: tuple(array.shape) for name, array in parameters.values()})
        combination = _combine(used, sigma_rel)
        # A parameter that was first updated later is only in some snapshots.
        combinations = {tuple(range(len(used))): combination}
        averages = {}
        for key, (name, weights) in parameters.items():
            if name not in used[-1].names:
                continue
            group = tuple(i for i, found in enumerate(used) if name in found.names)
            members = [used[i] for i in group]
            if group not in combinations:
                combinations[group] = _combine(members, sigma_rel)
            average = _add_up(name, members, combinations[group].coefficients)
            dtype = "float64" if weights.dtype == "float64" else "float32"
            xp: Any = get_array_module(weights)  # type: ignore[no-untyped-call]
            averages[key] = xp.asarray(average.astype(dtype))
        return Reconstruction(averages, combination.error)

    def check_step(self, step: int | None) -> int:
        """RETURNS (int): The step, by default the last one.
        RAISES: ValueError if there are no snapshots of it.
        """
        steps = self.steps
        if step is None:
            return steps[-1]
        step = check_int("step", step, minimum=1)
        if step not in steps:
            near = sorted(sorted(steps, key=lambda stored: abs(stored - step))[:2])
            raise ValueError(
                f"{self.folder} contains no snapshots of step {step}: there are {len(steps)} "
                f"steps from {steps[0]} to {steps[-1]}, the nearest "
                f"{' and '.join(map(str, near))}"
            )
        return step

    def _until(self, step: int) -> list[AverageSnapshot]:
        """The snapshots up to a step: later ones contain later weights."""
        return [snapshot for snapshot in self.snapshots if snapshot.step <= step]

    def _check_model(self, shapes: dict[str, tuple[int, ...]]) -> None:
        stored = self.snapshots[0].parameters
        if shapes == stored:
            return
        found = list(_differences(shapes, stored))
        raise ValueError(
            f"The snapshots in {self.folder} are of another model: "
            + "; ".join(found[:5])
            + (f"; and {len(found) - 5} more differences" if len(found) > 5 else "")
        )


def _check_pair(one: AverageSnapshot, other: AverageSnapshot) -> None:
    """RAISES: ValueError if two snapshots do not belong to one training."""
    in_order = one.step < other.step and one.profile.n_averaged < other.profile.n_averaged
    at_once = one.step == other.step and one.profile.n_averaged == other.profile.n_averaged
    reasons = {
        "the ids of the trainings differ": one.run_id != other.run_id,
        "the shapes of the models differ": one.parameters != other.parameters,
        "freq or start_step of the averages differ": one.times != other.times,
        "the numbers of averages do not fit the steps": not (in_order or at_once),
    }
    wrong = [reason for reason, applies in reasons.items() if applies]
    if wrong:
        raise ValueError(
            f"{one.path} and {other.path.name} belong to different trainings "
            f"({'; '.join(wrong)}): move the snapshots of one of them away"
        )


def _differences(
    shapes: dict[str, tuple[int, ...]], stored: dict[str, tuple[int, ...]]
) -> Iterator[str]:
    for name in dict.fromkeys((*stored, *shapes)):
        if name not in shapes:
            yield f"the model has no parameter {name}"
        elif name not in stored:
            yield f"the snapshots have no parameter {name}"
        elif shapes[name] != stored[name]:
            yield f"parameter {name} has the shape {shapes[name]}, there {stored[name]}"


def _combine(used: Sequence[AverageSnapshot], sigma_rel: float) -> Combination:
    """Coefficients of snapshots for an average at the time of the last one."""
    width = check_number("sigma_rel", sigma_rel, above=0.0, maximum=MAX_SIGMA_REL)
    (combination,) = combine_profiles(
        [snapshot.profile for snapshot in used],
        [Profile(used[-1].profile.n_averaged, power_exponent(width))],
        precision=[snapshot.precision for snapshot in used],
    )
    return combination


def _add_up(name: str, used: Sequence[AverageSnapshot], coefficients: Array) -> Array:
    """Add up the multiples of stored averages of a parameter, in float64."""
    is_used = abs(coefficients) > NEGLIGIBLE * abs(coefficients).max()
    factors = numpy.where(is_used, coefficients, 0.0)
    factors[abs(factors).argmax()] += 1.0 - factors.sum()
    total: Array = None
    for snapshot, factor in zip(used, factors, strict=True):
        if factor == 0.0:
            continue
        array = snapshot.read(name)
        if total is None:
            total = numpy.zeros(array.shape)
        into, summand = total.reshape(-1), array.reshape(-1)
        for start in range(0, len(into), BLOCK):
            into[start : start + BLOCK] += factor * summand[start : start + BLOCK].astype("f8")
    return total
