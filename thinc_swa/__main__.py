"""`thinc-swa` and `python -m thinc_swa`."""

import sys


def main() -> None:
    try:
        from .cli import main as run
    except ImportError as error:
        # Named, so that what is missing inside of a library is not taken for this.
        if error.name not in ("typer", "rich"):
            raise
        sys.exit('The command line needs more packages: pip install "thinc-swa[cli]"')
    except KeyboardInterrupt:
        sys.exit(130)
    run(sys.argv[1:])


if __name__ == "__main__":
    main()
