"""One worker of the benchmarks in workers.py, whose steps are timed, and in time_to_score.py,
which ends at a score. It prints its measurements as JSON.

    python benchmarks/workers_process.py SETTINGS
"""

import json
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy
from spacy.cli.init_config import init_config

from thinc_swa.distributed import SingleWorker, TorchCommunicator
from thinc_swa.models.parameters import named_parameters
from thinc_swa.training.callbacks import Callback
from thinc_swa.training.spacy_trainer import SpacyTrainer

# Number of all-reduces of one number, which take the time of the latency.
N_LATENCIES = 30


class Clock(Callback):
    """Measures the steps after the first ones, up to the end of the training.

    start (int): The number of steps before it starts, the last of which ends with an exchange.
    stop (int): The number of steps after which the training ends.
    """

    runs_on_all_workers = True

    def __init__(self, start, stop, communicator):
        self.start = start
        self.stop = stop
        self.communicator = communicator
        self.values = []

    def on_step(self, trainer):
        if trainer.state.step in (self.start, self.stop):
            self.values.append(
                {
                    "seconds": time.perf_counter(),
                    "words": trainer.state.extra["words"],
                    "bytes_sent": self.communicator.bytes_sent,
                    "link_bytes": link_bytes(),
                }
            )

    def differences(self):
        first, last = self.values
        return {name: last[name] - first[name] for name in first}


class ScoreClock(Callback):
    """Measures the time from the first step to the first evaluation with a score, where the
    training ends.

    score (float): The score, a fraction.
    """

    def __init__(self, score):
        self.score = score
        self.start = None
        self.found = {}

    def on_step(self, trainer):
        self.start = self.start or time.perf_counter()

    def on_evaluate(self, trainer, evaluation):
        if evaluation.score >= self.score:
            self.found = {
                "score": evaluation.score,
                "seconds": time.perf_counter() - self.start,
                "seconds_in_steps": trainer.state.seconds,
                "words": trainer.state.extra["words"],
                "n_steps": trainer.state.step,
            }
            trainer.stop()


def link_bytes():
    """Number of bytes that this host has sent over the network interface of gloo, with all
    headers; 0 without one."""
    name = os.environ.get("GLOO_SOCKET_IFNAME")
    path = Path(f"/sys/class/net/{name}/statistics/tx_bytes")
    return int(path.read_text()) if name else 0


def make_config(settings):
    config = init_config(lang="en", pipeline=["ner"], optimize="efficiency")
    config["paths"]["train"] = settings["train"]
    config["paths"]["dev"] = settings["dev"]
    config["system"]["seed"] = settings["seed"]
    training = config["training"]
    training.update(patience=0, **settings["training"])
    if settings["words_per_batch"] is not None:
        training["batcher"]["size"] = settings["words_per_batch"]
    adam = {**training["optimizer"], "use_averages": False}
    training["optimizer"] = adam
    if settings["local_sgd"] is not None:
        training["optimizer"] = {
            "@optimizers": "LocalSGD.v1",
            **settings["local_sgd"],
            "optimizer": adam,
        }
    return config


def measure_latency(communicator):
    found = []
    for _ in range(N_LATENCIES):
        start = time.perf_counter()
        communicator.all_reduce(numpy.zeros(1, dtype="f"))
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def measure_steps(settings, communicator):
    """Measure the steps of a training without evaluations."""
    latency = measure_latency(communicator)
    clock = Clock(settings["start"], settings["stop"], communicator)
    trainer = SpacyTrainer(make_config(settings), [clock], communicator=communicator)
    # All processes begin together, also trainings that are not connected.
    trainer.run()
    weights = [parameter.get() for _, _, parameter in named_parameters(trainer.model)]
    return {
        **clock.differences(),
        "latency": latency,
        "n_parameters": sum(array.size for array in weights),
        "rank": communicator.rank,
    }


def measure_time_to_score(settings, communicator):
    """Measure a training that ends at a score.

    RETURNS (dict): Empty on other ranks than 0, and if the score was not reached.
    """
    clock = ScoreClock(settings["score"])
    SpacyTrainer(make_config(settings), [clock], communicator=communicator).run()
    return clock.found


def main(settings):
    warnings.simplefilter("ignore")
    communicator = TorchCommunicator() if "RANK" in os.environ else SingleWorker()
    measure = measure_time_to_score if "score" in settings else measure_steps
    found = measure(settings, communicator)
    communicator.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
