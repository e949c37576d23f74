"""A disk that fills up in the middle: an error of its own kind, nothing lost, and all goes on once there is room."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bank_scene import MIB, content, contents_of, engine_of, small_disk

from casbank import Bank, ErrorKind, StoreError


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 MiB with a ballast of 16."""
    try:
        with small_disk(tmp_path / "disk", 48 * MIB) as folder:
            (folder / "ballast").write_bytes(bytes(16 * MIB))
            yield folder
    except PermissionError as error:
        pytest.skip(str(error))


def fill(bank: Bank, size: int) -> dict[str, bytes]:
    """Put objects until there is no room; what was acknowledged."""
    acknowledged: dict[str, bytes] = {}

    def put_all() -> None:
        for number in range(10_000):
            name = f"{size}-{number}"
            bank.put(name, content(name, size))
            acknowledged[name] = content(name, size)

    with pytest.raises(StoreError) as full:
        put_all()
    assert full.value.kind is ErrorKind.DISK_FULL
    return acknowledged


def test_disk_fills_up_with_small_objects(disk: Path) -> None:
    """When there is no room for a record or its rows a put is a StoreError of kind DISK_FULL, and with room again all
    that was acknowledged is there. (Until then even reading may fail so: the last record may not be in the index.)"""
    with Bank.create(disk / "bank") as bank:
        (disk / "more").write_bytes(bytes(shutil.disk_usage(disk).free - 3 * MIB))
        acknowledged = fill(bank, 1000)
        assert len(acknowledged) > 100
        with pytest.raises(StoreError):
            bank.put("again", bytes(1000))
    (disk / "ballast").unlink()
    with Bank.open(disk / "bank") as bank:
        assert contents_of(bank) == acknowledged
        acknowledged |= {f"more {number}": content(number, 2000) for number in range(100)}
        for number in range(100):
            bank.put(f"more {number}", content(number, 2000))
        assert contents_of(bank) == acknowledged


@pytest.mark.parametrize("size", [100_000, 5 * MIB])
def test_disk_fills_up_with_packs(disk: Path, size: int) -> None:
    """When there is no room for a pack a put is a StoreError of kind DISK_FULL, what was acknowledged can be read, the
    bank can be opened, and is of use again when there is room."""
    place = disk / "bank"
    with Bank.create(place) as bank:
        acknowledged = fill(bank, size)
        assert len(acknowledged) > 2
        assert contents_of(bank) == acknowledged
        with pytest.raises(StoreError):
            bank.put("again", content("again", size))
    with Bank.open(place) as bank:
        assert contents_of(bank) == acknowledged
        (disk / "ballast").unlink()
        bank.put("more", content("more", size))
        assert contents_of(bank) == acknowledged | {"more": content("more", size)}
        bank.rebuild_index()
        assert bank.get("more") == content("more", size)


def test_large_object_that_does_not_fit(disk: Path) -> None:
    """An object for which there is no room leaves nothing visible, and no pack that takes the room."""
    with Bank.create(disk / "bank") as bank:
        bank.put("small", b"small")
        with pytest.raises(StoreError) as full:
            bank.put("large", content("large", 100 * MIB))
        assert full.value.kind is ErrorKind.DISK_FULL
        assert contents_of(bank) == {"small": b"small"}
        (disk / "ballast").unlink()
        bank.put("other", content("other", 5 * MIB))
        assert bank.get("other") == content("other", 5 * MIB)


def test_checkpoint_without_room(disk: Path) -> None:
    """A checkpoint for which there is no room is a StoreError, and takes nothing from the bank."""
    with Bank.create(disk / "bank") as bank:
        with bank.batch() as batch:
            for number in range(4000):
                batch.put(f"n{number}", content(number, 100), metadata={"k": content(number, 500).hex()})
        (disk / "more").write_bytes(bytes(shutil.disk_usage(disk).free - 64 * 1024))
        before = contents_of(bank)
        with pytest.raises(StoreError) as full:
            engine_of(bank).checkpoints.write()
        assert full.value.kind is ErrorKind.DISK_FULL
        (disk / "more").unlink()
        assert engine_of(bank).checkpoints.write() is not None
        bank.rebuild_index()
        assert contents_of(bank) == before


def test_create_without_room(disk: Path) -> None:
    """A bank that cannot be created on a full disk can be created at the same place when there is room."""
    (disk / "more").write_bytes(bytes(shutil.disk_usage(disk).free))
    with pytest.raises(StoreError) as full:
        Bank.create(disk / "bank")
    assert full.value.kind is ErrorKind.DISK_FULL
    (disk / "more").unlink()
    with Bank.create(disk / "bank") as bank:
        bank.put("x", b"1")
        assert bank.get("x") == b"1"
