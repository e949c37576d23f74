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
from casbank.cli.failure import UNCLEAN
from casbank.cli.lost import map_document, show_map, summary
from casbank.cli.opening import open_bank
from casbank.cli.progress import Advance, progress, untold
from casbank.cli.restore_tree import restore_tree
from casbank.cli.sizes import human_bytes
from casbank.cli.verb import verb
from casbank.cli.whole_file import whole_file
from casbank.engine.objectfile import ObjectFile

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
@click.option(
    "--allow-holes",
    is_flag=True,
    help="Write zeros where bytes of a damaged object are lost, and a map of these holes to standard error (or into "
    "the document of --json). Exit code 4 if there was a hole, though the content was written.",
)
@verb
def command(
    console: Console,
    *,
    bank: str,
    name: str | None,
    output: str | None,
    wanted: ByteRange,
    prefix: str | None,
    allow_holes: bool,
) -> None:
    """Write the object NAME to standard output or to a file; or every object below PREFIX to files below a folder.

    A file appears whole or not at all, in the place of one that was there, and is durable when the verb ends.

    With --recursive a file's path below DIR is the object's whole name ("" as PREFIX fetches all). Files are written
    one by one, each whole or not at all, but not synced: run sync(1) where a power cut matters. Names that could lead
    out of DIR (absolute ones, "..") or that files cannot have ("a" beside "a/b", "a//b") are refused and named, as are
    damaged objects, and the rest is fetched (exit code 11). Symbolic links in DIR are never followed.

    With --allow-holes an object that lost bytes is written all the same, also a range of it, also with --recursive,
    where it is named as one that failed (exit code 11). Holes are counted from the object's beginning; those outside
    of --range are not looked for.
    """
    if prefix is not None:
        if name is not None or wanted is not WHOLE or output in (None, _STDOUT):
            raise click.UsageError("--recursive PREFIX needs -o DIR, and takes no NAME and no --range.")
        with open_bank(console, bank, read_only=True) as opened:
            restore_tree(opened, prefix, Path(output), console, allow_holes=allow_holes)
    elif name is None:
        raise click.UsageError("Missing argument 'NAME' (or --recursive PREFIX).")
    else:
        if console.json and output in (None, _STDOUT):
            raise click.UsageError("--json needs -o FILE: standard output cannot take the content too.")
        _get_object(console, bank, name, output or _STDOUT, wanted, allow_holes=allow_holes)


def _get_object(console: Console, bank: str, name: str, output: str, wanted: ByteRange, *, allow_holes: bool) -> None:
    with (
        open_bank(console, bank, read_only=True) as opened,
        opened.open_object(name, allow_holes=allow_holes) as source,
    ):
        start, length = wanted.of(source.seek(0, os.SEEK_END))
        source.seek(start)
        with _target(output) as target, _bar(console, name, length, output) as advance:
            copy(source, target, length, advance)
    if console.json:
        fetched = {"name": name, "version": source.version, "file": output, "start": start, "bytes": length}
        console.document({**fetched, **(map_document(source) if allow_holes else {})})
    if output != _STDOUT:
        console.detail(f"fetched {name}, {human_bytes(length)}")
    _end_with_holes(console, source)


def _end_with_holes(console: Console, source: ObjectFile) -> None:
    """Nothing if there were none."""
    lost = summary(source)
    if lost is not None:
        show_map(console, source)
        console.complain(f"{source.name}: {lost}")
        # What cannot be written is the worse failure, and is told by another code.
        sys.stdout.buffer.flush()
        click.get_current_context().exit(UNCLEAN)


def _bar(console: Console, name: str, length: int, output: str) -> AbstractContextManager[Advance]:
    # Not beside a content that may go to the same terminal.
    return nullcontext(untold) if output == _STDOUT else progress(console, name, length)


def _target(output: str) -> AbstractContextManager[IO[bytes]]:
    return nullcontext(sys.stdout.buffer) if output == _STDOUT else whole_file(Path(output))
