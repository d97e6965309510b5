"""Schedules in config files."""

import re
from pathlib import Path

import pytest
from schedule_values import HYPERPARAMETERS, close, values, values_used_by
from thinc.api import Config, registry

from thinc_swa import cosine, one_cycle, one_cycle_momentum, swa_anneal

PAGE = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text(encoding="utf8")
CONFIGS = {
    "one_cycle.v1": (
        "max_rate = 0.5\ntotal_steps = 20\nwarmup_steps = 0.25",
        lambda: one_cycle(0.5, steps=20, warmup_steps=5),
    ),
    "one_cycle_momentum.v1": (
        'total_steps = 20\nanneal_strategy = "linear"',
        lambda: one_cycle_momentum(steps=20, anneal_strategy="linear"),
    ),
    "cosine.v1": (
        "max_rate = 0.9\nsteps = 0.5\ntotal_steps = 40\nstart_factor = 0.5\n"
        "warmup_steps = 3\ncycles = 2\nend_factor = 0.1",
        lambda: cosine(
            0.9, steps=20, warmup_steps=3, start_factor=0.5, cycles=2, end_factor=0.1
        ),
    ),
    "swa_anneal.v1": (
        "start_rate = 0.5\nend_rate = 0.1\nstart_step = 0.75\nanneal_steps = 4\n"
        "total_steps = 20",
        lambda: swa_anneal(0.5, 0.1, start_step=15, anneal_steps=4),
    ),
}


def make_adam(text):
    config = Config().from_str(f'[optimizer]\n@optimizers = "Adam.v1"\n\n{text}')
    return registry.resolve(config)["optimizer"]


@pytest.mark.parametrize("argument", HYPERPARAMETERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_schedule_from_a_config(name, argument):
    settings, make = CONFIGS[name]
    text = f'[optimizer.{argument}]\n@schedules = "{name}"\n{settings}'
    optimizer = make_adam(text)
    assert values_used_by(optimizer, HYPERPARAMETERS[argument], 25) == values(make(), 25)


PHASES_CONFIG = """
[training]
max_steps = 20

[optimizer]
@optimizers = "SWA.v1"
start_step = 25

[optimizer.optimizer]
@optimizers = "Adam.v1"

[optimizer.optimizer.learn_rate]
@schedules = "phases.v1"
total_steps = ${training.max_steps}

[optimizer.optimizer.learn_rate.*.zeta]
steps = 0.25

[optimizer.optimizer.learn_rate.*.zeta.schedule]
@schedules = "one_cycle.v1"
max_rate = 1
steps = 5

[optimizer.optimizer.learn_rate.*.alpha]
steps = 4
schedule = 0.25

[optimizer.optimizer.learn_rate.*.mu]
steps = 3

[optimizer.optimizer.learn_rate.*.mu.schedule]
@schedules = "phases.v1"

[optimizer.optimizer.learn_rate.*.mu.schedule.*.b]
steps = 2
schedule = [3, 4]

[optimizer.optimizer.learn_rate.*.mu.schedule.*.a]
schedule = 5

[optimizer.optimizer.learn_rate.*.beta]
@schedules = "decaying.v1"
base_rate = 0.5
decay = 1.0
"""


PHASE_VALUES = [
    *[one_cycle(1.0, steps=5)(step) for step in range(5)],
    *[0.25] * 4,
    *[3, 4, 5],
    *[0.5 / (1 + step) for step in range(10)],
]


ROUND_TRIPS = {
    "unchanged": lambda config: config,
    "interpolated": lambda config: config.interpolate(),
    "saved": lambda config: Config().from_str(config.to_str()),
    "saved with variables": lambda config: Config().from_str(
        config.to_str(interpolate=False), interpolate=False
    ),
    "filled": lambda config: registry.fill(config),
    "filled and saved": lambda config: Config().from_bytes(registry.fill(config).to_bytes()),
    "merged": lambda config: Config({"training": {}}).merge(config),
    "copied": lambda config: config.copy(),
}


@pytest.mark.parametrize("round_trip", ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_phases_keep_the_order_of_the_config(round_trip):
    """The order of the file is not alphabetical."""
    config = round_trip(Config().from_str(PHASES_CONFIG, interpolate=False))
    assert config["optimizer"]["optimizer"]["learn_rate"]["@schedules"] == "phases.v1"
    optimizer = registry.resolve(config)["optimizer"]
    assert values_used_by(optimizer, "learn_rate", len(PHASE_VALUES)) == close(PHASE_VALUES)


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("one_cycle.v1", "max_rate = 1\nsteps = 5.7", "steps must be .*but was 5.7"),
        ("one_cycle.v1", 'max_rate = "high"\nsteps = 5', "max_rate must be .*was 'high'"),
        ("one_cycle.v1", "max_rate = 1\ntotal_steps = 0", "max_steps = 0"),
        ("one_cycle.v1", "max_rate = 1\nsteps = true", "steps must be .*but was True"),
        ("one_cycle_momentum.v1", "total_steps = 5.0", "total_steps must be .*was 5.0"),
        ("cosine.v1", "max_rate = 1\nsteps = 9\ncycles = 2.5", "cycles must .*was 2.5"),
        ("cosine.v1", "max_rate = null\nsteps = 9", "max_rate must be .*but was None"),
        (
            "swa_anneal.v1",
            "start_rate = 1\nend_rate = 0\nstart_step = 3\nanneal_steps = 1.5",
            "anneal_steps must be .*but was 1.5",
        ),
        ("phases.v1", "\n[optimizer.learn_rate.*.a]\nsteps = 5.7\nschedule = 1", "was 5.7"),
        ("phases.v1", "\n[optimizer.learn_rate.*.a]\nsteps = 5\nrate = 1", "Phase 1 must have"),
    ],
)
def test_invalid_arguments_in_a_config_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make_adam(f'[optimizer.learn_rate]\n@schedules = "{name}"\n{settings}')


def test_phases_as_swa_learn_rate_from_a_config():
    config = Config().from_str(PHASES_CONFIG)
    config["optimizer"]["learn_rate"] = config["optimizer"]["optimizer"].pop("learn_rate")
    config["optimizer"]["start_step"] = 3
    optimizer = registry.resolve(config)["optimizer"]
    expected = [0.001] * 3 + PHASE_VALUES
    assert values_used_by(optimizer, "learn_rate", len(expected)) == close(expected)


def test_config_of_the_documentation():
    (text,) = re.findall(r"```ini\n([^`]*phases\.v1.*?)```", PAGE, flags=re.DOTALL)
    text = "[training]\nmax_steps = 1000\n\n" + text
    optimizer = registry.resolve(Config().from_str(text))["training"]["optimizer"]
    rates = values_used_by(optimizer, "learn_rate", 1000)
    first = one_cycle(0.002, steps=500)
    assert rates[:500] == values(first, 500)
    assert rates[500:] == [0.0005] * 250 + [0.0001] * 250
