"""What a training needs to be gone on with, bit for bit: in folders, one for each moment.

`step-000100` holds the model as training has left it, the optimizer's state, and a JSON file
with all else, which is written last: without it a checkpoint is not complete.
"""

import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import numpy
import thinc.compat

from .evaluation import Evaluation
from .files import replace_bytes, replace_text
from .state import load_optimizer, save_optimizer

if TYPE_CHECKING:
    from .training import Training

torch: Any = thinc.compat.torch

MODEL = "model"
OPTIMIZER = "optimizer.safetensors"
STATE = "training.json"


def save_checkpoint(folder: Path, training: "Training") -> None:
    """Save all of a training. Earlier checkpoints are deleted after that.

    Randomness is that of Python, NumPy and PyTorch on the CPU; CuPy's cannot be saved.

    folder (Path): Where to. It must exist.
    """
    path = folder / f"step-{training.step:08}"
    if (path / STATE).exists():
        return
    path.mkdir(exist_ok=True)
    replace_bytes(path / MODEL, training.model.to_bytes())
    save_optimizer(path / OPTIMIZER, training.optimizer, training.model)
    state = {
        "step": training.step,
        "seed": training.seed,
        "evaluations": [asdict(evaluation) for evaluation in training.evaluations],
        "loss_sum": training.loss_sum,
        "n_losses": training.n_losses,
        "seconds": training.seconds,
        "random": get_random_state(),
    }
    replace_text(path / STATE, json.dumps(state))
    for other in checkpoints(folder):
        if other != path:
            shutil.rmtree(other)


def checkpoints(folder: Path) -> List[Path]:
    """All checkpoints of a folder, complete or not."""
    paths = folder.glob("step-" + 8 * "[0-9]")
    return [path for path in paths if path.is_dir()]


def find_checkpoint(folder: Path) -> Optional[Path]:
    """The last complete checkpoint of a folder; None if there is none."""
    complete = [path for path in checkpoints(folder) if (path / STATE).exists()]
    return max(complete, default=None, key=lambda path: path.name)


def load_checkpoint(path: Path, training: "Training") -> None:
    """Bring a training, made from the same config, to where another was.

    path (Path): As `find_checkpoint` returns it.
    RAISES: ValueError if it does not fit; OSError if it cannot be read.
    """
    state = json.loads((path / STATE).read_text(encoding="utf8"))
    if state["seed"] != training.seed:
        raise ValueError(f"{path} is of a training with the seed {state['seed']}")
    training.model.from_bytes((path / MODEL).read_bytes())
    load_optimizer(path / OPTIMIZER, training.optimizer, training.model)
    training.step = state["step"]
    training.evaluations = [Evaluation(**values) for values in state["evaluations"]]
    training.loss_sum = state["loss_sum"]
    training.n_losses = state["n_losses"]
    training.seconds = state["seconds"]
    set_random_state(state["random"])


def get_random_state() -> Dict[str, Any]:
    """The state of the generators that layers draw from, in JSON."""
    version, numbers, gauss = random.getstate()
    generator: Any = numpy.random.get_state(legacy=True)
    name, keys, position, has_gauss, cached = generator
    state: Dict[str, Any] = {
        "python": [version, list(numbers), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
    }
    if torch is not None:
        state["torch"] = torch.get_rng_state().tolist()
    return state


def set_random_state(state: Dict[str, Any]) -> None:
    """Go on from what `get_random_state` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, numpy.array(keys, dtype="uint32"), *rest))
    if torch is not None and "torch" in state:
        torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
