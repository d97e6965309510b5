"""`thinc-swa` and `python -m thinc_swa`."""

import sys

from .startup import EXIT_CODE, raise_on_interrupt


def main() -> None:
    try:
        from .cli.main import main as run
    except ImportError as error:
        # Other names are missing dependencies of a library.
        if error.name not in ("typer", "rich"):
            raise
        sys.exit('The command line needs more packages: pip install "thinc-swa[cli]"')
    try:
        raise_on_interrupt()
        run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(EXIT_CODE)


if __name__ == "__main__":
    main()
