"""Config files for Thinc and for spaCy."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thinc.api import Config, Optimizer

from ..errors import describe_error, naming_config
from ..validation import check_int
from .trainer import Trainer

# Section of a spaCy config with the settings of this package.
SECTION = "thinc_swa"


def is_spacy_config(config: Config) -> bool:
    """Whether a config is for spaCy rather than for `Trainer`."""
    return "nlp" in config


def optimizer_section(config: Config) -> dict[str, Any]:
    """Section that has the optimizer under "optimizer".

    RAISES: ValueError if there is no such section.
    """
    section = config.get("training", {}) if is_spacy_config(config) else config
    if "optimizer" not in section:
        name = "[training.optimizer]" if is_spacy_config(config) else "[optimizer]"
        raise ValueError(f"The config has no section {name}")
    found: dict[str, Any] = section
    return found


def read_config(path: Path, overrides: dict[str, Any]) -> Config:
    """Read a config file. Variables are not interpolated.

    overrides (dict[str, Any]): Settings to change: {"training.max_steps": 100}.
    RAISES: OSError if it cannot be read; ValueError that names the file if it is not a config.
    """
    text = read_text(path)
    with naming_config(path):
        return Config().from_str(text, overrides=overrides, interpolate=False)


def read_text(path: Path) -> str:
    """Read a text file.

    RAISES: OSError if it cannot be read; ValueError that names the file if it is not in UTF-8.
    """
    try:
        return path.read_text(encoding="utf8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8") from error


def with_seed(config: Config, i: int) -> Config:
    """Config with its own seed plus `i`, interpolated.

    i (int): Seed index.
    RAISES: ValueError if a variable cannot be interpolated, or the seed is not an int.
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
    # After the change: other settings may refer to the seed.
    return config.interpolate()


def score_of(config: Config) -> str:
    """Kind of score of a config, "accuracy" or "loss". spaCy's scores are from 0 to 1, like
    accuracies."""
    if is_spacy_config(config):
        return "accuracy"
    return str(config.get("training", {}).get("score", "accuracy"))


def prepare_process(gpu_id: int, code: Path | None) -> None:
    """Select the device, and import the user's code.

    gpu_id (int): GPU id; -1 for the CPU.
    code (Path | None): A Python file.
    RAISES: ValueError if there is no such GPU; OSError if the file cannot be read; errors of
        the code.
    """
    if gpu_id >= 0:
        from thinc.api import require_gpu

        require_gpu(gpu_id)
    if code is not None:
        import_code(code)


def import_code(path: Path) -> None:
    """Import a Python file that registers functions."""
    # A name that does not hide another module.
    name = "thinc_swa_user_code"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"Not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def make_model(config: Config, *, gpu_id: int = -1) -> tuple[Any, Optimizer]:
    """Make the model and the optimizer of a config.

    config (Config): For Thinc or for spaCy, interpolated.
    gpu_id (int): GPU id; -1 for the CPU.
    RETURNS (tuple[Model | Language, Optimizer]): The initialized model or pipeline, and the
        optimizer.
    """
    if not is_spacy_config(config):
        trainer = Trainer.from_config(config)
        return trainer.model, trainer.optimizer
    check_spacy()
    from spacy.training.initialize import init_nlp
    from spacy.util import registry

    nlp = init_nlp(config, use_gpu=gpu_id)
    resolved = registry.resolve({"optimizer": optimizer_section(config)["optimizer"]})
    return nlp, resolved["optimizer"]


def nested_optimizers(config: Config) -> Iterator[dict[str, Any]]:
    """Sections of the optimizers of a config, outermost first.

    RAISES: ValueError as `optimizer_section`.
    """
    section: Any = optimizer_section(config)
    while isinstance(section := section.get("optimizer"), dict):
        yield section


def check_spacy() -> None:
    """RAISES: ImportError if spaCy is not installed."""
    if importlib.util.find_spec("spacy") is None:
        raise ImportError("The config needs spaCy, which is not installed: pip install spacy")


def spacy_settings(config: Config) -> dict[str, Any]:
    """The section [thinc_swa] of a spaCy config, interpolated. It is a section of its own,
    because spaCy rejects unknown settings in [training] and ignores other sections.

    config (Config): For spaCy.
    RAISES: ValueError if the section has unknown settings, or if they are in [training].
    """
    known = ["batch_norm_batches", "phases"]
    for name in known:
        if name in config.get("training", {}):
            raise ValueError(
                f"{name} is in [training], but belongs in the section [{SECTION}] of a spaCy "
                "config"
            )
    section: dict[str, Any] = config.interpolate().get(SECTION, {})
    unknown = [name for name in section if name not in known]
    if unknown:
        raise ValueError(f"[{SECTION}] has the unknown settings {unknown}: there are {known}")
    return section


def spacy_batch_norm_batches(config: Config, default: int = 0) -> int:
    """`batch_norm_batches` of a spaCy config: the number of training batches for the BatchNorm
    statistics of averages.

    config (Config): For spaCy.
    default (int): The value without this setting.
    RAISES: ValueError if it is not an int >= 0, or as for `spacy_settings`.
    """
    value = spacy_settings(config).get("batch_norm_batches", default)
    return check_int(f"batch_norm_batches in [{SECTION}]", value, minimum=0)
