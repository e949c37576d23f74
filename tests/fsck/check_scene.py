"""Banks of small packs to be checked, what can happen to them, and what a check says of that."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bank_scene import content, engine_of, packs_of

from casbank import Bank, limits
from casbank.config import CACHE_VARIABLE
from casbank.findings import Finding, FindingKind, FsckReport

CHUNK = 4096
HEADER = 128
# Two chunks and a tag.
ENTRY = 2 * CHUNK + 16

Spoil = Callable[[Path], None]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Notes of checks stay in a folder of the test that imports this."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


def small_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an entry have two chunks, and a pack eight entries."""
    monkeypatch.setattr(limits, "GROUP_BYTES_TARGET", 2 * CHUNK)
    monkeypatch.setattr(limits, "PACK_BYTES_TARGET", 8 * ENTRY)


def make_bank(place: Path, contents: dict[str, bytes], **options: Any) -> None:
    """A bank with these objects that nobody has open; each has its own packs."""
    with Bank.create(place, chunking=f"fixed:{CHUNK}", compression="none", **options) as bank:
        for name, data in contents.items():
            bank.put(name, data)


def some(*names: str, chunks: int = 6) -> dict[str, bytes]:
    """Objects of so many chunks."""
    return {name: content(name, chunks * CHUNK) for name in names}


def data_packs(place: Path) -> list[Path]:
    """The packs with content, the largest first."""
    packs = sorted(packs_of(place), key=lambda pack: pack.stat().st_size, reverse=True)
    return [pack for pack in packs if pack.stat().st_size > 2 * CHUNK]


def packs_of_object(place: Path, name: str) -> list[Path]:
    """The packs in which an object's chunks are, by the index."""
    with Bank.open(place) as bank, engine_of(bank).follower.read() as snapshot:
        wanted = set(_chunk_ids(bank, name))
        numbers = {copy.pack_number for _, copies in snapshot.all_copies(wanted) for copy in copies}
        rows = [snapshot.pack(number) for number in numbers]
    ids = {row.info.id.hex() for row in rows if row is not None}
    return [pack for pack in packs_of(place) if pack.name in ids]


def _chunk_ids(bank: Bank, name: str) -> list[bytes]:
    data, ids = bank.get(name), engine_of(bank).resources.ids
    return [ids.chunk(data[start : start + CHUNK]) for start in range(0, len(data), CHUNK)]


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Put other bytes into a file; counted from its end if negative."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        file.write(data)


def cut(path: Path, length: int) -> None:
    path.chmod(0o644)
    os.truncate(path, length)


def damage(report: FsckReport) -> list[tuple[FindingKind, str]]:
    """Kind and place of all that is damaged."""
    return [(finding.kind, finding.where) for finding in report.findings if finding.is_damage]


def the_finding(report: FsckReport, kind: FindingKind) -> Finding:
    """The one finding of a kind."""
    (finding,) = (finding for finding in report.findings if finding.kind is kind)
    return finding


def everything(folder: Path) -> dict[str, tuple[object, ...]]:
    """Bytes, mode, inode and times of change of all that is in a folder, and of it."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, data)
    return found
