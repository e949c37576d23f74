"""``casbank index``: the index is a view of the store; it can be made anew, left out, and compared."""

import click

from casbank.bank import Bank
from casbank.cli.console import Console
from casbank.cli.failure import UNCLEAN
from casbank.cli.opening import open_bank
from casbank.cli.sizes import human_count
from casbank.cli.verb import keyless_verb, verb


@click.group()
def command() -> None:
    """Rebuild, drop or verify the index of a bank. It holds nothing that the store does not."""


@command.command()
@click.argument("bank")
@verb
def rebuild(console: Console, bank: str) -> None:
    """Make the index of BANK anew from the store; others may go on using the bank."""
    with open_bank(console, bank) as opened:
        opened.rebuild_index()
        objects = len(opened)
    if console.json:
        console.document({"objects": objects})
    else:
        console.say(f"rebuilt the index of {human_count(objects, 'object')}")


@command.command()
@click.argument("bank")
@click.option(
    "--forget-head",
    is_flag=True,
    help="Forget too what this client has seen of the bank's history: makes a copy that was restored on purpose "
    "writable.",
)
@keyless_verb
def drop(console: Console, *, bank: str, forget_head: bool) -> None:
    """Remove the index of BANK, which nobody may have open; whoever opens it next makes it anew. No key is needed."""
    Bank.drop_index(bank, forget_head=forget_head, cache_dir=console.cache_dir)
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
    with open_bank(console, bank, read_only=True) as opened:
        differences = opened.verify_index()
    if console.json:
        console.document({"clean": not differences, "differences": differences})
    elif not differences:
        console.say("the index is what the store says")
    for difference in differences:
        console.complain(difference)
    if differences:
        click.get_current_context().exit(UNCLEAN)
