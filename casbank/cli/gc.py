"""``casbank gc``: free what nothing reaches: plan, show, do.

Rule: the plan and what was done are the answer; ``--quiet`` leaves them out, but for the plan that ``--dry-run`` asks
for.
"""

import sys
from typing import TypedDict, Unpack

import click

from casbank import limits
from casbank.bank import Bank
from casbank.cli.byte_count import parse_bytes
from casbank.cli.console import Console
from casbank.cli.opening import open_bank
from casbank.cli.planned import plan_document, plan_rows, report_document, report_rows
from casbank.cli.progress import collecting
from casbank.cli.verb import verb
from casbank.model import CollectPlan, CollectReport


class Choices(TypedDict):
    """What Bank.plan_collection is told."""

    keep_deleted_s: int | None
    reader_grace_s: int
    budget_bytes: int | None
    budget_s: int | None
    force: bool


def _bytes(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else parse_bytes(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


@click.command()
@click.argument("bank")
@click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing.")
@click.option(
    "--keep-deleted",
    "keep_deleted_s",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="How long removed and replaced versions can be brought back, in place of what the bank was made with.",
)
@click.option(
    "--reader-grace",
    "reader_grace_s",
    type=click.IntRange(min=0),
    default=limits.READER_GRACE_S_DEFAULT,
    show_default=True,
    metavar="SECONDS",
    help="How long what was swept stays on disk for those who still read it.",
)
@click.option("--budget-bytes", callback=_bytes, metavar="N", help="Copy at most so much, as 500M or 10G.")
@click.option(
    "--budget-seconds",
    "budget_s",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="Begin no more after so long.",
)
@click.option("--force", is_flag=True, help="Collect even if suspiciously many packs belong to nothing.")
@verb
def command(console: Console, *, bank: str, dry_run: bool, **choices: Unpack[Choices]) -> None:
    """Free what no object of BANK, no removed version that can be brought back, and no lease needs. Nobody waits for
    it, and it can be interrupted at any time.

    First it shows its plan: what can be freed now, what after the undelete window, and what which lease keeps. Packs
    that nothing needs are swept at once, and deleted from the disk by a later collection, when who still reads them
    has had the time of --reader-grace. With --json, the document has the "plan" and the "report", null with --dry-run.
    """
    shows = not console.json and (dry_run or not console.quiet)
    with open_bank(console, bank, read_only=dry_run) as opened:
        plan = opened.plan_collection(**choices)
        if shows:
            console.table([*plan_rows(plan, opened.leases())])
            # The plan comes before what is done by it.
            sys.stdout.buffer.flush()
        report = None if dry_run else _collect(console, opened, plan)
    if console.json:
        done = None if report is None else report_document(report)
        console.document({"plan": plan_document(plan), "report": done})
    elif shows and report is not None:
        console.table([*report_rows(report, plan)])


def _collect(console: Console, bank: Bank, plan: CollectPlan) -> CollectReport:
    with collecting(console) as progress:
        return bank.collect(plan, progress=progress)
