"""``casbank put``: store a file, standard input, or every file below a folder."""

import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from casbank.cli.console import Console
from casbank.cli.described import described
from casbank.cli.exclude import exclude
from casbank.cli.opening import open_bank
from casbank.cli.progress import progress
from casbank.cli.sizes import human_bytes
from casbank.cli.store_tree import Tree, store_tree
from casbank.cli.verb import verb
from casbank.cli.watched import WatchedFile
from casbank.config import parse_bank_url

_STDIN = "-"


class _Wanted(NamedTuple):
    """An object that is to be stored."""

    name: str
    metadata: dict[str, str]
    if_absent: bool
    digest: bool


@click.command()
@click.argument("bank")
@click.argument("name", required=False)
@click.argument("file", required=False, metavar="[FILE|-]")
@click.option("--meta", "pairs", multiple=True, metavar="K=V", help="Keep this with the object; may be repeated.")
@click.option("--if-absent", is_flag=True, help="Fail, with 10, if there is an object of this name.")
@click.option("--digest", is_flag=True, help="Keep BLAKE3 of the whole content too.")
@click.option("--recursive", "root", metavar="DIR", help="Store every regular file below DIR.")
@click.option("--prefix", default="", metavar="P", help="With --recursive: what names begin with, a slash included.")
@click.option(
    "--exclude",
    "patterns",
    multiple=True,
    metavar="GLOB",
    help="With --recursive: leave out files and folders of this name or, if it has a slash, of this path below DIR; "
    "may be repeated.",
)
@verb
def command(
    console: Console,
    *,
    bank: str,
    name: str | None,
    file: str | None,
    pairs: tuple[str, ...],
    if_absent: bool,
    digest: bool,
    root: str | None,
    prefix: str,
    patterns: tuple[str, ...],
) -> None:
    """Store FILE, or standard input, as the object NAME; or every regular file below DIR.

    With --recursive a file's name is the prefix followed by its path below DIR. Only contents are kept: symbolic
    links, sockets, FIFOs and devices are skipped, owners and modes are not kept. Files that cannot be stored are named
    (exit code 11). Work is acknowledged in batches: what was stored before an interruption stays.
    """
    if root is None and name is None:
        raise click.UsageError("Missing argument 'NAME' (or --recursive DIR).")
    if root is None and (prefix or patterns):
        raise click.UsageError("--prefix and --exclude go with --recursive.")
    if root is not None and (name is not None or pairs or if_absent or digest):
        raise click.UsageError("--recursive takes no NAME, FILE, --meta, --if-absent or --digest.")
    if root is not None:
        _put_tree(console, bank, Path(root), prefix, patterns)
    elif name is not None:
        wanted = _Wanted(name, _metadata(pairs), if_absent, digest)
        _put_object(console, bank, wanted, file or _STDIN)


def _put_tree(console: Console, bank: str, root: Path, prefix: str, patterns: Sequence[str]) -> None:
    if not root.is_dir():
        raise click.UsageError(f"--recursive: there is no folder {root}.")
    with open_bank(console, bank) as opened:
        source = Tree(root, prefix, exclude(patterns), parse_bank_url(bank).path)
        store_tree(opened, source, console)


def _put_object(console: Console, bank: str, wanted: _Wanted, file: str) -> None:
    descriptor = _open_stdin() if file == _STDIN else _open_file(file)
    with (
        WatchedFile(descriptor) as source,
        open_bank(console, bank, stdin_is_data=file == _STDIN) as opened,
        progress(console, wanted.name, source.size) as source.advance,
    ):
        if file == _STDIN and sys.stdin.isatty():
            console.say("reading from standard input; end with Ctrl-D")
        info = opened.put(
            wanted.name, source, metadata=wanted.metadata, if_absent=wanted.if_absent, digest=wanted.digest
        )
    if console.json:
        console.document(described(info))
    console.detail(f"stored {info.name}, {human_bytes(info.size)}")


def _open_stdin() -> int:
    if sys.stdin is None:
        raise click.UsageError("Standard input is closed, and no FILE was given.")
    return os.dup(sys.stdin.fileno())


def _open_file(file: str) -> int:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise click.UsageError(f"There is no file {file}.") from None
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise click.UsageError(f"{file} is a folder: store it with --recursive {file}.")
    return descriptor


def _metadata(pairs: Sequence[str]) -> dict[str, str]:
    metadata = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not (key and separator):
            raise click.UsageError(f"--meta takes KEY=VALUE, not {pair!r}.")
        metadata[key] = value
    return metadata
