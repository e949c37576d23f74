"""Build a golden bank: a small bank with one of everything, which every later version must be able to read.

Run as ``python tools/make_golden.py FOLDER``: writes FOLDER/bank and FOLDER/contents.json (what a reader must find).
With a suite, ``python tools/make_golden.py FOLDER aes-256-gcm``, the bank is encrypted, and so small that a test can
flip every bit of it; FOLDER/key, passphrase.txt and recovery.txt open it.

Time and randomness are fixed, but for the files' salts, which no two runs share. The ones in ``tests/golden`` were
built by the release that introduced what is in them and are never built again: a change of format gets a golden bank of
its own beside them.
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
# Every byte of the encrypted ones costs eight openings. A chunk of noise is 256 bytes long at the most.
SMALL_CHUNKING = "gear:64/128/256"
PASSPHRASE = "golden correct horse"


def fixed_world(seed: str = "golden") -> World:
    """A clock that ticks a millisecond a look, from 2026-01-01; randomness from a counter."""
    ticks = count(1_767_225_600_000_000_000, 1_000_000)
    numbers = count()

    def entropy(length: int) -> bytes:
        return blake3(f"{seed} {next(numbers)}".encode()).digest(length)

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


def fill_encrypted(bank: Bank) -> None:
    """Two key epochs, the first of them retired; in each all shapes of an object. The checkpoint comes last, so that
    a torn tail costs no object."""
    # One pack of entries that are stored, one of compressed ones.
    for epoch, chunk in (1, blake3(b"chunk").digest(130)), (2, b"compressed" * 13):
        with bank.batch() as batch:
            batch.put(f"{epoch}/inline", b"of epoch %d" % epoch, metadata={"text": "value", "bytes": b"\x00\xff"})
            # In a batch 128 bytes are stored inline.
            batch.put(f"{epoch}/chunk", chunk, digest=True)
            batch.put(f"{epoch}/chunks", blake3(b"chunks %d" % epoch).digest(390))
        if epoch == 1:
            bank.keys.add(passphrase=PASSPHRASE, label="a person")
            bank.keys.rotate()
    bank.keys.retire(1)
    bank.delete("1/inline")
    bank._writable().checkpoints.write()


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


def copy_durable(place: Path, target: Path) -> None:
    """Copy what is durable, without space that was allocated ahead: that is no part of a segment."""
    shutil.rmtree(target, ignore_errors=True)
    for relative in durable_files(place):
        copy = target / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        data = (place / relative).read_bytes()
        copy.write_bytes(data)
        if copy.suffix == ".log":
            os.truncate(copy, end_of_frames(data, int(copy.stem)))


def write_contents(target: Path, bank: Bank) -> None:
    """What a reader must find."""
    contents = [describe(info, bank.get) for info in bank.list()]
    (target / "contents.json").write_text(json.dumps(contents, indent=1, ensure_ascii=False) + "\n")


def make_plain(target: Path, scratch: Path) -> None:
    """Build, describe, copy the bank without keys."""
    place = scratch / "bank"
    with Bank.create(place, chunking=CHUNKING, compression=1, world=fixed_world()) as bank:
        fill(bank)
        write_contents(target, bank)
    copy_durable(place, target / "bank")


def make_encrypted(target: Path, scratch: Path, suite: str) -> None:
    """The same of one with keys, which are only for this."""
    place, key_file = scratch / "bank", target / "key"
    key_file.write_bytes(blake3(f"golden key of {suite}".encode()).digest())
    (target / "passphrase.txt").write_text(PASSPHRASE + "\n")
    world = fixed_world(f"golden {suite}")
    with Bank.create(
        place, chunking=SMALL_CHUNKING, key_file=key_file, suite=suite, cache_dir=scratch / "cache", world=world
    ) as bank:
        fill_encrypted(bank)
        write_contents(target, bank)
        (target / "recovery.txt").write_text(bank.keys.export())
    copy_durable(place, target / "bank")


def main(target: Path, suite: str | None) -> None:
    """Build one golden bank."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        if suite is None:
            make_plain(target, Path(scratch))
        else:
            make_encrypted(target, Path(scratch), suite)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
