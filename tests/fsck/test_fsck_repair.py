"""Repairs: from which copies bytes come back, what is set aside, leases, kills."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bank_scene import content, contents_of, engine_of, flip, packs_of
from check_scene import (
    CHUNK,
    ENTRY,
    HEADER,
    cut,
    damage,
    data_packs,
    everything,
    make_bank,
    overwrite,
    own_cache,  # noqa: F401 - a fixture for every test here
    packs_of_object,
    small_entries,
    some,
)
from collect_scene import collect_now
from conftest import Start

from casbank import Bank, ErrorKind, KeyMismatchError, NotFoundError, limits
from casbank.engine.leases import HeldLease
from casbank.findings import FindingKind
from casbank.format.header import parse_id

# Repairs, and tells that it is about to begin.
REPAIR = """
import sys
from casbank import Bank
print("go", flush=True)
Bank.check(sys.argv[1], read_data=True, repair=True)
"""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_entries(monkeypatch)


# --- other copies ----------------------------------------------------------------------------------------------------


def test_the_second_table(place: Path) -> None:
    """Of a pack whose first table is damaged nothing is lost."""
    make_bank(place, some("a"))
    flip(data_packs(place)[0], HEADER + 3 * ENTRY + 5)
    assert Bank.check(place, repair=True).known_losses == 0
    with Bank.open(place) as bank:
        assert contents_of(bank) == some("a")
    assert Bank.check(place, read_data=True).findings == ()


@pytest.mark.parametrize("length", [1, 128, 700], ids=["one byte", "trailer", "tables"])
def test_the_index_has_the_table(place: Path, length: int) -> None:
    """Of packs that lost their ends nothing is lost while an index knows what is in them."""
    make_bank(place, some("a", "b"))
    for pack in data_packs(place):
        cut(pack, pack.stat().st_size - length)
    assert Bank.check(place, repair=True).known_losses == 0
    with Bank.open(place) as bank:
        assert contents_of(bank) == some("a", "b")


def test_without_an_index(place: Path) -> None:
    """Where no index and no table is left, what is in a pack is lost, and written down."""
    make_bank(place, some("a", "b"))
    Bank.drop_index(place)
    pack = max(packs_of(place), key=lambda path: path.stat().st_size)
    cut(pack, pack.stat().st_size - 1)
    report = Bank.check(place, repair=True)
    assert (report.clean, report.known_losses) == (True, 1)


def test_another_live_copy(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another live pack has too is not lost."""
    monkeypatch.setattr(limits, "BATCH_BYTES", 2 * CHUNK)
    make_bank(place, {})
    data = some("a")["a"]
    with Bank.open(place) as bank, bank.batch() as one, bank.batch() as other:
        one.put("x", data)
        other.put("y", data)
    # The second one met what the first had published of its last chunks.
    doubled = min(packs_of_object(place, "x"), key=lambda path: path.stat().st_size)
    overwrite(doubled, HEADER, bytes(2 * ENTRY))
    assert Bank.check(place, read_data=True, repair=True).known_losses == 0
    with Bank.open(place) as bank:
        assert contents_of(bank) == {"x": data, "y": data}


def test_the_file_of_a_swept_pack(place: Path) -> None:
    """What a pack still has that was swept and not deleted yet is not lost."""
    data = some("a")["a"]
    make_bank(place, {})
    with Bank.open(place) as bank:
        bank.put("x", data)
        old = packs_of(place)
        bank.delete("x")
        assert bank.collect(bank.plan_collection(0, 3600, force=True)).swept_packs
        bank.put("x", data)
    assert all(pack.exists() for pack in old)
    new = [pack for pack in data_packs(place) if pack not in old]
    overwrite(new[0], HEADER, bytes(3 * ENTRY))
    report = Bank.check(place, read_data=True, repair=True)
    assert report.known_losses == 0
    assert any("from another copy" in line for line in report.repaired)
    with Bank.open(place) as bank:
        assert contents_of(bank) == {"x": data}


def test_what_is_whole_of_a_pack_is_kept(place: Path) -> None:
    """One damaged entry costs its own chunks and no other; what is left is read up to the hole."""
    make_bank(place, some("a"))
    flip(data_packs(place)[0], HEADER + ENTRY + 9)
    assert Bank.check(place, read_data=True, repair=True).known_losses == 1
    data = some("a")["a"]
    with Bank.open(place) as bank, bank.open_object("a", allow_holes=True) as file:
        assert file.read() == data[: 2 * CHUNK] + bytes(2 * CHUNK) + data[4 * CHUNK :]


# --- what is set aside -----------------------------------------------------------------------------------------------


def test_quarantine_has_the_damaged_bytes(place: Path) -> None:
    """A pack of which anything is lost is in quarantine/ as it was; one that was mended whole is not."""
    make_bank(place, some("a", "b"))
    lossy, whole = packs_of_object(place, "a")[0], packs_of_object(place, "b")[0]
    flip(lossy, HEADER + 9)
    flip(whole, HEADER + 3 * ENTRY + 5)
    damaged = lossy.read_bytes()
    assert Bank.check(place, read_data=True, repair=True).clean
    assert [path.read_bytes() for path in (place / "quarantine").iterdir()] == [damaged]
    with Bank.open(place) as bank:
        collect_now(bank, force=True)
    assert not lossy.exists()
    assert not whole.exists()


def test_a_second_repair_changes_nothing(place: Path) -> None:
    """A repaired bank is left as it is by the next repair, byte for byte."""
    make_bank(place, some("a", "b"))
    flip(packs_of_object(place, "a")[0], HEADER + 9)
    (place / "BANK").unlink()
    assert Bank.check(place, read_data=True, repair=True).clean
    before = everything(place)
    again = Bank.check(place, read_data=True, repair=True)
    assert (again.clean, again.repaired) == (True, ())
    assert everything(place) == before


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def locked(place: Path, tmp_path: Path) -> tuple[Path, Path]:
    """An encrypted bank and its key."""
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    make_bank(place, some("a"), key_file=key)
    return place, key


def test_keys(locked: tuple[Path, Path], tmp_path: Path) -> None:
    """Without its key an encrypted bank is refused unless that is asked for, and with a wrong one always."""
    place, key = locked
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"w" * 32)
    for options, kind in (({}, ErrorKind.KEY_MISSING), ({"key_file": wrong}, ErrorKind.KEY_WRONG)):
        with pytest.raises(KeyMismatchError) as caught:
            Bank.check(place, **options)  # type: ignore[arg-type]
        assert caught.value.kind is kind
    assert Bank.check(place, key_file=key).findings == ()


def test_keyless(locked: tuple[Path, Path]) -> None:
    """Without a key every damaged file is found by its hash."""
    place, _ = locked
    report = Bank.check(place, keyless=True, read_data=True)
    assert (report.clean, report.keyless, report.packs_read) == (True, True, 2)
    flip(data_packs(place)[0], HEADER + 9)
    assert damage(Bank.check(place, keyless=True, read_data=True)) == [
        (FindingKind.PACK, str(data_packs(place)[0].relative_to(place)))
    ]


def test_nothing_is_left_to_open_a_bank_with(place: Path) -> None:
    """A repair of a bank that lost BANK and its copy reports that, and does not say that there is no bank."""
    make_bank(place, some("a"))
    for name in ("BANK", "BANK.copy"):
        (place / name).unlink()
    assert (FindingKind.BANK_FILE, "BANK") in damage(Bank.check(place))
    assert (FindingKind.BANK_FILE, "BANK") in damage(Bank.check(place, repair=True))


@pytest.mark.parametrize("make", [lambda place: None, Path.mkdir], ids=["absent", "empty"])
def test_no_bank(place: Path, make: Callable[[Path], None]) -> None:
    """A mistyped path is no damaged bank."""
    make(place)
    with pytest.raises(NotFoundError) as caught:
        Bank.check(place)
    assert caught.value.kind is ErrorKind.NO_BANK


# --- leases ----------------------------------------------------------------------------------------------------------


def pin(bank: Bank, packs: list[Path]) -> HeldLease:
    engine = engine_of(bank)
    lease = HeldLease(engine.commit, engine.world, "reader", ttl_s=600, kind="write")
    lease.acquire([parse_id(pack.name) for pack in packs])  # type: ignore[misc]
    return lease


def test_a_lease_holds_a_damaged_pack(place: Path) -> None:
    """A damaged pack that a lease pins stays, the report says so, the bank is clean; a later collection ends it."""
    make_bank(place, some("a", "b"))
    pack = packs_of_object(place, "a")[0]
    with Bank.open(place) as bank:
        lease = pin(bank, [pack])
    flip(pack, HEADER + 9)
    report = Bank.check(place, read_data=True, repair=True)
    assert report.clean
    assert any("stays until no lease holds it" in line for line in report.repaired)
    assert pack.exists()
    assert Bank.check(place, read_data=True).clean
    with Bank.open(place) as bank:
        assert bank.verify_index() == []
        bank.release_lease(lease.id.hex())
        collect_now(bank, force=True)
    assert not pack.exists()


# --- kills -----------------------------------------------------------------------------------------------------------


# --- a damaged index -------------------------------------------------------------------------------------------------

CHECK = "import sys; from casbank import Bank; print(Bank.check(sys.argv[1], repair=sys.argv[2] == 'r').clean)"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_index_kills_nobody(place: Path, seed: int) -> None:
    """An index that was closed in order and damaged since is found, and made anew by a repair, in a living process."""
    make_bank(place, {f"n{number}": content(number, 5000) for number in range(40)})
    data = bytearray((place / "index" / "data.mdb").read_bytes())
    chance = random.Random(seed)
    for page in range(2, len(data) // 4096):
        if chance.random() < 0.7:
            data[page * 4096 + 16 : page * 4096 + 40] = chance.randbytes(24)
    (place / "index" / "data.mdb").write_bytes(data)
    said = [
        subprocess.run([sys.executable, "-c", CHECK, place, how], capture_output=True, text=True, check=False)
        for how in "crc"
    ]
    assert [(done.returncode, done.stdout) for done in said] == [(0, "False\n"), (0, "True\n"), (0, "True\n")]


def test_an_index_that_is_cut(place: Path) -> None:
    """An index whose pages are not there ends in a finding, not in SIGBUS."""
    make_bank(place, {f"n{number}": content(number, 5000) for number in range(40)})
    cut(place / "index" / "data.mdb", 3 * 4096)
    assert [kind for kind, _ in damage(Bank.check(place))] == [FindingKind.INDEX]
    assert Bank.check(place, repair=True).repaired == ("removed the index; it is made anew",)


def test_an_index_in_use(place: Path, program: Start) -> None:
    """An index that another process has open is left alone, whatever is in it."""
    make_bank(place, some("a"))
    child = program(
        "import sys; from casbank import Bank; b = Bank.open(sys.argv[1]); print(); sys.stdin.read()", place
    )
    assert child.stdout is not None
    child.stdout.readline()
    assert Bank.check(place).findings == ()
    state = json.loads((place / "index" / "marker").read_bytes())
    assert set(state) == {"schema", "session", "clean"}
