"""``casbank ls``: list objects.

Rule: memory stays bounded however many there are; JSON is written a row at a time too.
"""

import json
import sys
from collections.abc import Iterable

import click

from casbank.cli.console import Console, printable
from casbank.cli.described import described
from casbank.cli.opening import open_bank
from casbank.cli.sizes import human_bytes, human_time, moment
from casbank.cli.verb import verb
from casbank.model import ObjectInfo


@click.command()
@click.argument("bank")
@click.argument("prefix", default="")
@click.option("--start-after", metavar="NAME", help="Begin behind this name, in the direction of the list.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Show at most so many.")
@click.option("--reverse", is_flag=True, help="From the last name to the first.")
@click.option("--long", "is_long", is_flag=True, help="Show sizes and times too.")
@click.option(
    "--deleted",
    is_flag=True,
    help="List removed and replaced versions that 'casbank undelete' can bring back, the newest of a name first.",
)
@verb
def command(
    console: Console,
    *,
    bank: str,
    prefix: str,
    start_after: str | None,
    limit: int | None,
    reverse: bool,
    is_long: bool,
    deleted: bool,
) -> None:
    """List the objects of BANK whose names begin with PREFIX, in the byte order of their names.

    A terminal is shown names with control characters escaped; a pipe or a file gets them as they are. With --json,
    the document is an array, and metadata that is bytes is {"base64": "..."}.

    With --deleted, a line is a version, its size, when it was removed and its name; with --long, when it was created
    and its etag too.
    """
    if deleted and (start_after is not None or limit is not None or reverse):
        raise click.UsageError("--deleted lists everything below PREFIX: no --start-after, no --limit, no --reverse.")
    with open_bank(console, bank, read_only=True) as opened:
        found = opened.list(prefix, start_after=start_after, limit=limit, reverse=reverse, deleted=deleted)
        if console.json:
            _write_array(console, found)
        else:
            _write_lines(console, found, is_long=is_long)


def _write_array(console: Console, found: Iterable[ObjectInfo]) -> None:
    rows = (json.dumps(described(info)) for info in found)
    console.answer("[")
    last = next(rows, None)
    for row in rows:
        console.answer(f"{last},")
        last = row
    console.answer("]" if last is None else f"{last}\n]")


def _write_lines(console: Console, found: Iterable[ObjectInfo], *, is_long: bool) -> None:
    on_terminal = sys.stdout.isatty()
    for info in found:
        name = printable(info.name) if on_terminal else info.name
        console.answer("  ".join([*_fields(info, is_long=is_long), name]))


def _fields(info: ObjectInfo, *, is_long: bool) -> list[str]:
    """What stands before a name."""
    size, created = f"{human_bytes(info.size):>10}", human_time(info.created)
    if info.removed_ns is None:
        return [size, created] if is_long else []
    removed = [f"{info.version:>8}", size, human_time(moment(info.removed_ns))]
    return [*removed, created, info.etag] if is_long else removed
