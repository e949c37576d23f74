"""``casbank rm``: remove objects."""

from itertools import islice

import click

from casbank import limits
from casbank.bank import Bank
from casbank.cli.console import Console
from casbank.cli.opening import open_bank
from casbank.cli.sizes import human_count
from casbank.cli.verb import verb
from casbank.errors import ErrorKind, NotFoundError


@click.command()
@click.argument("bank")
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--recursive", "prefix", metavar="PREFIX", help="Remove every object whose name begins with PREFIX.")
@verb
def command(console: Console, bank: str, names: tuple[str, ...], prefix: str | None) -> None:
    """Remove the objects NAME, or all that begin with PREFIX ("" is all there are; end a folder's name with "/").

    Names that are absent are named. Exit code 3 if nothing was removed, 11 if some were.
    """
    if (prefix is None) == (not names):
        raise click.UsageError("Give either NAMEs or --recursive PREFIX.")
    with open_bank(console, bank) as opened:
        removed = _remove_names(opened, names, console) if prefix is None else _remove_tree(opened, prefix)
    if console.json:
        console.document({"removed": removed, "failures": console.failures})
    elif prefix is not None:
        console.say(f"removed {human_count(removed, 'object')}")


def _remove_names(bank: Bank, names: tuple[str, ...], console: Console) -> int:
    present = [name for name in dict.fromkeys(names) if name in bank]
    if not present:
        raise NotFoundError("no such object", kind=ErrorKind.NO_OBJECT, name=", ".join(names))
    with bank.batch() as batch:
        for name in present:
            # Absent by now is as good as removed.
            batch.delete(name, missing_ok=True)
    for name in dict.fromkeys(names):
        if name not in present:
            console.failed(name, "no such object")
    return len(present)


def _remove_tree(bank: Bank, prefix: str) -> int:
    names = (info.name for info in bank.list(prefix))
    removed = 0
    while group := list(islice(names, limits.RECURSIVE_BATCH_OBJECTS)):
        with bank.batch() as batch:
            for name in group:
                batch.delete(name, missing_ok=True)
        removed += len(group)
    if prefix and not removed:
        raise NotFoundError("no object's name begins so", kind=ErrorKind.NO_OBJECT, prefix=prefix)
    return removed
