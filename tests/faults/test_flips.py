"""One flipped bit: it is flipped and flipped back, and a bank never gives what was not put into it."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_check import Bases, scratch
from workloads import Contents, open_bank, small_scene

from casbank.errors import CasbankError, CorruptionError
from casbank.testing.faults import Flip, flipped, flips

STRIDE = 199


@pytest.fixture(scope="module")
def bases() -> Iterator[Bases]:
    with scratch() as folder, small_scene():
        yield Bases(folder)


def test_every_byte_has_one(tmp_path: Path) -> None:
    """A flip for each byte of each file, in order, but for what is ignored."""
    (tmp_path / "index").mkdir()
    for name, content in (("b", b"xy"), ("a", b"z"), ("index/data", b"!")):
        (tmp_path / name).write_bytes(content)
    assert list(flips(tmp_path)) == [Flip("a", 0, 0), Flip("b", 0, 0), Flip("b", 1, 1)]


def test_a_flip_is_taken_back(tmp_path: Path) -> None:
    """One bit differs inside, and none behind; the file may be read-only, and stays that."""
    path = tmp_path / "a"
    path.write_bytes(b"\x00\x00")
    path.chmod(0o444)
    with flipped(tmp_path, Flip("a", 1, 3)):
        assert path.read_bytes() == b"\x00\x08"
    assert path.read_bytes() == b"\x00\x00"
    assert path.stat().st_mode & 0o777 == 0o444


def test_what_was_changed_meanwhile_stays(tmp_path: Path) -> None:
    """What others wrote over the flip, or removed, is not undone."""
    path = tmp_path / "a"
    for new in (b"new", None):
        path.write_bytes(b"old")
        with flipped(tmp_path, Flip("a", 0, 0)):
            path.write_bytes(new) if new else path.unlink()
        assert (path.read_bytes() if path.exists() else None) == new


def read_all(folder: Path, *, encrypted: bool) -> tuple[Contents, int]:
    """What can be read, and how many objects cannot."""
    found: Contents = {}
    unreadable = 0
    with open_bank(folder, encrypted=encrypted, read_only=True) as bank:
        for name in list(bank):
            try:
                found[name] = bank.get(name)
            except CorruptionError:
                unreadable += 1
    return found, unreadable


@pytest.mark.parametrize("steps", [("put-small",), ("rotate",)], ids=["plain", "encrypted"])
def test_no_flip_gives_wrong_bytes(bases: Bases, steps: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """With any bit of any file flipped, and no index to help, each object is right, or its bank or it cannot be read
    and says so."""
    monkeypatch.setattr(logging.root, "disabled", True)
    base = bases.base_for(steps)
    folder = base.copy(bases.folder / f"flipped {steps[0]}")
    noticed = 0
    for flip in list(flips(folder / "bank"))[::STRIDE]:
        with flipped(folder / "bank", flip):
            try:
                found, unreadable = read_all(folder, encrypted=base.encrypted)
            except CasbankError:
                noticed += 1
                continue
            assert found.items() <= base.contents.items(), str(flip)
            assert len(found) + unreadable == len(base.contents), str(flip)
            noticed += unreadable > 0
    assert noticed > 0
