"""``casbank cp``: a second name for an object's content."""

import click

from casbank.cli.console import Console
from casbank.cli.described import described
from casbank.cli.opening import open_bank
from casbank.cli.verb import verb


@click.command()
@click.argument("bank")
@click.argument("source")
@click.argument("target")
@verb
def command(console: Console, bank: str, source: str, target: str) -> None:
    """Store the content of the object SOURCE, and its metadata, under TARGET too: no data is copied.

    An object TARGET that is there is replaced.
    """
    with open_bank(console, bank) as opened:
        info = opened.copy(source, target)
    if console.json:
        console.document(described(info))
