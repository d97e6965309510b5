"""Entries of a comparison: configs with names, or one config with several optimizers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinc.api import Config

from ..errors import naming_config
from ..escaping import printable
from ..training.configs import (
    is_spacy_config,
    optimizer_section,
    read_config,
    read_text,
    score_of,
    with_seed,
)


@dataclass(frozen=True)
class Entry:
    """Entry of a comparison.

    name (str): Name in the results.
    config (Config): The config, not interpolated.
    """

    name: str
    config: Config


def read_entries(
    configs: Sequence[Path], optimizers: Sequence[Path], overrides: dict[str, Any]
) -> list[Entry]:
    """Read the entries of a comparison.

    configs (Sequence[Path]): Config files, all for Thinc or all for spaCy.
    optimizers (Sequence[Path]): Files with a section [optimizer] or [training.optimizer]. There
        must be one config then: the entries are this config, and its copies with each of the
        optimizers.
    overrides (dict[str, Any]): Settings to change in all configs: {"training.max_steps": 100}.
    RETURNS (list[Entry]): The entries, the baseline first.
    RAISES: OSError if a file cannot be read; ValueError if it is not a config, or if the
        configs have different scores or the same name.
    """
    if optimizers and len(configs) != 1:
        raise ValueError(
            f"Optimizers from other files need exactly one config, but got {len(configs)}"
        )
    for name in overrides if optimizers else ():
        if name.startswith(("optimizer.", "training.optimizer.")):
            raise ValueError(
                f"{name} would change only the optimizer of {configs[0]}, not those of the "
                "other files: change it in the files"
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
            raise ValueError(f"Entries must have different names, but two have the name {name}")
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
    """RAISES: ValueError that names the file if the config cannot be trained."""
    with naming_config(path):
        optimizer_section(config)
        with_seed(config, 0)


def _read_optimizer(path: Path) -> Any:
    """Section of the optimizer in a file. The other sections are ignored."""
    text = read_text(path)
    if "[training.optimizer]" in text and "[training]" not in text:
        # Copied from a config of spaCy: the parser requires the parent section.
        text = f"[training]\n{text}"
    with naming_config(path):
        config = Config().from_str(text, interpolate=False)
    for section in (config, config.get("training", {})):
        if "optimizer" in section:
            return section["optimizer"]
    raise ValueError(f"{path} has no section [optimizer] or [training.optimizer]")


def _names(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Names and paths of files. A name has as many parent folders as make it unique."""
    for path in paths:
        parts = _parts(path)
        others = [_parts(other) for other in paths]
        longest = max(len(other) for other in others)
        lengths = (
            n
            for n in range(1, longest + 1)
            if sum(other[-n:] == parts[-n:] for other in others) == 1
        )
        # The default is for a file that is given twice, which is an error under this name.
        yield printable("-".join(parts[-next(lengths, 2) :])), path


def _parts(path: Path) -> list[str]:
    """Parts of a path without suffix and root."""
    if path.name:  # The current folder has no name.
        path = path.with_suffix("")
    return [part for part in path.parts if part != path.anchor]
