"""``casbank stat``: what is known of an object."""

import click

from casbank.cli.console import Console
from casbank.cli.described import described
from casbank.cli.opening import open_bank
from casbank.cli.sizes import human_bytes, human_time
from casbank.cli.verb import verb
from casbank.model import ObjectInfo


@click.command()
@click.argument("bank")
@click.argument("name")
@verb
def command(console: Console, bank: str, name: str) -> None:
    """Show what is known of the object NAME, without reading its content.

    Equal contents have equal etags within one bank. With --json, metadata that is bytes is {"base64": "..."}.
    """
    with open_bank(console, bank, read_only=True) as opened:
        info = opened.head(name)
    if console.json:
        console.document(described(info))
    else:
        console.table(_lines(info))


def _lines(info: ObjectInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "size": f"{human_bytes(info.size)} ({info.size} bytes)",
        "created": human_time(info.created),
        "version": info.version,
        "etag": info.etag,
        "digest": info.digest or "none",
        **{f"metadata {key}": value for key, value in info.metadata.items()},
    }
