"""Training checkpoints: everything that is needed to resume a training bit for bit.

A checkpoint is a folder, `step-00000100`, with the raw model, the optimizer state, the state of
the training loop, and `checkpoint.json`, which marks it as a checkpoint of one training and has
the digests of the other files. It is written under another name and renamed, so that it is
complete or absent.
"""

import json
import os
import random
import re
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import thinc.compat

from ..errors import TrainingWarning
from ..models.pytorch_loading import check_pytorch_loading
from ..serialization.files import replace_bytes, replace_text
from ..serialization.optimizer_state import load_optimizer, save_optimizer
from .evaluation import Evaluation
from .fingerprints import TrainingFingerprint, differences, digest_file

if TYPE_CHECKING:
    from .trainer import Trainer

torch: Any = thinc.compat.torch

MODEL = "model"
OPTIMIZER = "optimizer.safetensors"
STATE = "training.json"
MANIFEST = "checkpoint.json"
FORMAT = "thinc-swa checkpoint"
VERSION = 1
# Checkpoints of a training that are kept: if the last is damaged, there is one before it.
N_KEPT = 2


@dataclass
class CheckpointState:
    """What a checkpoint holds beside the model and the optimizer.

    run (str): The id of the training, which stays the same when it is resumed.
    fingerprint (TrainingFingerprint): What the training depends on.
    step (int): Completed steps.
    evaluations (list[Evaluation]): All evaluations so far.
    learn_rate (float): The learning rate of the last step.
    loss_sum (float): Sum of the losses since the last evaluation.
    n_losses (int): Number of the losses since the last evaluation.
    seconds (float): Time spent in training steps.
    random (dict[str, Any]): See `get_random_state`.
    """

    run: str
    fingerprint: TrainingFingerprint
    step: int
    evaluations: list[Evaluation]
    learn_rate: float
    loss_sum: float
    n_losses: int
    seconds: float
    random: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "CheckpointState":
        """RAISES: ValueError if the text is not what `to_json` returns."""
        try:
            values = json.loads(text)
            values["fingerprint"] = TrainingFingerprint(**values["fingerprint"])
            values["evaluations"] = [Evaluation(**found) for found in values["evaluations"]]
            return cls(**values)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"not the state of a training ({error})") from error


class DamagedCheckpointError(ValueError):
    """A file of a checkpoint is missing or was changed."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"The checkpoint {path} is damaged: {what}. Restore it from a backup, or start the "
            "training again"
        )
        self.path = path
        self.what = what


def save_checkpoint(folder: Path, training: "Trainer") -> None:
    """Save the whole state of a training, and delete its checkpoints but the last two.

    Folders that are not checkpoints of this training are never deleted.

    folder (Path): An existing folder.
    RAISES: FileExistsError if the folder holds a checkpoint of another training, or if the name
        of the checkpoint is in use otherwise; OSError if it cannot be written.
    """
    path = folder / f"step-{training.step:08}"
    if training.checkpoint == path and path.exists():
        return  # Nothing has changed since it was saved or loaded.
    check_folder(folder, training)
    if os.path.lexists(path) and find_run(path) != training.run_id:
        raise FileExistsError(_describe_foreign(path))
    temporary, replaced = _temporary(path), _temporary(path)
    try:
        temporary.mkdir()
        _write(temporary, training)
        if path.exists():  # An earlier one of this training, from which it was not resumed.
            os.rename(path, replaced)
        os.rename(temporary, path)
        _sync_folder(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    training.checkpoint = path
    earlier = [
        other
        for other in checkpoints(folder)
        if _step_of(other) <= training.step and find_run(other) == training.run_id
    ]
    for other in earlier[:-N_KEPT]:
        delete_checkpoint(other)


def _write(folder: Path, training: "Trainer") -> None:
    replace_bytes(folder / MODEL, training.model.to_bytes())
    save_optimizer(folder / OPTIMIZER, training.optimizer, training.model)
    replace_text(folder / STATE, training.get_state().to_json())
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "run": training.run_id,
        "files": {name: digest_file(folder / name) for name in (MODEL, OPTIMIZER, STATE)},
    }
    replace_text(folder / MANIFEST, json.dumps(manifest, indent=1))


def check_folder(folder: Path, training: "Trainer") -> None:
    """Check that a training can save its checkpoints in a folder.

    RAISES: FileExistsError if there is a checkpoint of another training, or something that is
        not a checkpoint under a name that one of this training is going to have.
    """
    check_names(folder, training)
    for path in checkpoints(folder):
        if find_run(path) not in (None, training.run_id):
            raise FileExistsError(
                f"{path} is a checkpoint of another training: resume that one, move it away, "
                "or choose another folder"
            )


def check_names(folder: Path, training: "Trainer") -> None:
    """Check that nothing but checkpoints has a name that a checkpoint is going to have.

    RAISES: FileExistsError that names it.
    """
    for path in _named_like_checkpoints(folder):
        is_needed = training.step < _step_of(path) <= training.total_steps
        if is_needed and find_run(path) is None:
            raise FileExistsError(_describe_foreign(path))


def _describe_foreign(path: Path) -> str:
    return (
        f"{path} is not a checkpoint of this training, but has the name of one: move it away, "
        "or choose another folder"
    )


def _named_like_checkpoints(folder: Path) -> list[Path]:
    """In the order of their steps."""
    paths = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name)]
    return sorted(paths, key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.partition("-")[2])


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a folder, damaged ones too, in the order of their steps. Other folders
    with such a name are left out."""
    return [path for path in _named_like_checkpoints(folder) if _looks_like_checkpoint(path)]


def _looks_like_checkpoint(path: Path) -> bool:
    return any((path / name).is_file() for name in (MANIFEST, STATE, OPTIMIZER))


def find_run(path: Path) -> str | None:
    """The id of the training that a checkpoint belongs to; None if it has none. Only folders
    with an id are ever deleted."""
    for name in (MANIFEST, STATE):
        try:
            run = json.loads((path / name).read_text(encoding="utf8"))["run"]
        except (OSError, ValueError, LookupError, TypeError):
            continue
        if isinstance(run, str):
            return run
    return None


def find_checkpoint(folder: Path) -> Path | None:
    """The last intact checkpoint of a folder. A damaged one is left out with a warning.

    RETURNS (Path | None): None if there is no checkpoint.
    RAISES: DamagedCheckpointError if there are checkpoints and all are damaged.
    """
    first_error: DamagedCheckpointError | None = None
    for path in reversed(checkpoints(folder)):
        try:
            check_checkpoint(path)
        except DamagedCheckpointError as error:
            first_error = first_error or error
            continue
        if first_error is not None:
            warnings.warn(
                f"The checkpoint {first_error.path} is damaged: {first_error.what}. Using the "
                f"one before it, {path}",
                TrainingWarning,
                stacklevel=2,
            )
        return path
    if first_error is not None:
        raise first_error
    return None


def check_checkpoint(path: Path) -> None:
    """RAISES: DamagedCheckpointError if a file of the checkpoint is missing or was changed;
    ValueError if it was written by a newer version."""
    try:
        manifest = json.loads(_read(path, MANIFEST))
        is_known, version = manifest["format"] == FORMAT, manifest["version"]
        digests = {name: manifest["files"][name] for name in (MODEL, OPTIMIZER, STATE)}
    except DamagedCheckpointError:
        raise
    except (ValueError, LookupError, TypeError):
        is_known, version, digests = False, VERSION, {}
    if not is_known:
        raise DamagedCheckpointError(path, f"{MANIFEST} cannot be read")
    if version != VERSION:
        raise ValueError(
            f"The checkpoint {path} has format version {version}, but this version of "
            f"thinc-swa reads version {VERSION}: use the version that wrote it"
        )
    for name, expected in digests.items():
        if not (path / name).is_file():
            raise DamagedCheckpointError(path, f"{name} is missing")
        if digest_file(path / name) != expected:
            raise DamagedCheckpointError(path, f"the content of {name} has changed")


def _read(path: Path, name: str) -> str:
    try:
        return (path / name).read_text(encoding="utf8")
    except FileNotFoundError:
        raise DamagedCheckpointError(path, f"{name} is missing") from None
    except ValueError:
        raise DamagedCheckpointError(path, f"{name} cannot be read") from None


def load_checkpoint(path: Path, training: "Trainer", *, trust: bool = False) -> None:
    """Bring a training to the state of a checkpoint.

    path (Path): As `find_checkpoint` returns it.
    training (Training): Made from the same config or arguments. After an error it may be half
        restored and must not be used.
    trust (bool): Load PyTorch layers also where that can execute code from the file: see
        `check_pytorch_loading`.
    RAISES: DamagedCheckpointError if a file is missing or was changed; ValueError if the
        checkpoint is of a training with other settings, data or code, or if loading is not
        safe; OSError if it cannot be read.
    """
    check_checkpoint(path)
    try:
        state = CheckpointState.from_json(_read(path, STATE))
    except DamagedCheckpointError:
        raise
    except ValueError as error:
        raise DamagedCheckpointError(path, f"{STATE} is {error}") from error
    _check_fingerprint(path, state.fingerprint, training.fingerprint)
    try:
        check_pytorch_loading(training.model, trust=trust)
    except ValueError as error:
        raise ValueError(
            f"{path} is not loaded. {error} (on the command line --trust-checkpoint)"
        ) from error
    try:
        training.model.from_bytes((path / MODEL).read_bytes())
    except Exception as error:
        raise ValueError(f"The model does not fit {path / MODEL}: {error}") from error
    load_optimizer(path / OPTIMIZER, training.optimizer, training.model)
    training.set_state(state)
    training.checkpoint = path


def _check_fingerprint(
    path: Path, before: TrainingFingerprint, now: TrainingFingerprint
) -> None:
    found = differences(before.settings, now.settings)
    found += differences(before.inputs, now.inputs)
    if found:
        raise ValueError(
            f"{path} is a checkpoint of another training, which cannot be resumed here: "
            + "; ".join(found)
        )
    found = differences(before.packages, now.packages)
    if found:
        warnings.warn(
            f"{path} was saved with other package versions: {'; '.join(found)}. The result may "
            "differ from that of an uninterrupted training",
            TrainingWarning,
            stacklevel=3,
        )


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def delete_checkpoint(path: Path) -> None:
    """Delete a checkpoint so that a crash leaves no half of it under its name."""
    temporary = _temporary(path)
    os.rename(path, temporary)
    if temporary.is_symlink():
        temporary.unlink()  # The folder itself is somewhere else.
    else:
        shutil.rmtree(temporary)


def sweep(folder: Path) -> None:
    """Delete what was left of half written or half deleted checkpoints by a crash. Not for a
    folder in which another process saves checkpoints."""
    for path in folder.glob(".step-*.tmp"):
        if re.fullmatch(r"\.step-\d{8,}\.[0-9a-f]{32}\.tmp", path.name):
            shutil.rmtree(path, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    if os.name != "nt":  # Windows opens no folders.
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def keeping_random_state() -> Iterator[None]:
    """Context manager that restores the state of all random generators."""
    state = get_random_state()
    try:
        yield
    finally:
        set_random_state(state)


def get_random_state() -> dict[str, Any]:
    """The states of the random generators of Python, NumPy and PyTorch (CPU and CUDA), as JSON
    values. CuPy gives no access to that of its generator."""
    version, numbers, gauss = random.getstate()
    generator: Any = numpy.random.get_state(legacy=True)
    name, keys, position, has_gauss, cached = generator
    state: dict[str, Any] = {
        "python": [version, list(numbers), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
    }
    if torch is not None:
        state["torch"] = torch.get_rng_state().tolist()
        if torch.cuda.is_initialized():
            states = torch.cuda.get_rng_state_all()
            state["torch_cuda"] = [found.tolist() for found in states]
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `get_random_state` returned. Missing GPUs are left out."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, numpy.array(keys, dtype="uint32"), *rest))
    if torch is not None and "torch" in state:
        torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
        states = state.get("torch_cuda", [])
        for device in range(min(len(states), torch.cuda.device_count())):
            torch.cuda.set_rng_state(torch.tensor(states[device], dtype=torch.uint8), device)
