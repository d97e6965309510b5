"""`thinc-swa report`, and the reports of other commands."""

from pathlib import Path
from typing import Annotated

import typer

from ..report.collection import collect
from ..report.page import check_path, has_plotly, write_report
from ..training.output_folder import REPORT
from .errors import print_error
from .options import DebugT

FoldersT = Annotated[
    list[Path],
    typer.Argument(
        metavar="FOLDERS",
        help="Output directories of `thinc-swa train` and `thinc-swa compare`.",
        show_default=False,
    ),
]
ReportT = Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")]


def report(folders: FoldersT, output: ReportT = Path(REPORT), debug: DebugT = False) -> None:
    """Write a report on trainings and comparisons: one HTML page with interactive plots.

    It has the curves of raw and averaged scores, losses and learning rates, a table of the
    runs, and what differs between their configs. It loads nothing from elsewhere, so it can be
    opened and sent as it is.

    An existing file is only overwritten if it is a report. Needs plotly.
    """
    check_path(output)
    content = collect(folders)
    if content.groups:
        write_report(output, content)
        typer.echo(f"Saved {output}.")
    for line in content.errors:
        print_error(line)
    if content.errors:
        raise typer.Exit(1)


def save_report(folder: Path) -> list[str]:
    """Save the report on an output folder in it, if plotly is installed.

    folder (Path): Output folder of a training or of a comparison.
    RETURNS (list[str]): Names of the files.
    RAISES: ValueError if a log cannot be read, after the report on the other ones is written;
        errors of `write_report`.
    """
    if not has_plotly():
        return []
    content = collect([folder])
    if content.groups:
        write_report(folder / REPORT, content)
    if content.errors:
        raise ValueError(content.errors[0])
    return [REPORT]
