"""Arguments and options of the commands."""

from pathlib import Path
from typing import (
    Annotated,
)

import typer

ConfigT = Annotated[Path, typer.Argument(help="A config file.", show_default=False)]
ConfigsT = Annotated[list[Path], typer.Argument(help="Config files.", show_default=False)]
OptimizersT = Annotated[
    list[Path] | None,
    typer.Option(
        "--optimizers",
        help="Files with an optimizer each, to put into the one config: it is trained as it "
        "is, and with each of these.",
        show_default=False,
    ),
]
OutputT = Annotated[
    Path | None, typer.Option("--output", "-o", help="A folder for all that comes out.")
]
FolderT = Annotated[
    Path, typer.Option("--output", "-o", help="A folder for all that comes out.")
]
SeedT = Annotated[int | None, typer.Option(help="Instead of the config's.")]
SeedsT = Annotated[int, typer.Option(min=1, help="Trainings of each.")]
JobsT = Annotated[int, typer.Option(min=1, help="Trainings at a time.")]
ResumeT = Annotated[
    bool, typer.Option("--resume", help="Resume the training in the output folder.")
]
OverwriteT = Annotated[
    bool, typer.Option("--overwrite", help="Replace the training in the output folder.")
]
AgainT = Annotated[
    bool, typer.Option("--overwrite", help="Train again what is complete in the folder.")
]
CodeT = Annotated[
    Path | None, typer.Option("--code", "-c", help="A Python file with functions of yours.")
]
GpuT = Annotated[int, typer.Option("--gpu-id", "-g", help="Which GPU to use; -1 for the CPU.")]
TrustT = Annotated[
    bool,
    typer.Option(
        "--trust-checkpoint",
        help="Load PyTorch layers of the checkpoint also with a PyTorch that can execute code "
        "from the file.",
    ),
]
DebugT = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
