"""Parameter groups in configs, and their `repr`."""

from pathlib import Path

from group_cases import group, make_named_model, update_sizes
from thinc.api import Adam, Config, registry

from thinc_swa import SWA, ParamGroups

CONFIG = """
[optimizer]
@optimizers = "ParamGroups.v1"
groups = [
    {"name": "no_decay", "params": ["*/b"], "L2": 0.0, "lr_scale": "warmup"},
    {"name": "frozen", "params": ["softmax/*"], "frozen": true}
  ]
layer_lr_decay = 0.5
layer_patterns = ["linear-#/*"]

[optimizer.schedules]

[optimizer.schedules.warmup]
@schedules = "warmup_linear.v1"
initial_rate = 1.0
warmup_steps = 4
total_steps = 20

[optimizer.optimizer]
@optimizers = "SGD.v1"
learn_rate = 0.1
L2 = 0.5
use_averages = false
"""


def test_config_of_groups_layers_and_schedules():
    config = Config().from_str(CONFIG)
    for same in (config, Config().from_str(config.to_str()), config.interpolate()):
        optimizer = registry.resolve(same)["optimizer"]
        optimizer.step_schedules()
        sizes = update_sizes(optimizer, make_named_model(2), weights=1.0)
        assert sizes == {
            "linear-0/W": 0.05 + 0.025 * 0.95,
            "linear-0/b": 0.0125,
            "linear-1/W": 0.1 + 0.05 * 0.9,
            "linear-1/b": 0.025,
            "softmax/W": 0.0,
            "softmax/b": 0.025,
        }


def test_config_of_the_documentation():
    page = Path(__file__).parents[2] / "docs" / "param_groups.md"
    section = page.read_text(encoding="utf8")
    config = Config().from_str(
        "[training]\n\n[initialize]\n\n" + section.split("```ini")[1].split("```")[0]
    )
    optimizer = registry.resolve({"optimizer": config["training"]["optimizer"]})["optimizer"]
    names = [values["name"] for values in optimizer._arguments["groups"]]
    assert names == ["no_decay", "embeddings", "tagger"]
    assert set(config["initialize"]) == {"after_init"}


def test_repr_shows_groups_and_layers():
    optimizer = ParamGroups(
        Adam(0.001),
        groups=[group("*/b", "*/G", name="no_decay", L2=0), group("E", name="E", frozen=True)],
        layer_lr_decay=0.8,
        layer_patterns=["*embed*", "*layers.#.*"],
    )
    assert repr(SWA(optimizer)) == (
        "SWA(ParamGroups(Optimizer(learn_rate=0.001), groups=[{'name': 'no_decay', 'params': "
        "['*/b', '*/G'], 'L2': 0.0}, {'name': 'E', 'params': ['E'], 'frozen': True}], "
        "layer_lr_decay=0.8, layer_patterns=['*embed*', '*layers.#.*']), "
        "freq=1)"
    )
    optimizer = ParamGroups(
        Adam(0.1), groups=[group("b", L2="slow", eps=[0.1])], schedules={"slow": [0.2, 0.1]}
    )
    assert "'L2': 'slow', 'eps': [0.1]}], schedules={'slow': [0.2, 0.1]})" in repr(optimizer)
