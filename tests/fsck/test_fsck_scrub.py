"""--read-data in shares, and checks that were interrupted: what is read when, and what is noted of it."""

import os
import signal
import time
from pathlib import Path

import pytest
from bank_scene import flip, packs_of
from check_scene import (
    HEADER,
    damage,
    make_bank,
    own_cache,  # noqa: F401 - a fixture for every test here
    small_entries,
    some,
)
from conftest import Start

from casbank import Bank, World
from casbank.engine.fsck.packcheck import PackCheck
from casbank.findings import FsckProgress

NAMES = [f"n{number}" for number in range(16)]
DAY_S = 86_400

# Checks until it is killed, slowly, and tells of each pack.
SLOW = """
import sys, time
from casbank import Bank
def slowly(event):
    if event.step == "packs":
        print(event.done, flush=True)
        time.sleep(0.05)
Bank.check(sys.argv[1], read_data=True, progress=slowly)
"""


@pytest.fixture
def banked(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bank of 32 packs."""
    small_entries(monkeypatch)
    make_bank(place, some(*NAMES))
    assert len(packs_of(place)) == 32
    return place


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The packs that are read whole meanwhile, by a check that has the key."""
    names: set[str] = set()
    whole = PackCheck._read

    def noted(self: PackCheck, verdict, toc, known) -> None:  # type: ignore[no-untyped-def]
        names.add(verdict.info.id.hex())
        whole(self, verdict, toc, known)

    monkeypatch.setattr(PackCheck, "_read", noted)
    return names


def all_of(place: Path) -> set[str]:
    return {pack.name for pack in packs_of(place)}


@pytest.mark.parametrize("percent", [10, 33, 50, 99, 100])
def test_runs_cover_all(banked: Path, read: set[str], percent: int) -> None:
    """As many runs as there are shares read every pack once, whatever is in them."""
    runs = -(-100 // percent)
    counts = [Bank.check(banked, read_data=percent).packs_read for _ in range(runs)]
    assert read == all_of(banked)
    assert sum(counts) == len(packs_of(banked))


def test_runs_cover_all_without_notes(banked: Path, read: set[str], tmp_path: Path) -> None:
    """A client that cannot keep notes takes another share every day."""
    no_folder = tmp_path / "file"
    no_folder.write_bytes(b"")
    start_ns = time.time_ns()
    for day in range(10):
        world = World(now_ns=lambda day=day: start_ns + day * DAY_S * 10**9)
        assert Bank.check(banked, read_data=10, cache_dir=no_folder, world=world).clean
    assert read == all_of(banked)
    assert no_folder.read_bytes() == b""


def test_another_check_takes_no_turn(banked: Path, read: set[str]) -> None:
    """Ten runs of a tenth read every pack though others run between them: all of it without a key each night, say."""
    for _ in range(10):
        for _ in range(7):
            Bank.check(banked, keyless=True, read_data=True)
        Bank.check(banked, read_data=10)
    assert read == all_of(banked)


def interrupted_at(place: Path, packs: int) -> None:
    """A check of everything that ends after so many packs."""

    told: list[FsckProgress] = []

    def stop(event: FsckProgress) -> None:
        if event.step == "packs":
            told.append(event)
        if len(told) > packs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Bank.check(place, read_data=True, progress=stop)


def test_an_interrupted_check_goes_on(banked: Path) -> None:
    """What was read and found whole before an interruption is not read again; the run after that reads everything."""
    interrupted_at(banked, 9)
    report = Bank.check(banked, read_data=True)
    assert report.packs_resumed == 10
    assert report.packs_read + report.packs_resumed == report.packs == 32
    assert Bank.check(banked, read_data=True).packs_resumed == 0


def test_interrupted_twice(banked: Path) -> None:
    """Each interrupted run adds to what the one before it has read."""
    interrupted_at(banked, 4)
    interrupted_at(banked, 20)
    assert Bank.check(banked, read_data=True).packs_resumed >= 16


def test_damage_is_told_again(banked: Path) -> None:
    """A damaged pack that an interrupted run has met is told by the run that goes on."""
    for pack in packs_of(banked):
        flip(pack, HEADER + 9)
    interrupted_at(banked, 9)
    report = Bank.check(banked, read_data=True)
    assert report.packs_resumed == 0
    assert sum(where.startswith("packs/") for _, where in damage(report)) == 32


def test_another_share_does_not_go_on(banked: Path) -> None:
    """What a run of all packs has read says nothing to one that reads a tenth of them."""
    interrupted_at(banked, 9)
    assert Bank.check(banked, read_data=10).packs_resumed == 0


def test_a_week_later_all_is_read(banked: Path) -> None:
    """Notes are believed for a week: then the disk may have changed its mind."""
    interrupted_at(banked, 9)
    later = World(now_ns=lambda: time.time_ns() + 8 * DAY_S * 10**9)
    assert Bank.check(banked, read_data=True, world=later).packs_resumed == 0


@pytest.mark.parametrize("data", [b"", b"x", bytes(15), bytes(16), b"\xff" * 1000], ids=len)
def test_notes_that_are_damaged(banked: Path, data: bytes) -> None:
    """Notes that nobody can read cost a pack that is read twice, and nothing else."""
    interrupted_at(banked, 9)
    cache = Path(os.environ["CASBANK_CACHE_DIR"])
    for name in ("fsck-whole-100", "fsck-round-100"):
        (folder,) = cache.iterdir()
        (folder / name).write_bytes(data)
    report = Bank.check(banked, read_data=True)
    assert (report.packs_read, report.packs_resumed, report.clean) == (32, 0, True)


def test_a_killed_check_goes_on(banked: Path, program: Start) -> None:
    """What a process had read before it was killed is not read again."""
    child = program(SLOW, banked)
    assert child.stdout is not None
    for _ in range(8):
        child.stdout.readline()
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    report = Bank.check(banked, read_data=True)
    assert 8 <= report.packs_resumed < 32
    assert report.packs_read + report.packs_resumed == 32
    assert report.clean
