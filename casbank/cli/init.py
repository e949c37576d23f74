"""``casbank init``: create a bank."""

import click

from casbank import limits
from casbank.bank import Bank
from casbank.cli.console import Console
from casbank.cli.info import stats_document
from casbank.cli.verb import verb


def _level(_context: click.Context, _option: click.Parameter, text: str) -> int | str:
    # Bank.create judges which levels and which words there are.
    return int(text) if text.isdecimal() else text


@click.command()
@click.argument("bank")
@click.option(
    "--chunking",
    default="default",
    show_default=True,
    metavar="PROFILE",
    help="How contents are cut: fine, default, coarse, archive, or fixed:N (bytes).",
)
@click.option(
    "--compression",
    callback=_level,
    default=str(limits.COMPRESSION_LEVEL_DEFAULT),
    show_default=True,
    metavar="N|none",
    help="The level of zstd, 1 to 22.",
)
@click.option(
    "--keep-deleted",
    type=int,
    default=limits.KEEP_DELETED_S_DEFAULT,
    show_default=True,
    metavar="SECONDS",
    help="How long removed and replaced versions can be brought back.",
)
@verb
def command(console: Console, *, bank: str, chunking: str, compression: int | str, keep_deleted: int) -> None:
    """Create a bank in the folder BANK, which is absent or empty. None of this can be changed later."""
    with Bank.create(
        bank, chunking=chunking, compression=compression, keep_deleted_s=keep_deleted, cache_dir=console.cache_dir
    ) as created:
        if console.json:
            console.document(stats_document(created.stats()))
        else:
            console.say(f"created a bank at {bank}")
