"""What is compared: configs with names, or one config with several optimizers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinc.api import Config

from ..errors import describe_error, naming_config
from ..escaping import printable
from ..training.configs import (
    is_spacy_config,
    optimizer_section,
    read_config,
    score_of,
    with_seed,
)


@dataclass(frozen=True)
class Entry:
    """Something to compare: a config under a name."""

    name: str
    config: Config


def read_entries(
    configs: Sequence[Path], optimizers: Sequence[Path], overrides: dict[str, Any]
) -> list[Entry]:
    """What is to be compared.

    configs (Sequence[Path]): Config files, for Thinc or for spaCy.
    optimizers (Sequence[Path]): Files with an [optimizer] or [training.optimizer] each. The
        one config that is given then stands for itself, and once more with each of them.
    overrides (dict[str, Any]): Settings to change in all configs: {"training.max_steps": 100}.
    RAISES: OSError if a file cannot be read; ValueError if it is no config, or if the configs
        do not belong together.
    """
    if optimizers and len(configs) != 1:
        raise ValueError(
            f"Optimizers from other files need one config to go into, but got {len(configs)}"
        )
    for name in overrides if optimizers else ():
        if name.startswith(("optimizer.", "training.optimizer.")):
            raise ValueError(
                f"{name} would be changed in {configs[0]} alone, and not in the optimizers "
                "that replace its own: change it in the files"
            )
    entries = []
    for name, path in _names(configs):
        config = read_config(path, overrides)
        _check_entry(config, path)
        entries.append(Entry(name, config))
    for name, path in _names(optimizers):
        config = entries[0].config.copy()
        optimizer_section(config)["optimizer"] = _read_optimizer(path)
        _check_entry(config, path)
        entries.append(Entry(name if name != entries[0].name else f"{name}-2", config))
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Every entry needs a name of its own, but two have the name {name}"
            )
    first = _kind(entries[0])
    for entry, path in zip(entries, [*configs, *optimizers], strict=True):
        if _kind(entry) != first:
            raise ValueError(
                f"Configs with different scores cannot be compared: {path} is for "
                f"{_kind(entry)}, {configs[0]} for {first}"
            )
    return entries


def _kind(entry: Entry) -> str:
    library = "spaCy" if is_spacy_config(entry.config) else "Thinc"
    return f"{library} with the score {score_of(entry.config)!r}"


def _check_entry(config: Config, path: Path) -> None:
    """RAISES: ValueError that names the file if no run can be made of the config."""
    with naming_config(path):
        optimizer_section(config)
        with_seed(config, 0)


def _read_optimizer(path: Path) -> Any:
    """Only the optimizer of a file matters, in either place."""
    try:
        text = path.read_text(encoding="utf8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8") from error
    if "[training.optimizer]" in text and "[training]" not in text:
        # As it is copied from a config of spaCy. No section can be without the one around it.
        text = f"[training]\n{text}"
    try:
        config = Config().from_str(text, interpolate=False)
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {describe_error(error)}") from error
    for section in (config, config.get("training", {})):
        if "optimizer" in section:
            return section["optimizer"]
    raise ValueError(f"{path} has no section [optimizer] or [training.optimizer]")


def _names(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """The paths with names: as many of the folders around them as make the names differ."""
    for path in paths:
        parts = _parts(path)
        others = [_parts(other) for other in paths]
        longest = max(len(other) for other in others)
        lengths = (
            n
            for n in range(1, longest + 1)
            if sum(other[-n:] == parts[-n:] for other in others) == 1
        )
        # A file that is given twice is refused under this name.
        yield printable("-".join(parts[-next(lengths, 2) :])), path


def _parts(path: Path) -> list[str]:
    """Without suffix and root."""
    if path.name:  # The current folder has none.
        path = path.with_suffix("")
    return [part for part in path.parts if part != path.anchor]
