"""``casbank lease``: acquired, shown, renewed, released, from one process after the other."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from bank_scene import content, pack_bytes

from casbank import Bank, World
from cli.shell import casbank, document, done, failed, files_below, script

SIZE = 100_000
LEASE_KEYS = {
    "id", "seq", "kind", "owner", "host", "pid", "owner_dead", "note", "acquired", "expires", "pins",
}  # fmt: skip

Start = Callable[..., "subprocess.Popen[str]"]

HOLDER = """
import sys
from casbank import Bank

with Bank.open(sys.argv[1]) as bank:
    print(bank.acquire_lease("holder").id, flush=True)
    sys.stdin.read()
"""


def acquired(bank: Path, *options: str) -> str:
    return done("lease", "acquire", bank, *options).stdout.strip()


def leases(bank: Path) -> list[dict[str, Any]]:
    return document("lease", "ls", bank)["leases"]


def lines(bank: Path) -> list[str]:
    return done("lease", "ls", bank).stdout.splitlines()


def seconds_left(lease: dict[str, Any]) -> float:
    return datetime.fromisoformat(lease["expires"]).timestamp() - time.time()


def test_a_lease_lives_from_acquire_to_release(bank: Path) -> None:
    """acquire prints the id alone, ls shows it until release."""
    assert (lines(bank), leases(bank)) == ([], [])
    lease_id = acquired(bank, "backup-7")
    assert (len(lease_id), set(lease_id) <= set("0123456789abcdef")) == (32, True)
    assert [lease["id"] for lease in leases(bank)] == [lease_id]
    released = casbank("lease", "release", bank, lease_id)
    assert (released.stdout, released.stderr) == ("", f"casbank: released lease {lease_id}\n")
    assert leases(bank) == []


def test_ls_shows_what_there_is_to_know(bank: Path) -> None:
    """People see id, kind, age, time left, pins, host, process, owner and note; the oldest lease comes first."""
    with Bank.open(bank, world=World(now_ns=lambda: time.time_ns() - 630 * 10**9)) as opened:
        opened.put("x", b"x")
        mine = opened.acquire_lease("library", 60)
    pinned = acquired(bank, "backup 7", "--pin", "x", "--ttl", "7500", "--note", "before the\nupgrade")
    host = os.uname().nodename
    assert [re.sub(r"since \d s", "since 0 s", line) for line in lines(bank)] == [
        f"{mine.id}  client  since 10 min    expired 9 min ago   0 pins   host {host}, process {os.getpid()}  library",
        f"{pinned}  pin     since 0 s       2 h left            1 pin    host {host}, no process  backup 7  "
        "before the\\nupgrade",
    ]
    shown = leases(bank)
    assert [set(lease) for lease in shown] == [LEASE_KEYS, LEASE_KEYS]
    told = [(lease["kind"], lease["pid"], lease["owner_dead"], lease["pins"], lease["note"]) for lease in shown]
    assert told == [("client", os.getpid(), False, 0, ""), ("pin", None, False, 1, "before the\nupgrade")]


def test_a_lease_of_the_command_line_outlives_its_command(bank: Path) -> None:
    """The process that acquired it has ended; nobody takes the owner for dead."""
    lease_id = script("lease", "acquire", bank, "backup-7").stdout.decode().strip()
    assert "dead" not in lines(bank)[0]
    assert document("gc", bank)["report"]["fenced_leases"] == 0
    assert [(lease["id"], lease["owner_dead"]) for lease in leases(bank)] == [(lease_id, False)]


def test_the_lease_of_a_dead_process_is_shown_and_ended(bank: Path, program: Start) -> None:
    """A process that lives is not dead; one that was killed is, and the next collection ends its lease."""
    holder = program(HOLDER, bank)
    lease_id = holder.stdout.readline().strip()
    assert f"process {holder.pid}  holder" in lines(bank)[0]
    holder.kill()
    holder.wait()
    assert f"process {holder.pid}, dead  holder" in lines(bank)[0]
    assert [(lease["id"], lease["owner_dead"]) for lease in leases(bank)] == [(lease_id, True)]
    done("gc", bank)
    assert leases(bank) == []


def test_a_pin_keeps_versions_until_it_is_released(bank: Path) -> None:
    """A pinned version can be brought back behind any window, each of several; without the lease it goes."""
    with Bank.open(bank) as opened:
        for name in "abc":
            opened.put(name, content(name, SIZE))
    lease_id = acquired(bank, "me", "--pin", "a", "--pin", "b")
    assert [(lease["kind"], lease["pins"]) for lease in leases(bank)] == [("pin", 2)]
    done("rm", bank, "a", "b", "c")
    gc = ("gc", bank, "--keep-deleted", "0", "--reader-grace", "0")
    done(*gc)
    assert 2 * SIZE < pack_bytes(bank) < 3 * SIZE
    done("undelete", bank, "a")
    assert failed("undelete", bank, "c")[0] == 3
    done("lease", "release", bank, lease_id)
    done(*gc)
    assert SIZE < pack_bytes(bank) < 2 * SIZE
    assert failed("undelete", bank, "b")[0] == 3


def test_the_ttl_is_what_it_lives(bank: Path) -> None:
    """600 s unless one is given; renew begins anew, by any 4 digits that name one lease alone."""
    lease = document("lease", "acquire", bank, "me")
    assert set(lease) == LEASE_KEYS
    assert 590 < seconds_left(lease) <= 600
    renewed = done("lease", "renew", bank, lease["id"][:4].upper(), "--ttl", "5000")
    assert (renewed.stdout, lease["id"] in renewed.stderr) == ("", True)
    assert 4990 < seconds_left(leases(bank)[0]) <= 5000
    again = document("lease", "renew", bank, lease["id"])
    assert (again["id"], again["owner"]) == (lease["id"], "me")
    assert 590 < seconds_left(again) <= 600
    assert 50 < seconds_left(document("lease", "acquire", bank, "you", "--ttl", "60")) <= 60
    assert document("lease", "release", bank, lease["id"][:5]) == {"released": lease["id"]}


def test_kinds(bank: Path) -> None:
    """A lease is of the kind that is asked for; one that pins something is a pin."""
    with Bank.open(bank) as opened:
        opened.put("x", b"x")
    for options in ((), ("--kind", "read"), ("--kind", "client"), ("--kind", "pin", "--pin", "x"), ("--pin", "x")):
        acquired(bank, "me", *options)
    assert [lease["kind"] for lease in leases(bank)] == ["client", "read", "client", "pin", "pin"]


def test_a_lease_that_was_ended_is_5(bank: Path) -> None:
    """An expired lease can be renewed as long as no collection has ended it, and never afterwards."""
    with Bank.open(bank, world=World(now_ns=lambda: time.time_ns() - 86_400 * 10**9)) as opened:
        first, second = (opened.acquire_lease("me", tied_to_process=False).id for _ in range(2))
    done("lease", "renew", bank, first)
    done("gc", bank)
    assert [lease["id"] for lease in leases(bank)] == [first]
    code, message = failed("lease", "renew", bank, second)
    assert code == 5
    assert second in message
    assert failed("lease", "release", bank, second)[0] == 5
    done("lease", "release", bank, first)
    assert failed("lease", "release", bank, first)[0] == 5
    assert failed("lease", "renew", bank, "0" * 32)[0] == 5


@pytest.mark.parametrize(
    "arguments",
    [
        ("acquire", "BANK"),
        ("acquire", "BANK", "me", "--ttl", "0"),
        ("acquire", "BANK", "me", "--ttl", "-1"),
        ("acquire", "BANK", "me", "--ttl", str(400 * 86_400)),
        ("acquire", "BANK", "me", "--ttl", "nan"),
        ("acquire", "BANK", "me", "--kind", "write"),
        ("acquire", "BANK", "me", "--kind", "pin"),
        ("acquire", "BANK", "me", "--kind", "client", "--pin", "x"),
        ("acquire", "BANK", "me" * 1000),
        ("acquire", "BANK", "me", "--note", "n" * 2000),
        ("acquire", "BANK", "not\udcffutf8"),
        ("renew", "BANK", "ID", "--ttl", "0"),
        ("renew", "BANK", "ID", "--ttl", "-5"),
        ("renew", "BANK", "123"),
        ("renew", "BANK", "lease"),
        ("release", "BANK", "123"),
        ("release", "BANK", ""),
        ("renew", "BANK"),
        ("nope", "BANK"),
    ],
)
def test_wrong_usage_is_2_and_changes_nothing(bank: Path, arguments: tuple[str, ...]) -> None:
    """No lease is made, extended or ended by a guess."""
    with Bank.open(bank) as opened:
        opened.put("x", b"x")
    lease_id = acquired(bank, "me")
    before = files_below(bank)
    places = {"BANK": str(bank), "ID": lease_id}
    assert failed("lease", *(places.get(word, word) for word in arguments))[0] == 2
    assert files_below(bank) == before


def test_what_is_pinned_must_be_there(bank: Path) -> None:
    """A pin on nothing is 3, and no lease."""
    code, message = failed("lease", "acquire", bank, "me", "--pin", "nope")
    assert code == 3
    assert "nope" in message
    assert leases(bank) == []


def test_digits_that_begin_several_ids_name_none(bank: Path) -> None:
    """The ids are shown, and none is released or renewed."""
    draws: list[bytes] = []
    world = World(entropy=lambda count: draws.pop() if draws and len(draws[-1]) == count else os.urandom(count))
    with Bank.open(bank, world=world) as opened:
        for ending in (b"\1", b"\2"):
            draws.append(b"same digits    " + ending)
            opened.acquire_lease("me")
    both = [lease["id"] for lease in leases(bank)]
    assert both[0][:30] == both[1][:30] != both[0][2:]
    for verb in ("renew", "release"):
        code, message = failed("lease", verb, bank, both[0][:30])
        assert code == 2
        assert all(lease_id in message for lease_id in both)
    done("lease", "release", bank, both[0])
    assert [lease["id"] for lease in leases(bank)] == both[1:]


def test_a_lease_of_an_encrypted_bank(locked: Path, key: Path) -> None:
    """With its key a bank has leases like any other."""
    given = ("--key-file", str(key))
    lease_id = acquired(locked, "me", "--pin", "x", *given)
    assert [lease["id"] for lease in document("lease", "ls", locked, *given)["leases"]] == [lease_id]
    done("lease", "release", locked, lease_id[:6], *given)
    assert document("lease", "ls", locked, *given) == {"leases": []}
