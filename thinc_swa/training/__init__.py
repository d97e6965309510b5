"""Training of Thinc models: trainer, callbacks, checkpoints."""

from .callbacks import (
    Callback,
    ProgressBar,
    SaveCheckpoints,
    SaveModels,
    ScoreTable,
    StopOnInterrupt,
    TrainingLog,
)
from .trainer import Trainer, train

__all__ = [
    "Callback",
    "ProgressBar",
    "SaveCheckpoints",
    "SaveModels",
    "ScoreTable",
    "StopOnInterrupt",
    "Trainer",
    "TrainingLog",
    "train",
]
