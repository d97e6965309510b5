"""`thinc-swa params`."""

import math
from collections.abc import Sequence
from pathlib import Path

import typer

from ..errors import naming_config
from ..param_groups.summary import ParameterSummary, parameter_summary
from ..training.configs import make_model, optimizer_section, prepare_process, read_config
from .options import CodeT, ConfigT, DebugT, GpuT
from .overrides import config_and_overrides


def params(
    context: typer.Context,
    config: ConfigT,
    code: CodeT = None,
    gpu_id: GpuT = -1,
    debug: DebugT = False,
) -> None:
    """List the parameters of a model, with their parameter groups.

    The config is for Thinc or for spaCy. The model is initialized, which needs the training
    data. ParamGroups.v1 selects parameters by the paths in the list. To override settings, use
    options such as --paths.train corpus/train.spacy.
    """
    name, overrides = config_and_overrides(config, context.args)
    path = Path(name)
    settings = read_config(path, overrides)
    prepare_process(gpu_id, code)
    with naming_config(path):
        optimizer_section(settings)
        model, optimizer = make_model(settings.interpolate(), gpu_id=gpu_id)
        try:
            rows = parameter_summary(model, optimizer)
        except ValueError as error:
            # A group selects nothing: list the paths that it could select.
            _print_parameters(parameter_summary(model))
            raise ValueError(str(error).partition(" The model has")[0]) from error
    _print_parameters(rows)


def _print_parameters(rows: Sequence[ParameterSummary]) -> None:
    # Long paths are not truncated, so that they can be copied.
    cells = [("learning rate", "group", "settings", "shape", "path")]
    for row in rows:
        scale = "frozen" if row.frozen else f"{row.lr_scale:.4g} x"
        settings = ", ".join(f"{name} = {value}" for name, value in row.settings.items())
        shape = " x ".join(str(n) for n in row.shape)
        cells.append((scale, row.group or "-", settings or "-", shape, row.path))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        parts = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(parts).rstrip())
    n_weights = sum(math.prod(row.shape) for row in rows)
    n_frozen = sum(math.prod(row.shape) for row in rows if row.frozen)
    typer.echo(f"{len(rows)} parameters, {n_weights:,} weights, {n_frozen:,} of them frozen.")
