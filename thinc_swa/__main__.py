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
    """Replace standard streams that are closed (`>&-`) by the null device. Python sets them to
    None, and a file that is opened later would get their descriptor, and with it what libraries
    print."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Takes the lowest free descriptor: this one.
        if getattr(sys, name) is None:
            mode = "r" if descriptor == 0 else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf8"))


if __name__ == "__main__":
    main()
