"""Fingerprints of everything that a training depends on besides its settings: data, files, the
user's code and package versions.

Two trainings with the same config are the same only if their fingerprints are equal.
"""

import hashlib
import json
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import numpy
import thinc.compat
from thinc.api import Config, Ragged

from .. import about
from .datasets import Dataset

torch: Any = thinc.compat.torch

# Settings without influence on the result, which may name files that the training writes:
# callbacks, and the logger of a spaCy config.
SKIPPED = ("callbacks", "training.logger")
# Sections in which a name without "/" can be a folder. Elsewhere it mostly is a language, a
# component or a score.
PATH_SECTIONS = ("paths", "corpora", "dataset", "datasets", "initialize")
# Bytes per read.
CHUNK_SIZE = 1 << 20
# Files of this many bytes or more are digested once, as long as size and time are the same.
LARGE = 1 << 20
DIGEST = "sha256:"
# The type of packages among modules, which `modulefinder` does not export.
PACKAGE = 5


@dataclass(frozen=True)
class TrainingFingerprint:
    """Everything that decides the result of a training.

    settings (dict[str, str]): Settings of the config by name, as JSON.
    inputs (dict[str, str]): Files, code and data: see `describe_files`, `describe_code` and
        `describe_dataset`.
    packages (dict[str, str]): See `describe_packages`.
    """

    settings: dict[str, str]
    inputs: dict[str, str]
    packages: dict[str, str]


def describe_inputs(
    config: Config, *, code: Path | None = None, output: Path | None = None
) -> dict[str, str]:
    """Fingerprint everything that a config depends on, without loading the data.

    config (Config): For Thinc or for spaCy.
    code (Path | None): The Python file that registers what the config names.
    output (Path | None): The output folder, which is ignored.
    RETURNS (dict[str, str]): See `describe_files`, `describe_code` and `describe_packages`.
    RAISES: OSError if a file cannot be read.
    """
    return {
        **describe_files(config, output=output),
        **describe_code(code),
        **describe_packages(is_spacy="nlp" in config),
    }


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Describe what differs between two fingerprints.

    RETURNS (list[str]): One phrase per difference; empty if they are equal.
    """
    found = []
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if old is None:
            found.append(f"{name} was absent and is {_shorten(new)} now")
        elif new is None:
            found.append(f"{name} was {_shorten(old)} and is absent now")
        elif DIGEST in old and _without_digest(old) == _without_digest(new):
            found.append(f"the content of {name} has changed")
        else:
            found.append(f"{name} was {_shorten(old)} and is {_shorten(new)} now")
    return found


def _without_digest(value: str) -> str:
    return re.sub(rf"{DIGEST}\w+", DIGEST, value)


def _shorten(value: str | None) -> str:
    return re.sub(rf"({DIGEST}\w{{8}})\w+", r"\1…", str(value))


# Settings


def describe_settings(config: Config, *, skip: tuple[str, ...] = SKIPPED) -> dict[str, str]:
    """Settings of a config by name.

    config (Config): Without variables.
    skip (tuple[str, ...]): Sections and settings to leave out, with everything in them.
    RETURNS (dict[str, str]): The values as JSON: {"training.batch_size": "8"}.
    """
    return {
        name: json.dumps(value, default=lambda value: type(value).__qualname__)
        for name, value in _settings(config, "")
        if not _is_skipped(name, skip)
    }


def _settings(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and (value or not name):
        for key, item in value.items():
            yield from _settings(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, list(value) if isinstance(value, tuple) else value


def _is_skipped(name: str, skip: tuple[str, ...]) -> bool:
    return any(name == skipped or name.startswith(f"{skipped}.") for skipped in skip)


# Files


def describe_files(
    config: Config, *, skip: tuple[str, ...] = SKIPPED, output: Path | None = None
) -> dict[str, str]:
    """Fingerprint the files and folders that a config names.

    A setting is a path if a file or folder of this name exists. A folder without a separator in
    its name is included only in the sections `PATH_SECTIONS`, or if it contains .spacy files (a
    corpus) or is a saved pipeline (vectors, sourced components). Relative paths are relative to
    the current folder. All files of a folder are included, except for hidden ones and those in
    __pycache__.

    config (Config): Need not be interpolated: paths in variables are found where they are
        defined.
    skip (tuple[str, ...]): Sections and settings to leave out, with everything in them.
    output (Path | None): A folder to leave out, also inside others.
    RETURNS (dict[str, str]): Digest of the content by name of the setting:
        {"paths.train": "sha256:…"}.
    """
    found: dict[str, str] = {}
    known: dict[tuple[str, bool], str | None] = {}
    for name, value in _strings(config, ""):
        if _is_skipped(name, skip):
            continue
        is_path = "/" in value or os.sep in value or _is_skipped(name, PATH_SECTIONS)
        if (value, is_path) not in known:
            known[value, is_path] = _digest_path(value, is_path, output)
        content = known[value, is_path]
        if content is not None:
            found[name] = content
    return found


def _strings(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Strings in a section with their names: "section.setting", "section.setting.0"."""
    items: Any = ()
    if isinstance(value, (str, Path)):
        yield name, str(value)
    elif isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, item in items:
        yield from _strings(item, f"{name}.{key}" if name else str(key))


def _digest_path(value: str, is_path: bool, output: Path | None) -> str | None:
    """Digest the file or folder that a setting names.

    is_path (bool): Whether a folder of this name is certainly meant.
    RETURNS (str | None): None if the setting names no file and no such folder.
    """
    # Punctuation is a setting of tokenizers and the like, but "." and "/" are folders too.
    if not re.search(r"\w", value):
        return None
    path = Path(value)
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError):  # Too long for a path, or with a null character.
        return None
    if is_file:
        return digest_file(path)
    if not is_folder:
        return None
    is_pipeline = (path / "config.cfg").is_file() and (path / "meta.json").is_file()
    files = list(_walk(path, output))
    if not files or not (
        is_path or is_pipeline or any(file.suffix == ".spacy" for file in files)
    ):
        return None
    content = hashlib.sha256()
    for file in files:
        content.update(f"{file.relative_to(path).as_posix()}\n{digest_file(file)}\n".encode())
    return DIGEST + content.hexdigest()


def _walk(folder: Path, output: Path | None) -> Iterator[Path]:
    """Files in a folder and its subfolders in a fixed order, without hidden ones and those of
    the output folder. Links are followed, as spaCy's readers do."""
    seen = set() if output is None else {os.path.realpath(output)}
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # Importing a module writes to __pycache__.
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name != "__pycache__"
        )
        for name in sorted(names):
            # Reading a named pipe could block for ever.
            if not name.startswith(".") and os.path.isfile(os.path.join(root, name)):
                yield Path(root) / name


def digest_file(path: Path) -> str:
    """Digest the content of a file. A large file is read again in the same process only if its
    size or modification time has changed.

    RETURNS (str): "sha256:…".
    RAISES: OSError if it cannot be read.
    """
    status = path.stat()
    if status.st_size < LARGE:
        return _read_digest(path)
    return _digest_large(path.resolve(), status.st_size, status.st_mtime_ns)


@cache
def _digest_large(path: Path, size: int, time: int) -> str:
    return _read_digest(path)


def _read_digest(path: Path) -> str:
    content = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_SIZE))
    with path.open("rb", buffering=0) as file:
        while n_bytes := file.readinto(buffer):
            content.update(buffer[:n_bytes])
    return DIGEST + content.hexdigest()


# Code


def describe_code(code: Path | None) -> dict[str, str]:
    """Fingerprint the file that `--code` names and the local modules that it imports, directly
    or not: modules on the module path or beside the file that neither belong to the standard
    library nor are installed in site-packages. They are found by import statements, also those
    in functions, without executing anything.

    RETURNS (dict[str, str]): {"code": "sha256:…", "module helper": "sha256:…"}; empty without a
        file.
    RAISES: OSError if a file cannot be read.
    """
    if code is None:
        return {}
    found = {"code": digest_file(code)}
    finder = _LocalModuleFinder([*_local_paths(), str(code.parent)], excludes=["thinc_swa"])
    try:
        finder.run_script(str(code))
    except Exception:
        # Invalid Python, for example: importing the file raises an error that says so.
        pass
    for name, module in sorted(finder.modules.items()):
        path: str | None = getattr(module, "__file__", None)
        if name != "__main__" and path is not None and os.path.isfile(path):
            found[f"module {name}"] = digest_file(Path(path))
    return found


def _local_paths() -> list[str]:
    """Folders of the module path without those of the standard library and of installed
    packages."""
    library = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    return [
        folder
        for folder in sys.path
        if not {"site-packages", "dist-packages"} & set(Path(folder).parts)
        and not any(Path(folder).is_relative_to(path) for path in library)
    ]


class _LocalModuleFinder(ModuleFinder):
    """Module finder that supports namespace packages, which that of the standard library does
    not."""

    def find_module(self, name: str, path: Any, parent: Any = None) -> Any:
        spec = None
        if name != "__init__":
            spec = PathFinder.find_spec(name, self.path if path is None else path)
        if spec is not None and spec.origin is None and spec.submodule_search_locations:
            return None, list(spec.submodule_search_locations)[0], ("", "", PACKAGE)
        return super().find_module(name, path, parent)

    def load_package(self, fqname: str, pathname: str) -> Any:
        try:
            return super().load_package(fqname, pathname)
        except ImportError:
            return self.modules[fqname]


def describe_packages(*, is_spacy: bool = False) -> dict[str, str]:
    """Versions of the packages that a training uses.

    is_spacy (bool): Whether it uses spaCy.
    RETURNS (dict[str, str]): {"thinc-swa": "0.3.0", "thinc": "8.3.14", …}, with PyTorch if it
        is installed.
    """
    found = {"thinc-swa": about.__version__}
    for name in ("thinc", "numpy", "torch", *(["spacy"] if is_spacy else [])):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    return found


def describe_spacy(config: Config) -> dict[str, str]:
    """Versions of spaCy and of the installed pipelines that a spaCy config names, for vectors
    or as the source of components.

    config (Config): A spaCy config, without variables.
    RETURNS (dict[str, str]): {"spaCy": "3.8.18", "package en_core_web_sm": "3.8.0"}.
    """
    found = {"spaCy": version("spacy")}
    names = [component.get("source") for component in config.get("components", {}).values()]
    names.append(config.get("initialize", {}).get("vectors"))
    for name in sorted({name for name in names if isinstance(name, str)}):
        try:
            found[f"package {name}"] = version(name)
        except (PackageNotFoundError, ValueError):  # A folder.
            pass
    return found


# Data in memory


def describe_dataset(dataset: Dataset) -> dict[str, str]:
    """Fingerprint a loaded dataset.

    dataset (Dataset): ((train_X, train_Y), (dev_X, dev_Y)).
    RETURNS (dict[str, str]): Number of rows and digest of the content of each part:
        {"train_X": "500 rows, sha256:…"}. A part with objects that `digest` does not support
        has the number of rows and the type.
    """
    (train_X, train_Y), (dev_X, dev_Y) = dataset
    parts = {"train_X": train_X, "train_Y": train_Y, "dev_X": dev_X, "dev_Y": dev_Y}
    found = {}
    for name, part in parts.items():
        content = digest(part) or f"a {type(part).__name__} whose content is not compared"
        found[name] = f"{len(part)} rows, {content}"
    return found


def is_exact(description: Mapping[str, str]) -> bool:
    """Whether a description by `describe_dataset` covers the whole content."""
    return all(DIGEST in value for value in description.values())


def digest(value: Any) -> str | None:
    """Digest the content of a value. The digest is the same in every process.

    value (Any): Numbers, strings, paths, NumPy and CuPy arrays, PyTorch tensors, Thinc's
        `Ragged` and `Padded` and other dataclasses, and lists, tuples, dicts and sets of these.
    RETURNS (str | None): "sha256:…"; None if it contains any other object.
    """
    content = hashlib.sha256()
    try:
        _update(content, value)
    except _NoDigest:
        return None
    return DIGEST + content.hexdigest()


class _NoDigest(Exception):
    """A value contains an object without a stable digest."""


def _update(content: Any, value: Any) -> None:
    """Feed a value to a hash, type and size first, so that the input is unambiguous."""
    if value is None or isinstance(value, (bool, int, float, complex)):
        _update_text(content, type(value).__name__, repr(value))
    elif isinstance(value, str):
        _update_text(content, "str", value)
    elif isinstance(value, Path):
        _update_text(content, "path", str(value))
    elif isinstance(value, (bytes, bytearray)):
        _start(content, "bytes", len(value))
        content.update(value)
    elif isinstance(value, (numpy.ndarray, numpy.generic)):
        _update_array(content, numpy.asarray(value))
    elif type(value).__module__.partition(".")[0] == "cupy" and hasattr(value, "get"):
        _update_array(content, value.get())
    elif torch is not None and isinstance(value, torch.Tensor):
        _update_tensor(content, value)
    elif isinstance(value, (list, tuple)):
        _start(content, type(value).__name__, len(value))
        for item in value:
            _update(content, item)
    elif isinstance(value, dict):
        _start(content, "dict", len(value))
        for item in value.items():
            _update(content, item)
    elif isinstance(value, (set, frozenset)):
        _start(content, "set", len(value))
        digests = [digest(item) for item in value]
        if None in digests:
            raise _NoDigest
        _update(content, sorted(str(found) for found in digests))
    elif isinstance(value, Ragged):
        # One of its other fields is a cache.
        _start(content, "Ragged", len(value))
        _update(content, (value.data_shape, value.data, value.lengths))
    elif is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value)]
        _start(content, type(value).__qualname__, len(names))
        for name in names:
            _update(content, (name, getattr(value, name)))
    else:
        raise _NoDigest


def _start(content: Any, kind: str, size: Any) -> None:
    content.update(f"{kind} {size}\n".encode())


def _update_text(content: Any, kind: str, text: str) -> None:
    data = text.encode("utf8", "surrogatepass")
    _start(content, kind, len(data))
    content.update(data)


def _update_array(content: Any, array: Any) -> None:
    _start(content, f"array {array.dtype.str}", array.shape)
    if array.dtype.hasobject:
        _update(content, array.ravel().tolist())
    elif array.size:
        # Copies only arrays that are not contiguous.
        content.update(numpy.ascontiguousarray(array).reshape(-1).view("u1").data)


def _update_tensor(content: Any, tensor: Any) -> None:
    if tensor.layout is not torch.strided:
        raise _NoDigest
    _start(content, f"tensor {tensor.dtype}", tuple(tensor.shape))
    # As bytes: NumPy does not have all types of PyTorch.
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    content.update(data.numpy().data)
