"""Output folders of comparisons. Only folders with a marker of this package are deleted."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..training.logs import read_log
from .run_worker import LOG

# File in every folder that a comparison has made for a run. No other folder is deleted.
MARKER = ".thinc-swa-run"

# File in the output folder of a comparison, whose results may be overwritten.
OUTPUT_MARKER = ".thinc-swa-comparison"


def check_folder(folder: Path) -> None:
    """Check that a run can use a folder.

    RAISES: FileExistsError if the folder exists and no comparison has made it.
    """
    if os.path.lexists(folder) and not _is_ours(folder):
        raise FileExistsError(
            f"{folder} was not made by thinc-swa and is not deleted: move it away, or choose "
            "another output folder"
        )


def _is_ours(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    if (folder / MARKER).is_file() or not any(folder.iterdir()):
        return True
    # Earlier versions wrote no marker.
    try:
        first = next(read_log(folder / LOG), None)
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and first.keys() == {"type", "fingerprint"}


def mark_output(output: Path, names: Sequence[str]) -> None:
    """Mark an existing folder as the output of a comparison.

    names (Sequence[str]): Files that the comparison will write.
    RAISES: FileExistsError if such files exist and no comparison has written them; OSError if
        the folder cannot be written to.
    """
    marker = output / OUTPUT_MARKER
    # Earlier versions marked only the folders of runs.
    is_ours = marker.is_file() or any((output / "runs").glob(f"*/*/{MARKER}"))
    present = [name for name in names if os.path.lexists(output / name)]
    if present and not is_ours:
        raise FileExistsError(
            f"{output} contains {', '.join(present)}, which thinc-swa has not written and "
            "would overwrite: move it away, or choose another output folder"
        )
    marker.touch()


def prepare_folder(folder: Path) -> None:
    """Make the folder of a run, or empty it. The marker is written first and never deleted."""
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    for path in folder.iterdir():
        if path.name == MARKER:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
