"""Registry of callbacks, and the section [callbacks] of configs."""

import subprocess
import sys

import pytest
from helpers import require
from thinc.api import Config
from tiny import write_config

from thinc_swa.training import Callback, Trainer, registry


class Named(Callback):
    calls = []

    def __init__(self, name):
        self.name = name

    def on_start(self, trainer):
        self.calls.append(self.name)


@registry.callbacks("tests.named.v1")
def make_named(name: str):
    return Named(name)


@registry.callbacks("tests.not_a_callback.v1")
def make_not_a_callback():
    return 3


def config_with(tmp_path, section):
    config = Config().from_disk(write_config(tmp_path, max_steps=1))
    config["callbacks"] = section
    return config


def test_callbacks_of_a_config_are_called_in_its_order(tmp_path):
    Named.calls = []
    section = {
        name: {"@callbacks": "tests.named.v1", "name": name} for name in ("zulu", "alpha")
    }
    Trainer.from_config(config_with(tmp_path, section), [Named("first")]).run()
    assert Named.calls == ["first", "zulu", "alpha"]


def test_another_object_is_an_error(tmp_path):
    config = config_with(tmp_path, {"mine": {"@callbacks": "tests.not_a_callback.v1"}})
    with pytest.raises(TypeError, match=r"\[callbacks.mine\] must make .*, but made 3"):
        Trainer.from_config(config)


def test_an_unknown_name_is_an_error(tmp_path):
    config = config_with(tmp_path, {"mine": {"@callbacks": "unknown.v1"}})
    with pytest.raises(Exception, match="unknown.v1"):
        Trainer.from_config(config)


def test_the_registry_of_thinc_is_not_changed():
    code = """
import thinc.api, thinc_swa.training
assert not hasattr(thinc.api.registry, "callbacks")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_callbacks_of_spacy_are_separate():
    require("spacy")
    import spacy

    assert "tests.named.v1" in registry.callbacks
    assert "tests.named.v1" not in spacy.registry.callbacks
    assert not registry.has("callbacks", "spacy.copy_from_base_model.v1")


PLUGIN = """
from thinc_swa.training import Callback

def make():
    return Callback()
"""


def test_entry_points_of_other_packages_are_found(tmp_path):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[thinc_swa_callbacks]\nfrom.plugin.v1 = plugin:make\n"
    )
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from thinc_swa.training import Callback, registry
made = registry.resolve({{"mine": {{"@callbacks": "from.plugin.v1"}}}})["mine"]
assert type(made) is Callback
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
