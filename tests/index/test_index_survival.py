"""Which index is believed after a crash, a reboot or damage, and which is made anew."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bank_scene import (
    content,
    contents_of,
    engine_of,
    falsify_session,
    fill_up,
    flip,
    marker_is_clean,
    random_work,
    rows_of,
    small_disk,
)
from conftest import Start

from casbank import Bank, ErrorKind, StoreError
from casbank.index.marker import Marker
from casbank.storage import mount

# Puts names until it is killed; tells each.
WRITE = """
import sys
from bank_scene import content
from casbank import Bank
bank = Bank.open(sys.argv[1])
for number in range(10**6):
    bank.put(f"n{number}", content(number, number % 7 * 700))
    print(number, flush=True)
"""

# Reads everything; prints what it found, or the kind of error; a crash is the parent's to see.
READ = """
import sys
from bank_scene import content
from casbank import Bank, CorruptionError, StoreError
expected = {f"n{number}": content(number, 300 + number % 5 * 1000) for number in range(int(sys.argv[2]))}
try:
    with Bank.open(sys.argv[1]) as bank:
        for name in expected:
            if bank.get(name) != expected[name]:
                print("WRONG", name)
        if list(bank) != sorted(expected):
            print("WRONG list")
    print("right")
except (CorruptionError, StoreError) as error:
    print(type(error).__name__)
"""


@contextmanager
def watched(place: Path) -> Iterator[Callable[[], bool]]:
    """Tells whether the index's file was replaced meanwhile."""
    path = place / "index" / "data.mdb"
    # Held open, so that its inode is not given again.
    with path.open("rb") as file:
        yield lambda: not os.path.samestat(os.fstat(file.fileno()), path.stat())


def crash(program: Start, place: Path, names: int) -> None:
    """Let a process put so many names, and be killed."""
    writer = program(WRITE, place)
    assert writer.stdout is not None
    for _ in range(names):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    writer.wait()


def test_killed_process_leaves_an_index_that_is_believed(program: Start, bank: Bank, place: Path) -> None:
    """After kill -9 the index is taken as it is, since the pages survive a process."""
    bank.close()
    crash(program, place, 30)
    assert not marker_is_clean(place)
    with watched(place) as is_replaced, Bank.open(place) as again:
        assert not is_replaced()
        assert all(again.get(f"n{number}") == content(number, number % 7 * 700) for number in range(30))


def test_index_of_another_boot_is_made_anew(program: Start, bank: Bank, place: Path) -> None:
    """After kill -9 and a reboot, or the disk's being attached anew, nothing in the index is believed."""
    bank.close()
    crash(program, place, 30)
    falsify_session(place)
    with watched(place) as is_replaced, Bank.open(place) as again:
        assert is_replaced()
        assert all(again.get(f"n{number}") == content(number, number % 7 * 700) for number in range(30))


def test_clean_index_of_another_boot_is_believed(bank: Bank, place: Path) -> None:
    """An index that was synced and closed is believed after a reboot."""
    bank.put("x", b"1")
    expected = rows_of(bank)
    bank.close()
    assert marker_is_clean(place)
    falsify_session(place)
    with watched(place) as is_replaced, Bank.open(place) as again:
        assert not is_replaced()
        assert rows_of(again) == expected
        again.put("y", b"1")
        assert not marker_is_clean(place)


@pytest.mark.parametrize("marker", [b"", b"{", b"null", b"[]", b'{"clean": 1}', b"\xff" * 9, None], ids=repr)
def test_unreadable_marker_is_not_believed(bank: Bank, place: Path, marker: bytes | None) -> None:
    """A marker that is torn, empty, gone or another thing's says nothing, so the index is made anew."""
    bank.put("x", b"1")
    bank.close()
    path = place / "index" / "marker"
    path.unlink()
    if marker is not None:
        path.write_bytes(marker)
    with watched(place) as is_replaced, Bank.open(place) as again:
        assert is_replaced()
        assert again.get("x") == b"1"


def test_unknown_boot_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one boot cannot be told from the next, an index that was not synced is never believed."""
    monkeypatch.setattr(mount, "_BOOT_ID", tmp_path / "none")
    assert mount.boot_id() == mount.UNKNOWN
    first = Marker(tmp_path)
    first.make_dirty()
    first.close()
    second = Marker(tmp_path)
    assert not second.survived()
    second.make_clean()
    assert second.survived()
    second.close()


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("length", [0, 100, 4096, 8192, 12_288, -4096])
def test_cut_index_is_noticed(program: Start, bank: Bank, place: Path, length: int, clean: bool) -> None:
    """An index file that was cut short is noticed when it is opened and made anew, however it was closed."""
    for part in range(8):
        with bank.batch() as batch:
            for number in range(part * 50, part * 50 + 50):
                batch.put(f"n{number}", content(number, 300))
    bank.close()
    if not clean:
        crash(program, place, 1)
    data = place / "index" / "data.mdb"
    os.truncate(data, length if length >= 0 else data.stat().st_size + 2 * length)
    reader = program(
        "import sys\nfrom casbank import Bank\nprint(len([i for i in Bank.open(sys.argv[1]).list('n')]))", place
    )
    assert int(reader.communicate(timeout=30)[0]) >= 400
    assert reader.returncode == 0


def run_with_flips(program: Start, place: Path, trials: int, seed: object) -> dict[str, int]:
    """Flip a bit in each of several copies of an index that was not closed; what became of reading everything."""
    names = 60
    with Bank.create(place) as bank:
        for number in range(names):
            bank.put(f"n{number}", content(number, 300 + number % 5 * 1000))
    data = place / "index" / "data.mdb"
    whole = data.read_bytes()
    used = [number for number in range(0, len(whole), 4096) if any(whole[number : number + 4096])]
    chance = random.Random(str(seed))
    told: dict[str, int] = {}
    for _ in range(trials):
        marker = place / "index" / "marker"
        marker.write_bytes(marker.read_bytes().replace(b"true", b"false"))
        page = chance.choice(used)
        flip(data, page + chance.randrange(4096), 1 << chance.randrange(8))
        reader = program(READ, place, names)
        lines = reader.communicate(timeout=60)[0].split("\n")
        what = "crash" if reader.returncode < 0 else " ".join(lines).strip() or "traceback"
        told[what] = told.get(what, 0) + 1
        if data.exists():
            data.unlink()
        data.write_bytes(whole)
    return told


def test_flipped_bits_never_give_wrong_bytes(program: Start, place: Path) -> None:
    """A bit that changed anywhere in the index file never yields other bytes than were put."""
    told = run_with_flips(program, place, 6, "few")
    assert not [what for what in told if "WRONG n" in what], told
    assert sum(told.values()) == 6


@pytest.mark.slow
def test_many_flipped_bits_never_give_wrong_bytes(program: Start, place: Path) -> None:
    """The same, in many more places."""
    told = run_with_flips(program, place, 300, "many")
    assert not [what for what in told if "WRONG n" in what], told
    assert sum(told.values()) == 300


def test_damaged_state_row_heals_itself(bank: Bank, place: Path) -> None:
    """An index that cannot say on which record it stands keeps nobody from opening the bank: it is made anew."""
    bank.put("x", b"1")
    state = dict(rows_of(bank)["meta"])[b"state"]
    bank.close()
    path = place / "index" / "data.mdb"
    data = path.read_bytes()
    offsets = [at for at in range(0, len(data)) if data.startswith(state, at)]
    assert offsets
    for offset in offsets:
        flip(path, offset + 5)
    with Bank.open(place) as again:
        assert again.get("x") == b"1"
        assert dict(rows_of(again)["meta"])[b"state"] == state


def test_failing_index_commit_leaves_the_put_acknowledged(tmp_path: Path) -> None:
    """A put whose record is durable is acknowledged though the index has no room, and a later call heals the index."""
    acknowledged = {"before": b"before"}

    def put_all() -> None:
        for number in range(1000):
            bank.put(f"n{number}", content(number, 1500))
            acknowledged[f"n{number}"] = content(number, 1500)

    try:
        with (
            small_disk(tmp_path / "disk", 2 * 2**20) as disk,
            Bank.create(tmp_path / "bank", cache_dir=disk) as bank,
        ):
            bank.put("before", b"before")
            fill_up(disk / "ballast")
            with pytest.raises(StoreError) as full:
                put_all()
            assert full.value.kind is ErrorKind.DISK_FULL
            # The last that was acknowledged is in the journal, and not in the index.
            assert engine_of(bank).follower.seen.seq < engine_of(bank).journal.head().seq
            with pytest.raises(StoreError):
                bank.get("before")
            (disk / "ballast").unlink()
            assert contents_of(bank) == acknowledged
            bank.put("behind", b"behind")
            assert bank.get("behind") == b"behind"
    except PermissionError as error:
        pytest.skip(str(error))


def test_index_is_the_same_after_a_crash_and_more_work(program: Start, place: Path) -> None:
    """Work before a crash, in a process that was killed, and behind it make the rows of one history."""
    with Bank.create(place) as bank:
        random_work(bank, 1, 20)
    crash(program, place, 20)
    with Bank.open(place) as bank:
        random_work(bank, 2, 20)
        before = rows_of(bank)
        bank.rebuild_index()
        assert rows_of(bank) == before
        assert engine_of(bank).follower.seen.objects == len(list(bank))
