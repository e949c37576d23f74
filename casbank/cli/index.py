"""``casbank index``: the index is a view of the store; it can be made anew, left out, and compared."""

import click

from casbank.bank import Bank
from casbank.cli.console import Console
from casbank.cli.failure import UNCLEAN
from casbank.cli.sizes import human_count
from casbank.cli.verb import verb


@click.group()
def command() -> None:
    """Rebuild, drop or verify the index of a bank. It holds nothing that the store does not."""


@command.command()
@click.argument("bank")
@verb
def rebuild(console: Console, bank: str) -> None:
    """Make the index of BANK anew from the store; others may go on using the bank."""
    with Bank.open(bank, cache_dir=console.cache_dir) as opened:
        opened.rebuild_index()
        objects = len(opened)
    if console.json:
        console.document({"objects": objects})
    else:
        console.say(f"rebuilt the index of {human_count(objects, 'object')}")


@command.command()
@click.argument("bank")
@verb
def drop(console: Console, bank: str) -> None:
    """Remove the index of BANK, which nobody may have open; whoever opens it next makes it anew."""
    Bank.drop_index(bank, cache_dir=console.cache_dir)
    if console.json:
        console.document({"dropped": True})
    else:
        console.say("dropped the index; it is made anew when the bank is opened")


@command.command()
@click.argument("bank")
@verb
def verify(console: Console, bank: str) -> None:
    """Build a second index of BANK from the store, in a temporary folder (TMPDIR), and compare the two row by row.

    Exit code 4 if they differ; 'casbank index rebuild' mends that.
    """
    with Bank.open(bank, read_only=True, cache_dir=console.cache_dir) as opened:
        differences = opened.verify_index()
    if console.json:
        console.document({"clean": not differences, "differences": differences})
    elif not differences:
        console.say("the index is what the store says")
    for difference in differences:
        console.complain(difference)
    if differences:
        click.get_current_context().exit(UNCLEAN)
