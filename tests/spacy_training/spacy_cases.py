"""Small trainings with the configs for spaCy, and the averages that they must have."""

import numpy
import pytest
from helpers import HAS_GPU, require

require("spacy")
from spacy.training import Corpus  # noqa: E402

NAMES = ["swa", "ema", "lawa", "local_sgd", "lookahead", "lookahead_swa", "schedule_free"]
# For tests that train for seconds.
EACH_NAME = ["swa", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]
GPU_IDS = [-1, 0] if HAS_GPU else [-1]
# spaCy counts from 0 and stops after its step `max_steps`: one step more.
MAX_STEPS = 200
N_STEPS = MAX_STEPS + 1
EVAL_FREQUENCY = 50
# A small model that learns fast. Everything else is as in the config files.
SMALL = {
    "training.max_steps": MAX_STEPS,
    "training.eval_frequency": EVAL_FREQUENCY,
    "components.tok2vec.model.encode.width": 32,
    "components.tok2vec.model.embed.rows": [500, 250, 250, 250],
}
SMALL_SETTINGS = {
    "swa": {
        "training.optimizer.freq": 7,
        "training.optimizer.optimizer.learn_rate": 0.005,
    },
    "ema": {
        "training.optimizer.optimizer.learn_rate": 0.005,
    },
    "lawa": {
        "training.optimizer.freq": 10,
        "training.optimizer.optimizer.learn_rate": 0.005,
    },
    "local_sgd": {
        "training.optimizer.freq": 20,
        "training.optimizer.optimizer.learn_rate": 0.005,
    },
    "lookahead": {
        "training.optimizer.optimizer.learn_rate": 0.005,
    },
    "lookahead_swa": {
        "training.optimizer.freq": 7,
        "training.optimizer.optimizer.optimizer.learn_rate": 0.005,
    },
    "schedule_free": {
        "training.optimizer.optimizer.learn_rate": 0.005,
    },
}
START_STEP = round(0.75 * MAX_STEPS)


def swa_of(history, step, start_step=START_STEP, freq=7):
    """The mean of the weights after steps start_step, start_step + freq, ..."""
    if step < start_step:
        return history[step]
    snapshots = history[start_step : step + 1 : freq]
    return {
        name: numpy.mean([snapshot[name].astype("float64") for snapshot in snapshots], axis=0)
        for name in history[0]
    }


def ema_of(history, step, gamma=6.937203937601809):
    """The power-function average with a relative width of 0.1: the weights of step t count in
    proportion to the integral of time ** gamma from t - 1 to t."""
    shares = numpy.diff((numpy.arange(step + 1) / step) ** (gamma + 1))
    return {
        name: sum(
            share * weights[name]
            for share, weights in zip(shares, history[1 : step + 1], strict=True)
        )
        for name in history[0]
    }


def lawa_of(history, step, window=6, freq=10):
    """The mean of the weights after the last `window` times `freq` steps."""
    if step < freq:
        return history[step]
    snapshots = history[freq : step + 1 : freq][-window:]
    return {
        name: numpy.mean([snapshot[name].astype("float64") for snapshot in snapshots], axis=0)
        for name in history[0]
    }


def local_sgd_of(history, step, freq=20, start_step=100):
    """The weights after the last synchronisation, and before the first step that counts the
    current ones. (How they come about, on one worker: test_configs.py.)"""
    return history[step if step < start_step else step - (step - start_step) % freq]


def lookahead_of(history, step, freq=6):
    """After every `freq` steps the weights are the slow weights, and these stay until the
    next time. (How they come about: test_lookahead_interpolates_slow_and_fast_weights.)"""
    return history[step - step % freq]


def lookahead_swa_of(history, step):
    return lookahead_of(history, step) if step < START_STEP else swa_of(history, step)


def schedule_free_of(history, step, beta=0.9):
    """The averages x with which the weights y were made, in every step: with z such that
    y = (1 - beta) * z + beta * x, x is the mean of all z. Solved for x."""
    averages = {name: array.astype("float64") for name, array in history[1].items()}
    for t in range(2, step + 1):
        for name, y in history[t].items():
            others = (1 - beta) * (t - 1) * averages[name]
            averages[name] = (y + others) / ((1 - beta) * t + beta)
    return averages


AVERAGES = {
    "swa": swa_of,
    "ema": ema_of,
    "lawa": lawa_of,
    "local_sgd": local_sgd_of,
    "lookahead": lookahead_of,
    "lookahead_swa": lookahead_swa_of,
    "schedule_free": schedule_free_of,
}


def part(weights, pipe_name):
    """The weights of one component."""
    return {name: array for name, array in weights.items() if name[0] == pipe_name}


def evaluate(nlp, dev_path):
    return nlp.evaluate(Corpus(dev_path)(nlp))
