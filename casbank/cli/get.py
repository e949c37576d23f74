"""``casbank get``: fetch an object, or every object below a prefix."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

import click

from casbank.cli.byte_range import WHOLE, ByteRange, parse_range
from casbank.cli.console import Console
from casbank.cli.copying import copy
from casbank.cli.opening import open_bank
from casbank.cli.progress import Advance, progress, untold
from casbank.cli.restore_tree import restore_tree
from casbank.cli.sizes import human_bytes
from casbank.cli.verb import verb
from casbank.cli.whole_file import whole_file

_STDOUT = "-"


def _range(_context: click.Context, _option: click.Parameter, text: str | None) -> ByteRange:
    try:
        return WHOLE if text is None else parse_range(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


@click.command()
@click.argument("bank")
@click.argument("name", required=False)
@click.option("-o", "--output", metavar="FILE|DIR", help="Write here, not to standard output.")
@click.option(
    "--range",
    "wanted",
    callback=_range,
    metavar="A-B",
    help="Only bytes A to B, from 0 and with B included; A- to the end, -N the last N.",
)
@click.option("--recursive", "prefix", metavar="PREFIX", help="Fetch every object whose name begins with PREFIX.")
@verb
def command(
    console: Console, *, bank: str, name: str | None, output: str | None, wanted: ByteRange, prefix: str | None
) -> None:
    """Write the object NAME to standard output or to a file; or every object below PREFIX to files below a folder.

    A file appears whole or not at all, in the place of one that was there, and is durable when the verb ends.

    With --recursive a file's path below DIR is the object's whole name ("" as PREFIX fetches all). Files are written
    one by one, each whole or not at all, but not synced: run sync(1) where a power cut matters. Names that could lead
    out of DIR (absolute ones, "..") or that files cannot have ("a" beside "a/b", "a//b") are refused and named, as are
    damaged objects, and the rest is fetched (exit code 11). Symbolic links in DIR are never followed.
    """
    if prefix is not None:
        if name is not None or wanted is not WHOLE or output in (None, _STDOUT):
            raise click.UsageError("--recursive PREFIX needs -o DIR, and takes no NAME and no --range.")
        with open_bank(console, bank, read_only=True) as opened:
            restore_tree(opened, prefix, Path(output), console)
    elif name is None:
        raise click.UsageError("Missing argument 'NAME' (or --recursive PREFIX).")
    else:
        if console.json and output in (None, _STDOUT):
            raise click.UsageError("--json needs -o FILE: standard output cannot take the content too.")
        _get_object(console, bank, name, output or _STDOUT, wanted)


def _get_object(console: Console, bank: str, name: str, output: str, wanted: ByteRange) -> None:
    with (
        open_bank(console, bank, read_only=True) as opened,
        opened.open_object(name) as source,
    ):
        start, length = wanted.of(source.seek(0, os.SEEK_END))
        source.seek(start)
        with _target(output) as target, _bar(console, name, length, output) as advance:
            copy(source, target, length, advance)
    if console.json:
        console.document({"name": name, "version": source.version, "file": output, "start": start, "bytes": length})
    if output != _STDOUT:
        console.detail(f"fetched {name}, {human_bytes(length)}")


def _bar(console: Console, name: str, length: int, output: str) -> AbstractContextManager[Advance]:
    # Not beside a content that may go to the same terminal.
    return nullcontext(untold) if output == _STDOUT else progress(console, name, length)


def _target(output: str) -> AbstractContextManager[IO[bytes]]:
    return nullcontext(sys.stdout.buffer) if output == _STDOUT else whole_file(Path(output))
