"""Collections of banks on disk: what they free, what they leave alone, and when they refuse."""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from bank_scene import MIB, content, contents_of, engine_of, flip, pack_bytes, packs_of, random_work, rows_of
from collect_scene import DAY_S, Clock, Servant, collect_now, counting, edit_index
from collect_scene import SERVANT as SERVANT_PROGRAM
from conftest import Start

from casbank import (
    Bank,
    CollectProgress,
    CorruptionError,
    ErrorKind,
    InvalidInputError,
    NotFoundError,
    ObjectFile,
    ReadOnlyError,
    limits,
)

PACK_BYTES = MIB

REPLACE = """
import itertools, sys
from bank_scene import content
from casbank import Bank
from collect_scene import collect_now
versions = [content(number, 2**21) for number in range(4)]
with Bank.open(sys.argv[1]) as bank:
    for number in itertools.count(1):
        bank.put("x", versions[number % 4])
        collect_now(bank)
"""


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of a mebibyte: many of them in little time."""
    monkeypatch.setattr(limits, "PACK_BYTES_TARGET", PACK_BYTES)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(place: Path, clock: Clock) -> Iterator[Bank]:
    """A bank whose clock goes when it is told to."""
    with Bank.create(place, world=clock.world) as bank:
        yield bank


@pytest.fixture
def servant(program: Start) -> Servant:
    return Servant(program(SERVANT_PROGRAM))


def fill(bank: Bank, seed: object, number: int, size: int) -> dict[str, bytes]:
    """Objects of random sizes, several to a pack."""
    chance = random.Random(str(seed))
    made = {f"{seed}/{each:03}": chance.randbytes(chance.randrange(size // 2, size * 3 // 2)) for each in range(number)}
    with bank.batch() as batch:
        for name, data in made.items():
            batch.put(name, data)
    return made


def delete_all(bank: Bank, names: list[str]) -> None:
    with bank.batch() as batch:
        for name in names:
            batch.delete(name)


def check(bank: Bank, there: dict[str, bytes]) -> None:
    """Everything is there, by a rebuilt index too, and nothing else."""
    assert contents_of(bank) == there
    assert bank.verify_index() == []
    bank.rebuild_index()
    assert contents_of(bank) == there


def epoch_of(pack: Path) -> int:
    return int.from_bytes(pack.read_bytes()[48:52], "little")


# --- what is freed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", [None, "aes-256-gcm", "chacha20-poly1305"])
def test_space_comes_back(place: Path, tmp_path: Path, suite: str | None) -> None:
    """With half of the objects deleted the packs take less than 60 % of what they took, and with all of them less than
    1 %; the others read as before, whole and in ranges, by an index that was lost, too."""
    key = tmp_path / "key"
    key.write_bytes(content("key", 32))
    keys: dict[str, Any] = {} if suite is None else {"key_file": key, "cache_dir": tmp_path / "cache"}
    with Bank.create(place, **keys, **({} if suite is None else {"suite": suite})) as bank:
        there = fill(bank, "x", 150, 60_000)
        before = pack_bytes(place)
        assert before > 8_000_000
        gone = random.Random(1).sample(sorted(there), 75)
        delete_all(bank, gone)
        for name in gone:
            del there[name]
        plan = bank.plan_collection(0, 0)
        report = bank.collect(plan)
        after = pack_bytes(place)
        assert after < 0.6 * before
        assert report.is_complete
        assert abs(before - after - report.freed_bytes) < 1000
        assert abs(plan.reclaimable_bytes - report.freed_bytes) < 0.05 * before
        assert bank.stats().stored_bytes == after
        chance = random.Random(2)
        for name in chance.sample(sorted(there), 20):
            start, length = chance.randrange(len(there[name])), chance.randrange(50_000)
            assert bank.get(name, start=start, length=length) == there[name][start : start + length]
        check(bank, there)
    Bank.drop_index(place, cache_dir=keys.get("cache_dir"))
    with Bank.open(place, **keys) as bank:
        assert contents_of(bank) == there
        delete_all(bank, sorted(there))
        assert collect_now(bank).is_complete
        assert pack_bytes(place) < 0.01 * before
        assert bank.verify_index() == []
        # As good as new.
        there = fill(bank, "y", 10, 60_000)
        check(bank, there)


@pytest.mark.parametrize(
    "to_a_pack",
    [
        1,
        3,
        4,
    ],
)
def test_space_comes_back_from_packs_of_few_objects(bank: Bank, place: Path, to_a_pack: int) -> None:
    """Less than 60 % is left of half, however many objects share a pack."""
    size = PACK_BYTES // to_a_pack - 20_000
    names = [f"{number:03}" for number in range(36)]
    with bank.batch() as batch:
        for name in names:
            batch.put(name, content((to_a_pack, name), size))
    before = pack_bytes(place)
    delete_all(bank, random.Random(to_a_pack).sample(names, 18))
    collect_now(bank)
    assert pack_bytes(place) < 0.6 * before


def test_nothing_to_do_reads_nothing(bank: Bank, place: Path) -> None:
    """A collection that has nothing to do reads no pack once it knows, and changes nothing that is stored."""
    there = fill(bank, "x", 40, 60_000)
    collect_now(bank)
    packs = packs_of(place)
    with counting() as read:
        report = collect_now(bank)
        assert bank.plan_collection(0, 0).is_idle
    assert read == []
    assert (report.swept_packs, report.freed_bytes, report.copied_bytes, report.is_complete) == (0, 0, 0, True)
    assert packs_of(place) == packs
    # Something to look at, and nothing to free: meta packs only.
    bank.copy("x/000", "copy")
    meta = {path.relative_to(place).as_posix() for path in packs if path.stat().st_size < 50_000}
    with counting() as read:
        assert collect_now(bank).swept_packs == 0
    assert {name for name in read if name.startswith("packs/")} <= meta
    check(bank, there | {"copy": there["x/000"]})


def test_second_collection_is_idle(bank: Bank, place: Path) -> None:
    """What one collection left the next one leaves too, whatever was dead in it."""
    there = fill(bank, "x", 60, 60_000)
    gone = sorted(there)[::3] + sorted(there)[1::3]
    delete_all(bank, gone)
    first = collect_now(bank)
    assert first.copied_bytes > 0
    packs = packs_of(place)
    assert bank.plan_collection(0, 0).is_idle
    second = collect_now(bank)
    assert (second.swept_packs, second.copied_bytes, second.deleted_packs) == (0, 0, 0)
    # And one that looks at everything.
    bank.put("inline", b"1")
    third = collect_now(bank)
    assert (third.swept_packs, third.copied_bytes, third.deleted_packs) == (0, 0, 0)
    assert packs_of(place) == packs


def test_rewriting_keeps_the_order(place: Path) -> None:
    """What is copied out of dead packs lies in the order of the objects, and is shared by whoever shared it."""
    with Bank.create(place, chunking="fixed:16384") as bank:
        chunks = {number: content(number, 16384) for number in range(300)}
        rest = {number: content(("rest", number), 16384) for number in range(300)}
        with bank.batch() as batch:
            for number in range(300):
                batch.put(f"mixed {number:03}", chunks[number] + rest[number])
        order = random.Random(3).sample(range(300), 300)
        kept = {
            "a": b"".join(chunks[number] for number in order),
            "b": b"".join(chunks[number] for number in order[90:]),
        }
        for name, data in kept.items():
            bank.put(name, data)
        unique = bank.stats().unique_bytes
        delete_all(bank, [f"mixed {number:03}" for number in range(300)])
        report = collect_now(bank)
        assert report.copied_bytes >= 250 * 16384
        assert bank.stats().unique_bytes < 0.55 * unique
        check(bank, kept)
        with counting() as read:
            bank.get("a")
        data_packs = [name for number, name in enumerate(read) if number == 0 or read[number - 1] != name]
        # Each pack is visited once or so: the object lies in them in its order.
        assert len(data_packs) <= 2 * len(set(data_packs))
        for name in ("a", "b"):
            for start in range(0, len(kept[name]), 777_777):
                assert bank.get(name, start=start, length=40_000) == kept[name][start : start + 40_000]


def test_overwritten_versions_go(bank: Bank, place: Path) -> None:
    """Of a name that was put again and again only the last version is left."""
    for number in range(20):
        bank.put("x", content(number, 300_000))
    collect_now(bank)
    assert pack_bytes(place) < 310_000
    check(bank, {"x": content(19, 300_000)})


def test_shared_chunks_stay(bank: Bank, place: Path) -> None:
    """What two names share stays until both are gone; copies and parts count as well."""
    one, other = content(1, 2 * MIB), content(2, 2 * MIB)
    bank.put("a", one + other)
    bank.put("b", one)
    bank.copy("b", "c")
    for name, left in (("a", 1.0), ("b", 1.0), ("c", 0.0)):
        bank.delete(name)
        collect_now(bank)
        assert pack_bytes(place) < (left + 0.15) * 2 * MIB
        check(bank, {key: one for key in "abc" if key > name})
    assert pack_bytes(place) == 0


def test_random_work_is_left_whole(bank: Bank, place: Path) -> None:
    """Whatever puts, overwrites, deletes, copies and batches come before, between and after collections, what must be
    there is, and the index is what the store says."""
    there: dict[str, bytes] = {}
    for seed in range(4):
        # Each round's names are its own; those of the last but one go.
        with bank.batch() as batch:
            for name in there:
                batch.delete(name)
        there = random_work(bank, seed, 30, lambda step: collect_now(bank) if step % 13 == 5 else None)
        collect_now(bank)
        assert contents_of(bank) == there
        assert bank.verify_index() == []
        if seed % 2:
            engine_of(bank).checkpoints.write()
    before = rows_of(bank)
    bank.rebuild_index()
    assert rows_of(bank) == before
    check(bank, there)


def test_small_packs_are_merged(bank: Bank, place: Path) -> None:
    """Eight small packs of a kind become one, alive as they are; seven stay."""
    for number in range(limits.MERGE_PACKS_MIN - 1):
        bank.put(f"{number}", content(number, 9000))
    assert bank.plan_collection(0, 0).rewrite_packs == 0
    collect_now(bank)
    assert len(packs_of(place)) == limits.MERGE_PACKS_MIN - 1
    bank.put("last", content("last", 9000))
    collect_now(bank)
    assert len(packs_of(place)) == 1
    check(bank, {f"{number}": content(number, 9000) for number in range(7)} | {"last": content("last", 9000)})


def test_merged_packs_are_merged_once(bank: Bank, place: Path) -> None:
    """Merging comes to an end: a bank of small packs is not copied anew by each collection."""
    for number in range(40):
        bank.put(f"{number}", content(number, 9000))
    assert collect_now(bank).copied_bytes > 0
    for _ in range(2):
        bank.put("inline", b"1")
        assert collect_now(bank).copied_bytes == 0


# --- windows, graces, budgets ----------------------------------------------------------------------------------------


def test_undelete_window(timed: Bank, clock: Clock, place: Path) -> None:
    """A removed version is kept until the bank's window is over, and no longer; a plan may shorten it."""
    data = content("a", 300_000)
    timed.put("a", data)
    timed.put("b", content("b", 300_000))
    timed.delete("a")
    for number in range(3):
        timed.put("change", b"%d" % number)
        plan = timed.plan_collection(reader_grace_s=0)
        assert plan.window_bytes == pytest.approx(pack_bytes(place) / 2, rel=0.01)
        (removed_ns,) = (info.removed_ns for info in timed.list("a", deleted=True))
        assert removed_ns is not None
        assert 0 <= plan.window_until_ns - removed_ns - DAY_S * 10**9 < DAY_S * 10**9
        assert timed.collect(plan).swept_packs == 0
        clock.go(DAY_S / 3 - 100)
    timed.undelete("a")
    assert timed.get("a") == data
    timed.delete("a")
    clock.go(DAY_S + 10)
    report = timed.collect(timed.plan_collection(reader_grace_s=0))
    assert report.swept_packs == 2
    assert list(timed.list(deleted=True)) == []
    timed.delete("b")
    clock.go(1000)
    assert timed.collect(timed.plan_collection(2000, 0)).swept_packs == 0
    assert timed.collect(timed.plan_collection(900, 0)).swept_packs == 2
    assert pack_bytes(place) == 0


def test_window_is_told_of_a_bank_at_rest(bank: Bank, place: Path) -> None:
    """What waits for the end of the window is told, whether or not anything was written since the last collection."""
    bank.put("a", content("a", 300_000))
    bank.delete("a")
    before = bank.plan_collection()
    assert before.window_bytes > 290_000
    bank.collect()
    after = bank.plan_collection()
    assert (after.window_bytes, after.window_until_ns) == (before.window_bytes, before.window_until_ns)


def test_window_of_the_bank(tmp_path: Path) -> None:
    """A bank with a window of nothing frees at once what was deleted."""
    with Bank.create(tmp_path / "0", keep_deleted_s=0) as bank:
        bank.put("a", content("a", 300_000))
        bank.delete("a")
        assert bank.collect(bank.plan_collection(reader_grace_s=0)).deleted_packs == 2
        assert packs_of(tmp_path / "0") == []


def test_swept_packs_wait_for_readers(timed: Bank, clock: Clock, place: Path, servant: Servant) -> None:
    """What was swept is deleted when the readers' grace is over, by whichever process comes then."""
    timed.put("a", content("a", 300_000))
    timed.delete("a")
    size = pack_bytes(place)
    report = timed.collect(timed.plan_collection(0))
    assert (report.swept_packs, report.deleted_packs, report.waiting_bytes) == (2, 0, size)
    clock.go(limits.READER_GRACE_S_DEFAULT - 10)
    plan = timed.plan_collection()
    assert (plan.waiting_packs, plan.waiting_bytes, plan.is_idle) == (2, size, True)
    assert 0 < plan.waiting_until_ns - clock.ns <= 10 * 10**9
    assert timed.collect().deleted_packs == 0
    assert pack_bytes(place) == size
    servant.sweep(place, later_s=DAY_S)
    assert packs_of(place) == []
    assert timed.plan_collection().waiting_packs == 0
    assert timed.verify_index() == []


def test_grace_is_over(timed: Bank, clock: Clock, place: Path) -> None:
    """The same in one process, with a bank that was closed meanwhile."""
    timed.put("a", content("a", 300_000))
    timed.delete("a")
    timed.collect(timed.plan_collection(0))
    timed.close()
    Bank.drop_index(place)
    clock.go(limits.READER_GRACE_S_DEFAULT + 1)
    with Bank.open(place, world=clock.world) as bank:
        assert bank.collect().deleted_packs == 2
        assert packs_of(place) == []
        assert bank.verify_index() == []


def test_budget_of_bytes_is_kept(bank: Bank, place: Path) -> None:
    """No more is copied than the budget has, and what is dead as a whole goes all the same; later runs do the rest."""
    there = fill(bank, "x", 90, 60_000)
    gone = sorted(there)[::2]
    delete_all(bank, gone)
    for name in gone:
        del there[name]
    budget = 1_200_000
    report = collect_now(bank, budget_bytes=budget)
    assert 0 < report.copied_bytes <= budget
    check(bank, there)
    assert collect_now(bank, budget_bytes=0).copied_bytes == 0


def test_what_the_budget_left_is_done_later(bank: Bank, place: Path) -> None:
    """A collection that its budget ended says so, and the next one goes on where it stopped."""
    there = fill(bank, "x", 90, 60_000)
    before = pack_bytes(place)
    delete_all(bank, sorted(there)[::2])
    reports = [collect_now(bank, budget_bytes=1_200_000) for _ in range(6)]
    assert not reports[0].is_complete
    assert pack_bytes(place) < 0.6 * before


def test_budget_of_seconds(bank: Bank, place: Path) -> None:
    """With no time left a collection stops soon, with nothing lost, and says so; the next one goes on."""
    there = fill(bank, "x", 260, 60_000)
    before = pack_bytes(place)
    gone = sorted(there)[::2]
    delete_all(bank, gone)
    for name in gone:
        del there[name]
    report = collect_now(bank, budget_s=0)
    assert not report.is_complete
    assert report.copied_bytes < sum(map(len, there.values()))
    assert contents_of(bank) == there
    assert collect_now(bank).is_complete
    assert pack_bytes(place) < 0.6 * before
    check(bank, there)


def test_progress_is_told(bank: Bank) -> None:
    """Whoever asks is told of each step, of numbers that do not go back, and never of more than there is."""
    there = fill(bank, "x", 90, 60_000)
    delete_all(bank, sorted(there)[:45] + sorted(there)[45::2])
    told: list[CollectProgress] = []
    report = bank.collect(bank.plan_collection(0, 0), progress=told.append)
    assert {event.step for event in told} == {"sweep", "rewrite", "delete"}
    assert all(0 <= event.done_bytes <= event.total_bytes for event in told)
    assert report.is_complete
    steps = [event.step for event in told]
    assert steps.index("sweep") < steps.index("rewrite") < steps.index("delete")
    for step in ("sweep", "rewrite"):
        assert (done := [event.done_bytes for event in told if event.step == step]) == sorted(done)


def test_progress_that_fails_ends_the_collection(bank: Bank) -> None:
    """What the caller's function raises passes through; nothing is lost, and the next collection goes on."""
    there = fill(bank, "x", 90, 60_000)
    gone = sorted(there)[:45] + sorted(there)[45::2]
    delete_all(bank, gone)
    for name in gone:
        del there[name]

    def fail_at(step: str) -> Callable[[CollectProgress], None]:
        def fail(event: CollectProgress) -> None:
            if event.step == step:
                raise ZeroDivisionError

        return fail

    for step in ("sweep", "rewrite", "delete"):
        with pytest.raises(ZeroDivisionError):
            bank.collect(bank.plan_collection(0, 0), progress=fail_at(step))
        assert contents_of(bank) == there
        assert bank.leases() == []
    collect_now(bank)
    check(bank, there)


@pytest.mark.parametrize(
    "options",
    [
        {"keep_deleted_s": -1},
        {"reader_grace_s": -0.1},
        {"budget_bytes": -1},
        {"budget_s": -1},
        {"keep_deleted_s": "1"},
        {"reader_grace_s": None},
        {"reader_grace_s": float("nan")},
        {"reader_grace_s": float("inf")},
        {"budget_s": "x"},
        {"budget_bytes": True},
        {"keep_deleted_s": 2**70},
    ],
    ids=str,
)
def test_bad_options_are_refused(bank: Bank, options: dict[str, Any]) -> None:
    """Windows, graces and budgets that are no numbers, or negative, are told as such."""
    with pytest.raises(InvalidInputError):
        bank.plan_collection(**options)


# --- what is blocked, and by whom ------------------------------------------------------------------------------------


def test_blocked_space_is_told(bank: Bank, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Space that a writer holds is said to be blocked by his lease, and is free when it ends, even if nothing else is
    written."""
    monkeypatch.setattr(limits, "STREAM_KEPT_BYTES_MAX", 65_536)
    monkeypatch.setattr(limits, "SESSION_PACKS_MAX", 1)
    batch = bank.batch()
    batch.put("stream", (content(number, 2 * MIB) for number in range(8)))
    plan = bank.plan_collection(0, 0)
    (blocked,) = plan.blocked
    assert (blocked.lease.kind, blocked.lease.pid, blocked.lease.id) == ("write", os.getpid(), bank.leases()[0].id)
    assert blocked.bytes == pytest.approx(bank.stats().stored_bytes, rel=0.01)
    assert plan.reclaimable_bytes == 0
    assert collect_now(bank).swept_packs == 0
    batch.abandon()
    assert bank.leases() == []
    assert collect_now(bank).swept_packs > 0
    assert bank.stats().stored_bytes == 0


# --- orphans ---------------------------------------------------------------------------------------------------------


def stray(place: Path, seed: object, age_s: float) -> Path:
    """A pack that nobody published, or something that looks like one."""
    digits = random.Random(str(seed)).randbytes(16).hex()
    folder = packs_of(place)[0].parent if packs_of(place) else place / "packs" / digits[:2]
    base = place / "packs"
    depth = len(folder.relative_to(base).parts)
    path = base.joinpath(*[digits[2 * level : 2 * level + 2] for level in range(depth)]) / digits
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 5000)
    when = time.time() - age_s
    os.utime(path, (when, when))
    return path


def test_old_orphan_goes_and_young_one_stays(bank: Bank, place: Path) -> None:
    """A pack that belongs to nothing is deleted once it is older than a day."""
    there = fill(bank, "x", 10, 60_000)
    old, young = stray(place, 1, DAY_S + 60), stray(place, 2, DAY_S - 600)
    plan = bank.plan_collection(0, 0)
    assert (plan.orphan_packs, plan.orphan_bytes) == (1, 5000)
    report = bank.collect(plan)
    assert (report.swept_packs, report.deleted_packs, report.freed_bytes) == (1, 1, 5000)
    assert (old.exists(), young.exists()) == (False, True)
    check(bank, there)


def test_orphan_waits_for_readers_too(timed: Bank, clock: Clock, place: Path) -> None:
    """An orphan is swept by a record, and deleted behind the grace like any other pack."""
    timed.put("a", content("a", 300_000))
    path = stray(place, 1, DAY_S + 60)
    assert timed.collect().swept_packs == 1
    assert path.exists()
    clock.go(limits.READER_GRACE_S_DEFAULT + 1)
    assert timed.collect().deleted_packs == 1
    assert not path.exists()
    assert timed.verify_index() == []


def test_orphan_is_found_in_a_bank_at_rest(timed: Bank, clock: Clock, place: Path) -> None:
    """What was too young at one collection is deleted by one of the next days, even if nobody writes any more."""
    timed.put("a", content("a", 300_000))
    path = stray(place, 1, 0)
    collect_now(timed)
    clock.go(3 * DAY_S)
    for _ in range(2):
        collect_now(timed)
    assert not path.exists()


def test_lease_protects_younger_packs(timed: Bank, clock: Clock, place: Path) -> None:
    """No pack is taken for an orphan that is younger than a living lease: its writer may still publish it."""
    timed.put("a", content("a", 300_000))
    clock.go(-10 * DAY_S)
    lease = timed.acquire_lease("x", ttl_s=30 * DAY_S)
    clock.go(10 * DAY_S)
    older, younger = stray(place, 1, 11 * DAY_S), stray(place, 2, 9 * DAY_S)
    collect_now(timed)
    assert (older.exists(), younger.exists()) == (False, True)
    lease.release()
    timed.put("b", b"")
    collect_now(timed)
    assert not younger.exists()


def test_many_orphans_are_refused(bank: Bank, place: Path) -> None:
    """More than ten orphans, and more than a tenth of all packs, are a wrong journal until somebody insists: nothing is
    collected."""
    bank.put("a", content("a", 300_000))
    bank.put("b", content("b", 50_000))
    bank.delete("b")
    paths = [stray(place, number, 2 * DAY_S) for number in range(11)]
    assert bank.plan_collection(0, 0).orphan_packs == 11
    with pytest.raises(CorruptionError) as refused:
        collect_now(bank)
    assert refused.value.kind is ErrorKind.JOURNAL
    assert all(path.exists() for path in paths)
    live = bank.stats().packs
    assert len(packs_of(place)) == 11 + live
    assert collect_now(bank, force=True).deleted_packs > 11
    assert len(packs_of(place)) == bank.stats().packs < live
    check(bank, {"a": content("a", 300_000)})


def test_few_orphans_are_not_suspicious(bank: Bank, place: Path) -> None:
    """Ten orphans are what crashes leave."""
    bank.put("a", b"")
    paths = [stray(place, number, 2 * DAY_S) for number in range(10)]
    assert collect_now(bank).deleted_packs == 10
    assert not any(path.exists() for path in paths)


def test_strange_files_are_left_alone(bank: Bank, place: Path) -> None:
    """What does not look like a pack is none of the collector's business."""
    bank.put("a", content("a", 300_000))
    folder = packs_of(place)[0].parent
    for name in ("README", "x" * 32, "0" * 31, packs_of(place)[0].name + "~"):
        (folder / name).write_bytes(b"?")
        os.utime(folder / name, (0, 0))
    collect_now(bank)
    assert len(packs_of(place)) == 6


# --- encryption ------------------------------------------------------------------------------------------------------


def test_retired_epoch_goes(place: Path, tmp_path: Path) -> None:
    """After a rotation, a retirement and a collection no pack is sealed in the old epoch, and everything reads."""
    key = tmp_path / "key"
    key.write_bytes(content("key", 32))
    with Bank.create(place, key_file=key, cache_dir=tmp_path / "cache") as bank:
        there = fill(bank, "old", 40, 60_000)
        bank.keys.rotate()
        there |= fill(bank, "new", 10, 60_000)
        assert {epoch_of(pack) for pack in packs_of(place)} == {1, 2}
        collect_now(bank)
        assert {epoch_of(pack) for pack in packs_of(place)} == {1, 2}
        bank.keys.retire(1)
        plan = bank.plan_collection(0, 0)
        assert plan.rewrite_packs > 0
        assert bank.collect(plan).is_complete
        assert {epoch_of(pack) for pack in packs_of(place)} == {2}
        check(bank, there)
    Bank.drop_index(place, cache_dir=tmp_path / "cache")
    with Bank.open(place, key_file=key, cache_dir=tmp_path / "cache") as bank:
        assert contents_of(bank) == there
        assert collect_now(bank).copied_bytes == 0


# --- the index, checkpoints, and what is damaged ---------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after", "both"])
@pytest.mark.parametrize("what", ["drop", "checkpoint"])
def test_index_and_checkpoints_around_a_collection(place: Path, when: str, what: str) -> None:
    """A collection frees the same, and leaves the same, whether it or the next reader begins from an index that was
    lost, or from a checkpoint with no journal behind it."""

    def disturb(bank: Bank) -> Bank:
        if what == "checkpoint":
            for number in range(3):
                bank.put("filler", b"%d" % number)
                engine_of(bank).checkpoints.write()
            assert engine_of(bank).journal.first() > 1
            bank.delete("filler")
        before = rows_of(bank)
        bank.close()
        Bank.drop_index(place)
        again = Bank.open(place)
        assert rows_of(again) == before
        engine_of(again).journal._segment_bytes_max = 500  # type: ignore[attr-defined]
        return again

    bank = Bank.create(place)
    engine_of(bank).journal._segment_bytes_max = 500  # type: ignore[attr-defined]
    there = fill(bank, "x", 60, 60_000)
    gone = sorted(there)[:30:2]
    delete_all(bank, sorted(there)[30:])
    there = {name: data for name, data in there.items() if name < "x/030"}
    delete_all(bank, gone)
    for name in gone:
        del there[name]
    if when != "after":
        bank = disturb(bank)
    assert collect_now(bank).is_complete
    if when != "before":
        bank = disturb(bank)
    assert pack_bytes(place) < 1.15 * sum(map(len, there.values()))
    bank.put("one more", b"")
    assert collect_now(bank).swept_packs == 0
    check(bank, there | {"one more": b""})
    bank.close()


def damaged_bank(place: Path) -> tuple[dict[str, bytes], list[Path]]:
    """A bank with something to collect."""
    with Bank.create(place) as bank:
        there = {"kept": content("kept", 600_000), "inline": b"small"}
        for name, data in there.items():
            bank.put(name, data)
        bank.put("gone", content("gone", 600_000))
        bank.delete("gone")
    return there, packs_of(place)


def meta_of(packs: list[Path]) -> list[Path]:
    return [path for path in packs if path.stat().st_size < 100_000]


@pytest.mark.parametrize("damage", ["missing", "flipped", "short", "empty"])
def test_damaged_meta_pack_stops_collections(place: Path, damage: str) -> None:
    """Where a node of a live tree cannot be read nothing is swept, not even what is known to be dead."""
    _, packs = damaged_bank(place)
    kept = [path for path in meta_of(packs) if path.exists()]
    with Bank.open(place) as bank:
        for path in kept:
            if damage == "missing":
                path.unlink()
            elif damage == "flipped":
                flip(path, 200)
            else:
                path.chmod(0o644)
                os.truncate(path, 0 if damage == "empty" else path.stat().st_size // 2)
        before = bank.stats().stored_bytes
        for _ in range(2):
            with pytest.raises(CorruptionError):
                collect_now(bank)
            with pytest.raises(CorruptionError):
                bank.plan_collection(0, 0)
        assert bank.stats().stored_bytes == before
        assert len(packs_of(place)) == len(packs) - (len(kept) if damage == "missing" else 0)


def test_damaged_data_pack_is_not_rewritten(bank: Bank, place: Path) -> None:
    """Where a chunk that is to be copied cannot be read nothing of its pack is swept; what is whole stays whole."""
    there = fill(bank, "x", 30, 60_000)
    delete_all(bank, sorted(there)[::2])
    large = [path for path in packs_of(place) if path.stat().st_size > 500_000]
    for offset in range(1000, large[0].stat().st_size, 20_000):
        flip(large[0], offset)
    with pytest.raises(CorruptionError):
        collect_now(bank)
    assert large[0].exists()
    assert bank.leases() == []
    readable = 0
    for name in sorted(there)[1::2]:
        try:
            assert bank.get(name) == there[name]
            readable += 1
        except CorruptionError:
            pass
    assert 0 < readable < 15


@pytest.mark.parametrize("table", ["chunk", "name", "tombstone", "pin", "lease", "pack", "pack_number"])
def test_row_that_is_missing_frees_nothing(bank: Bank, place: Path, table: str) -> None:
    """The index is not asked who lives: what it lost is there after a collection, or the collection refuses."""
    there = fill(bank, "x", 30, 60_000)
    delete_all(bank, ["x/029"])
    pinned = bank.acquire_lease("x", kind="pin", pins=["x/028"])
    bank.delete("x/028")
    # What is removed later is in the window, what was pinned is out of it.
    removed = [there.pop("x/028"), there.pop("x/029")]
    chance = random.Random(table)

    def lose(edit: Any) -> None:
        keys = sorted({key for key, _ in edit.rows(table)})
        for key in chance.sample(keys, max(1, len(keys) // 2)):
            edit._transaction.delete(key, db=edit._databases[table])

    edit_index(bank, lose)
    for _ in range(2):
        with suppress(CorruptionError):
            bank.collect(bank.plan_collection(0 if table in ("pin", "lease") else None, 0))
        bank.rebuild_index()
        assert bank.verify_index() == []
    assert contents_of(bank) == there
    assert [lease.id for lease in bank.leases()] == [pinned.id]
    bank.undelete("x/028")
    assert bank.get("x/028") == removed[0]
    if table not in ("pin", "lease"):
        bank.undelete("x/029")
        assert bank.get("x/029") == removed[1]


def test_chunk_that_the_index_lost_stops_collections(bank: Bank, place: Path) -> None:
    """A chunk that a live tree names and the index does not know is told, and nothing is swept."""
    there = fill(bank, "x", 30, 60_000)
    delete_all(bank, ["x/029"])
    del there["x/029"]
    lost = [bank.head("x/000").etag]

    def lose(edit: Any) -> None:
        # Every row of one pack but its nodes: what names reach, and the index knows nothing of.
        first = next(number for number, row in edit.packs() if row.info.kind == 1)
        edit.remove_chunks_of([first])

    packs = packs_of(place)
    edit_index(bank, lose)
    for _ in range(2):
        with pytest.raises(CorruptionError) as refused:
            collect_now(bank)
        assert refused.value.kind is ErrorKind.CHUNK_ID
    assert packs_of(place) == packs
    assert lost == [bank.head("x/000").etag]
    bank.rebuild_index()
    assert collect_now(bank).is_complete
    check(bank, there)


def test_older_journal_is_refused(place: Path, tmp_path: Path) -> None:
    """A journal that was put back, while the store has a newer checkpoint, is not collected by."""
    with Bank.create(place) as bank:
        there = fill(bank, "a", 10, 60_000)
    shutil.copytree(place / "journal", tmp_path / "journal")
    with Bank.open(place) as bank:
        fill(bank, "b", 10, 60_000)
        engine_of(bank).checkpoints.write()
    shutil.rmtree(place / "journal")
    shutil.copytree(tmp_path / "journal", place / "journal")
    shutil.rmtree(place / "index")
    packs = packs_of(place)
    with Bank.open(place) as bank:
        assert contents_of(bank) == there
        for act in (lambda: bank.plan_collection(0, 0), lambda: collect_now(bank, force=True), bank.collect):
            with pytest.raises(CorruptionError) as refused:
                act()
            assert refused.value.kind is ErrorKind.JOURNAL
    assert packs_of(place) == packs


def test_older_journal_without_a_checkpoint_is_suspicious(place: Path, tmp_path: Path) -> None:
    """Without a checkpoint to compare with, packs that belong to nothing are young or too many."""
    with Bank.create(place) as bank:
        there = fill(bank, "a", 10, 60_000)
    shutil.copytree(place / "journal", tmp_path / "journal")
    with Bank.open(place) as bank:
        for number in range(12):
            bank.put(f"{number}", content(number, 50_000))
    shutil.rmtree(place / "journal")
    shutil.copytree(tmp_path / "journal", place / "journal")
    shutil.rmtree(place / "index")
    packs = packs_of(place)
    with Bank.open(place) as bank:
        collect_now(bank)
        assert packs_of(place) == packs
    clock = Clock()
    clock.go(2 * DAY_S)
    with Bank.open(place, world=clock.world) as bank:
        bank.put("change", b"")
        with pytest.raises(CorruptionError):
            collect_now(bank)
        assert packs_of(place) == packs
        assert contents_of(bank) == there | {"change": b""}


def test_read_only_bank_plans_and_collects_not(bank: Bank, place: Path) -> None:
    """A bank that was opened read-only says what could be freed, and leaves it to others."""
    bank.put("a", content("a", 300_000))
    bank.delete("a")
    version = bank.stats().version
    with Bank.open(place, read_only=True) as reader:
        plan = reader.plan_collection(0, 0)
        assert (plan.sweep_packs, plan.reclaimable_bytes) == (2, pack_bytes(place))
        for act in (reader.collect, lambda: reader.collect(plan), lambda: reader.undelete("a")):
            with pytest.raises(ReadOnlyError):
                act()
    assert bank.stats().version == version
    assert bank.collect(plan).deleted_packs == 2


def test_plan_changes_nothing(bank: Bank, place: Path) -> None:
    """A plan can be thrown away; and one that has become old is carried out on what is there now."""
    there = fill(bank, "x", 30, 60_000)
    delete_all(bank, sorted(there)[:15])
    before, packs, version = rows_of(bank), packs_of(place), bank.stats().version
    plan = bank.plan_collection(0, 0)
    assert (rows_of(bank), packs_of(place), bank.stats().version) == (before, packs, version)
    there = {name: data for name, data in there.items() if name >= "x/015"}
    late = {f"late {number}": content(("x", number), 70_000) for number in range(5)}
    for name, data in late.items():
        bank.put(name, data)
    bank.undelete("x/000")
    late["x/000"] = bank.get("x/000")
    bank.collect(plan)
    check(bank, there | late)


# --- readers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_reader_of_what_is_rewritten(bank: Bank, place: Path, servant: Servant, steps: int) -> None:
    """An object that is open while its packs are rewritten and deleted, by this process or another, reads on."""
    there = fill(bank, "x", 12, 600_000)
    with bank.open_object("x/005") as file, bank.open_object("x/007") as other:
        data = file.read(steps * 10_000)
        delete_all(bank, [name for name in there if name not in ("x/005", "x/007")])
        if steps == 3:
            servant.sweep(place)
        else:
            collect_now(bank)
        assert bank.stats().stored_bytes == pack_bytes(place) < 2_000_000
        assert data + file.read() == there["x/005"]
        other.seek(100_000)
        assert other.read() == there["x/007"][100_000:]


def read_until_gone(file: ObjectFile) -> bytes:
    """What can be read of a file until its version is gone, or all of it."""
    read = bytearray()
    try:
        while piece := file.read(10_000):
            read += piece
    except NotFoundError as error:
        if error.kind is not ErrorKind.GONE:
            raise
    return bytes(read)


@pytest.mark.parametrize("fate", ["deleted", "replaced", "replaced by half"])
@pytest.mark.parametrize("by", ["us", "another"])
def test_version_that_was_collected_is_gone(place: Path, servant: Servant, fate: str, by: str) -> None:
    """What is open and then deleted or replaced, and collected, reads its own bytes for as long as they are there, and
    then says that it is gone: never another version's."""
    data, new = content("old", 9 * MIB), content("new", 9 * MIB)
    new = data[: 4 * MIB] + new[4 * MIB :] if fate == "replaced by half" else new
    with Bank.create(place, chunking="fixed:65536") as bank:
        bank.put("x", data)
        file, begun = bank.open_object("x"), bank.open_object("x")
        start = begun.read(1000)
        if fate == "deleted":
            bank.delete("x")
        else:
            bank.put("x", new)
        if by == "us":
            collect_now(bank)
        else:
            servant.sweep(place)
        for each, got in ((file, b""), (begun, start)):
            read = got + read_until_gone(each)
            assert data.startswith(read)
            assert len(read) < 9 * MIB
            each.seek(8 * MIB)
            with pytest.raises(NotFoundError) as gone:
                each.read(10)
            assert gone.value.kind is ErrorKind.GONE
            # Whoever asks again is told again, and nothing else.
            with pytest.raises(NotFoundError):
                each.readall()
        if fate != "deleted":
            assert bank.get("x") == new


def test_version_that_was_put_again_is_read(bank: Bank, servant: Servant, place: Path) -> None:
    """What is open, deleted, collected and put again reads on: chunks have the same ids wherever they are."""
    data = content("x", 3 * MIB)
    bank.put("x", data)
    with bank.open_object("x") as file:
        start = file.read(1000)
        servant.sweep(place, "x")
        bank.put("x", data)
        assert start + file.readall() == data


def test_reader_within_the_grace(bank: Bank, place: Path) -> None:
    """Within the readers' grace what a reader has looked up already is there; what he looks up now is gone."""
    bank.put("x", content("x", 3 * MIB))
    with bank.open_object("x") as file:
        start = file.read(10)
        bank.delete("x")
        bank.collect(bank.plan_collection(0))
        assert pack_bytes(place) > 3 * MIB
        assert content("x", 3 * MIB).startswith(start + read_until_gone(file))


def test_get_of_what_is_replaced_and_collected(bank: Bank, place: Path, program: Start) -> None:
    """While another process replaces an object and collects in a loop, get returns one version or another, whole."""
    bank.put("x", content(0, 2 * MIB))
    child = program(REPLACE, place)
    versions = {content(number, 2 * MIB) for number in range(4)}
    deadline = time.monotonic() + 2
    seen = set()
    while time.monotonic() < deadline:
        data = bank.get("x")
        assert data in versions
        seen.add(data)
        with bank.open_object("x") as file:
            read = read_until_gone(file)
            assert any(version.startswith(read) for version in versions)
    assert len(seen) > 1
    assert child.poll() is None


def test_list_under_a_collection(bank: Bank) -> None:
    """A list that is under way goes on through a collection."""
    there = {f"{number:05}": b"" for number in range(2500)}
    with bank.batch() as batch:
        for name in there:
            batch.put(name, b"")
    rows = iter(bank)
    first = [next(rows) for _ in range(10)]
    bank.put("big", content(1, 100_000))
    bank.delete("big")
    collect_now(bank)
    assert first + list(rows) == sorted(there)
