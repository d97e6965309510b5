"""Training checkpoints: everything that is needed to resume a training bit for bit.

A checkpoint is a folder, `step-00000100`, with the raw model, the optimizer state, the states
of layers between batches, the state of the training and of the random generators, and
`checkpoint.json` with the id of the training and the digests of all other files. It is written
under a temporary name and renamed, so that it is complete or absent.
"""

import json
import os
import random
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy
import thinc.compat

from ..distributed.communicator import Communicator, SingleWorker
from ..errors import TrainingWarning, describe_error
from ..models.parameters import ModelT, component_models
from ..models.pytorch_loading import check_pytorch_loading
from ..serialization.files import replace_text
from ..serialization.folders import delete, sync, temporary_folder
from ..serialization.optimizer_state import load_optimizer, save_optimizer
from .fingerprints import TrainingFingerprint, differences, digest_file
from .interface import TrainerInterface
from .layer_states import load_layer_states, save_layer_states
from .resizing import WORKERS, draw_random_numbers, load_mean, warn_about_workers
from .state import TrainerState

torch: Any = thinc.compat.torch

MODEL = "model"
OPTIMIZER = "optimizer.safetensors"
# Only of a model with layers that have a state between batches.
LAYER_STATES = "layer-states.safetensors"
STATE = "training.json"
MANIFEST = "checkpoint.json"
FORMAT = "thinc-swa checkpoint"
VERSION = 1
# Number of checkpoints that are kept: the second is for when the last is damaged.
N_KEPT = 2


class DamagedCheckpointError(ValueError):
    """A file of a checkpoint is missing or has changed.

    path (Path): The checkpoint.
    what (str): What is wrong with it.
    """

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"The checkpoint {path} is damaged: {what}. Restore it from a backup, or start the "
            "training again"
        )
        self.path = path
        self.what = what


def save_checkpoint(
    folder: Path, trainer: TrainerInterface, *, communicator: Communicator | None = None
) -> None:
    """Save a checkpoint of a training, and delete its earlier ones except for the last two.

    Folders that are not checkpoints of this training are never deleted.

    folder (Path): An existing folder.
    trainer (TrainerInterface): The trainer, between two steps.
    communicator (Communicator | None): The connection to other workers, which call this after
        the same step. Each adds its weights, optimizer state and random state.
    RAISES: FileExistsError if the folder holds a checkpoint of another training, or if another
        file has the name of the checkpoint; OSError if it cannot be written.
    """
    communicator = SingleWorker() if communicator is None else communicator
    state = trainer.state
    path = folder / f"step-{state.step:08}"
    if communicator.rank:
        _write_as_worker(path, trainer, communicator)
        return
    if state.checkpoint == path and path.exists():
        if communicator.size > 1:
            communicator.broadcast_text("")
        return  # Nothing has changed since it was saved or loaded.
    check_folder(folder, state)
    if os.path.lexists(path) and find_run(path) != state.run_id:
        raise FileExistsError(_describe_foreign(path))
    temporary, replaced = temporary_folder(path), temporary_folder(path)
    try:
        temporary.mkdir()
        if communicator.size > 1:
            communicator.broadcast_text(temporary.name)
        _write(temporary, trainer, communicator)
        if path.exists():  # An earlier one of this training, from which it was not resumed.
            os.rename(path, replaced)
        os.rename(temporary, path)
        sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    state.checkpoint = path
    earlier = [
        other
        for other in checkpoints(folder)
        if _step_of(other) <= state.step and find_run(other) == state.run_id
    ]
    for other in earlier[:-N_KEPT]:
        delete_checkpoint(other)


def _write(folder: Path, trainer: TrainerInterface, communicator: Communicator) -> None:
    trainer.save_model(folder / MODEL)
    save_optimizer(folder / OPTIMIZER, trainer.optimizer, trainer.model)
    save_layer_states(folder / LAYER_STATES, trainer.model)
    content = {
        # Beside the manifest, so that the training is known if that is damaged.
        "run": trainer.state.run_id,
        "state": trainer.state.to_dict(),
        "fingerprint": asdict(trainer.fingerprint),
        "random": get_random_state(),
        "unsaved_generators": unsaved_generators(trainer.model),
    }
    replace_text(folder / STATE, json.dumps(content))
    _raise_errors(communicator, None)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "run": trainer.state.run_id,
        "files": _digest_files(folder),
    }
    replace_text(folder / MANIFEST, json.dumps(manifest, indent=1))


def _write_as_worker(path: Path, trainer: TrainerInterface, communicator: Communicator) -> None:
    """Write the part of a worker with a rank above 0 to the folder that rank 0 has made."""
    name = communicator.broadcast_text("")
    if not name:
        return  # Saved before.
    folder, rank, state = path.parent / name, communicator.rank, trainer.state
    error: OSError | None = None
    try:
        trainer.save_model(folder / of_rank(MODEL, rank))
        save_optimizer(folder / of_rank(OPTIMIZER, rank), trainer.optimizer, trainer.model)
        save_layer_states(folder / of_rank(LAYER_STATES, rank), trainer.model)
        content = {
            "random": get_random_state(),
            "progress": {name: getattr(state, name) for name in _OF_RANK},
        }
        replace_text(folder / of_rank(STATE, rank), json.dumps(content))
    except OSError as found:
        error = found
    _raise_errors(communicator, error)
    state.checkpoint = path


# Parts of the state that differ between workers.
_OF_RANK = ("epoch", "loss", "losses", "n_losses", "seconds", "extra")


def of_rank(name: str, rank: int) -> str:
    """The name of the file of a worker: "model", "rank-1-model"."""
    return f"rank-{rank}-{name}" if rank else name


def _raise_errors(communicator: Communicator, error: OSError | None) -> None:
    """Wait for the files of all workers.

    error (OSError | None): What has prevented this worker from writing its own.
    RAISES: This error; OSError with that of another worker.
    """
    if communicator.size == 1:
        return
    texts = communicator.gather_texts("" if error is None else describe_error(error))
    if error is not None:
        raise error
    for rank, text in enumerate(texts):
        if text:
            raise OSError(f"The worker of rank {rank} could not write its part: {text}")


def _digest_files(folder: Path) -> dict[str, str]:
    """Digests of all files, also of those in subfolders: a spaCy pipeline is a folder."""
    return {
        path.relative_to(folder).as_posix(): digest_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_folder(folder: Path, state: TrainerState) -> None:
    """Check that a training can save its checkpoints in a folder.

    RAISES: FileExistsError if there is a checkpoint of another training, or something that is
        not a checkpoint under the name of a future one.
    """
    check_names(folder, state)
    for path in checkpoints(folder):
        if find_run(path) not in (None, state.run_id):
            raise FileExistsError(
                f"{path} is a checkpoint of another training: resume that one, move it away, "
                "or choose another folder"
            )


def check_names(folder: Path, state: TrainerState) -> None:
    """Check that only checkpoints have the names of future checkpoints.

    RAISES: FileExistsError that names the file that has such a name.
    """
    for path in _named_like_checkpoints(folder):
        is_future = state.step < _step_of(path) and (
            state.total_steps is None or _step_of(path) <= state.total_steps
        )
        if is_future and find_run(path) is None:
            raise FileExistsError(_describe_foreign(path))


def _describe_foreign(path: Path) -> str:
    return (
        f"{path} is not a checkpoint of this training, but has the name of one: move it away, "
        "or choose another folder"
    )


def _named_like_checkpoints(folder: Path) -> list[Path]:
    """Paths with the name of a checkpoint, in the order of their steps."""
    paths = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name)]
    return sorted(paths, key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.partition("-")[2])


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in a folder, also damaged ones, in the order of their steps. Other folders
    with the name of one are ignored."""
    return [path for path in _named_like_checkpoints(folder) if _looks_like_checkpoint(path)]


def _looks_like_checkpoint(path: Path) -> bool:
    return any((path / name).is_file() for name in (MANIFEST, STATE, OPTIMIZER))


def find_run(path: Path) -> str | None:
    """Id of the training that a checkpoint belongs to; None if it has none. Only folders with
    an id are ever deleted."""
    for name in (MANIFEST, STATE):
        try:
            run = json.loads((path / name).read_text(encoding="utf8"))["run"]
        except (OSError, ValueError, LookupError, TypeError):
            continue
        if isinstance(run, str):
            return run
    return None


def find_checkpoint(folder: Path) -> Path | None:
    """Last intact checkpoint in a folder. A damaged one is skipped with a warning.

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
    """Check that all files of a checkpoint are as they were saved.

    RAISES: DamagedCheckpointError if a file is missing or has changed; ValueError if a newer
        version has written the checkpoint.
    """
    try:
        manifest = json.loads(_read(path, MANIFEST))
        is_known, version = manifest["format"] == FORMAT, manifest["version"]
        digests = dict(manifest["files"])
        is_known = is_known and {OPTIMIZER, STATE} < digests.keys()
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


def load_checkpoint(
    path: Path,
    trainer: TrainerInterface,
    *,
    trust: bool = False,
    communicator: Communicator | None = None,
) -> None:
    """Restore a training from a checkpoint.

    path (Path): As returned by `find_checkpoint`.
    trainer (TrainerInterface): Trainer with the same config or arguments. After an error it may
        be partly restored and must not be used.
    trust (bool): Load PyTorch layers also where that can execute code from the file: see
        `check_pytorch_loading`.
    communicator (Communicator | None): The connection to other workers, of which each loads its
        part. With another number of workers than before each loads the mean of all parts, with
        a warning.
    RAISES: DamagedCheckpointError if a file is missing or has changed; ValueError if the
        checkpoint is that of a training with other settings, data or code, or if loading is not
        safe; OSError if it cannot be read.
    """
    communicator = SingleWorker() if communicator is None else communicator
    rank, size = communicator.rank, communicator.size
    check_checkpoint(path)
    content = _read(path, STATE)
    try:
        values = json.loads(content)
        state = TrainerState.from_dict(values["state"])
        fingerprint = TrainingFingerprint(**values["fingerprint"])
        random_state = values["random"]
        unsaved = list(values.get("unsaved_generators", []))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(path, f"{STATE} cannot be read: {error}") from error
    now, n_before = trainer.fingerprint, int(fingerprint.settings.get(WORKERS, 1))
    is_resized = n_before != size and trainer.can_resize(state)
    if is_resized:
        fingerprint, now = _without_workers(fingerprint), _without_workers(now)
    _check_fingerprint(path, fingerprint, now)
    if is_resized and rank:
        # Rank 0 has those of all workers.
        state.losses, state.n_losses = {}, 0
    elif rank:
        try:
            values = json.loads(_read(path, of_rank(STATE, rank)))
            random_state = values["random"]
            for name in _OF_RANK:
                setattr(state, name, values["progress"][name])
        except (ValueError, LookupError, TypeError) as error:
            what = f"{of_rank(STATE, rank)} cannot be read: {error}"
            raise DamagedCheckpointError(path, what) from error
    try:
        check_pytorch_loading(trainer.model, trust=trust)
    except ValueError as error:
        raise ValueError(
            f"{path} is not loaded. {error} (on the command line --trust-checkpoint)"
        ) from error
    if is_resized:
        paths = [
            [path / of_rank(name, other) for other in range(n_before)]
            for name in (MODEL, OPTIMIZER)
        ]
        load_mean(trainer, *paths)
        trainer.resize(state, [state.extra, *_extras_of_others(path, n_before)])
        trainer.restore(state)
        state.checkpoint = path
        draw_random_numbers(trainer.seed or 0, step=state.step, rank=rank, n_workers=size)
        warn_about_workers(path, n_before, size)
        return
    try:
        trainer.load_model(path / of_rank(MODEL, rank))
    except Exception as error:
        raise ValueError(
            f"The model does not fit {path / of_rank(MODEL, rank)}: {error}"
        ) from error
    load_optimizer(path / of_rank(OPTIMIZER, rank), trainer.optimizer, trainer.model)
    load_layer_states(path / of_rank(LAYER_STATES, rank), trainer.model)
    trainer.restore(state)
    state.checkpoint = path
    # Last: loading may draw random numbers.
    set_random_state(random_state)
    if unsaved:
        warnings.warn(
            f"The state of the random generator of {', '.join(unsaved)} cannot be saved: "
            "layers of Thinc on the GPU draw other numbers for dropout than in an "
            "uninterrupted training",
            TrainingWarning,
            stacklevel=2,
        )


def _extras_of_others(path: Path, n_workers: int) -> list[dict[str, Any]]:
    """The `extra` of the states of all workers but rank 0."""
    names = [of_rank(STATE, rank) for rank in range(1, n_workers)]
    try:
        return [json.loads(_read(path, name))["progress"]["extra"] for name in names]
    except (ValueError, LookupError, TypeError) as error:
        raise DamagedCheckpointError(
            path, f"a part of a worker cannot be read: {error}"
        ) from error


def _without_workers(fingerprint: TrainingFingerprint) -> TrainingFingerprint:
    settings = {name: text for name, text in fingerprint.settings.items() if name != WORKERS}
    return replace(fingerprint, settings=settings)


def _check_fingerprint(
    path: Path, before: TrainingFingerprint, now: TrainingFingerprint
) -> None:
    found = differences(before.settings, now.settings)
    found += differences(before.inputs, now.inputs)
    if found:
        raise ValueError(
            f"{path} is a checkpoint of another training and cannot be resumed here: "
            + "; ".join(found)
        )
    found = differences(before.packages, now.packages)
    if found:
        warnings.warn(
            f"{path} was saved with other package versions: {'; '.join(found)}. The results "
            "may differ from those of an uninterrupted training",
            TrainingWarning,
            stacklevel=3,
        )


def delete_checkpoint(path: Path) -> None:
    """Delete a checkpoint. It is renamed first: a crash leaves no part of it under its name."""
    temporary = temporary_folder(path)
    os.rename(path, temporary)
    if temporary.is_symlink():
        temporary.unlink()  # The folder that it points to is kept.
    else:
        shutil.rmtree(temporary)


def sweep(folder: Path) -> None:
    """Delete temporary folders that a crash has left. Not for a folder in which another process
    saves checkpoints."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\.(step-\d{8,}|model-[\w.-]+)\.[0-9a-f]{32}\.tmp", path.name):
            delete(path)


@contextmanager
def keeping_random_state() -> Iterator[None]:
    """Context manager that restores the state of all random generators."""
    state = get_random_state()
    try:
        yield
    finally:
        set_random_state(state)


def unsaved_generators(model: ModelT) -> list[str]:
    """Random generators of a model whose states `get_random_state` does not have.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    RETURNS (list[str]): "CuPy" if there are layers of Thinc on a GPU.
    """
    names = {node.ops.name for _, root in component_models(model) for node in root.walk()}
    return ["CuPy"] if "cupy" in names else []


def get_random_state() -> dict[str, Any]:
    """States of the random generators of Python, NumPy and PyTorch (CPU and CUDA) as JSON
    values. CuPy gives no access to the state of its generator."""
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
    """Restore the result of `get_random_state`. States of missing GPUs are ignored."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, numpy.array(keys, dtype="uint32"), *rest))
    if torch is not None and "torch" in state:
        torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
        states = state.get("torch_cuda", [])
        for device in range(min(len(states), torch.cuda.device_count())):
            torch.cuda.set_rng_state(torch.tensor(states[device], dtype=torch.uint8), device)
