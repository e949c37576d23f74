"""``casbank version``: what a report of a bug should say."""

import platform
from importlib import metadata

import click
import lmdb
import zstandard

from casbank import format as file_format
from casbank.chunking import KERNEL
from casbank.cli.console import Console
from casbank.cli.verb import keyless_verb


@click.command()
@keyless_verb
def command(console: Console) -> None:
    """Show the versions of casbank, of the format that it writes, and of the libraries that matter.

    The chunking kernel is native, or python where no compiler was at hand: slow, but it cuts the same.
    """
    versions: dict[str, object] = {
        "casbank": metadata.version("casbank"),
        "format": f"{file_format.MAJOR}.{file_format.MINOR}",
        "python": platform.python_version(),
        "kernel": KERNEL,
        **{name: metadata.version(name) for name in ("blake3", "click", "lmdb", "msgpack", "zstandard")},
        "liblmdb": ".".join(str(part) for part in lmdb.version()),
        "libzstd": ".".join(str(part) for part in zstandard.ZSTD_VERSION),
    }
    if console.json:
        console.document(versions)
    else:
        console.table(versions)
