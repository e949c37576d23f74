"""What grouping chunks before compression gains, and what it costs a range read.

    python benchmarks/groups.py --scratch DIR [--limit-mb 300] [--targets 64,256] [--levels 1,3] PATH...

Every PATH (a file, or a folder of files) is chunked and deduplicated as casbank would; neighbouring new chunks are
then compressed together up to each target, in KiB (0: every chunk alone), at each zstd level. The table gives

- stored: compressed bytes and what the format adds to them, in MB (10^6);
- compress: MB of raw bytes per second of CPU time of compression alone;
- range read: the mean time to decompress the group that a random chunk is in, which is what reading one byte costs.
"""

import argparse
import mmap
import os
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard
from blake3 import blake3
from table import markdown_table

from casbank.chunking import make_chunker, parse_profile

MB = 10**6
KIB = 2**10
READ_BYTES = 8 * 2**20
# An entry has a row of 16 bytes in either copy of the table of contents, and a tag of 16.
ENTRY_OVERHEAD_BYTES = 2 * 16 + 16
# A chunk has a row of 44 bytes in either copy.
CHUNK_OVERHEAD_BYTES = 2 * 44
RANGE_READS = 500


@dataclass(frozen=True, slots=True)
class Spool:
    """The new chunks of one source behind each other, so that a group is one slice."""

    name: str
    source_bytes: int
    lengths: list[int]
    data: memoryview


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one target and level made of a spool."""

    stored_bytes: int
    compress_s: float
    range_read_s: float


def spool_of(path: Path, profile: str, limit_bytes: int, scratch: Path) -> Spool:
    """Chunk and deduplicate a source into an unlinked file, which costs page cache where a list would cost memory."""
    seen: set[bytes] = set()
    lengths: list[int] = []
    source_bytes = 0
    with tempfile.TemporaryFile(dir=scratch) as out:
        for chunk in chunks_of(blocks_of(files_of(path), limit_bytes), profile):
            source_bytes += len(chunk)
            key = blake3(chunk).digest()
            if key not in seen:
                seen.add(key)
                lengths.append(len(chunk))
                out.write(chunk)
        out.flush()
        data = mmap.mmap(out.fileno(), 0, access=mmap.ACCESS_READ)
    return Spool(path.name, source_bytes, lengths, memoryview(data))


def files_of(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, names, files in os.walk(path):
        names.sort()
        yield from (Path(folder, name) for name in sorted(files))


def blocks_of(paths: Iterable[Path], limit_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """Blocks of the files, each with whether it ends its file; no more than `limit_bytes` of all."""
    left = limit_bytes
    for path in paths:
        with path.open("rb") as file:
            more = True
            while more and left > 0:
                block = file.read(min(READ_BYTES, left))
                left -= len(block)
                more = len(block) == READ_BYTES
                yield block, not more or left == 0
        if left == 0:
            return


def chunks_of(blocks: Iterable[tuple[bytes, bool]], profile: str) -> Iterator[memoryview]:
    chunker = make_chunker(parse_profile(profile))
    tail = b""
    for block, final in blocks:
        data = memoryview(tail + block)
        at = 0
        for length in chunker.cut(data, final=final):
            yield data[at : at + length]
            at += length
        tail = bytes(data[at:])


def groups_of(spool: Spool, target_bytes: int) -> list[tuple[memoryview, int]]:
    """Slices of neighbours, none above the target unless one chunk is, each with its number of chunks."""
    groups: list[tuple[memoryview, int]] = []
    start = end = count = 0
    for length in spool.lengths:
        if count and end + length - start > target_bytes:
            groups.append((spool.data[start:end], count))
            start, count = end, 0
        end += length
        count += 1
    groups.append((spool.data[start:end], count))
    return groups


def measure(spool: Spool, target_bytes: int, level: int) -> Outcome:
    groups = groups_of(spool, target_bytes)
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
    # Compressed groups are kept for the range reads only as far as those need them.
    picked = picked_groups([count for _, count in groups])
    wanted = set(picked)
    kept: dict[int, bytes] = {}
    stored_bytes = len(groups) * ENTRY_OVERHEAD_BYTES + len(spool.lengths) * CHUNK_OVERHEAD_BYTES
    compress_s = 0.0
    for number, (raw, _) in enumerate(groups):
        start = time.thread_time()
        packed = compressor.compress(raw)
        compress_s += time.thread_time() - start
        stored_bytes += min(len(packed), len(raw))
        if number in wanted:
            # What does not shrink is stored as it is, and opening it costs nothing.
            kept[number] = packed if len(packed) < len(raw) else b""
    return Outcome(stored_bytes, compress_s, range_read_s([kept[number] for number in picked]))


def picked_groups(counts: list[int]) -> list[int]:
    """Groups of random chunks: one with many chunks is read as often as they are."""
    return random.Random(0).choices(range(len(counts)), weights=counts, k=RANGE_READS)


def range_read_s(packed: list[bytes]) -> float:
    decompressor = zstandard.ZstdDecompressor()
    start = time.thread_time()
    for data in packed:
        if data:
            decompressor.decompress(data)
    return (time.thread_time() - start) / len(packed)


def report(spool: Spool, targets_kib: list[int], levels: list[int]) -> str:
    unique_bytes = sum(spool.lengths)
    rows = []
    for level in levels:
        for target in targets_kib:
            outcome = measure(spool, target * KIB, level)
            rows.append(
                (
                    str(level),
                    f"{target} KiB" if target else "alone",
                    f"{outcome.stored_bytes / MB:.1f}",
                    f"{spool.source_bytes / outcome.stored_bytes:.2f}",
                    f"{unique_bytes / MB / outcome.compress_s:.0f}",
                    f"{outcome.range_read_s * 1e6:.0f}",
                )
            )
    headings = ("level", "group", "stored MB", "ratio", "compress MB/s", "range read µs")
    title = f"**{spool.name}**: {spool.source_bytes / MB:.1f} MB, {unique_bytes / MB:.1f} MB unique"
    return f"{title} in {len(spool.lengths)} chunks\n\n{markdown_table(headings, rows)}\n"


def integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH")
    parser.add_argument(
        "--scratch", type=Path, required=True, help="a folder with as much room as the paths' new chunks"
    )
    parser.add_argument("--profile", default="default")
    parser.add_argument("--limit-mb", type=int, default=10**6, help="read no more of each path")
    parser.add_argument("--targets", type=integers, default=[0, 64, 128, 256, 512, 1024], help="KiB; 0: alone")
    parser.add_argument("--levels", type=integers, default=[1, 2, 3])
    options = parser.parse_args()
    for path in options.paths:
        spool = spool_of(path, options.profile, options.limit_mb * MB, options.scratch)
        print(report(spool, options.targets, options.levels), flush=True)


if __name__ == "__main__":
    main()
