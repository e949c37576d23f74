"""Leases: records that an owner lives and what he protects. No clock ends one; a record does."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bank_scene import content, contents_of, engine_of, memory_place, pack_bytes, packs_of, rows_of
from collect_scene import Clock, collect_now, wait_until
from conftest import Start

from casbank import (
    Bank,
    CasbankError,
    ErrorKind,
    InvalidInputError,
    Lease,
    LeaseError,
    NotFoundError,
    ReadOnlyError,
    StoreError,
    limits,
)
from casbank.engine.owner import encode_owner, this_process
from casbank.format.record import Lease as LeaseOp

# Acquires a lease of a kind, tells its id, and does nothing more.
HOLD = """
import sys
from casbank import Bank
place, kind, *pins = sys.argv[1:]
bank = Bank.open(place)
print(bank.acquire_lease("holder", kind=kind, pins=pins).id, flush=True)
sys.stdin.read()
"""

FORK = """
import os, sys, threading, time
from casbank import Bank, InvalidInputError
bank = Bank.create(sys.argv[1])
lease = bank.acquire_lease("parent", ttl_s=2)
lease.keep_alive()
child = os.fork()
if child == 0:
    wrong = []
    # Does nothing: the lease is the parent's.
    with lease:
        lease.release()
    for call in (lease.renew, bank.leases, lambda: bank.acquire_lease("child")):
        try:
            call()
            wrong.append("no error")
        except InvalidInputError as error:
            if error.kind != "forked":
                wrong.append(error.kind)
        except BaseException as error:
            wrong.append(repr(error))
    bank.close()
    if wrong:
        print(wrong, flush=True)
    sys.exit(len(wrong))
print(os.waitpid(child, 0)[1], flush=True)
before = lease.expires_ns
deadline = time.monotonic() + 10
while lease.expires_ns == before and time.monotonic() < deadline:
    time.sleep(0.02)
print(lease.expires_ns > before, lease.failure, bank.check_lease(lease.id).is_valid, flush=True)
lease.release()
print(bank.leases(), flush=True)
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(clock: Clock) -> Iterator[Bank]:
    """A bank in memory whose clock goes when it is told to."""
    with Bank.create(memory_place(), world=clock.world) as bank:
        yield bank


def ids(bank: Bank) -> list[str]:
    return [lease.id for lease in bank.leases()]


# --- acquire, renew, release, check, list ----------------------------------------------------------------------------


def test_lease_is_listed_as_it_was_acquired(timed: Bank, clock: Clock) -> None:
    """A lease says who holds it, since when and until when, in the order of acquiring; then it is gone."""
    one = timed.acquire_lease("Karbor \U0001f980", ttl_s=60, note="nightly")
    clock.go(1)
    other = timed.acquire_lease("reader", kind="read")
    first, second = timed.leases()
    assert (first.id, first.seq, first.kind, first.owner) == (one.id, one.seq, "client", "Karbor \U0001f980")
    assert (first.note, first.pid, first.pins, first.is_owner_dead) == ("nightly", os.getpid(), 0, False)
    assert first.expires_ns == one.expires_ns == first.acquired_ns + 60 * 10**9
    assert (second.id, second.kind, second.note) == (other.id, "read", "")
    assert second.expires_ns - second.acquired_ns == limits.LEASE_TTL_S_DEFAULT * 10**9
    assert second.acquired_ns == clock.ns
    one.release()
    assert ids(timed) == [other.id]
    one.release()
    other.release()
    assert timed.leases() == []


def test_fencing_number_grows(bank: Bank, place: Path) -> None:
    """A lease that is acquired later has a higher fencing number, whatever was written, released or rebuilt meanwhile;
    a renewal leaves it as it is."""
    seqs = []
    for number in range(5):
        lease = bank.acquire_lease(f"owner {number}")
        seqs.append(lease.seq)
        bank.put("x", b"%d" % number)
        lease.renew()
        assert bank.leases()[-1].seq == lease.seq == seqs[-1]
        if number % 2:
            lease.release()
        if number == 3:
            bank.rebuild_index()
    assert seqs == sorted(set(seqs))


def test_context_manager_releases(bank: Bank) -> None:
    """Leaving the block ends the lease, by an exception too."""
    with bank.acquire_lease("one") as lease:
        assert ids(bank) == [lease.id]
    assert ids(bank) == []
    with pytest.raises(ZeroDivisionError), bank.acquire_lease("two"):
        raise ZeroDivisionError
    assert ids(bank) == []


def test_renewal_extends_from_now(timed: Bank, clock: Clock) -> None:
    """A lease is valid for its ttl from the last renewal; one that is past and was not fenced is renewed."""
    lease = timed.acquire_lease("x", ttl_s=100)
    for _ in range(3):
        clock.go(90)
        assert timed.check_lease(lease.id).left_s == pytest.approx(10)
        lease.renew()
        assert timed.check_lease(lease.id).left_s == pytest.approx(100)
    clock.go(1000)
    status = timed.check_lease(lease.id)
    assert (status.is_valid, status.left_s) == (False, pytest.approx(-900))
    assert ids(timed) == [lease.id]
    lease.renew()
    assert timed.check_lease(lease.id).is_valid
    clock.go(1000)
    timed.renew_lease(lease.id, 50)
    assert timed.check_lease(lease.id.upper()).left_s == pytest.approx(50)
    (info,) = timed.leases()
    assert (info.owner, info.acquired_ns) == ("x", clock.ns - (270 + 2000) * 10**9)


def test_what_has_ended_is_unknown(bank: Bank) -> None:
    """A lease that was released can be checked, and neither renewed nor released by its id; nor can one never was."""
    lease = bank.acquire_lease("x")
    bank.release_lease(lease.id)
    for id_ in (lease.id, "0" * 32):
        assert bank.check_lease(id_).left_s is None
        assert not bank.check_lease(id_).is_valid
        with pytest.raises(LeaseError) as lost:
            bank.renew_lease(id_)
        assert lost.value.kind is ErrorKind.LEASE_LOST
        with pytest.raises(LeaseError) as unknown:
            bank.release_lease(id_)
        assert unknown.value.kind is ErrorKind.LEASE_UNKNOWN
    with pytest.raises(LeaseError):
        lease.renew()
    lease.release()
    assert bank.leases() == []


def test_lease_of_another_process(program: Start, bank: Bank, place: Path) -> None:
    """A lease that another process holds is seen, checked, renewed and released by its id."""
    child = program(HOLD, place, "client")
    assert child.stdout is not None
    told = child.stdout.readline().strip()
    (info,) = bank.leases()
    assert (info.id, info.owner, info.pid, info.is_owner_dead) == (told, "holder", child.pid, False)
    bank.renew_lease(told, 5)
    assert 0 < (bank.check_lease(told).left_s or 0) <= 5
    bank.release_lease(told)
    assert bank.leases() == []


@pytest.mark.parametrize(
    "call",
    [
        lambda bank: bank.acquire_lease("x", kind="write"),
        lambda bank: bank.acquire_lease("x", kind=""),
        lambda bank: bank.acquire_lease("x", kind=None),
        lambda bank: bank.acquire_lease("x", kind="pin"),
        lambda bank: bank.acquire_lease("x", kind="client", pins=["a"]),
        lambda bank: bank.acquire_lease("x", kind="pin", pins="a"),
        lambda bank: bank.acquire_lease("x", kind="pin", pins=[b"a"]),
        lambda bank: bank.acquire_lease("x", kind="pin", pins=["a"] * 4097),
        lambda bank: bank.acquire_lease("x", 0),
        lambda bank: bank.acquire_lease("x", -1),
        lambda bank: bank.acquire_lease("x", float("nan")),
        lambda bank: bank.acquire_lease("x", float("inf")),
        lambda bank: bank.acquire_lease("x", 10**9),
        lambda bank: bank.acquire_lease("x", "60"),
        lambda bank: bank.acquire_lease("x", True),
        lambda bank: bank.acquire_lease(b"x"),
        lambda bank: bank.acquire_lease(None),
        lambda bank: bank.acquire_lease("x" * 1025),
        lambda bank: bank.acquire_lease("\ud800"),
        lambda bank: bank.acquire_lease("x", note="\ud800"),
        lambda bank: bank.acquire_lease("x", note="\U0001f980" * 257),
        lambda bank: bank.check_lease("12"),
        lambda bank: bank.check_lease("g" * 32),
        lambda bank: bank.check_lease(b"0" * 32),
        lambda bank: bank.check_lease("\u0661" * 32),
        lambda bank: bank.renew_lease(""),
        lambda bank: bank.release_lease(None),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[Bank], object], bank: Bank) -> None:
    """What no caller can ask for is told as such, and leaves no record."""
    bank.put("a", b"")
    before = bank.stats().version
    with pytest.raises(InvalidInputError):
        call(bank)
    assert bank.stats().version == before


@pytest.mark.parametrize(
    "call",
    [
        lambda bank, lease: bank.acquire_lease("x", kind="pin", pins=["\ud800"]),
        lambda bank, lease: bank.acquire_lease("x", kind="pin", pins=[""]),
        lambda bank, lease: bank.acquire_lease("x", kind="pin", pins=["n" * 1025]),
        lambda bank, lease: bank.acquire_lease("x", kind="pin", pins=None),
        lambda bank, lease: bank.renew_lease(lease, -5),
        lambda bank, lease: bank.renew_lease(lease, float("inf")),
        lambda bank, lease: bank.renew_lease(lease, None),
        lambda bank, lease: bank.renew_lease(lease, 10**10),
    ],
    ids=["pins surrogate", "pins empty", "pins long", "pins None", "-5 s", "inf s", "None s", "10**10 s"],
)
def test_more_bad_arguments_are_refused(call: Callable[[Bank, str], object], bank: Bank) -> None:
    """The same for names that no object can have, and for a renewal."""
    lease = bank.acquire_lease("x")
    before = bank.stats().version
    with pytest.raises(InvalidInputError):
        call(bank, lease.id)
    assert bank.stats().version == before


def test_pin_of_an_absent_name(bank: Bank) -> None:
    """What is not there cannot be pinned; then nothing is, and no lease is left."""
    bank.put("a", b"")
    with pytest.raises(NotFoundError) as absent:
        bank.acquire_lease("x", kind="pin", pins=["a", "b"])
    assert absent.value.kind is ErrorKind.NO_OBJECT
    assert bank.leases() == []


def test_bank_that_is_read_only_or_closed(bank: Bank, place: Path) -> None:
    """A bank that was opened read-only lists and checks leases, and acquires, renews and releases none."""
    lease = bank.acquire_lease("x")
    with Bank.open(place, read_only=True) as reader:
        assert ids(reader) == [lease.id]
        assert reader.check_lease(lease.id).is_valid
        for call in (lambda: reader.acquire_lease("y"), lambda: reader.renew_lease(lease.id)):
            with pytest.raises(ReadOnlyError):
                call()
        with pytest.raises(ReadOnlyError):
            reader.release_lease(lease.id)
    with pytest.raises(InvalidInputError) as closed:
        reader.leases()
    assert closed.value.kind is ErrorKind.CLOSED


# --- fencing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("past_s", [-50, 0, 200, 299, 301, 10**6])
def test_fenced_behind_the_margin(timed: Bank, clock: Clock, past_s: int) -> None:
    """A lease is fenced once it is past by more than the margin for skewed clocks, and not before; who was fenced
    learns it when he renews."""
    lease = timed.acquire_lease("x", ttl_s=100)
    other = timed.acquire_lease("y", ttl_s=10**7)
    clock.go(100 + past_s)
    fenced = past_s > limits.LEASE_MARGIN_S
    assert timed.plan_collection().expired_leases == fenced
    assert timed.collect().fenced_leases == fenced
    assert ids(timed) == [*([] if fenced else [lease.id]), other.id]
    if not fenced:
        lease.renew()
        return
    for _ in range(2):
        with pytest.raises(LeaseError) as lost:
            lease.renew()
        assert lost.value.kind is ErrorKind.LEASE_LOST
    lease.release()
    assert ids(timed) == [other.id]
    # The collection after a collection that had nothing to do fences too.
    clock.go(10**7 + 1000)
    assert timed.collect().fenced_leases == 1


def test_renewed_before_the_record_is_not_fenced(timed: Bank, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is renewed between a collector's look and its record lives on."""
    lease = timed.acquire_lease("x", ttl_s=100)
    clock.go(10_000)
    engine = engine_of(timed)
    commit = engine.commit

    def renew_first(*arguments: Any) -> int:
        monkeypatch.undo()
        lease.renew()
        return commit(*arguments)

    monkeypatch.setattr(engine, "commit", renew_first)
    assert timed.collect().fenced_leases == 0
    assert ids(timed) == [lease.id]
    lease.renew()


@pytest.mark.parametrize("end", ["zombie", "reaped"])
def test_killed_owner_is_fenced_at_once(program: Start, bank: Bank, place: Path, end: str) -> None:
    """What a killed process of this host held is free for the next collection; what a live one holds is not."""
    bank.put("a", content("a", 300_000))
    children = [program(HOLD, place, "pin", "a") for _ in range(2)]
    told = [child.stdout.readline().strip() for child in children if child.stdout is not None]
    bank.delete("a")
    assert collect_now(bank).fenced_leases == 0
    assert sorted(ids(bank)) == sorted(told)
    for number, child in enumerate(children):
        child.send_signal(signal.SIGKILL)
        if end == "zombie":
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        else:
            child.wait()
        assert {lease.id: lease.is_owner_dead for lease in bank.leases()} == dict.fromkeys(told[number:], False) | {
            told[number]: True
        }
        assert bank.plan_collection(0, 0).expired_leases == 1
        assert collect_now(bank).fenced_leases == 1
        assert ids(bank) == told[number + 1 :]
        collect_now(bank)
        assert (pack_bytes(place) == 0) is (number == 1)


def test_killed_owners_space_is_free_at_once(program: Start, bank: Bank, place: Path) -> None:
    """The collection that fences a dead owner frees what he pinned."""
    bank.put("a", content("a", 300_000))
    child = program(HOLD, place, "pin", "a")
    assert child.stdout is not None
    assert child.stdout.readline()
    bank.delete("a")
    child.kill()
    child.wait()
    assert collect_now(bank).fenced_leases == 1
    assert pack_bytes(place) == 0


@pytest.mark.parametrize("field", ["host", "boot", "pid_namespace"])
def test_owner_of_elsewhere_is_not_fenced(bank: Bank, field: str) -> None:
    """A process that may have ended on another host, boot or namespace holds its lease until that is past."""
    engine = engine_of(bank)
    dead = this_process("x")._replace(started=1)
    now = engine.world.now_ns()
    for number, owner in enumerate([dead, dead._replace(**{field: "another"})]):  # type: ignore[arg-type]
        id_ = bytes([number]) * 16
        op = LeaseOp(id_, encode_owner(owner), "client", now, now + 10**12, (), "")
        engine.commit(lambda _, op=op: [op])  # type: ignore[misc]
    assert [lease.is_owner_dead for lease in bank.leases()] == [True, False]
    assert bank.collect().fenced_leases == 1
    assert ids(bank) == ["01" * 16]


def test_unreadable_owner_is_shown(bank: Bank) -> None:
    """An owner that another release wrote is shown as it is, and waits for its clock."""
    engine = engine_of(bank)
    now = engine.world.now_ns()
    engine.commit(lambda _: [LeaseOp(b"1" * 16, "a cron job", "client", now, now + 10**12, (), "")])
    (info,) = bank.leases()
    assert (info.owner, info.pid, info.is_owner_dead) == ("a cron job", 0, False)
    assert bank.collect().fenced_leases == 0


# --- keeping alive ---------------------------------------------------------------------------------------------------


def test_keep_alive_renews(bank: Bank) -> None:
    """A lease that is kept alive is valid for longer than its ttl, several at once, until it is released."""
    leases = [bank.acquire_lease(f"x{number}", ttl_s=1 + number) for number in range(3)]
    first = [lease.expires_ns for lease in leases]
    for lease in leases:
        lease.keep_alive()
    deadline = time.monotonic() + 1.6
    while time.monotonic() < deadline:
        assert all(bank.check_lease(lease.id).is_valid for lease in leases)
        time.sleep(0.05)
    assert all(lease.expires_ns > before for lease, before in zip(leases, first, strict=True))
    assert [lease.failure for lease in leases] == [None] * 3
    for lease in leases:
        lease.release()
    # Nobody renews any more.
    version = bank.stats().version
    time.sleep(0.5)
    assert bank.stats().version == version
    wait_until(lambda: "casbank-leases" not in {thread.name for thread in threading.enumerate()})
    # And a new one is kept all the same.
    with bank.acquire_lease("again", ttl_s=0.5) as lease:
        lease.keep_alive()
        time.sleep(0.8)
        assert bank.check_lease(lease.id).is_valid


def test_lost_lease_is_told_once(bank: Bank) -> None:
    """Whoever keeps a lease alive is told in another thread that it was fenced, once; the failure stays."""
    told: list[tuple[CasbankError, str]] = []
    lease = bank.acquire_lease("x", ttl_s=0.5)
    lease.keep_alive(lambda error: told.append((error, threading.current_thread().name)))
    bank.release_lease(lease.id)
    wait_until(lambda: bool(told))
    time.sleep(0.3)
    ((error, thread),) = told
    assert isinstance(error, LeaseError)
    assert error.kind is ErrorKind.LEASE_LOST
    assert lease.failure is error
    assert thread != threading.current_thread().name
    lease.release()


def test_failure_that_passes_is_kept_until_it_has_passed(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal that the disk refuses is told, kept, and tried again."""
    told: list[CasbankError] = []
    journal = engine_of(bank).journal
    lease = bank.acquire_lease("x", ttl_s=1)

    def full(seq: int, record: bytes) -> None:
        raise StoreError("no space", kind=ErrorKind.DISK_FULL)

    monkeypatch.setattr(journal, "append", full)
    lease.keep_alive(told.append)
    wait_until(lambda: len(told) > 1)
    assert isinstance(lease.failure, StoreError)
    monkeypatch.undo()
    wait_until(lambda: lease.failure is None)
    assert bank.check_lease(lease.id).is_valid
    assert {error.kind for error in told} == {ErrorKind.DISK_FULL}
    lease.release()


def test_callback_that_fails_costs_no_other_lease(bank: Bank) -> None:
    """A callback that raises keeps nobody else's lease from being renewed."""
    called = threading.Event()

    def fail(_: CasbankError) -> None:
        called.set()
        raise ZeroDivisionError

    lost, kept = bank.acquire_lease("lost", ttl_s=0.5), bank.acquire_lease("kept", ttl_s=0.8)
    lost.keep_alive(fail)
    kept.keep_alive()
    bank.release_lease(lost.id)
    assert called.wait(20)
    before = kept.expires_ns
    time.sleep(0.5)
    assert kept.expires_ns > before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_callback_may_close_the_bank(place: Path) -> None:
    """Who is told that his lease is lost may close his bank there and then."""
    done = threading.Event()
    errors: list[BaseException] = []
    bank = Bank.create(place)
    lease = bank.acquire_lease("x", ttl_s=0.5)

    def close(_: CasbankError) -> None:
        try:
            bank.close()
        except BaseException as error:
            errors.append(error)
        done.set()

    lease.keep_alive(close)
    bank.release_lease(lease.id)
    try:
        assert done.wait(20)
        assert errors == []
        with Bank.open(place) as again:
            assert again.leases() == []
    finally:
        if errors:
            engine = lease._held._commit.__self__  # type: ignore[attr-defined]
            engine.close()


def test_closing_ends_the_renewals(place: Path) -> None:
    """A closed bank renews nothing, and leaves no thread; its lease is then one that nobody renews."""
    bank = Bank.create(place)
    lease = bank.acquire_lease("x", ttl_s=0.5)
    lease.keep_alive()
    time.sleep(0.2)
    bank.close()
    assert "casbank-leases" not in {thread.name for thread in threading.enumerate()}
    for call in (lease.renew, lease.release):
        with pytest.raises(InvalidInputError) as closed:
            call()
        assert closed.value.kind is ErrorKind.CLOSED
    with Bank.open(place) as again:
        expires_ns = again.leases()[0].expires_ns
        time.sleep(0.3)
        assert [(info.id, info.expires_ns) for info in again.leases()] == [(lease.id, expires_ns)]


def test_nothing_is_kept_alive_in_vain(place: Path) -> None:
    """Who asks a closed bank to keep a lease alive is told that it cannot."""
    bank = Bank.create(place)
    lease = bank.acquire_lease("x")
    bank.close()
    with pytest.raises(InvalidInputError) as closed:
        lease.keep_alive()
    assert closed.value.kind is ErrorKind.CLOSED


def test_forked_child_changes_nothing(program: Start, place: Path) -> None:
    """A forked child is refused by its parent's leases, and its end stops no renewal."""
    child = program(FORK, place)
    assert child.communicate(timeout=60)[0].splitlines() == ["0", "True None True", "[]"]
    assert child.returncode == 0


# --- what leases protect ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["delete", "overwrite", "copy over", "batch"])
def test_pinned_version_outlives_its_name(bank: Bank, place: Path, change: str) -> None:
    """A pin keeps the version that its name had, through deletes and overwrites and collections without graces, so that
    it can be brought back; once it is released the space is free."""
    kept, passing = content("kept", 300_000), content("passing", 300_000)
    version = bank.put("a", kept).version
    bank.put("other", b"other" * 1000)
    lease = bank.acquire_lease("x", kind="pin", pins=["a"])
    assert bank.leases()[0].pins == 1
    # Not pinned: put after the pin.
    bank.put("a", passing)
    match change:
        case "delete":
            bank.delete("a")
        case "overwrite":
            bank.put("a", b"new")
        case "copy over":
            bank.copy("other", "a")
        case _:
            with bank.batch() as batch:
                batch.put("a", b"new")
    for _ in range(2):
        collect_now(bank)
        assert [info.version for info in bank.list(deleted=True)] == [version]
        assert 300_000 < pack_bytes(place) < 400_000
    assert bank.undelete("a", version).size == len(kept)
    assert bank.get("a") == kept
    bank.delete("a")
    collect_now(bank)
    assert bank.undelete("a").size == len(kept)
    bank.delete("a")
    lease.release()
    collect_now(bank)
    assert pack_bytes(place) < 50_000
    assert bank.verify_index() == []


def test_pin_of_a_removed_lease_leaves_no_tombstone(bank: Bank, place: Path) -> None:
    """Once a pin is released, the next collection forgets the version that it held, and frees it; a later one with a
    longer window finds nothing wrong."""
    bank.put("a", content("a", 300_000))
    bank.put("b", content("b", 50_000))
    lease = bank.acquire_lease("x", kind="pin", pins=["a"])
    bank.delete("a")
    collect_now(bank)
    lease.release()
    collect_now(bank)
    assert pack_bytes(place) < 60_000
    # Of the default window: what was removed just now is within it.
    bank.put("change", b"")
    bank.collect()
    assert list(bank.list(deleted=True)) == []
    with pytest.raises(NotFoundError) as gone:
        bank.undelete("a")
    assert gone.value.kind is ErrorKind.NO_OBJECT


def test_pins_that_overlap(bank: Bank, place: Path) -> None:
    """A version is kept as long as one of its pins lives, and each pin keeps its own version."""
    data = [content(number, 60_000) for number in range(4)]
    leases: list[Lease] = []
    for each in data:
        bank.put("a", each)
        leases.append(bank.acquire_lease("x", kind="pin", pins=["a"]))
        leases.append(bank.acquire_lease("y", kind="pin", pins=["a"]))
    bank.delete("a")
    collect_now(bank)
    assert len(list(bank.list(deleted=True))) == 4
    for number in (3, 1, 2, 0):
        leases[2 * number].release()
        collect_now(bank)
        leases[2 * number + 1].release()
        # One record that forgets: what is removed later is what a collection looks at.
        bank.put("clock", b"")
        bank.delete("clock")
        collect_now(bank)
    assert list(bank.list(deleted=True)) == []
    assert pack_bytes(place) == 0


def test_client_lease_protects_nothing(bank: Bank, place: Path) -> None:
    """A lease of kind client, or read, keeps nothing from being swept."""
    bank.put("a", content("a", 300_000))
    with bank.acquire_lease("x"), bank.acquire_lease("y", kind="read"):
        bank.delete("a")
        assert collect_now(bank).swept_packs == 2
        assert bank.stats().stored_bytes == 0


def test_read_lease_holds_back_deletes(bank: Bank, place: Path) -> None:
    """What is swept while a read lease lives is deleted when it ends, not before; what was swept before, is."""
    data = content("b", 300_000)
    bank.put("a", content("a", 300_000))
    bank.put("b", data)
    bank.delete("a")
    assert bank.collect(bank.plan_collection(0, 10**6)).waiting_bytes > 0
    with bank.open_object("b") as file, bank.acquire_lease("x", kind="read") as lease:
        start = file.read(10)
        bank.delete("b")
        report = collect_now(bank)
        assert (report.swept_packs, report.deleted_packs) == (2, 2)
        assert report.waiting_bytes == pack_bytes(place) > 300_000
        assert collect_now(bank).deleted_packs == 0
        assert len(packs_of(place)) == 2
        lease.release()
        assert start == data[:10]
    assert collect_now(bank).deleted_packs == 2
    assert packs_of(place) == []


def test_dead_readers_lease_ends_with_the_next_collection(program: Start, bank: Bank, place: Path) -> None:
    """What only a killed reader's lease held back is deleted by the next collection, even if nothing else changed."""
    bank.put("a", content("a", 300_000))
    child = program(HOLD, place, "read")
    assert child.stdout is not None
    assert child.stdout.readline()
    bank.delete("a")
    assert collect_now(bank).deleted_packs == 0
    child.kill()
    child.wait()
    report = collect_now(bank)
    assert (report.fenced_leases, report.deleted_packs) == (1, 2)


# --- what becomes of leases when the index does -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["rebuild", "drop", "checkpoint", "checkpoints", "checkpoints and drop"])
def test_leases_survive(place: Path, how: str) -> None:
    """Leases and what they hold are the same after the index was lost, and when the journal behind them is gone."""
    with Bank.create(place) as bank:
        engine_of(bank).journal._segment_bytes_max = 3000  # type: ignore[attr-defined]
        bank.put("a", content("a", 300_000))
        bank.put("b", content("b", 50_000))
        leases = [
            bank.acquire_lease("pin", kind="pin", pins=["a", "b"], note="n"),
            bank.acquire_lease("read", kind="read"),
            bank.acquire_lease("gone"),
        ]
        leases[2].release()
        bank.put("a", b"new")
        bank.delete("b")
        collect_now(bank)
        leases[0].renew()
        for number in range(how.count("checkpoint") * (3 if "checkpoints" in how else 1)):
            for each in range(20):
                bank.put(f"n{each}", content((number, each), 1000))
            engine_of(bank).checkpoints.write()
        if "checkpoints" in how:
            assert engine_of(bank).journal.first() > leases[0].seq
        before, listed = rows_of(bank), bank.leases()
        if how == "rebuild":
            bank.rebuild_index()
            assert rows_of(bank) == before
    if "drop" in how:
        Bank.drop_index(place)
    with Bank.open(place) as bank:
        assert rows_of(bank) == before
        assert bank.leases() == listed
        assert [lease.pins for lease in listed] == [2, 0]
        assert bank.verify_index() == []
        collect_now(bank)
        assert [info.name for info in bank.list(deleted=True)] == ["a", "b"]
        # Acquired before: not known to be dead, since it is this process.
        bank.renew_lease(leases[0].id)
        for name in "ab":
            bank.undelete(name)
            assert bank.get(name) == content(name, 300_000 if name == "a" else 50_000)
        for lease in leases[:2]:
            bank.release_lease(lease.id)
        assert bank.leases() == []
        collect_now(bank)
        assert bank.verify_index() == []
        assert len(contents_of(bank)) == len(bank)


def test_lease_of_a_bank_in_another_folder(place: Path, tmp_path: Path) -> None:
    """A copy of a bank has its leases, and what becomes of them there concerns nobody else."""
    with Bank.create(place) as bank:
        lease = bank.acquire_lease("x")
    shutil.copytree(place, tmp_path / "copy")
    with Bank.open(tmp_path / "copy") as other:
        other.release_lease(lease.id)
    with Bank.open(place) as bank:
        assert ids(bank) == [lease.id]
