"""``casbank undelete``: bring back what was removed or replaced."""

import click

from casbank.cli.console import Console
from casbank.cli.described import described
from casbank.cli.opening import open_bank
from casbank.cli.sizes import human_bytes
from casbank.cli.verb import verb


@click.command()
@click.argument("bank")
@click.argument("name")
@click.option(
    "--version",
    type=click.IntRange(min=1),
    metavar="N",
    help="This version, of those that 'casbank ls --deleted' shows, not the last one.",
)
@verb
def command(console: Console, bank: str, name: str, version: int | None) -> None:
    """Bring back what was removed from NAME last, or replaced there: its content and its metadata, no data is copied.

    What is there now is replaced, and can be brought back in turn. Exit code 3 if there is no such version, or a
    collection has freed it.
    """
    with open_bank(console, bank) as opened:
        info = opened.undelete(name, version)
    if console.json:
        console.document(described(info))
    else:
        console.say(f"brought back {name}, {human_bytes(info.size)}, as version {info.version}")
