"""`thinc-swa info`."""

import inspect
import json
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import (
    PackageNotFoundError,
    distribution,
    packages_distributions,
    version,
)
from typing import Any

import typer
from thinc.api import get_current_ops
from thinc.compat import has_cupy_gpu, has_torch_cuda_gpu

from .options import DebugT

DISTRIBUTION = "thinc-swa"

PREFIX = "thinc_swa."
PACKAGES = ("thinc-swa", "thinc", "spacy", "numpy", "torch", "cupy", "safetensors")


def info(debug: DebugT = False) -> None:
    """Show versions, devices, and the registered functions with their arguments."""
    for name, found in [("python", platform.python_version()), *installed_versions()]:
        typer.echo(f"{name:<14}{found or 'not installed'}")
    typer.echo(f"{'ops':<14}{type(get_current_ops()).__name__}")
    gpus = [name for name, is_there in _gpus() if is_there]
    typer.echo(f"{'GPU':<14}{'for ' + ' and '.join(gpus) if gpus else 'none'}")
    for group, names in _registered().items():
        typer.echo(f"\n@{group}")
        for name, function in names:
            typer.echo(f"  {name}")
            for parameter in inspect.signature(function).parameters.values():
                typer.echo(f"      {_describe_parameter(parameter)}")
    typer.echo(f"\nAll names are also registered with the prefix {PREFIX!r}.")


def _gpus() -> list[tuple[str, bool]]:
    return [("CuPy", has_cupy_gpu), ("PyTorch", has_torch_cuda_gpu)]


def _describe_parameter(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return f"{parameter.name} (required)"
    return f"{parameter.name} = {json.dumps(parameter.default)}"


def _registered() -> dict[str, list[tuple[str, Callable[..., Any]]]]:
    """Registered functions by registry and name, without the duplicates whose names begin with
    that of the package."""
    found: dict[str, dict[str, Callable[..., Any]]] = {}
    for entry_point in distribution(DISTRIBUTION).entry_points:
        name = _describe_group(entry_point.group)
        if name is not None:
            found.setdefault(name, {})[entry_point.name] = entry_point.load()
    return {
        group: sorted(
            (
                (name, function)
                for name, function in functions.items()
                if not name.startswith(PREFIX) or name.removeprefix(PREFIX) not in functions
            ),
            key=lambda pair: pair[0],
        )
        for group, functions in found.items()
    }


def _describe_group(group: str) -> str | None:
    """Registry of a group of entry points; None for other entry points."""
    if group.startswith(PREFIX.replace(".", "_")):
        return group.removeprefix(PREFIX.replace(".", "_"))
    owner, _, name = group.partition("_")
    if name == "cli":
        return None
    return {"thinc": name, "spacy": f"{name} of spaCy"}.get(owner)


def installed_versions() -> Iterator[tuple[str, str | None]]:
    """Names and versions of the packages that matter; None for one that is not installed."""
    distributions = packages_distributions()
    for name in PACKAGES:
        try:
            # The distributions of CuPy have other names, such as cupy-cuda12x.
            yield name, version(distributions.get(name, [name])[0])
        except PackageNotFoundError:
            yield name, None
