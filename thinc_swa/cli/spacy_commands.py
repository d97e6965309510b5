"""The commands as `python -m spacy swa ...`, by spaCy's entry point `spacy_cli`.

spaCy imports this module for each of its own commands, so it imports nothing else of the
command line, which may lack packages and takes long.
"""

import typer
from spacy.cli._util import app

from ..__main__ import main


@app.command(  # type: ignore[untyped-decorator, unused-ignore]
    "swa",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    # Its own help and that of its commands.
    add_help_option=False,
)
def swa(context: typer.Context) -> None:
    """Weight averaging for Thinc and spaCy: train, compare and more."""
    main(context.args, prog_name="python -m spacy swa")
