"""``casbank info``: a bank's sizes and counts, and what a collection could free."""

import time
from dataclasses import asdict

import click

from casbank.bank import Bank
from casbank.cli.console import Console
from casbank.cli.opening import open_bank
from casbank.cli.planned import plan_document, space_rows
from casbank.cli.sizes import human_bytes, human_seconds, human_time, moment
from casbank.cli.verb import verb
from casbank.errors import CasbankError
from casbank.model import BankStats, CollectPlan, LastCollection

# Who collects every night or every weekend is not warned.
_OVERDUE_S = 7 * 86_400


@click.command()
@click.argument("bank")
@verb
def command(console: Console, bank: str) -> None:
    """Show the format, the settings, the sizes and the counts of BANK, and what 'casbank gc' could free.

    Logical bytes are the objects' sizes; unique bytes what deduplication leaves of them; stored bytes what the packs
    occupy. For what could be freed the whole metadata is read. With --json, "plan" is as 'casbank gc' has it, or null
    with the reason in "plan_error".
    """
    with open_bank(console, bank, read_only=True) as opened:
        stats = opened.stats()
        plan, reason = _plan(opened)
        leases = opened.leases()
    overdue = _overdue(stats)
    if console.json:
        console.document(
            {
                **stats_document(stats),
                "plan": None if plan is None else plan_document(plan),
                "plan_error": reason,
                "collection_overdue": overdue is not None,
            }
        )
    else:
        space = [("reclaimable now", "not known")] if plan is None else space_rows(plan, leases)
        console.table([*_lines(stats).items(), *space])
    if reason is not None:
        console.complain(f"warning: what could be freed is not known: {reason}")
    if overdue is not None:
        console.complain(f"warning: {overdue}; run 'casbank gc'")


def _plan(bank: Bank) -> tuple[CollectPlan | None, str | None]:
    """What a collection would do, or why that cannot be said."""
    try:
        return bank.plan_collection(), None
    except CasbankError as error:
        return None, str(error)


def _overdue(stats: BankStats) -> str | None:
    """Why it is time for a collection; None if it is not."""
    last = stats.last_collection
    age_s = (time.time_ns() - (stats.created_ns if last is None else last.time_ns)) / 1e9
    if age_s <= _OVERDUE_S:
        return None
    if last is not None:
        return f"the last collection was {human_seconds(age_s)} ago"
    return "removed and replaced versions were never collected" if stats.deleted_objects else None


def stats_document(stats: BankStats) -> dict[str, object]:
    """What ``--json`` shows of a bank."""
    fields: dict[str, object] = asdict(stats)
    del fields["created_ns"]
    return {
        **fields,
        "created": moment(stats.created_ns).isoformat(),
        "dedup_ratio": round(stats.dedup_ratio, 3),
        "compression_ratio": round(stats.compression_ratio, 3),
        "last_collection": None if stats.last_collection is None else _last_document(stats.last_collection),
    }


def _last_document(last: LastCollection) -> dict[str, object]:
    return {
        "time": moment(last.time_ns).isoformat(),
        "freed_bytes": last.freed_bytes,
        "live_bytes": last.live_bytes,
        "dead_bytes": last.dead_bytes,
        "complete": last.is_complete,
    }


def _lines(stats: BankStats) -> dict[str, object]:
    return {
        "bank": stats.bank_id,
        "format": stats.format,
        "created": human_time(moment(stats.created_ns)),
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
        "last collection": _last_line(stats.last_collection),
    }


def _last_line(last: LastCollection | None) -> str:
    if last is None:
        return "none yet"
    left = f"freed {human_bytes(max(0, last.freed_bytes))}, left {human_bytes(last.dead_bytes)} dead"
    return f"{human_time(moment(last.time_ns))}, {left}{'' if last.is_complete else ', not complete'}"
