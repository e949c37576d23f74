"""``casbank lease``: who lives, and what he protects from collections."""

import click

from casbank import limits
from casbank.bank import Bank
from casbank.cli.console import Console
from casbank.cli.id_digits import id_digits, matching
from casbank.cli.leased import lease_document, lease_line
from casbank.cli.opening import open_bank
from casbank.cli.sizes import human_time, moment
from casbank.cli.verb import verb
from casbank.errors import ErrorKind, LeaseError
from casbank.model import LeaseInfo

_TTL = click.option(
    "--ttl",
    "ttl_s",
    type=click.IntRange(min=1, max=limits.LEASE_TTL_S_MAX),
    default=limits.LEASE_TTL_S_DEFAULT,
    show_default=True,
    metavar="SECONDS",
    help="How long it lives from now on unless it is renewed.",
)


@click.group()
def command() -> None:
    """List, acquire, renew and release leases of a bank."""


@command.command()
@click.argument("bank")
@verb
def ls(console: Console, bank: str) -> None:
    """List the living leases of BANK, the oldest first: id, kind, age, time left, what it pins, whose it is."""
    with open_bank(console, bank, read_only=True) as opened:
        leases = opened.leases()
    if console.json:
        console.document({"leases": [lease_document(lease) for lease in leases]})
        return
    for lease in leases:
        console.answer(lease_line(lease))


@command.command()
@click.argument("bank")
@click.argument("owner")
@_TTL
@click.option(
    "--kind",
    type=click.Choice(["client", "read", "pin"]),
    help="What it does: client says only that OWNER lives, read keeps what is swept from being deleted, pin keeps "
    "versions of objects.  [default: pin with --pin, else client]",
)
@click.option(
    "--pin",
    "pins",
    multiple=True,
    metavar="NAME",
    help="Keep the version that the object NAME has now, whatever becomes of the name; can be given many times.",
)
@click.option("--note", default="", metavar="TEXT", help="What 'casbank lease ls' is to show beside it.")
@verb
def acquire(
    console: Console, *, bank: str, owner: str, ttl_s: int, kind: str | None, pins: tuple[str, ...], note: str
) -> None:
    """Acquire a lease for OWNER, a text that says who that is, and print its id.

    It lives beyond this command, until it is released or expires: whoever has the id renews it in time.
    """
    with open_bank(console, bank) as opened:
        acquired = opened.acquire_lease(
            owner, ttl_s, kind or ("pin" if pins else "client"), pins, note, tied_to_process=False
        )
        if console.json:
            console.document(lease_document(_living(opened, acquired.id)))
        else:
            console.answer(acquired.id)


@command.command()
@click.argument("bank")
@click.argument("lease_id", metavar="ID")
@_TTL
@verb
def renew(console: Console, *, bank: str, lease_id: str, ttl_s: int) -> None:
    """Extend the lease ID (or its first digits, 4 or more). Exit code 5 if it has ended."""
    digits = _digits(lease_id)
    with open_bank(console, bank) as opened:
        whole_id = _living(opened, digits).id
        opened.renew_lease(whole_id, ttl_s)
        lease = _living(opened, whole_id)
    if console.json:
        console.document(lease_document(lease))
    else:
        console.say(f"renewed lease {lease.id} until {human_time(moment(lease.expires_ns))}")


@command.command()
@click.argument("bank")
@click.argument("lease_id", metavar="ID")
@verb
def release(console: Console, *, bank: str, lease_id: str) -> None:
    """End the lease ID (or its first digits, 4 or more), and let go of what it pins. Exit code 5 if it has ended."""
    digits = _digits(lease_id)
    with open_bank(console, bank) as opened:
        whole_id = _living(opened, digits).id
        opened.release_lease(whole_id)
    if console.json:
        console.document({"released": whole_id})
    else:
        console.say(f"released lease {whole_id}")


def _digits(text: str) -> str:
    return id_digits(text, "ID", "'casbank lease ls'")


def _living(bank: Bank, digits: str) -> LeaseInfo:
    """The lease whose id begins so."""
    leases = {lease.id: lease for lease in bank.leases()}
    lease_id = matching(leases, digits)
    if lease_id is None:
        raise LeaseError("no such lease: it has ended, or never was", kind=ErrorKind.LEASE_UNKNOWN, lease=digits)
    return leases[lease_id]
