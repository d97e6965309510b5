"""Configs for spaCy: names, defaults, schedules, and errors."""

import pytest
from helpers import require

require("spacy")
from pipelines import CONFIGS, Trainer, as_arguments, read_config, run_python, run_spacy  # noqa: E402
from spacy.training import Corpus  # noqa: E402
from spacy.util import load_model_from_config, registry  # noqa: E402
from spacy_cases import NAMES, SMALL  # noqa: E402
from thinc.api import Adam, Config, Optimizer  # noqa: E402

from thinc_swa import SWA, OptimizerWrapper, one_cycle, one_cycle_momentum  # noqa: E402


def test_every_config_is_tested():
    paths = CONFIGS.glob("*.cfg")
    # Transformers need more than spaCy, and a test of their own.
    names = [path.stem for path in paths if "transformers" not in path.read_text()]
    # One trains a pipeline further: see test_continued_training.py.
    assert sorted(names) == sorted([*NAMES, "l2sp"])


@pytest.mark.parametrize("name", NAMES)
def test_config_is_complete(name):
    """`spacy init fill-config` adds nothing, except arguments of the optimizers that are
    left at their defaults."""
    config = read_config(name)
    filled = load_model_from_config(config, auto_fill=True).config.copy()
    block, filled_block = config["training"]["optimizer"], filled["training"]["optimizer"]
    while block:
        for argument in set(filled_block) - set(block):
            del filled_block[argument]
        block, filled_block = block.get("optimizer"), filled_block.get("optimizer")
    assert filled == config


RESOLVE = """
import sys
from pathlib import Path

import pydantic
from thinc.api import Config, Optimizer
{imports}


class Schema(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    optimizer: Optimizer


assert not any(name.startswith("thinc_swa") for name in sys.modules)
for path in map(Path, {paths!r}):
    training = Config().from_disk(path).interpolate()["training"]
    resolved = {resolve}
    optimizer = resolved["optimizer"]
    assert isinstance(optimizer, Optimizer)
    assert Schema(optimizer=optimizer).optimizer is optimizer
    print(path.stem, type(optimizer).__module__, type(optimizer).__name__)
"""


@pytest.mark.parametrize(
    "imports, resolve",
    [
        (
            "from thinc.api import registry",
            'registry.resolve({"optimizer": training["optimizer"]}, schema=Schema)',
        ),
        (
            "from spacy import registry\nfrom spacy.schemas import ConfigSchemaTraining",
            "registry.resolve(training, schema=ConfigSchemaTraining)",
        ),
    ],
    ids=["thinc", "spacy"],
)
def test_registry_finds_the_names(imports, resolve, tmp_path):
    """By entry points, in a process that has not imported the package."""
    paths = [str(CONFIGS / f"{name}.cfg") for name in NAMES]
    code = RESOLVE.format(imports=imports, resolve=resolve, paths=paths)
    result = run_python(tmp_path, code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "swa thinc_swa.optimizers.swa SWA",
        "ema thinc_swa.optimizers.ema EMA",
        "lawa thinc_swa.optimizers.lawa LAWA",
        "local_sgd thinc_swa.optimizers.local_sgd LocalSGD",
        "lookahead thinc_swa.optimizers.lookahead Lookahead",
        "lookahead_swa thinc_swa.optimizers.swa SWA",
        "schedule_free thinc_swa.optimizers.schedule_free ScheduleFree",
    ]


# Without settings that have defaults.
PARTIAL_CONFIG = """
[paths]
train = null
dev = null

[nlp]
lang = "en"
pipeline = ["ner"]

[components]

[components.ner]
factory = "ner"

[training]
max_steps = 1000

[training.optimizer]
@optimizers = "SWA.v1"
start_step = 0.75
total_steps = ${training.max_steps}

[training.optimizer.optimizer]
@optimizers = "Lookahead.v1"

[training.optimizer.optimizer.optimizer]
@optimizers = "Adam.v1"
"""


def test_fill_config_and_debug_config_accept_a_partial_config(corpus, tmp_path):
    partial_path, filled_path = tmp_path / "partial.cfg", tmp_path / "filled.cfg"
    partial_path.write_text(PARTIAL_CONFIG, encoding="utf8")
    result = run_spacy(tmp_path, "init", "fill-config", partial_path, filled_path)
    assert result.returncode == 0, result.stderr
    optimizer = Config().from_disk(filled_path, interpolate=False)["training"]["optimizer"]
    adam = optimizer["optimizer"].pop("optimizer")
    assert adam["@optimizers"] == "Adam.v1"
    assert adam["learn_rate"] == 0.001
    assert optimizer == {
        "@optimizers": "SWA.v1",
        "start_step": 0.75,
        "total_steps": "${training.max_steps}",
        "freq": 1,
        "learn_rate": None,
        "anneal_steps": None,
        "anneal_strategy": "linear",
        "end_step": None,
        "plateau_evals": 5,
        "check_finite": True,
        "optimizer": {
            "@optimizers": "Lookahead.v1",
            "freq": 6,
            "pullback": 0.5,
            "inner_state": "keep",
            "end_step": None,
            "total_steps": None,
            "check_finite": True,
        },
    }
    result = run_spacy(tmp_path, "debug", "config", filled_path, *as_arguments(corpus))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Config is valid" in result.stdout


# Not in alphabetical order.
PHASES = """
[optimizer]
@optimizers = "Adam.v1"

[optimizer.beta1]
@schedules = "one_cycle_momentum.v1"
total_steps = ${training.max_steps}

[optimizer.learn_rate]
@schedules = "phases.v1"
total_steps = ${training.max_steps}

[optimizer.learn_rate.*.up]
steps = 0.5

[optimizer.learn_rate.*.up.schedule]
@schedules = "one_cycle.v1"
max_rate = 0.01
steps = 0.5
total_steps = ${training.max_steps}

[optimizer.learn_rate.*.low]
steps = 4
schedule = 0.002

[optimizer.learn_rate.*.end]
schedule = 0.001
"""


def with_phases(settings):
    config = read_config("ema", settings)
    sections = Config().from_str(PHASES, interpolate=False)
    config["training"]["optimizer"] = sections["optimizer"]
    return config


def test_every_step_has_the_learn_rate_of_its_phase(corpus, tmp_path):
    rates, momenta = [], []

    class Recorder(OptimizerWrapper):
        __slots__ = []

        def step_schedules(self):
            rates.append(self.learn_rate)
            momenta.append(self.b1)
            super().step_schedules()

    def record(optimizer: Optimizer) -> Optimizer:
        return Recorder(optimizer)

    registry.optimizers("recorded.v1", func=record)
    config = with_phases({**corpus, **SMALL, "training.max_steps": 20})
    optimizer = config["training"]["optimizer"]
    config["training"]["optimizer"] = {"@optimizers": "recorded.v1", "optimizer": optimizer}
    Trainer(config, tmp_path)
    first = one_cycle(0.01, steps=10)
    assert rates == [first(step) for step in range(10)] + [0.002] * 4 + [0.001] * 7
    momentum = one_cycle_momentum(steps=20)
    assert momenta == [momentum(step) for step in range(21)]


@pytest.mark.slow
def test_spacy_keeps_the_order_of_phases(corpus, tmp_path):
    """In all configs that spaCy writes, with variables and overrides."""
    with_phases({}).to_disk(tmp_path / "phases.cfg", interpolate=False)
    filled_path = tmp_path / "filled.cfg"
    result = run_spacy(tmp_path, "init", "fill-config", tmp_path / "phases.cfg", filled_path)
    assert result.returncode == 0, result.stderr
    settings = {**corpus, **SMALL, "training.max_steps": 10, "training.eval_frequency": 10}
    arguments = [filled_path, "--output", tmp_path / "output", *as_arguments(settings)]
    result = run_spacy(tmp_path, "train", *arguments)
    assert result.returncode == 0, result.stderr
    for path in (filled_path, tmp_path / "output" / "model-last" / "config.cfg"):
        config = Config().from_disk(path, interpolate=False)
        schedule = config["training"]["optimizer"]["learn_rate"]
        assert list(schedule["*"]) == ["up", "low", "end"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"training.optimizer.freq": 5.7}, "freq must be an int >= 1, but was 5.7"),
        ({"training.max_steps": 0}, "total_steps must be an int >= 1, but was 0"),
    ],
)
def test_invalid_settings_are_errors_of_spacy_train(settings, message, corpus, tmp_path):
    arguments = [CONFIGS / "swa.cfg", *as_arguments({**corpus, **settings})]
    result = run_spacy(tmp_path, "train", *arguments)
    assert result.returncode != 0
    error = result.stderr.splitlines()[-1]
    assert error.startswith(f"ValueError: {message}")
    assert "training.max_steps" not in settings or "max_steps = 0" in error


@pytest.mark.parametrize("name", ["swa", "lookahead_swa"])
def test_unresolved_variables_are_an_error_when_the_optimizer_is_used(name, corpus):
    """spaCy does not interpolate the config when a pipeline makes its own optimizer."""
    nlp = load_model_from_config(read_config(name, {**corpus, **SMALL}), auto_fill=True)
    example = next(iter(Corpus(corpus["paths.train"])(nlp)))
    assert isinstance(nlp.initialize(lambda: [example]), Optimizer)
    assert "${training.max_steps}" in repr(nlp.resume_training())
    with pytest.raises(ValueError, match="total_steps is unresolved"):
        nlp.update([example])
    nlp.update([example], sgd=SWA(Adam(0.001), start_step=0))
