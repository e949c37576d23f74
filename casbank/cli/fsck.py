"""``casbank fsck``: check a bank that need not open, and repair it.

Rule: findings are shown as they are made, each with what a repair would do, before anything is repaired.
"""

import re
from dataclasses import asdict

import click

from casbank.bank import Bank
from casbank.cli.console import Console
from casbank.cli.failure import UNCLEAN
from casbank.cli.given_key import KeyArguments
from casbank.cli.opening import with_key
from casbank.cli.progress import checking
from casbank.cli.sizes import human_bytes, human_count
from casbank.cli.verb import verb
from casbank.findings import Finding, FsckReport

_PERCENT = re.compile(r"(100|[1-9][0-9]?)%?", re.ASCII)


class _OptionalValue(click.Command):
    """``--read-data`` alone is ``--read-data=100%``: click would take the next argument for its value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--read-data=100%" if word == "--read-data" else word for word in args])


def _percent(_context: click.Context, _option: click.Parameter, text: str | None) -> int:
    if text is None:
        return 0
    match = _PERCENT.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no percentage from 1% to 100%.")
    return int(match[1])


@click.command(cls=_OptionalValue)
@click.argument("bank")
@click.option(
    "--read-data",
    "percent",
    callback=_percent,
    metavar="[=N%]",
    help="Read every byte of all packs, or of N% of them, other ones each time.",
)
@click.option("--keyless", is_flag=True, help="Check only what needs no key: the hash of every file.")
@click.option("--repair", is_flag=True, help="Mend what can be mended, and write down what is lost.")
@verb
def command(console: Console, *, bank: str, percent: int, keyless: bool, repair: bool) -> None:
    """Check BANK: its files, the journal, checkpoints, packs, everything that names reach, and the index. Nothing is
    written without --repair, and the bank may be in use.

    An interrupted check goes on with the packs that it has not read. Exit code 4 if anything is damaged.

    --repair shows each finding with what it will do before it does anything. It sets damaged files aside in
    quarantine/, seals what is whole of a damaged pack anew, looks for other copies of the rest, makes the index and, if
    need be, the journal anew, and names each object that lost bytes: 'casbank get --allow-holes' reads what is left of
    it, and putting the same content again makes it whole. Then the bank is clean, and takes puts.
    """
    if keyless and repair:
        raise click.UsageError("--repair needs the key that --keyless does without.")
    report = _checked(console, bank, percent, keyless=keyless, repair=repair)
    if console.json:
        console.document({**asdict(report), "clean": report.clean, "findings": [*map(_document, report.findings)]})
    else:
        _summarise(console, report)
    if not report.clean:
        click.get_current_context().exit(UNCLEAN)


def _checked(console: Console, bank: str, percent: int, *, keyless: bool, repair: bool) -> FsckReport:
    def check(arguments: KeyArguments) -> FsckReport:
        return _check(console, bank, percent, arguments, keyless=keyless, repair=repair)

    return check(KeyArguments()) if keyless else with_key(console, bank, check, or_else=", or --keyless")


def _check(
    console: Console, bank: str, percent: int, arguments: KeyArguments, *, keyless: bool, repair: bool
) -> FsckReport:
    with checking(console) as progress:
        return Bank.check(
            bank,
            read_data=percent or False,
            keyless=keyless,
            repair=repair,
            cache_dir=console.cache_dir,
            progress=progress,
            on_finding=lambda finding: _tell(console, finding),
            on_repair=lambda line: console.say(f"repaired: {line}"),
            **arguments,
        )


def _tell(console: Console, finding: Finding) -> None:
    if finding.is_damage:
        console.complain(f"{finding.where}: {finding.what}; a repair {finding.repair}")
    else:
        console.detail(f"{finding.where}: {finding.what}")


def _document(finding: Finding) -> dict[str, object]:
    return {**asdict(finding), "damage": finding.is_damage}


def _summarise(console: Console, report: FsckReport) -> None:
    for finding in report.findings:
        if finding.is_damage and finding.objects_hit and finding.objects != (finding.where,):
            named = ", ".join(finding.objects[:_NAMES_SHOWN])
            more = f" and {finding.objects_hit - _NAMES_SHOWN} more" if finding.objects_hit > _NAMES_SHOWN else ""
            console.complain(f"{finding.where} hits {named}{more}")
    if report.known_losses:
        lost = human_count(report.known_losses, "object")
        console.say(f"{lost} known to lack bytes; --verbose names them, and 'get --allow-holes' reads the rest")
    seen = [human_count(report.records, "record"), human_count(report.packs, "pack")]
    if report.packs_read:
        seen.append(f"{human_bytes(report.bytes_read)} in {human_count(report.packs_read, 'pack')} read whole")
    if report.packs_resumed:
        seen.append(f"{human_count(report.packs_resumed, 'pack')} read before the interruption")
    if not report.keyless:
        seen.append(human_count(report.objects, "object"))
    verdict = "clean" if report.clean else f"NOT clean, {human_count(report.damage, 'finding')}"
    console.say(f"{verdict}: {', '.join(seen)}")


_NAMES_SHOWN = 5
