"""Build the golden bank: a small bank with one of everything, which every later version must be able to read.

Run as ``python tools/make_golden.py FOLDER``: writes FOLDER/bank and FOLDER/contents.json (what a reader must find).
Time and randomness are fixed, so two runs differ at most by what the compressor does. The one in ``tests/golden`` was
built by the release that introduced format 1.0 and is never built again: a change of format gets a golden bank of its
own beside it.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from blake3 import blake3

from casbank import Bank, ObjectInfo, World
from casbank.format.record import Config, Noop
from casbank.journal.frame import FrameScanner

# Small chunks give a manifest of two levels in a file that a repository can hold.
CHUNKING = "gear:64/256/1024"
LONG = "long/" + "x" * 500


def fixed_world() -> World:
    """A clock that ticks a millisecond a look, from 2026-01-01; randomness from a counter."""
    ticks = count(1_767_225_600_000_000_000, 1_000_000)
    numbers = count()

    def entropy(length: int) -> bytes:
        return blake3(f"golden {next(numbers)}".encode()).digest(length)

    return World(now_ns=lambda: next(ticks), entropy=entropy)


def text(lines: int) -> bytes:
    """Compressible content whose every line differs."""
    return b"".join(b"line %06d of a text, check %d\n" % (number, number * number) for number in range(lines))


def fill(bank: Bank) -> None:
    """Puts, overwrites, deletes, copies, a batch, long names, a checkpoint in the middle."""
    bank.put("empty", b"")
    bank.put("inline", b"a few bytes", metadata={"text": "value", "bytes": b"\x00\xff"})
    bank.put("few-chunks", bytes(range(256)) * 4 + b"!" * 1025, digest=True)
    bank.put("leaf", text(700), digest=True)
    bank.put("tree", text(9000), metadata={"levels": "2"}, digest=True)
    bank.put("noise", blake3(b"noise").digest(40_000))
    bank.put("overwritten", b"first version")
    bank.put("replaced early", b"first version")
    bank.put("replaced early", b"second version")
    bank.put("deleted early", b"gone")
    bank.delete("deleted early")
    engine = bank._writable()
    engine.commit(lambda _: [Config("example", "a property that no reader knows"), Noop()])
    engine.checkpoints.write()
    bank.put("overwritten", b"second version")
    bank.put("deleted", b"gone")
    bank.delete("deleted")
    with bank.batch() as batch:
        for number in range(300):
            batch.put(f"batch/{number:03d}", b"small object %d, " % number * 10)
        batch.put("batch/tiny", b"inline in a batch")
        batch.put("Grüße/\u65e5\u672c\u8a9e", b"a name in UTF-8")
        batch.put(LONG + "/a", b"one of two names with one bucket")
        batch.put(LONG + "/b", b"the other")
    bank.copy("tree", "copy/of/tree")
    engine.checkpoints.write()
    bank.put("behind the checkpoints", b"replayed from the journal")


def describe(info: ObjectInfo, read: Callable[[str], bytes]) -> dict[str, object]:
    """What a reader must find of one object."""
    content = read(info.name)
    return {
        "name": info.name,
        "size": info.size,
        "etag": info.etag,
        "digest": info.digest,
        "version": info.version,
        "created_ns": info.created_ns,
        "metadata": {
            key: value if isinstance(value, str) else {"hex": value.hex()} for key, value in info.metadata.items()
        },
        "blake3": blake3(content).hexdigest(),
    }


def end_of_frames(segment: bytes, first: int) -> int:
    """Where the last frame of a journal segment ends."""
    scanner = FrameScanner(lambda start, length: segment[start : start + length], offset=0, seq=first)
    scanner.run()
    return scanner.offset


def durable_files(bank: Path) -> Iterator[Path]:
    """What belongs to the format: neither the index nor what one machine's processes share."""
    for path in sorted(bank.rglob("*")):
        relative = path.relative_to(bank)
        if path.is_file() and relative.parts[0] not in {"index", "tmp"} and path.name not in {"lock", "synced"}:
            yield relative


def main(target: Path) -> None:
    """Build, describe, copy what is durable."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch, "bank")
        with Bank.create(place, chunking=CHUNKING, compression=1, world=fixed_world()) as bank:
            fill(bank)
            contents = [describe(info, bank.get) for info in bank.list()]
        shutil.rmtree(target / "bank", ignore_errors=True)
        for relative in durable_files(place):
            copy = target / "bank" / relative
            copy.parent.mkdir(parents=True, exist_ok=True)
            data = (place / relative).read_bytes()
            copy.write_bytes(data)
            if copy.suffix == ".log":
                # Space that was allocated ahead is no part of a segment.
                os.truncate(copy, end_of_frames(data, int(copy.stem)))
    (target / "contents.json").write_text(json.dumps(contents, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
