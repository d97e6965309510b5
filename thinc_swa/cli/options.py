"""Arguments and options of the commands."""

from pathlib import Path
from typing import Annotated

import typer

ConfigT = Annotated[
    str, typer.Argument(metavar="CONFIG", help="Config file.", show_default=False)
]
ConfigsT = Annotated[
    list[str], typer.Argument(metavar="CONFIGS", help="Config files.", show_default=False)
]
OptimizersT = Annotated[
    list[Path] | None,
    typer.Option(
        "--optimizers",
        metavar="FILES...",
        help="Files with an optimizer each. The config is trained with its own optimizer and "
        "with each of these.",
        show_default=False,
    ),
]
OutputT = Annotated[
    Path | None, typer.Option("--output", "-o", help="Output directory.", show_default=False)
]
ComparisonOutputT = Annotated[Path, typer.Option("--output", "-o", help="Output directory.")]
ModelOutputT = Annotated[
    Path, typer.Option("--output", "-o", help="Path of the new model.", show_default=False)
]
OverwriteModelT = Annotated[
    bool, typer.Option("--overwrite", help="Overwrite the model at the output path.")
]
DevT = Annotated[
    Path | None,
    typer.Option(
        "--dev", help="Dev data, a .spacy file or a folder of them.", show_default=False
    ),
]
SeedT = Annotated[
    int | None, typer.Option(help="Override the seed in the config.", show_default=False)
]
SeedsT = Annotated[int, typer.Option(min=1, help="Number of seeds per config.")]
JobsT = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of parallel processes; by default 1, with --ray as many as the cluster "
        "has room for.",
        show_default=False,
    ),
]
RayT = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Train on a Ray cluster: auto, HOST:PORT or ray://HOST:PORT.",
        show_default=False,
    ),
]
ResumeT = Annotated[
    bool, typer.Option("--resume", help="Resume the training in the output directory.")
]
OverwriteT = Annotated[
    bool, typer.Option("--overwrite", help="Overwrite the training in the output directory.")
]
RepeatT = Annotated[bool, typer.Option("--overwrite", help="Repeat runs that are complete.")]
SaveAllT = Annotated[
    bool,
    typer.Option(
        "--save-all",
        help="Also save a model with each of the averages, if the optimizer has several.",
    ),
]
NoSharingT = Annotated[
    bool,
    typer.Option(
        "--no-sharing",
        help="Train each config on its own, also if it differs from another one only in "
        "averages.",
    ),
]
WorkersT = Annotated[
    str | None,
    typer.Option(
        metavar="N|MIN:MAX",
        help="Number of workers, for configs with LocalSGD: on this machine, or with --ray on "
        "the cluster. 1:4 takes as many as the cluster has room for, up to 4.",
        show_default=False,
    ),
]
StorageT = Annotated[
    Path | None,
    typer.Option(
        "--storage",
        help="With --ray, a folder that all nodes see: --output is a folder in it.",
        show_default=False,
    ),
]
RestartsT = Annotated[
    int,
    typer.Option(
        "--max-restarts",
        min=0,
        help="With --ray, how often the training is restarted after a worker or a node has "
        "died.",
    ),
]
TimeoutT = Annotated[
    float,
    typer.Option(
        "--worker-timeout",
        min=1.0,
        help="Seconds that a worker waits for another one. Evaluations must take less.",
    ),
]
CodeT = Annotated[
    Path | None,
    typer.Option(
        "--code", "-c", help="Python file with registered functions.", show_default=False
    ),
]
GpuT = Annotated[int, typer.Option("--gpu-id", "-g", help="GPU ID or -1 for CPU.")]
TrustT = Annotated[
    bool,
    typer.Option(
        "--trust-checkpoint",
        help="Load PyTorch layers of a checkpoint even if this can execute code from it.",
    ),
]
VerboseT = Annotated[
    bool, typer.Option("--verbose", "-V", help="Print debug messages of spaCy.")
]
DebugT = Annotated[bool, typer.Option("--debug", help="Print the traceback of errors.")]
