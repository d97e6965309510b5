"""Saved spaCy pipelines: which of their files have weights, and what two of them must have in
common. spaCy is not needed."""

import errno
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
from srsly import msgpack_loads
from thinc.api import Config

from ..errors import describe_error
from .saved_files import is_model_file

CONFIG = "config.cfg"
META = "meta.json"
STRINGS = Path("vocab", "strings.json")
# Of the files beside those of components, such as licences, only these matter.
TOP_FILES = (CONFIG, META, "tokenizer", "vocab")
# What must be equal. The rest, such as the training settings, comes from the first pipeline.
META_FIELDS = ("lang", "pipeline", "components", "labels", "vectors")
CONFIG_SECTIONS = ("nlp", "components")
# Settings of [nlp] that do not change what the weights mean.
FREE_SETTINGS = ("batch_size", "disabled")
# A set of the sentencizer, which is saved in any order.
UNORDERED = "punct_chars"
MAX_TEXT = 60
# Larger files are compared, but not read into memory.
MAX_PARSED = 1 << 26


class SavedPipeline:
    """The folder of a saved pipeline.

    path (Path): The folder.
    RAISES: ValueError if it is not a saved pipeline; OSError if a file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        missing = [name for name in (CONFIG, META) if not (path / name).is_file()]
        if missing:
            raise ValueError(
                f"{path} is not a saved pipeline: it has no {' and no '.join(missing)}"
            )
        self.meta = _read_json(path / META)
        self._config = _read_config(path / CONFIG)
        if not isinstance(self.meta, dict):
            raise ValueError(f"{path} is not a saved pipeline: {META} has no fields")
        # The files that matter, by their paths in the folder.
        self.files = sorted(
            file.relative_to(path)
            for file in path.rglob("*")
            if file.is_file() and self.is_part(file.relative_to(path).parts[0])
        )

    def is_part(self, name: str) -> bool:
        """Whether a file or folder in the folder of the pipeline is a part of the pipeline."""
        components = self.meta.get("components", ())
        # Some components add a suffix: "sentencizer.json".
        return name in (*TOP_FILES, *components) or Path(name).stem in components

    def model_files(self) -> list[Path]:
        """The files of Thinc models, by their paths in the folder."""
        return [file for file in self.files if is_model_file(self.path / file)]

    def strings(self) -> list[str]:
        """The strings of the vocabulary.

        RAISES: ValueError if they cannot be read.
        """
        found = _read_json(self.path / STRINGS) if STRINGS in self.files else []
        if not isinstance(found, list):
            raise ValueError(f"{self.path / STRINGS} is not a list of strings")
        return found

    def differences(self, other: "SavedPipeline") -> Iterator[str]:
        """List in words why another pipeline has no common average with this one, apart from
        the files of Thinc models.

        other (SavedPipeline): The other pipeline.
        RETURNS (Iterator[str]): The differences; nothing if the pipelines fit.
        """
        versions = [_minor_version(pipeline.meta) for pipeline in (self, other)]
        if versions[0] != versions[1]:
            yield f"{META}, spacy_version: {versions[0]} and {versions[1]}"
        for name in META_FIELDS:
            values = self.meta.get(name), other.meta.get(name)
            yield from find_differences(*values, f"{META}, {name}")
        yield from find_differences(self._settings(), other._settings(), CONFIG)
        for first, second in ((self, other), (other, self)):
            for file in first.files:
                if file not in second.files:
                    yield f"only {first.path} has {file.as_posix()}"
        models = set(self.model_files())
        for file in self.files:
            is_special = file in models or file in (Path(CONFIG), Path(META), STRINGS)
            if not is_special and file in other.files:
                yield from _file_differences(file, self.path, other.path)

    def _settings(self) -> dict[str, Any]:
        settings = {name: self._config.get(name, {}) for name in CONFIG_SECTIONS}
        settings["nlp"] = {
            name: value for name, value in settings["nlp"].items() if name not in FREE_SETTINGS
        }
        return settings


def find_model(name: str | Path) -> Path:
    """Find a saved model by its path, or an installed pipeline by the name of its package.

    name (str | Path): The path or the name.
    RETURNS (Path): The path.
    RAISES: FileNotFoundError if there is neither.
    """
    path = Path(name)
    if path.exists():
        return path
    package = _find_package(str(name)) if str(name).isidentifier() else None
    if package is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    meta = _read_json(package / META)
    return package / f"{meta['lang']}_{meta['name']}-{meta['version']}"


def _find_package(name: str) -> Path | None:
    """The folder of an installed package that has a pipeline. It is not imported."""
    spec = importlib.util.find_spec(name)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(folder) / META).is_file():
            return Path(folder)
    return None


def find_differences(first: Any, other: Any, place: str) -> Iterator[str]:
    """List in words where two nested values differ.

    place (str): What the values are.
    """
    first, other = _parse_text(first), _parse_text(other)
    if isinstance(first, dict) and isinstance(other, dict):
        for name in [*first, *(name for name in other if name not in first)]:
            inner = f"{place}, {name}"
            if name not in other:
                yield f"{inner}: only in the first"
            elif name not in first:
                yield f"{inner}: only in the other"
            else:
                yield from find_differences(first[name], other[name], inner)
    elif not _is_equal(first, other):
        yield f"{place}: {_list_difference(first, other) or _pair(first, other)}"


def _parse_text(value: Any) -> Any:
    """The content of a string of JSON, such as the transitions of a parser."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            pass
    return value


def _is_equal(first: Any, other: Any) -> bool:
    if isinstance(first, numpy.ndarray) or isinstance(other, numpy.ndarray):
        return type(first) is type(other) and numpy.array_equal(first, other)
    if isinstance(first, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(first) == len(other) and all(map(_is_equal, first, other))
    if isinstance(first, dict) and isinstance(other, dict):
        return first.keys() == other.keys() and all(
            _is_equal(value, other[name]) for name, value in first.items()
        )
    return bool(first == other) and type(first) is type(other)


def _list_difference(first: Any, other: Any) -> str | None:
    """Which values only one of two lists has, such as labels."""
    if not isinstance(first, list) or not isinstance(other, list):
        return None
    only_first = [value for value in first if value not in other]
    only_other = [value for value in other if value not in first]
    parts = [
        f"{', '.join(map(str, values))} only in the {name}"
        for values, name in ((only_first, "first"), (only_other, "other"))
        if values
    ]
    return _shorten(" and ".join(parts)) if parts else "in another order"


def _pair(first: Any, other: Any) -> str:
    return f"{_shorten(str(first))} and {_shorten(str(other))}"


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _file_differences(file: Path, first: Path, other: Path) -> Iterator[str]:
    name = file.as_posix()
    if is_model_file(other / file):
        yield f"{name} is a model only in the other"
        return
    if _has_same_bytes(first / file, other / file):
        return
    # Tables may be in another order.
    values = [_parse(path / file) for path in (first, other)]
    if values[0] is None or values[1] is None:
        yield f"{name} differs"
    elif not _is_equal(*values):
        found = list(find_differences(values[0], values[1], name))
        # Tables of a vocabulary have many entries.
        yield found[0] if len(found) == 1 else f"{name} differs in {len(found)} places"


def _has_same_bytes(first: Path, other: Path) -> bool:
    if first.stat().st_size != other.stat().st_size:
        return False
    size = 1 << 20
    with first.open("rb") as first_file, other.open("rb") as other_file:
        while chunk := first_file.read(size):
            if chunk != other_file.read(size):
                return False
    return True


def _parse(path: Path) -> Any:
    """The content of a file of JSON or msgpack; None for other and for large files."""
    if path.stat().st_size > MAX_PARSED:
        return None
    data = path.read_bytes()
    try:
        value = json.loads(data)
        if isinstance(value, dict) and UNORDERED in value:
            value[UNORDERED] = sorted(value[UNORDERED])
        return value
    except ValueError:
        pass
    try:
        value = msgpack_loads(data)
    except Exception:
        return None
    return value if isinstance(value, (dict, list)) else None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {describe_error(error)}") from error


def _read_config(path: Path) -> Config:
    try:
        config = Config().from_disk(path, interpolate=False)
    except Exception as error:
        raise ValueError(f"{path} is not a config: {describe_error(error)}") from error
    try:
        return config.interpolate()
    except Exception:
        # A variable of a section that matters only for training has no value any more.
        return config


def _minor_version(meta: dict[str, Any]) -> str:
    """The version of spaCy without that of the patch: "3.8"."""
    text = str(meta.get("spacy_version", "unknown"))
    match = re.search(r"\d+\.\d+", text)
    return match[0] if match else text
