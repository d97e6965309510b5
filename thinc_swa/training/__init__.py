"""Training of Thinc models and spaCy pipelines: trainers, callbacks, checkpoints.

A function that is registered with `registry.callbacks` makes the callback of a section
`[callbacks.NAME]` of a config.
"""

from .callbacks import (
    Callback,
    CallbackError,
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
from .layer_states import reset_layers
from .mixup import Mixup
from .plots import SaveLearningCurve
from .rate_range import RateCurve, RateRange, find_rate, plot_rates
from .registries import registry
from .spacy_callbacks import ConfigLogger, SavePipelines, SpacyTable
from .spacy_trainer import SpacyTrainer
from .spacy_training import read_spacy_config, train_spacy
from .state import TrainerState
from .trainer import Trainer, train
from .training_phases import TrainingPhase

__all__ = [
    "Callback",
    "CallbackError",
    "ConfigLogger",
    "Evaluation",
    "KeepAverages",
    "Mixup",
    "ProgressBar",
    "RateCurve",
    "RateRange",
    "SaveCheckpoints",
    "SaveLearningCurve",
    "SaveModels",
    "SavePipelines",
    "ScoreTable",
    "SpacyTable",
    "SpacyTrainer",
    "StopOnInterrupt",
    "Trainer",
    "TrainerInterface",
    "TrainerState",
    "TrainingLog",
    "TrainingPhase",
    "find_checkpoint",
    "find_rate",
    "load_checkpoint",
    "plot_rates",
    "read_spacy_config",
    "registry",
    "reset_layers",
    "save_checkpoint",
    "train",
    "train_spacy",
]
