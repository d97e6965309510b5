"""The package as a whole: its config names, its documents, its types."""

import inspect
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from thinc.api import registry

import thinc_swa

ROOT = Path(__file__).parent.parent

PREFIX = "thinc_swa."


def names_in_setup_cfg(group):
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.entry_points"][group].split("\n")
    names = [line.split("=")[0].strip() for line in lines if line.strip()]
    return [name for name in names if not name.startswith(PREFIX)]


NAMES = names_in_setup_cfg("thinc_optimizers")
SCHEDULES = names_in_setup_cfg("thinc_schedules")
DATASETS = names_in_setup_cfg("thinc_datasets")
CALLBACKS = names_in_setup_cfg("thinc_swa_callbacks")

FRESH_PROCESS = """
import sys
from pydantic import BaseModel, ConfigDict, ValidationError
from thinc.api import Config, Optimizer, registry
assert "thinc_swa" not in sys.modules

class Training(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    optimizer: Optimizer

for name in sys.argv[1:]:
    arguments = "start_step = 3" if name == "SWA.v1" else ""
    config = Config().from_str(f'''
[optimizer]
@optimizers = "{name}"
{arguments}
[optimizer.optimizer]
@optimizers = "SGD.v1"
learn_rate = 0.1
''')
    optimizer = registry.resolve(config)["optimizer"]
    assert isinstance(optimizer, Optimizer), optimizer
    assert Training(optimizer=optimizer).optimizer is optimizer
    try:
        Training(optimizer="Adam")
    except ValidationError:
        print(name)
"""


FRESH_PROCESS_FOR_SCHEDULES = """
import sys
from thinc.api import registry
assert "thinc_swa" not in sys.modules
for name in sys.argv[1:]:
    print(registry.get("schedules", name).__module__)
"""


def test_schedules_are_found_without_an_import():
    command = [sys.executable, "-c", FRESH_PROCESS_FOR_SCHEDULES, *SCHEDULES]
    run = subprocess.run(command, capture_output=True, text=True)
    modules = run.stdout.split()
    assert len(modules) == len(SCHEDULES), run.stderr
    assert all(module.startswith("thinc_swa.schedules.") for module in modules)


def test_config_names_are_found_without_an_import():
    command = [sys.executable, "-c", FRESH_PROCESS, *NAMES]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stdout.split()) == (0, NAMES), run.stderr


@pytest.mark.parametrize(
    "group, names",
    [
        ("thinc_datasets", DATASETS),
        ("thinc_optimizers", NAMES),
        ("thinc_schedules", SCHEDULES),
        ("thinc_swa_callbacks", CALLBACKS),
    ],
)
def test_every_installed_name_is_in_setup_cfg(group, names):
    """Each also with the name of the package, for the same function."""
    installed = entry_points(group=group)
    ours = {e.name: e.value for e in installed if e.value.startswith(PREFIX)}
    assert set(ours) == {*names, *(PREFIX + name for name in names)}
    assert all(ours[PREFIX + name] == ours[name] for name in names)


def test_names_with_the_prefix_resolve():
    config = {"@optimizers": "thinc_swa.SWA.v1", "start_step": 3}
    config["optimizer"] = {
        "@optimizers": "Adam.v1",
        "learn_rate": {"@schedules": "thinc_swa.cosine.v1", "max_rate": 0.1, "steps": 9},
    }
    optimizer = registry.resolve({"optimizer": config})["optimizer"]
    assert isinstance(optimizer, thinc_swa.SWA)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_has_the_name_of_its_function(name):
    """So what a config takes and what Python takes are the same."""
    (entry_point,) = entry_points(group="thinc_schedules", name=name)
    assert entry_point.load() is getattr(thinc_swa, name.removesuffix(".v1"))


@pytest.mark.parametrize("name", NAMES)
def test_a_config_name_takes_what_its_class_takes(name):
    (entry_point,) = entry_points(group="thinc_optimizers", name=name)
    cls = getattr(thinc_swa, name.split(".")[0])
    own = {p.name: p.default for p in inspect.signature(cls).parameters.values()}
    registered = {
        p.name: p.default for p in inspect.signature(entry_point.load()).parameters.values()
    }
    if name == "SWA.v1":
        assert own.pop("start_step") is None
        assert registered.pop("start_step") is inspect.Parameter.empty
    assert registered == own


def test_version():
    assert thinc_swa.__version__ == version("thinc-swa")
    assert f"## {thinc_swa.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_public_names():
    for name in thinc_swa.__all__:
        assert getattr(thinc_swa, name)


def test_a_program_with_types():
    program = ROOT / "tests" / "typed_program.py"
    subprocess.run([sys.executable, "-W", "error", str(program)], check=True)
