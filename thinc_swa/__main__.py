"""`thinc-swa` and `python -m thinc_swa`."""

import sys
from collections.abc import Sequence

from .startup import EXIT_CODE, raise_on_interrupt


def main(arguments: Sequence[str] | None = None, prog_name: str = "thinc-swa") -> None:
    """Run a command, and exit.

    arguments (Sequence[str] | None): Command-line arguments without the name of the program. If
        None, those of this process.
    prog_name (str): The name of the program, for help and errors.
    """
    try:
        from .cli.main import main as run
    except ImportError as error:
        # Other names are missing dependencies of a library.
        if (error.name or "").partition(".")[0] not in ("filelock", "rich", "typer"):
            raise
        sys.exit('The command line needs more packages: pip install "thinc-swa[cli]"')
    try:
        raise_on_interrupt()
        run(sys.argv[1:] if arguments is None else arguments, prog_name)
    except KeyboardInterrupt:
        sys.exit(EXIT_CODE)


if __name__ == "__main__":
    main()
