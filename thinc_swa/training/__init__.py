"""Training of Thinc models: trainer, callbacks, checkpoints.

A function that is registered with `registry.callbacks` makes the callback of a section
`[callbacks.NAME]` of a config.
"""

from .callbacks import (
    Callback,
    ProgressBar,
    SaveCheckpoints,
    SaveModels,
    ScoreTable,
    StopOnInterrupt,
    TrainingLog,
)
from .checkpoints import find_checkpoint, load_checkpoint, save_checkpoint
from .evaluation import Evaluation
from .interface import TrainerInterface
from .keep_averages import KeepAverages
from .registries import registry
from .state import TrainerState
from .trainer import Trainer, train

__all__ = [
    "Callback",
    "Evaluation",
    "KeepAverages",
    "ProgressBar",
    "SaveCheckpoints",
    "SaveModels",
    "ScoreTable",
    "StopOnInterrupt",
    "Trainer",
    "TrainerInterface",
    "TrainerState",
    "TrainingLog",
    "find_checkpoint",
    "load_checkpoint",
    "registry",
    "save_checkpoint",
    "train",
]
