"""``casbank info``: a bank's sizes and counts."""

from dataclasses import asdict
from datetime import UTC, datetime

import click

from casbank.cli.console import Console
from casbank.cli.opening import open_bank
from casbank.cli.sizes import human_bytes, human_time
from casbank.cli.verb import verb
from casbank.model import BankStats


@click.command()
@click.argument("bank")
@verb
def command(console: Console, bank: str) -> None:
    """Show the format, the settings, the sizes and the counts of BANK.

    Logical bytes are the objects' sizes; unique bytes what deduplication leaves of them; stored bytes what the packs
    occupy.
    """
    with open_bank(console, bank, read_only=True) as opened:
        stats = opened.stats()
    if console.json:
        console.document(stats_document(stats))
    else:
        console.table(_lines(stats))


def stats_document(stats: BankStats) -> dict[str, object]:
    """What ``--json`` shows of a bank."""
    fields: dict[str, object] = asdict(stats)
    del fields["created_ns"]
    return {
        **fields,
        "created": _created(stats).isoformat(),
        "dedup_ratio": round(stats.dedup_ratio, 3),
        "compression_ratio": round(stats.compression_ratio, 3),
    }


def _lines(stats: BankStats) -> dict[str, object]:
    return {
        "bank": stats.bank_id,
        "format": stats.format,
        "created": human_time(_created(stats)),
        "encryption": stats.suite,
        "chunking": stats.chunking,
        "compression": stats.compression,
        "keep deleted": f"{stats.keep_deleted_s} s",
        "version": stats.version,
        "objects": stats.objects,
        "deleted objects": stats.deleted_objects,
        "logical": human_bytes(stats.logical_bytes),
        "unique": f"{human_bytes(stats.unique_bytes)} (deduplication {stats.dedup_ratio:.2f})",
        "stored": f"{human_bytes(stats.stored_bytes)} (compression {stats.compression_ratio:.2f})",
        "packs": stats.packs,
        "chunks": stats.chunks,
        "journal": human_bytes(stats.journal_bytes),
        "index": human_bytes(stats.index_bytes),
    }


def _created(stats: BankStats) -> datetime:
    return datetime.fromtimestamp(stats.created_ns / 1e9, UTC)
