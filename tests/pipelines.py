"""Trainings of spaCy pipelines: what happens to the weights in spaCy's own training loop."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy
import spacy
from helpers import as_numpy
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import registry
from thinc.api import Config, Optimizer, require_cpu

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "spacy"


def read_config(name, settings=None, more=""):
    """One of the config files.

    settings (dict[str, Any] | None): What to change, as on the command line.
    more (str): Sections to add.
    """
    text = (CONFIGS / f"{name}.cfg").read_text(encoding="utf8") + more
    return Config().from_str(text, overrides=settings or {}, interpolate=False)


def weights_of(nlp):
    """Copies of all weights, by names that are the same in every process."""
    weights = {}
    for pipe_name, position, node in nodes_of(nlp):
        for name in node.param_names:
            if node.has_param(name):
                array = as_numpy(node.get_param(name))
                weights[pipe_name, position, node.name, name] = array.copy()
        for name, parameter in torch_parameters_of(node):
            array = parameter.detach().cpu().numpy().copy()
            weights[pipe_name, position, node.name, name] = array
    return weights


def names_of_keys(nlp):
    """The names that `weights_of` gives to the optimizer's keys."""
    names = {}
    for pipe_name, position, node in nodes_of(nlp):
        for name in node.param_names:
            names[node.id, name] = (pipe_name, position, node.name, name)
        for name, _ in torch_parameters_of(node):
            names[node.shims[0].id, name] = (pipe_name, position, node.name, name)
    return names


def nodes_of(nlp):
    for pipe_name, pipe in nlp.pipeline:
        for position, node in enumerate(pipe.model.walk()):
            yield pipe_name, position, node


def torch_parameters_of(node):
    """Those of the PyTorch module that the node wraps, if it does."""
    return [pair for shim in node.shims for pair in shim._model.named_parameters()]


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        message = str(name)
        numpy.testing.assert_allclose(array, expected[name], rtol, atol, err_msg=message)


def is_same(first, second):
    assert first.keys() == second.keys()
    return all(numpy.array_equal(array, second[name]) for name, array in first.items())


class Trainer:
    """A run of spaCy's own training loop in this process, with watchers that know nothing
    of the package: spaCy hands the pipeline to them before every update and in every
    evaluation.

    config (Config): A training config.
    output (Path): Where the models are saved.
    gpu_id (int): Which GPU; -1 for the CPU.
    """

    def __init__(self, config, output, gpu_id=-1):
        # The weights before training and after every step.
        self.history = []
        # The weights that were in the pipeline during each of the evaluations.
        self.evaluated = []
        optimizers = []

        def watch_optimizer(optimizer: Optimizer) -> Optimizer:
            optimizers.append(optimizer)
            return optimizer

        def watch_steps():
            return lambda nlp, info: self.history.append(weights_of(nlp))

        def watch_evaluations(corpus):
            def read_corpus(nlp):
                self.evaluated.append(weights_of(nlp))
                return corpus(nlp)

            return read_corpus

        registry.optimizers("watched.v1", func=watch_optimizer)
        registry.callbacks("watched.v1", func=watch_steps)
        registry.readers("watched.v1", func=watch_evaluations)
        config = config.copy()
        optimizer = config["training"]["optimizer"]
        config["training"]["optimizer"] = {"@optimizers": "watched.v1", "optimizer": optimizer}
        config["training"]["before_update"] = {"@callbacks": "watched.v1"}
        config["corpora"]["dev"] = {
            "@readers": "watched.v1",
            "corpus": config["corpora"]["dev"],
        }
        output.mkdir(exist_ok=True)
        try:
            nlp = init_nlp(config, use_gpu=gpu_id)
            self.nlp, _ = train(nlp, output, use_gpu=gpu_id, stdout=io.StringIO())
        finally:
            require_cpu()
        # The loop leaves the averages on the disk, and the last step's weights in `nlp`.
        self.history.append(weights_of(self.nlp))
        self.optimizer = optimizers[-1]
        self.output = output
        self.saved = weights_of(spacy.load(output / "model-last"))

    def averages(self):
        """The optimizer's averages, by the names of `weights_of`."""
        names = names_of_keys(self.nlp)
        averages = self.optimizer.averages
        return {names[key]: as_numpy(array) for key, array in averages.items()}


def run_spacy(folder, *arguments):
    """`python -m spacy`, outside of the source tree."""
    return _run(folder, "-m", "spacy", *arguments)


def run_python(folder, code, *arguments):
    """`python -c`, outside of the source tree."""
    return _run(folder, "-c", code, *arguments)


def _run(folder, *arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def as_arguments(settings):
    """Settings as `spacy train` takes them."""
    return [
        text for name, value in settings.items() for text in (f"--{name}", json.dumps(value))
    ]
