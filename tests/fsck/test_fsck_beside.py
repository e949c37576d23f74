"""Checks of a bank that is in use: no false findings; and nothing is written by one, wherever it runs."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from bank_scene import MIB, content, contents_of, engine_of, packs_of, small_disk
from check_scene import (
    CHUNK,
    damage,
    everything,
    make_bank,
    own_cache,  # noqa: F401 - a fixture for every test here
    small_entries,
    some,
)
from collect_scene import collect_now

from casbank import Bank
from casbank.findings import FindingKind, FsckProgress, FsckReport

SMALL = """
from casbank import limits
limits.PACK_BYTES_TARGET = 2**17
limits.BATCH_BYTES = 2**16
limits.CHECKPOINT_JOURNAL_BYTES_MIN = 2**14
from casbank.journal.local import LocalJournal
LocalJournal.__init__.__kwdefaults__ |= {"segment_bytes_max": 2**15, "grow_bytes": 2**13}
"""

WRITE = (
    SMALL
    + """
import random, sys
from casbank import Bank
place, own = sys.argv[1:]
chance = random.Random(own)
with Bank.open(place) as bank:
    print("ready", flush=True)
    while True:
        name = f"{own}{chance.randrange(40)}"
        if chance.random() < 0.2:
            bank.delete(name, missing_ok=True)
        else:
            bank.put(name, chance.randbytes(chance.choice([10, 5000, 40_000])))
"""
)

COLLECT = (
    SMALL
    + """
import sys, time
from casbank import Bank
with Bank.open(sys.argv[1]) as bank:
    print("ready", flush=True)
    while True:
        bank.collect(bank.plan_collection(0, 0, force=True))
        time.sleep(0.05)
"""
)


def false_findings(place: Path, seconds: float) -> list[tuple[FindingKind, str]]:
    """Whatever checks say is damaged."""
    found = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for options in ({"read_data": True}, {}, {"keyless": True, "read_data": True}):
            found += damage(Bank.check(place, **options))  # type: ignore[arg-type]
    return found


def test_packs_that_are_collected_under_a_check(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs that a collector swept and deleted after the check had read the journal are not missing."""
    small_entries(monkeypatch)
    make_bank(place, some(*(f"n{number}" for number in range(30))))

    def collect(event: FsckProgress) -> None:
        if event.step == "packs" and event.done == 1:
            with Bank.open(place) as other:
                for name in list(other):
                    other.delete(name)
                assert collect_now(other, force=True).deleted_packs == 60

    assert damage(Bank.check(place, progress=collect)) == []


def test_an_open_bank_is_checked(place: Path) -> None:
    """Bank.fsck of an open bank finds what is there, mends what can be mended, and the bank goes on."""
    make_bank(place, some("a", "b"))
    with Bank.open(place) as bank:
        assert bank.fsck(read_data=True).clean
        pack = packs_of(place)[0]
        pack.unlink()
        report = bank.fsck()
        assert FindingKind.PACK_MISSING in {kind for kind, _ in damage(report)}
        assert bank.fsck(repair=True).clean
        for name, data in some("a", "b").items():
            bank.put(name, data)
        assert contents_of(bank) == some("a", "b")
        assert bank.fsck(read_data=True).findings == ()
        assert bank.verify_index() == []


def test_a_bank_in_memory() -> None:
    """A bank in memory is checked, and repaired, by who has it open."""
    with Bank.create("memory://fsck-in-memory") as bank:
        bank.put("x", content(1, 5 * CHUNK))
        assert bank.fsck(read_data=True).findings == ()
        store = engine_of(bank).resources.store
        for blob in list(store.list("packs/")):
            store.delete(blob.name)
        assert not bank.fsck().clean
        report = bank.fsck(repair=True)
        assert (report.clean, report.known_losses) == (True, 1)


# --- nothing is written ----------------------------------------------------------------------------------------------


def remove_index(place: Path) -> None:
    shutil.rmtree(place / "index")


def remove_marker(place: Path) -> None:
    (place / "index" / "marker").unlink()


def spoil_index(place: Path) -> None:
    (place / "index" / "data.mdb").write_bytes(b"g" * 50_000)


def leave_stale(place: Path) -> None:
    old = shutil.copytree(place / "index", place.parent / "old")
    with Bank.open(place) as bank:
        bank.put("more", content("more", 9000))
    shutil.rmtree(place / "index")
    old.rename(place / "index")


def damage_all(place: Path) -> None:
    for pack in packs_of(place):
        pack.chmod(0o644)
        os.truncate(pack, pack.stat().st_size - 1)
    (place / "BANK").unlink()


STATES = [lambda place: None, remove_index, remove_marker, spoil_index, leave_stale, damage_all]


@pytest.mark.parametrize(
    "change", STATES, ids=["whole", "no index", "no marker", "bad index", "stale index", "damaged"]
)
def test_a_check_writes_nothing(place: Path, change: object) -> None:
    """No byte, no time, no name in a bank's folder is changed by a check, whatever is in it."""
    make_bank(place, some("a", "b"))
    change(place)  # type: ignore[operator]
    before = everything(place)
    for options in ({}, {"read_data": True}, {"read_data": 10}, {"keyless": True, "read_data": True}):
        Bank.check(place, **options)  # type: ignore[arg-type]
    assert everything(place) == before


def test_a_check_of_an_open_bank_writes_nothing(place: Path) -> None:
    """The same from beside a process that has it open, and of the open bank itself."""
    make_bank(place, some("a", "b"))
    with Bank.open(place) as bank:
        before = everything(place)
        assert Bank.check(place, read_data=True).clean
        assert everything(place) == before
        assert bank.fsck(read_data=True).clean
        after = everything(place)
    # Its own index is caught up with the journal, and counts its readers.
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert all(path.startswith(str(place / "index")) for path in changed)


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    """A bank on a read-only disk is checked as any other."""
    reports: list[FsckReport] = []
    try:
        with small_disk(tmp_path / "disk", 16 * MIB) as disk:
            make_bank(disk / "bank", some("a", "b"))
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            reports += [Bank.check(disk / "bank", read_data=True), Bank.check(disk / "bank", keyless=True)]
    except PermissionError as error:
        pytest.skip(str(error))
    assert [report.findings for report in reports] == [(), ()]
