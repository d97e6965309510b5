"""Snapshots of power-function averages: a safetensors file for each width and time of a
training, from which `reconstruct_average` makes the averages of other widths."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
from thinc.api import Optimizer

from .. import about
from ..averaging.power_profiles import Profile
from ..models.parameter_paths import removed_parameters
from ..models.parameters import ModelT
from ..optimizers.base import OptimizerWrapper
from ..optimizers.ema import EMA
from ..types import Array
from ..validation import check_choice
from .state_fields import nested_optimizers, parameters_by_key
from .state_file import FileKind, StateReader, write_state

# The folder of the snapshots in the output folder of a training.
AVERAGES = "averages"
DTYPES = ("float32", "float16")
KIND = FileKind("thinc_swa averages", (1,), "a snapshot of averages", "save_averages")
NAME = re.compile(r"step-\d{8,}-sigma_rel-[-0-9.e]+\.safetensors")


def save_averages(
    folder: str | Path,
    optimizer: Optimizer,
    model: ModelT,
    *,
    dtype: str = "float32",
    run_id: str | None = None,
) -> list[Path]:
    """Save the power-function averages of an optimizer as they are now, so that
    `reconstruct_average` can make the average of any other width later.

    Keep two of them, and call this every so many steps, at the same time for all:

        optimizer = EMA(EMA(Adam(0.001), sigma_rel=0.05), sigma_rel=0.1)

    Each average is a file, `step-00000100-sigma_rel-0.05.safetensors`, with the number of steps
    that the wrapper has counted. It is written atomically, and replaces an earlier file of the
    same training. Before the first average nothing is saved.

    folder (str | Path): The folder, created if it does not exist. Each training needs its own.
    optimizer (Optimizer): Its power-function averages are those of `EMA` without `decay` and
        `half_life`, whose `freq` and `start_step` must be the same. No wrapper between them may
        change the weights.
    model (Model | Language): The Thinc model or spaCy pipeline that the optimizer trains.
    dtype (str): "float32", or "float16" for half the size. Rounding to float16 costs accuracy,
        most for widths below the stored ones.
    run_id (str | None): An id of the training. Snapshots with different ids are never combined.
    RETURNS (list[Path]): The files.
    RAISES: TypeError if an argument has the wrong type; ValueError if the optimizer has no
        power-function average or their snapshots cannot be combined, or if a weight is too
        large for float16; FileExistsError if another training has saved a snapshot of this
        name; OSError if a file cannot be written.
    """
    folder = Path(folder)
    check_choice("dtype", dtype, DTYPES)
    levels = power_function_averages(optimizer)
    parameters = parameters_by_key(model)
    if not levels[0].own_averages:
        return []
    counts = {(level._steps.n_steps, level.n_averaged) for level in levels}
    if len(counts) > 1:
        raise ValueError(
            "The power-function averages must have begun at the same step, but have averaged "
            f"{[level.n_averaged for level in levels]} snapshots"
        )
    folder.mkdir(parents=True, exist_ok=True)
    removed = removed_parameters(model)
    paths = []
    for level in levels:
        path = folder / f"step-{level._steps.n_steps:08}-{_width(level)}.safetensors"
        _check_replaceable(path, run_id)
        arrays = {}
        for key, average in level.own_averages.items():
            if key in removed:
                continue
            if key not in parameters:
                raise ValueError(
                    f"The optimizer has an average of parameter {key}, which is not in the "
                    "model: pass the model that the optimizer trains"
                )
            arrays[parameters[key][0]] = _convert(average, dtype, parameters[key][0])
        header = {
            "thinc_swa": about.__version__,
            "run": run_id,
            "step": level._steps.n_steps,
            "n_averaged": level.n_averaged,
            "sigma_rel": level.sigma_rel,
            "gamma": level._gamma,
            "freq": level.freq,
            "start_step": level.start_step,
            "dtype": dtype,
            "parameters": {name: list(array.shape) for name, array in parameters.values()},
        }
        write_state(path, header, arrays, KIND)
        paths.append(path)
    return paths


def power_function_averages(optimizer: Optimizer) -> list[EMA]:
    """The wrappers with power-function averages, outermost first.

    RAISES: TypeError if it is not a Thinc Optimizer; ValueError if there are none, or if their
        snapshots cannot be combined, as they average different weights.
    """
    levels = nested_optimizers(optimizer)
    found = [level for level in levels if isinstance(level, EMA) and level.decay is None]
    if not found:
        raise ValueError(
            "The optimizer keeps no power-function average: wrap it in EMA without decay and "
            f"half_life, best twice, with two widths (sigma_rel). It was {optimizer!r}"
        )
    times = {(level.freq, level.start_step) for level in found}
    if len(times) > 1:
        raise ValueError(
            "The power-function averages must have the same freq and start_step, but have "
            + " and ".join(f"freq = {freq}, start_step = {start}" for freq, start in times)
        )
    if len({_width(level) for level in found}) < len(found):
        raise ValueError(
            "The power-function averages must have different widths, but have "
            f"{[level.sigma_rel for level in found]}"
        )
    between = levels[levels.index(found[0]) + 1 : levels.index(found[-1]) + 1]
    for level in between:
        if isinstance(level, OptimizerWrapper) and not level.is_passive:
            raise ValueError(
                f"{type(level).__name__} can change the weights between the power-function "
                f"averages {found[0].sigma_rel} and {found[-1].sigma_rel}, so they average "
                "different weights: nest them directly in each other, without overwrite_freq"
            )
    return found


def _width(level: EMA) -> str:
    return f"sigma_rel-{level.sigma_rel:.6g}"


def _convert(average: Array, dtype: str, name: str) -> Array:
    array = average if isinstance(average, numpy.ndarray) else average.get()
    with numpy.errstate(over="ignore"):
        converted = numpy.ascontiguousarray(array, dtype=dtype)
    if not numpy.isfinite(converted).all() and numpy.isfinite(array).all():
        raise ValueError(
            f"The average of parameter {name} has the number {abs(array).max():g}, which is "
            f"too large for {dtype}" + (": use float32" if dtype == "float16" else "")
        )
    return converted


def _check_replaceable(path: Path, run_id: str | None) -> None:
    if not path.exists():
        return
    try:
        is_own = AverageSnapshot(path).run_id == run_id
    except ValueError:
        is_own = False
    if not is_own:
        raise FileExistsError(
            f"{path} exists and is not of this training: move it away, or choose another folder"
        )


class AverageSnapshot:
    """A file that `save_averages` has written. The constructor reads its header only.

    path (Path): The file.
    RAISES: ValueError if it is damaged or is not such a file; OSError if it cannot be read.
    """

    path: Path
    step: int
    run_id: str | None
    sigma_rel: float
    profile: Profile
    times: tuple[int, int]
    precision: float
    parameters: dict[str, tuple[int, ...]]
    names: frozenset[str]

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb", buffering=0) as file, _advising():
            self._reader = StateReader(path, file, KIND)
        header: dict[str, Any] = self._reader.header
        try:
            self.step = int(header["step"])
            self.run_id = header["run"]
            self.sigma_rel = float(header["sigma_rel"])
            self.profile = Profile(int(header["n_averaged"]), float(header["gamma"]))
            self.times = int(header["freq"]), int(header["start_step"])
            self.precision = float(numpy.finfo(header["dtype"]).epsneg)
            self.parameters = {
                name: tuple(shape) for name, shape in header["parameters"].items()
            }
            self.names = frozenset(header["arrays"])
            is_damaged = (
                self.profile.n_averaged < 1
                or self.profile.gamma < 0
                or not self.names <= set(self.parameters)
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            is_damaged = True
        if is_damaged:
            raise ValueError(
                f"{path} is damaged: its header does not describe a snapshot. {_ADVICE}"
            )

    def read(self, name: str) -> Array:
        """Read the average of a parameter.

        name (str): Its place in the model.
        RETURNS (Array): A NumPy array.
        RAISES: ValueError if the file is damaged.
        """
        with self.path.open("rb", buffering=0) as file, _advising():
            return self._reader.read_array(name, file)


_ADVICE = "Delete this file: the other snapshots may be enough"


@contextmanager
def _advising() -> Iterator[None]:
    """Context manager that says what to do about a damaged snapshot."""
    try:
        yield
    except ValueError as error:
        if "is damaged" not in str(error):
            raise
        text = str(error).removesuffix("Load another file").rstrip(". ")
        raise ValueError(f"{text}. {_ADVICE}") from None


def snapshot_folder(folder: str | Path) -> Path:
    """The folder of the snapshots: `averages` in the output folder of a training, or else the
    folder itself."""
    folder = Path(folder)
    return folder / AVERAGES if (folder / AVERAGES).is_dir() else folder


def find_snapshots(folder: str | Path) -> list[Path]:
    """Files with the name of a snapshot in a folder, in the order of their steps."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (int(path.name.split("-")[1]), path.name))


def delete_snapshots(folder: Path) -> None:
    """Delete the snapshots in a folder, and no other files. Those that are damaged stay."""
    for path in find_snapshots(folder):
        try:
            AverageSnapshot(path)
        except (ValueError, OSError):
            continue
        path.unlink()
