"""`thinc-swa` and `python -m thinc_swa`."""

import os
import sys


def main() -> None:
    _open_standard_streams()
    try:
        from .cli import main as run
    except ImportError as error:
        # Named, so that what is missing inside of a library is not taken for this.
        if error.name not in ("typer", "rich"):
            raise
        sys.exit('The command line needs more packages: pip install "thinc-swa[cli]"')
    run(sys.argv[1:])


def _open_standard_streams() -> None:
    """Replace standard streams that were closed (`>&-`) by the null device. Python has None for
    them, and the next file to be opened would get their descriptor and what is printed."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free descriptor, which is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            mode = "r" if descriptor == 0 else "w"
            setattr(sys, name, open(descriptor, mode, closefd=False, encoding="utf8"))


if __name__ == "__main__":
    main()
