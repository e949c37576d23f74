"""Leases, as people and programs are shown them."""

import time

from casbank.cli.console import printable
from casbank.cli.sizes import human_count, human_seconds, human_time, moment
from casbank.model import LeaseInfo


def lease_document(lease: LeaseInfo) -> dict[str, object]:
    """What ``--json`` shows of a lease; ``pid`` is null if no process holds it."""
    return {
        "id": lease.id,
        "seq": lease.seq,
        "kind": lease.kind,
        "owner": lease.owner,
        "host": lease.host,
        "pid": lease.pid or None,
        "owner_dead": lease.is_owner_dead,
        "note": lease.note,
        "acquired": moment(lease.acquired_ns).isoformat(),
        "expires": moment(lease.expires_ns).isoformat(),
        "pins": lease.pins,
    }


def lease_line(lease: LeaseInfo) -> str:
    """A line of a list."""
    now_ns = time.time_ns()
    left_s = (lease.expires_ns - now_ns) / 1e9
    left = f"{human_seconds(left_s)} left" if left_s > 0 else f"expired {human_seconds(-left_s)} ago"
    age = f"since {human_seconds((now_ns - lease.acquired_ns) / 1e9)}"
    fields = [lease.id, f"{lease.kind:<6}", f"{age:<14}", f"{left:<18}", f"{human_count(lease.pins, 'pin'):<7}"]
    return "  ".join([*fields, _process(lease), printable(lease.owner), printable(lease.note)]).rstrip()


def holder(lease: LeaseInfo) -> str:
    """Which lease of whom, where, and until when, for a sentence."""
    until = human_time(moment(lease.expires_ns))
    return f"{lease.kind} lease {lease.id} of {lease.owner!r} ({_process(lease)}) until {until}"


def _process(lease: LeaseInfo) -> str:
    process = f"process {lease.pid}" if lease.pid else "no process"
    return f"host {printable(lease.host)}, {process}{', dead' if lease.is_owner_dead else ''}"
