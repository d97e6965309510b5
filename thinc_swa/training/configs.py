"""Config files for Thinc and for spaCy: reading them, and making what they describe."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from thinc.api import Config, Optimizer

from ..errors import describe_error
from ..validation import check_int
from .trainer import BATCH_NORM_BATCHES, Trainer


def is_spacy_config(config: Config) -> bool:
    """Whether spaCy trains this config, and not `Trainer`."""
    return "nlp" in config


def optimizer_section(config: Config) -> dict[str, Any]:
    """The section that the optimizer is in, under "optimizer". Raises a ValueError if there
    is none."""
    section = config.get("training", {}) if is_spacy_config(config) else config
    if "optimizer" not in section:
        name = "[training.optimizer]" if is_spacy_config(config) else "[optimizer]"
        raise ValueError(f"The config has no section {name}")
    found: dict[str, Any] = section
    return found


def read_config(path: Path, overrides: dict[str, Any]) -> Config:
    """Read a config file. Variables are not filled in.

    overrides (dict[str, Any]): Settings to change: {"training.max_steps": 100}.
    RAISES: OSError if it cannot be read; ValueError that names the file if it is not a config.
    """
    try:
        return Config().from_disk(path, overrides=overrides, interpolate=False)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8") from error
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: {describe_error(error)}") from error


def with_seed(config: Config, i: int) -> Config:
    """The config of the i-th run: with the i-th seed from its own on, and without variables.

    RAISES: ValueError if a variable cannot be filled in, or the seed is not an int.
    """
    try:
        settings = config.interpolate().get("training", {})
    except Exception as error:
        raise ValueError(describe_error(error)) from error
    seed = settings.get("seed") if isinstance(settings, dict) else None
    seed = check_int("seed in [training]", 0 if seed is None else seed, minimum=0) + i
    config = config.copy()
    config.setdefault("training", {})["seed"] = seed
    if is_spacy_config(config) and "seed" in config.get("system", {}):
        config["system"]["seed"] = seed
    # Only now, for other settings may refer to it.
    return config.interpolate()


def score_of(config: Config) -> str:
    """What the scores of a config are. spaCy's are from 0 to 1, like accuracies."""
    if is_spacy_config(config):
        return "accuracy"
    return str(config.get("training", {}).get("score", "accuracy"))


def prepare_process(gpu_id: int, code: Path | None) -> None:
    """Make the GPU and the user's functions available.

    gpu_id (int): Which GPU; -1 for the CPU.
    code (Path | None): A Python file to run.
    RAISES: ValueError if there is no such GPU; OSError if the file cannot be read; whatever
        the file raises.
    """
    if gpu_id >= 0:
        from thinc.api import require_gpu

        require_gpu(gpu_id)
    if code is not None:
        import_code(code)


def import_code(path: Path) -> None:
    """Run a Python file as a module, for the functions that it registers."""
    # Under a name that hides no other module.
    name = "thinc_swa_user_code"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"Not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def make_model(config: Config, *, gpu_id: int = -1) -> tuple[Any, Optimizer]:
    """What a config trains, before its first step.

    config (Config): For Thinc or for spaCy, without variables.
    gpu_id (int): Which GPU; -1 for the CPU.
    RETURNS (tuple[Model | Language, Optimizer]): The model or pipeline, initialized, and
        the optimizer.
    """
    if not is_spacy_config(config):
        training = Trainer.from_config(config)
        return training.model, training.optimizer
    check_spacy()
    from spacy.training.initialize import init_nlp
    from spacy.util import registry

    config = config.copy()
    take_batch_norm_batches(config)
    nlp = init_nlp(config, use_gpu=gpu_id)
    resolved = registry.resolve({"optimizer": optimizer_section(config)["optimizer"]})
    return nlp, resolved["optimizer"]


def check_spacy() -> None:
    if importlib.util.find_spec("spacy") is None:
        raise ImportError("The config is for spaCy, which is not installed: pip install spacy")


def take_batch_norm_batches(config: Config) -> int:
    """Remove `batch_norm_batches` from a spaCy config, as spaCy refuses settings in [training]
    that it does not know.

    RETURNS (int): Its value, or the default.
    RAISES: ValueError if it is not an int from 0 on.
    """
    value = config["training"].pop("batch_norm_batches", BATCH_NORM_BATCHES)
    return check_int("batch_norm_batches in [training]", value, minimum=0)
