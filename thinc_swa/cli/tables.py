"""Tables on the console."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..escaping import for_encoding, printable


def print_table(rows: Sequence[Sequence[str]], console: Console | None = None) -> None:
    """Print a table. All columns but the first are aligned to the right.

    rows (Sequence[Sequence[str]]): The rows, the header first.
    console (Console | None): Where to. By default the standard output.
    """
    console = Console() if console is None else console
    console.print(make_table(rows, console))


def make_table(rows: Sequence[Sequence[str]], console: Console) -> Table:
    """Table for a console. Long cells are wrapped."""
    header, *cells = (
        [Text(for_encoding(printable(text), console.encoding)) for text in row] for row in rows
    )
    table = Table(box=None, pad_edge=False)
    for i, text in enumerate(header):
        table.add_column(text, justify="right" if i else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    return table
