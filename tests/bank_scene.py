"""Content for banks, what is in their folders, and what can happen to these; for tests and the programs they start."""

import json
import os
import random
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blake3 import blake3

from casbank import Bank
from casbank.engine.engine import Engine
from casbank.index.transaction import TABLES
from casbank.journal.frame import Frame, read_frame

MIB = 2**20

Rows = dict[str, list[tuple[bytes, bytes]]]


def content(seed: object, size: int) -> bytes:
    """Incompressible bytes, the same for the same seed."""
    return blake3(str(seed).encode()).digest(size)


def memory_place() -> str:
    """Where a bank can be created that costs no disk."""
    return f"memory://{uuid.uuid4()}"


def engine_of(bank: Bank) -> Engine:
    engine = bank._engine
    assert engine is not None
    return engine


def packs_of(place: Path) -> list[Path]:
    return sorted(path for path in (place / "packs").rglob("*") if path.is_file())


def pack_bytes(place: Path) -> int:
    return sum(path.stat().st_size for path in packs_of(place))


def rows_of(bank: Bank) -> Rows:
    """Every row of every table of the index but the packs' own numbering of time: all is a function of the store."""
    with engine_of(bank).follower.read() as snapshot:
        return {table: list(snapshot.rows(table)) for table in TABLES}


def flip(path: Path, offset: int, mask: int = 1) -> None:
    """Change one byte of a file, whoever may write it."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def falsify_session(place: Path) -> None:
    """Let the index's marker be of another boot."""
    path = place / "index" / "marker"
    state = json.loads(path.read_bytes())
    path.write_bytes(json.dumps(state | {"session": "another boot"}).encode().ljust(256))


def marker_is_clean(place: Path) -> bool:
    return bool(json.loads((place / "index" / "marker").read_bytes())["clean"])


def frames_of(segment: Path) -> list[Frame]:
    """The valid frames of a segment of the local log."""
    data = segment.read_bytes()

    def read_at(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    found: list[Frame] = []
    while (frame := read_frame(read_at, found[-1].end if found else 0)) is not None:
        found.append(frame)
    return found


def random_work(bank: Bank, seed: object, steps: int, on_step: Callable[[int], None] | None = None) -> dict[str, bytes]:
    """Puts, overwrites, deletes, copies and batches, names that share a bucket among them; what must be there then."""
    chance = random.Random(str(seed))
    long = "p" * 480
    names = [f"n{number}" for number in range(12)] + [f"{long}{number}" for number in range(6)] + ["\U0001f980", "../x"]
    there: dict[str, bytes] = {}
    for step in range(steps):
        if on_step is not None:
            on_step(step)
        name, other = chance.sample(names, 2)
        size = chance.choice([0, 10, 1000, 3000, 70_000, 200_000])
        data = chance.randbytes(size // 2) * 2
        match chance.randrange(5):
            case 0 if name in there:
                bank.delete(name)
                del there[name]
            case 1 if name in there:
                bank.copy(name, other)
                there[other] = there[name]
            case 2:
                with bank.batch() as batch:
                    batch.put(name, data, metadata={"step": str(step)})
                    batch.put(other, data[::-1])
                there |= {name: data, other: data[::-1]}
            case _:
                bank.put(name, data)
                there[name] = data
    return there


def contents_of(bank: Bank) -> dict[str, bytes]:
    return {name: bank.get(name) for name in bank}


def fill_up(path: Path) -> None:
    """Write to a file until the disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes in memory; raises PermissionError for who may not mount."""
    folder.mkdir()
    if os.geteuid() != 0:
        raise PermissionError("only root mounts")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        raise PermissionError("this process may not mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
