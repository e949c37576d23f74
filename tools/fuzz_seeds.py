"""Write the seeds of tests/fuzz/corpus: real objects, most of them of the golden banks, as the input of a target.

Run as ``python tools/fuzz_seeds.py`` when a target's input changes. Seeds have names; what fuzzing has added is named
by its hash, and stays.
"""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
TESTS = PROJECT / "tests"
sys.path[:0] = [str(PROJECT), str(TESTS), str(TESTS / "format")]

import format_cases as cases  # noqa: E402  # found by the line above

from casbank.chunking import PRESETS  # noqa: E402
from casbank.format import messages, record  # noqa: E402
from casbank.format.checkpoint import BLOCK_HEAD_BYTES, decode_block, decode_block_head  # noqa: E402
from casbank.format.descriptor import decode_descriptor, encode_descriptor  # noqa: E402
from casbank.format.header import HEADER_BYTES, Kind, decode_header, sequence_id  # noqa: E402
from casbank.format.manifest import decode_leaf, encode_inner, encode_leaf  # noqa: E402
from casbank.format.pack import TRAILER_BYTES, decode_toc, decode_trailer, encode_entry_row, open_entry  # noqa: E402
from casbank.format.recovery import decode_recovery  # noqa: E402
from casbank.format.seal import FileSeal, Lane  # noqa: E402
from casbank.journal.base import Head  # noqa: E402
from casbank.journal.frame import FrameScanner, encode_frame_head  # noqa: E402
from casbank.journal.segment import Position  # noqa: E402
from casbank.journal.synced import Mark, encode_mark  # noqa: E402
from casbank.model import EntryType  # noqa: E402
from casbank.sealing.checksum import ChecksumSealing  # noqa: E402

CORPUS = TESTS / "fuzz" / "corpus"
PLAIN = TESTS / "golden" / "v1.0" / "bank"
ENCRYPTED = TESTS / "golden" / "v1.0-aes"
# Larger objects teach the fuzzer no more, and slow it down.
SEED_BYTES_MAX = 1024
ROWS = 3

BANK_FILE = (PLAIN / "BANK").read_bytes()
SEALING = ChecksumSealing(decode_header(BANK_FILE).bank_id)
Seed = tuple[str, str, bytes]
"""Target, name of the seed, its bytes."""


def key_seeds() -> Iterator[Seed]:
    """Headers, BANK, key slots, keyrings, recovery texts."""
    yield "header", "bank", BANK_FILE[:HEADER_BYTES]
    yield "bank", "file", BANK_FILE
    yield "bank", "body", BANK_FILE[HEADER_BYTES:-32]
    for number, path in enumerate(sorted((ENCRYPTED / "bank" / "keys").iterdir())):
        data = path.read_bytes()
        yield "header", f"key-{number}", data[:HEADER_BYTES]
        if decode_header(data).kind is Kind.KEY_SLOT:
            yield "key_slot", f"body-{number}", data[HEADER_BYTES:-80]
            yield "key_slot", f"file-{number}", data
        else:
            yield "keyring", f"file-{number}", data
    epochs = [[4, bytes(32), 1_700_000_000_000_000_000], [cases.SEQ, bytes(32), 1_700_000_000_000_000_001]]
    body = messages.encode([1, cases.SEQ, bytes(32), [1, 2], bytes(32), epochs])
    yield "keyring", "body", body
    yield "msgpack", "keyring", body
    yield "msgpack", "rows", messages.encode([4, ["name", 5, b"descriptor"], [None, True, 1.5, {"key": "value"}]])
    text = (ENCRYPTED / "recovery.txt").read_text(encoding="utf-8")
    yield "recovery", "text", text.encode()
    yield "recovery", "body", messages.encode([1, *decode_recovery(text)])


def claim_seeds() -> Iterator[Seed]:
    """Messages whose lengths lie, as in tests/format/hostile.py."""
    large = (kind + b"\x10\0\0\0" for kind in (b"\xdd", b"\xdf", b"\xc6", b"\xdb"))
    head = messages.encode([1, cases.SEQ, bytes(32), bytes(16), bytes(16), 5])[1:]
    for number, claim in enumerate((*large, b"\xdd\0\xff\xff\xff" * 99, b"\xdc\x10\0" * 99, b"\x91" * 500)):
        yield "msgpack", f"claim-{number}", claim
        yield "msgpack", f"claim-within-{number}", b"\x92\x01" + claim
        yield "descriptor", f"claim-{number}", b"\x99\x01" + claim
        yield "record", f"claim-{number}", b"\x97" + head + b"\x91\x94\x03" + claim
        yield "block", f"claim-{number}", b"\x92\x04" + claim


def record_seeds() -> Iterator[Seed]:
    """Bodies and frames of the golden bank's records, and the descriptors in them."""
    log = next((PLAIN / "journal").iterdir()).read_bytes()
    numbered: dict[str, Seed] = {}
    for frame in FrameScanner(lambda offset, length: log[offset : offset + length], offset=0, seq=1):
        seal = SEALING.open(frame.record, Kind.RECORD, sequence_id(frame.seq))
        framed = bytes(seal.open(Lane.BODY, 0, b"", memoryview(frame.record)[HEADER_BYTES:-32]))
        body = record.decode_record(frame.record, seal)
        for op in body.ops:
            plain = messages.encode([1, cases.SEQ, *body[1:5], [record._op_row(op)]])
            numbered.setdefault(type(op).__name__, ("record", type(op).__name__.lower(), plain))
            if isinstance(op, record.Put):
                shape = decode_descriptor(op.descriptor)
                name = f"depth-{shape.depth}-{'inline' if shape.inline else 'stored'}-{bool(shape.metadata)}".lower()
                numbered.setdefault(name, ("descriptor", name, encode_descriptor(shape)))
        if framed[0]:
            numbered.setdefault("packed", ("record", "packed", framed))
    yield from numbered.values()
    others = (record.Lost(bytes(16), (1, 2)), record.Keyring(2, "keys/keyring-2-00", bytes(32)), record.Noop())
    leased = record.Lease(bytes(16), "host", "writer", 1, 2, (bytes(16), "name"), "note")
    rows = [record._op_row(op) for op in (*others, leased, record.Release(bytes(16), "fenced"))]
    head = [1, cases.SEQ, bytes(32), bytes(16), bytes(16), 5]
    yield "record", "others", messages.encode([*head, [*rows, record._op_row(record.Config("key", None))]])


def checkpoint_seeds() -> Iterator[Seed]:
    """A few rows of each section of the golden bank's newest checkpoint, and one block with its head."""
    path = max((PLAIN / "checkpoints").iterdir())
    data, at, number = path.read_bytes(), HEADER_BYTES, 0
    seal = SEALING.open(data, Kind.CHECKPOINT, sequence_id(int(path.name.split("-")[0])))
    yield "header", "checkpoint", data[:HEADER_BYTES]
    while at < len(data) - 32:
        head = data[at : at + BLOCK_HEAD_BYTES]
        end = at + BLOCK_HEAD_BYTES + decode_block_head(head).stored
        block = decode_block(seal, number, head, data[at + BLOCK_HEAD_BYTES : end])
        name = block.section.name.lower()
        yield "block", name, messages.encode([int(block.section), *block.rows[:ROWS]])
        yield "block", f"framed-{name}", head + data[at + BLOCK_HEAD_BYTES : end - 16]
        at, number = end, number + 1
    lease = [bytes(16), 1, 2, 3, "owner", "writer", "note", [[bytes(16), 4], ["name", 5]]]
    yield "block", "leases", messages.encode([3, lease])
    yield "block", "swept", messages.encode([7, [bytes(16), 1, 2, 3, 0]])


def pack_seeds() -> Iterator[Seed]:
    """Tables, trailers, entries, and a few rows of manifests."""
    for number, path in enumerate(sorted((PLAIN / "packs").glob("*/*"))):
        data = path.read_bytes()
        kind = decode_header(data).kind
        seal = SEALING.open(data, kind, bytes.fromhex(path.name))
        trailer = decode_trailer(seal, data[-TRAILER_BYTES:], len(data))
        place = trailer.toc_offset, trailer.toc_length, trailer.entries, 0, trailer.padding
        yield "header", f"pack-{kind}", data[:HEADER_BYTES]
        yield "trailer", f"pack-{kind}", struct.pack("<QQIIQQ", *place, len(data))
        copies = data[trailer.toc_offset : trailer.toc_offset + 2 * trailer.toc_length]
        flags = min(trailer.entries, 127) << 1 | (kind is Kind.META_PACK)
        yield "toc", f"pack-{number}", bytes([flags]) + copies[: trailer.toc_length - 16]
        yield from entry_seeds(data, seal, decode_toc(seal, trailer, copies).entries[0])


def entry_seeds(data: bytes, seal: FileSeal, row: cases.EntryRow) -> Iterator[Seed]:
    """A pack's first entry, and the node or the compressed bytes in it."""
    message = data[HEADER_BYTES : HEADER_BYTES + row.stored]
    plain = bytes(open_entry(seal, 0, row, message))
    yield "entry", f"type-{row.type}-codec-{row.codec}", encode_entry_row(row) + message[:-16]
    yield "compression", f"codec-{row.codec}", struct.pack("<BI", row.codec, row.raw) + message[:-16]
    if row.type == EntryType.LEAVES:
        yield "manifest", "leaf", encode_leaf(decode_leaf(plain[: ROWS * 40]))


def journal_seeds() -> Iterator[Seed]:
    """Logs in the words of the target, and marks."""
    whole = b"\x00\x05hello\x01\x03abc\x02\x00"
    yield "frames", "whole", whole
    for what in range(3, 8):
        yield "frames", f"damage-{what}", whole + bytes([what]) + b"\x0aten bytes." + whole
    content = cases.blake3(b"").digest()
    yield "frames", "log", encode_frame_head(7, len(content)) + content + bytes(40)
    yield "frame_head", "head", encode_frame_head(7, 4000)
    slots = [
        encode_mark(Mark(bytes(16), count, bool(count % 2), Position(1, 99, Head(3, bytes(32))))) for count in (4, 5)
    ]
    yield "mark", "both", b"".join(slots)
    yield "mark", "one", slots[0] + bytes(len(slots[1]))
    yield "seal", "message", bytes(9) + b"message"
    yield "manifest", "inner", encode_inner(cases.INNER)


def index_seeds() -> Iterator[Seed]:
    """A row of each table, from bytes that count up; and markers."""
    for table in range(8):
        yield "index_rows", f"table-{table}", bytes([table, 0, 9, *range(1, 160)])
    yield "marker", "clean", b'{"schema": 2, "session": "boot mount", "clean": true}'
    yield "marker", "torn", b'{"schema": 2, "sess'
    yield "marker", "list", b"[[[[]]]]"


def text_seeds() -> Iterator[Seed]:
    """What people write, rightly and wrongly."""
    texts = {
        "bank_url": ("bank", "/srv/a bank", "file:///srv/a%20bank", "memory://name/more", "s3://bucket/key"),
        "profile": (*PRESETS, "fixed:4096", "gear:64/256/1024", "gear:1/2", "fixed:0"),
        "byte_range": ("0-99", "100-", "-5", "9-1", "-"),
        "byte_count": ("500", "500M", "1.5GiB", "2 kB", "0.001e", "1.5.5"),
    }
    for target, written in texts.items():
        for number, text in enumerate(written):
            yield target, f"text-{number}", text.encode()


def kernel_seeds() -> Iterator[Seed]:
    """Small and large sizes, both alignments of masks; text, periods, noise."""
    for number, content in enumerate((b"one line of text after another\n" * 9, b"\0", bytes(range(256)), b"ab")):
        parameters = bytes([number * 20, 40, 4, 0, 6, 3, number * 7, number, 200, 63, 0, 0, 9, 1, 30, 2])
        yield "kernel", f"content-{number}", parameters + content


def main() -> None:
    """Write each seed that is small enough to its own file."""
    makers = (
        key_seeds,
        claim_seeds,
        record_seeds,
        checkpoint_seeds,
        pack_seeds,
        journal_seeds,
        index_seeds,
        text_seeds,
        kernel_seeds,
    )
    count = 0
    for make in makers:
        for target, name, data in make():
            if len(data) <= SEED_BYTES_MAX:
                (CORPUS / target).mkdir(parents=True, exist_ok=True)
                (CORPUS / target / f"seed-{name}").write_bytes(data)
                count += 1
    print(f"{count} seeds")


if __name__ == "__main__":
    main()
