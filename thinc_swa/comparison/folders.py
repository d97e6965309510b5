"""Output folders of comparisons. Only what carries a marker of this package is deleted."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..training.logs import read_log
from .run_worker import LOG

# In every folder that a comparison has made for a run. Nothing else is ever deleted.
MARKER = ".thinc-swa-run"

# In the output folder of a comparison, whose results may be written again.
OUTPUT_MARKER = ".thinc-swa-comparison"


def check_folder(folder: Path) -> None:
    """RAISES: FileExistsError if there is anything in the place of a run that no comparison
    has made."""
    if os.path.lexists(folder) and not _is_ours(folder):
        raise FileExistsError(
            f"{folder} was not made by thinc-swa, so it is not deleted: move it away, or "
            "choose another output folder"
        )


def _is_ours(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    if (folder / MARKER).is_file() or not any(folder.iterdir()):
        return True
    # Earlier versions left no marker.
    try:
        first = next(read_log(folder / LOG), None)
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and first.keys() == {"type", "fingerprint"}


def mark_output(output: Path, names: Sequence[str]) -> None:
    """Mark an existing folder as the output of a comparison.

    names (Sequence[str]): Files that the comparison is going to write to it.
    RAISES: FileExistsError if there are such files already and no comparison has been there;
        OSError if the folder cannot be written to.
    """
    marker = output / OUTPUT_MARKER
    # Earlier versions marked only the folders of the runs.
    is_ours = marker.is_file() or any((output / "runs").glob(f"*/*/{MARKER}"))
    present = [name for name in names if os.path.lexists(output / name)]
    if present and not is_ours:
        raise FileExistsError(
            f"There is {', '.join(present)} in {output}, which no comparison has written and "
            "this one would overwrite: move it away, or choose another output folder"
        )
    marker.touch()


def prepare_folder(folder: Path) -> None:
    """Make the folder of a run, or delete what an earlier one has left in it. The marker is
    there from the first moment to the last."""
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
