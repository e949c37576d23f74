"""Check one pack: its shape against the journal's word, and every byte of it.

Rule 1: nothing is believed but the journal's length and hash, tags, and ids.
Rule 2: an entry that fails does not keep the others from being checked.
Rule 3: a place that the disk cannot read twice (EIO) is damage; a pack that cannot be opened for another reason (no
permission, no memory) may be whole, and is not given up.
Rule 4: what was given up may come back, when a file is put back or a disk thinks better of it: a pack with lost entries
is read whole by every check.
Memory: one range of ``limits.FSCK_READ_BYTES``, one opened entry, and the pack's table.
"""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from blake3 import blake3

from casbank import limits
from casbank.engine.packs import PackReader
from casbank.errors import CasbankError, CorruptionError, ErrorKind, NotFoundError, StoreError, UnsupportedFormatError
from casbank.format.header import HEADER_BYTES, Kind
from casbank.format.loss import NOTHING_LOST, LostEntries
from casbank.format.pack import (
    TRAILER_BYTES,
    Toc,
    decode_trailer,
    entry_offsets,
    open_entry,
    pack_name,
    whole_tocs,
)
from casbank.format.seal import FileSeal, IdOf, Sealing
from casbank.model import ChunkRow, EntryRow, EntryType, PackInfo
from casbank.sealing.ids import Ids
from casbank.storage.base import Store

_Read = TypeVar("_Read")


@dataclass(slots=True)
class PackVerdict:
    """What is wrong with a pack. ``bad``: entries that cannot be read, known only if its bytes were read or its table
    is gone; ``is_back``: entries that were given up can be read again; ``problems``: for people."""

    info: PackInfo
    problems: list[str] = field(default_factory=list)
    bad: LostEntries = NOTHING_LOST
    is_missing: bool = False
    is_unlisted: bool = False
    is_unreadable: bool = False
    is_back: bool = False
    bytes_read: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class PackCheck:
    """Checks packs of one bank; for any thread."""

    store: Store
    sealing: Sealing
    ids: Ids

    def check(self, info: PackInfo, known: LostEntries, *, read_data: bool) -> PackVerdict:
        """Look at a pack, at every byte of it if ``read_data``. Of what is ``known`` to be lost only that is told which
        can be read again."""
        verdict = self._verdict(info, known, reads=read_data or len(known) > 0)
        if len(known) == info.entries and not verdict.is_back:
            return PackVerdict(info, bytes_read=verdict.bytes_read)
        return verdict

    def _verdict(self, info: PackInfo, known: LostEntries, *, reads: bool) -> PackVerdict:
        verdict = PackVerdict(info)
        try:
            toc = self._check_shape(verdict)
            if reads:
                self._read(verdict, toc, known)
        except NotFoundError:
            verdict.is_missing = True
            verdict.problems = ["the pack is missing"]
        except StoreError as error:
            verdict.is_unreadable = True
            verdict.problems.append(str(error))
        if verdict.is_missing or verdict.is_unlisted:
            verdict.bad = verdict.bad.joined(range(info.entries))
        return verdict

    def _check_shape(self, verdict: PackVerdict) -> Toc | None:
        """Length, header, trailer, both tables; the table if one can be read."""
        info = verdict.info
        length = self.store.size(pack_name(info.id))
        if length != info.length:
            verdict.problems.append(f"it has {length} bytes, not {info.length}")
        try:
            toc = tried_twice(lambda: PackReader(self.store, self.sealing).contents(info)).toc
        except (CorruptionError, UnsupportedFormatError, StoreError) as error:
            if error.kind is ErrorKind.PACK_MISSING:
                raise NotFoundError("no such blob") from None
            pass_media_errors(error)
            verdict.problems.append(error.message)
            verdict.is_unlisted = True
            return None
        for number, is_whole in enumerate(tried_twice(lambda: self._tocs(info))):
            if not is_whole:
                verdict.problems.append(f"copy {number + 1} of its table of contents is damaged")
        return toc

    def _tocs(self, info: PackInfo) -> list[bool]:
        name = pack_name(info.id)
        seal = self.sealing.open(self.store.get(name, 0, HEADER_BYTES), Kind(info.kind), info.id)
        trailer = decode_trailer(seal, self.store.get(name, info.length - TRAILER_BYTES, TRAILER_BYTES), info.length)
        return whole_tocs(seal, trailer, self.store.get(name, trailer.toc_offset, 2 * trailer.toc_length))

    # --- every byte --------------------------------------------------------------------------------------------

    def _read(self, verdict: PackVerdict, toc: Toc | None, known: LostEntries) -> None:
        info = verdict.info
        if toc is None:
            return
        hasher = blake3()
        header = self.store.get(pack_name(info.id), 0, HEADER_BYTES)
        hasher.update(header)
        seal = self.sealing.open(header, Kind(info.kind), info.id)
        bad = [number for span in _spans(toc) for number in self._bad_entries(info, seal, toc, span, hasher)]
        self._hash_rest(verdict, toc, hasher)
        verdict.bytes_read = info.length
        new = [number for number in bad if number not in known]
        verdict.bad = verdict.bad.joined(new)
        if new:
            verdict.problems.append(_entries(new, entry_offsets(toc.entries)))
        if hasher.digest() != info.hash and len(new) == len(bad):
            verdict.problems.append("its bytes do not have the hash that the journal names")
        back = len(known) - (len(bad) - len(new))
        if back:
            verdict.is_back = True
            verdict.problems.append(f"{back} entries that were given up can be read again")

    def _hash_rest(self, verdict: PackVerdict, toc: Toc, hasher: blake3) -> None:
        """Hash what follows the entries, up to the trailer."""
        info = verdict.info
        at = HEADER_BYTES + sum(row.stored for row in toc.entries)
        while at < info.length - TRAILER_BYTES:
            length = min(limits.FSCK_READ_BYTES, info.length - TRAILER_BYTES - at)
            data = self._get(info, at, length)
            if not data:
                # Then the hash cannot be right.
                return
            hasher.update(data)
            at += len(data)

    def _bad_entries(self, info: PackInfo, seal: FileSeal, toc: Toc, span: "_Span", hasher: blake3) -> Iterator[int]:
        data = memoryview(self._get(info, span.start, span.end - span.start))
        hasher.update(data)
        at, chunk = 0, span.first_chunk
        for number in range(span.first, span.last):
            row = toc.entries[number]
            chunks = toc.chunks[chunk : chunk + row.chunks]
            # One bad sector does not take its neighbours along.
            message = data[at : at + row.stored] if data else memoryview(self._get(info, span.start + at, row.stored))
            if not self._is_whole(seal, number, row, chunks, message):
                yield number
            at, chunk = at + row.stored, chunk + row.chunks

    def _get(self, info: PackInfo, start: int, length: int) -> bytes:
        """Bytes of a pack; none where the disk cannot read them."""
        try:
            return tried_twice(lambda: self.store.get(pack_name(info.id), start, length))
        except StoreError as error:
            pass_media_errors(error)
            return b""

    def _is_whole(
        self, seal: FileSeal, number: int, row: EntryRow, chunks: list[ChunkRow], message: memoryview
    ) -> bool:
        id_of: IdOf = self.ids.chunk if row.type == EntryType.CHUNKS else self.ids.node
        try:
            plain = memoryview(open_entry(seal, number, row, message))
        except (CorruptionError, UnsupportedFormatError):
            return False
        return all(id_of(plain[chunk.start : chunk.start + chunk.raw]) == chunk.id for chunk in chunks)


@dataclass(frozen=True, slots=True)
class _Span:
    """Entries ``first`` to ``last`` (not included), which lie between two offsets of the pack."""

    first: int
    last: int
    start: int
    end: int
    first_chunk: int


def _spans(toc: Toc) -> Iterator[_Span]:
    """The entries in ranges that are read at once."""
    first, chunk, next_chunk, at = 0, 0, 0, HEADER_BYTES
    start = at
    for number, row in enumerate(toc.entries):
        if number > first and at + row.stored - start > limits.FSCK_READ_BYTES:
            yield _Span(first, number, start, at, chunk)
            first, start, chunk = number, at, next_chunk
        at += row.stored
        next_chunk += row.chunks
    if toc.entries:
        yield _Span(first, len(toc.entries), start, at, chunk)


def _entries(numbers: list[int], offsets: list[int]) -> str:
    """Which entries cannot be read, for people."""
    listed = ", ".join(f"{number} (at {offsets[number]})" for number in numbers[:8])
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return f"entries that fail their checks: {listed}{more}"


def may_pass(error: CasbankError) -> bool:
    """Rule 3: whether this is no damage."""
    return isinstance(error, StoreError) and error.errno != errno.EIO


def pass_media_errors(error: CasbankError) -> None:
    """Rule 3: raise again what is no damage."""
    if may_pass(error):
        raise error


def tried_twice(read: Callable[[], _Read]) -> _Read:
    """Rule 3: what is read, at the second try if the disk could not at the first."""
    try:
        return read()
    except StoreError as error:
        pass_media_errors(error)
        return read()
