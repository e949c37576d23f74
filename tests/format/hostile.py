"""Files whose lengths lie, each behind correct tags and hashes; run as a program it reads them in little memory."""

import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import msgpack
import zstandard
from format_cases import (
    REFUSALS,
    bank_of,
    block_of,
    packed_of,
    read_block,
    read_packed,
    read_record,
    read_toc,
    read_trailer,
    record_of,
    toc_of,
    trailer_of,
)

from casbank import limits
from casbank.format.bank import decode_bank
from casbank.format.descriptor import decode_descriptor
from casbank.format.manifest import decode_inner, decode_leaf

MEMORY_BYTES_MAX = 64 * limits.MIB

_CLAIMS = {
    "array": b"\xdd\xff\xff\xff\xff",
    "map": b"\xdf\xff\xff\xff\xff",
    "binary": b"\xc6\xff\xff\xff\xff",
    "string": b"\xdb\xff\xff\xff\xff",
    "extension": b"\xc9\xff\xff\xff\xff\x05",
    "nested arrays": b"\xdd\x00\xff\xff\xff" * 1000,
    "nested small arrays": b"\xdc\x10\x00" * 1000,
    "depth": b"\x91" * 100_000,
    "map depth": b"\x81\xa1k" * 100_000,
    "many empty lists": b"\xdc\x04\x00" + (b"\xdc\x0f\xff" + b"\x90" * 0xFFF) * 0x400,
    "many empty maps": b"\xdc\x04\x00" + (b"\xdc\x0f\xff" + b"\x80" * 0xFFF) * 0x400,
    "one flat list": b"\xdd\x00\x40\x00\x00" + b"\x90" * 0x400000,
}
_RECORD_HEAD = msgpack.packb([1, 7, bytes(32), bytes(16), bytes(16), 5])[1:]


def _frame(content: int, *, window: int | None = None, data: bytes = b"") -> bytes:
    """A zstd frame that claims ``content`` bytes; RFC 8878, section 3.1.1."""
    block = struct.pack("<I", len(data) << 3 | 1)[:3] + data
    if window is None:
        return b"\x28\xb5\x2f\xfd" + b"\xe0" + struct.pack("<Q", content) + block
    return b"\x28\xb5\x2f\xfd" + b"\xc0" + bytes([window]) + struct.pack("<Q", content) + block


def _unknown_size() -> bytes:
    packer = zstandard.ZstdCompressor(write_content_size=False)
    return packer.compress(bytes(32 * limits.MIB))


_FRAMES = {
    "a claim of 2^62": (_frame(2**62), 100),
    "a claim as promised, of nothing": (_frame(8 * limits.MIB), 8 * limits.MIB),
    "a window of 2 GiB": (_frame(4, window=0xA8, data=b"data"), 4),
    "a window of 2 GiB, cut": (_frame(5, window=0xA8, data=b"data")[:-2], 5),
    "more content than promised": (zstandard.compress(bytes(32 * limits.MIB)), 100),
    "less content than promised": (zstandard.compress(bytes(100)), 8 * limits.MIB),
    "an unknown size": (_unknown_size(), 100),
    "two frames": (zstandard.compress(bytes(50)) * 2, 100),
    "a promise beyond the limit": (zstandard.compress(bytes(100)), 2**32 - 1),
}


def _locator(offset: int, length: int, entries: int) -> bytes:
    return struct.pack("<QQIIQ", offset, length, entries, 0, 0)


def _hostile() -> dict[str, tuple[Callable[[bytes], object], bytes]]:
    cases: dict[str, tuple[Callable[[bytes], object], bytes]] = {}
    for name, claim in _CLAIMS.items():
        cases[f"descriptor of {name}"] = (decode_descriptor, claim)
        cases[f"descriptor with {name}"] = (decode_descriptor, b"\x92\x01" + claim)
        cases[f"bank of {name}"] = (decode_bank, bank_of(claim))
        cases[f"bank with {name}"] = (decode_bank, bank_of(b"\x92\x01" + claim))
        cases[f"record of {name}"] = (read_record, record_of(claim))
        cases[f"record with {name}"] = (read_record, record_of(b"\x97\x01" + claim))
        cases[f"record whose operations are {name}"] = (read_record, record_of(b"\x97" + _RECORD_HEAD + claim))
        cases[f"record with operation {name}"] = (read_record, record_of(b"\x97" + _RECORD_HEAD + b"\x91" + claim))
        put = b"\x97" + _RECORD_HEAD + b"\x91\x94\x03" + claim
        cases[f"record with a name of {name}"] = (read_record, record_of(put))
        # A block holds 4 MiB at most, so the one larger claim is cut.
        block = claim[: limits.CHECKPOINT_BLOCK_BYTES_MAX - 2]
        cases[f"block of {name}"] = (read_block, block_of(block))
        cases[f"block with {name}"] = (read_block, block_of(b"\x92\x00" + block))
    for name, (frame, raw) in _FRAMES.items():
        cases[f"entry, {name}"] = (lambda data, raw=raw: read_packed(data, raw), packed_of(frame, raw))
        cases[f"record, {name}"] = (read_record, record_of(frame, codec=1, raw=raw))
        cases[f"block, {name}"] = (read_block, block_of(frame, codec=1, raw=raw))
    entries = b"\1\0\0\0" + b"\xff" * 12
    cases["table of huge entries"] = (read_toc, toc_of(entries * 2))
    cases["table of no entries"] = (lambda data: read_toc(data, 2**32 - 1), toc_of(entries))
    for offset, length, count in ((2**63, 2**63, 1), (128, 2**64 - 1, 2**32 - 1), (128, 2**40, 2**20)):
        cases[f"trailer with {offset}, {length}, {count}"] = (read_trailer, trailer_of(_locator(offset, length, count)))
    cases["large leaf"] = (decode_leaf, bytes(40 * 2**20))
    cases["large inner node"] = (decode_inner, bytes(48 * 2**20))
    return cases


HOSTILE = _hostile()


def read_all() -> list[str]:
    """Reads every hostile file; returns what is wrong."""
    faults = []
    for name, (decode, data) in HOSTILE.items():
        try:
            decode(data)
            # A frame with a large window that keeps its promise is no lie.
            if "window" not in name:
                faults.append(f"{name}: was taken")
        except REFUSALS:
            pass
        except Exception as error:  # any other is what the test looks for
            faults.append(f"{name}: {error!r}")
    return faults


if __name__ == "__main__":
    # Linux; elsewhere tracemalloc in test_hostile.py has to do.
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES_MAX, resource.RLIM_INFINITY))
    sys.exit("\n".join(read_all()) or 0)
