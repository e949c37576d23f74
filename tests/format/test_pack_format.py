"""Entries, tables of contents, trailers, and packs made of them."""

import struct
from itertools import accumulate

import pytest
import zstandard
from blake3 import blake3
from format_cases import (
    ENTRY,
    PACK_ID,
    PACK_LENGTH,
    PACK_SEAL,
    PAYLOAD,
    REFUSALS,
    SALT,
    SEALING,
    TOC,
    TRAILER,
    entry_row,
    ids32,
    read_toc,
    read_trailer,
    sealed,
    toc_of,
    trailer_of,
)
from hypothesis import given
from hypothesis import strategies as st

from casbank import limits
from casbank.errors import CorruptionError, UnsupportedFormatError
from casbank.format.compression import compress
from casbank.format.header import HEADER_BYTES, Kind
from casbank.format.pack import (
    TRAILER_BYTES,
    Toc,
    Trailer,
    decode_toc,
    decode_trailer,
    encode_entry_row,
    encode_toc,
    encode_trailer,
    entry_offsets,
    open_entry,
    pack_name,
    seal_entry,
    toc_bytes,
)
from casbank.format.seal import TAG_BYTES, Lane
from casbank.model import Buffer, ChunkRow, EntryRow, EntryType
from casbank.sealing.ids import PLAIN_IDS

# A few repeats make a chunk that shrinks.
chunks = st.builds(lambda unit, times: unit * times, st.binary(min_size=1, max_size=20), st.integers(1, 40))
groups = st.lists(st.lists(chunks, min_size=1, max_size=4), max_size=6)
levels = st.none() | st.integers(1, 3)


def assemble(groups: list[list[bytes]], *, level: int | None = 1, padding: int = 0) -> bytes:
    """A pack as a writer makes it: one entry a group, one chunk row a chunk."""
    parts: list[Buffer] = [PACK_SEAL.header_bytes]
    toc = Toc([], [])
    for number, group in enumerate(groups):
        plain = b"".join(group)
        codec, payload = compress(plain, level)
        row = EntryRow(EntryType.CHUNKS, codec, len(payload) + TAG_BYTES, len(plain), len(group))
        starts = accumulate(map(len, group), initial=0)
        toc.entries.append(row)
        toc.chunks.extend(
            ChunkRow(PLAIN_IDS.chunk(chunk), number, start, len(chunk))
            for chunk, start in zip(group, starts, strict=False)
        )
        parts += seal_entry(PACK_SEAL, number, row, payload)
    offset = sum(map(len, parts))
    parts += [*encode_toc(PACK_SEAL, toc), bytes(padding)]
    body = b"".join(parts)
    length = toc_bytes(len(toc.entries), len(toc.chunks))
    trailer = Trailer(offset, length, len(toc.entries), padding, PACK_ID, blake3(body).digest())
    return body + encode_trailer(PACK_SEAL, trailer)


def disassemble(pack: bytes) -> list[list[bytes]]:
    """What a reader gets who starts with nothing but the file, and compares every id."""
    seal = SEALING.open(pack, Kind.DATA_PACK, PACK_ID)
    trailer = decode_trailer(seal, pack[-TRAILER_BYTES:], len(pack))
    toc = decode_toc(seal, trailer, pack[trailer.toc_offset : trailer.toc_offset + 2 * trailer.toc_length])
    groups: list[list[bytes]] = [[] for _ in toc.entries]
    plain = [
        bytes(open_entry(seal, number, row, pack[offset : offset + row.stored]))
        for number, (row, offset) in enumerate(zip(toc.entries, entry_offsets(toc.entries), strict=True))
    ]
    for chunk in toc.chunks:
        content = plain[chunk.entry][chunk.start : chunk.start + chunk.raw]
        if PLAIN_IDS.chunk(content) != chunk.id:
            raise CorruptionError("another chunk")
        groups[chunk.entry].append(content)
    return groups


SAMPLE = [[b"one chunk of its own"], [b"a group " * 9, b"of three ", b"chunks" * 20], [bytes(500)]]


@given(groups, levels, st.integers(0, 300))
def test_pack_round_trips(groups: list[list[bytes]], level: int | None, padding: int) -> None:
    """Every chunk of a pack comes back, in its group, whatever the grouping, the codec and the padding."""
    assert disassemble(assemble(groups, level=level, padding=padding)) == groups


def test_pack_lies_as_the_tables_say() -> None:
    """The bytes of a pack are where docs/format.md puts them."""
    pack = assemble([[b"abc", b"defg"]], level=None, padding=5)
    assert pack[128:135] == b"abcdefg"
    copy = pack[151 : 151 + 16 + 2 * 44]
    assert copy[:16] == struct.pack("<BBHIII", 1, 0, 0, 7 + 16, 7, 2)
    assert copy[16:60] == blake3(b"abc").digest() + struct.pack("<III", 0, 0, 3)
    assert copy[60:104] == blake3(b"defg").digest() + struct.pack("<III", 0, 3, 4)
    assert pack[151 + 120 : 151 + 120 + 104] == copy
    assert pack[151 + 240 : 151 + 245] == bytes(5)
    trailer = pack[151 + 245 :]
    assert len(trailer) == 128
    assert trailer[:8] == b"CASTRLR1"
    assert trailer[8:40] == struct.pack("<QQIIQ", 151, 120, 1, 0, 5)
    assert trailer[56:72] == PACK_ID
    assert trailer[72:104] == blake3(pack[:-128]).digest()
    assert trailer[104:120] == bytes(16)
    assert trailer[120:] == blake3(trailer[:120]).digest()[:8]


def test_pack_hash_needs_no_key() -> None:
    """Anyone can scrub a pack: the hash in the trailer is that of every byte before the trailer."""
    pack = assemble(SAMPLE)
    seal = SEALING.open(pack, Kind.DATA_PACK, PACK_ID)
    assert decode_trailer(seal, pack[-128:], len(pack)).hash == blake3(pack[:-128]).digest()


def test_flipped_bits_in_a_pack_never_change_a_chunk() -> None:
    """A pack with any one bit flipped gives the same chunks or an error, never other chunks."""
    pack = assemble(SAMPLE, padding=3)
    same = 0
    for bit in range(0, 8 * len(pack), 3):
        spoilt = bytearray(pack)
        spoilt[bit // 8] ^= 1 << bit % 8
        try:
            assert disassemble(bytes(spoilt)) == SAMPLE
            same += 1
        except REFUSALS:
            pass
    # Only damage in one copy of the table, or in padding, is survived.
    assert 0 < same <= (8 * (2 * toc_bytes(3, 5) + 3)) // 3 + 1


@given(st.integers(0, 2000))
def test_cut_packs_are_refused(length: int) -> None:
    """A pack that lost its end, or has a hole, is refused."""
    pack = assemble(SAMPLE)
    with pytest.raises(REFUSALS):
        disassemble(pack[: min(length, len(pack) - 1)])
    with pytest.raises(REFUSALS):
        disassemble(pack[: HEADER_BYTES + 1] + pack[HEADER_BYTES + 2 + length :])


# --- entries ---------------------------------------------------------------------------------------------------------

MESSAGE = b"".join(seal_entry(PACK_SEAL, 0, ENTRY, PAYLOAD))


def test_entry_opens_at_its_place() -> None:
    """An entry is payload and tag, and opens with its number and row."""
    assert MESSAGE[:-TAG_BYTES] == PAYLOAD
    assert open_entry(PACK_SEAL, 0, ENTRY, MESSAGE) == PAYLOAD


@pytest.mark.parametrize("number", [1, 2**20, 2**64 - 1])
def test_entry_opens_at_no_other_number(number: int) -> None:
    """An entry's message is bound to its number in the pack."""
    with pytest.raises(CorruptionError):
        open_entry(PACK_SEAL, number, ENTRY, MESSAGE)


@pytest.mark.parametrize(
    ("kind", "file_id", "salt", "bank_id"),
    [
        (Kind.META_PACK, PACK_ID, SALT, None),
        (Kind.DATA_PACK, SALT, SALT, None),
        (Kind.DATA_PACK, PACK_ID, PACK_ID, None),
        (Kind.DATA_PACK, PACK_ID, SALT, bytes(16)),
    ],
    ids=["kind", "file id", "salt", "bank"],
)
def test_entry_opens_in_no_other_file(kind: Kind, file_id: bytes, salt: bytes, bank_id: bytes | None) -> None:
    """An entry's message is bound to its file's header, all of it."""
    sealing = SEALING if bank_id is None else type(SEALING)(bank_id)
    with pytest.raises(CorruptionError):
        open_entry(sealing.create(kind, file_id, salt), 0, ENTRY, MESSAGE)


@pytest.mark.parametrize(
    "row",
    [
        ENTRY._replace(type=EntryType.LEAVES),
        ENTRY._replace(codec=1),
        ENTRY._replace(raw=ENTRY.raw - 1),
        ENTRY._replace(chunks=1),
    ],
)
def test_entry_opens_with_no_other_row(row: EntryRow) -> None:
    """An entry's message is bound to every field of its row; the length is in the message itself."""
    with pytest.raises(CorruptionError, match="tag"):
        open_entry(PACK_SEAL, 0, row, MESSAGE)


@pytest.mark.parametrize("lane", [Lane.TOC, Lane.TRAILER, Lane.BODY])
def test_entry_opens_in_no_other_lane(lane: Lane) -> None:
    """A message of one part of a file is none of another part."""
    with pytest.raises(CorruptionError):
        PACK_SEAL.open(lane, 0, encode_entry_row(ENTRY), MESSAGE)


@pytest.mark.parametrize("length", [0, 15, 16, 17, len(MESSAGE) - 1, len(MESSAGE) + 1])
def test_entry_of_another_length_is_corruption(length: int) -> None:
    """A message that is not as long as its row says is refused."""
    with pytest.raises(CorruptionError):
        open_entry(PACK_SEAL, 0, ENTRY, MESSAGE.ljust(length, b"\0")[:length])


@pytest.mark.parametrize("codec", [2, 3, 255])
def test_unknown_codec_is_unsupported(codec: int) -> None:
    """A codec of a later version is refused as such, once its tag has been checked."""
    row = ENTRY._replace(codec=codec)
    with pytest.raises(UnsupportedFormatError):
        open_entry(PACK_SEAL, 0, row, b"".join(seal_entry(PACK_SEAL, 0, row, PAYLOAD)))


@pytest.mark.parametrize("kind", [0, 4, 255])
def test_unknown_entry_type_is_unsupported(kind: int) -> None:
    """An entry type of a later version is refused as such."""
    row = ENTRY._replace(type=kind)
    with pytest.raises(UnsupportedFormatError):
        open_entry(PACK_SEAL, 0, row, b"".join(seal_entry(PACK_SEAL, 0, row, PAYLOAD)))


@pytest.mark.parametrize("raw", [0, 998, 1000, limits.ENTRY_RAW_BYTES_MAX, limits.ENTRY_RAW_BYTES_MAX + 1])
def test_entry_of_another_raw_length_is_corruption(raw: int) -> None:
    """An entry must come out exactly as long as its row says."""
    packed = zstandard.compress(bytes(999))
    row = EntryRow(EntryType.CHUNKS, 1, len(packed) + TAG_BYTES, raw, 1)
    with pytest.raises(CorruptionError):
        open_entry(PACK_SEAL, 0, row, b"".join(seal_entry(PACK_SEAL, 0, row, packed)))


# --- tables of contents ----------------------------------------------------------------------------------------------


META_SEAL = SEALING.create(Kind.META_PACK, PACK_ID, SALT)
data_entries = st.lists(st.tuples(st.just(EntryType.CHUNKS), st.integers(0, 1), st.integers(1, 5000)), max_size=8)
meta_entries = st.lists(
    st.tuples(st.sampled_from([EntryType.LEAVES, EntryType.INNER_NODES]), st.integers(0, 1), st.integers(1, 5000)),
    min_size=1,
    max_size=8,
)


@given(data_entries | meta_entries, st.data())
def test_toc_round_trips(kinds: list[tuple[EntryType, int, int]], data: st.DataObject) -> None:
    """A table decodes to the rows that were encoded, in a pack of the kind that may hold them, and in no other."""
    seals = [PACK_SEAL, META_SEAL]
    if kinds and kinds[0][0] is not EntryType.CHUNKS:
        seals.reverse()
    rows = [[data.draw(ids32) for _ in range(data.draw(st.integers(0, 3)))] for _ in kinds]
    toc = Toc(
        [
            EntryRow(kind, codec, size + 17, size, len(ids))
            for (kind, codec, size), ids in zip(kinds, rows, strict=True)
        ],
        [ChunkRow(chunk, number, 0, kinds[number][2]) for number, ids in enumerate(rows) for chunk in ids],
    )
    offset = HEADER_BYTES + sum(row.stored for row in toc.entries)
    length = toc_bytes(len(toc.entries), len(toc.chunks))
    copies = b"".join(encode_toc(seals[0], toc))
    assert len(copies) == 2 * length
    trailer = Trailer(offset, length, len(kinds), 0, PACK_ID, bytes(32))
    assert decode_toc(seals[0], trailer, copies) == toc
    if kinds:
        with pytest.raises(CorruptionError):
            decode_toc(seals[1], trailer, b"".join(encode_toc(seals[1], toc)))


COPIES = b"".join(encode_toc(PACK_SEAL, TOC))


@given(st.integers(0, len(COPIES) - 1), st.integers(1, 255))
def test_toc_survives_damage_to_one_copy(at: int, mask: int) -> None:
    """One damaged copy, the first or the second, costs nothing."""
    spoilt = bytearray(COPIES)
    spoilt[at] ^= mask
    assert decode_toc(PACK_SEAL, TRAILER, bytes(spoilt)) == TOC


def test_toc_with_both_copies_damaged_is_corruption() -> None:
    """Damage in both copies is noticed."""
    spoilt = bytearray(COPIES)
    spoilt[0] ^= 1
    spoilt[-1] ^= 1
    with pytest.raises(CorruptionError):
        decode_toc(PACK_SEAL, TRAILER, bytes(spoilt))


def test_toc_copies_cannot_trade_places() -> None:
    """Each copy is bound to its place, though both say the same."""
    half = len(COPIES) // 2
    with pytest.raises(CorruptionError):
        decode_toc(PACK_SEAL, TRAILER, COPIES[half:] + COPIES[:half])


def table(entries: list[EntryRow], chunks: list[ChunkRow], flags: int = 0) -> bytes:
    rows = [entry_row(row, flags) for row in entries]
    return toc_of(b"".join(rows + [struct.pack("<32sIII", *row) for row in chunks]))


@pytest.mark.parametrize(
    ("entries", "chunks"),
    [
        pytest.param([ENTRY._replace(stored=ENTRY.stored + 1)], TOC.chunks, id="offset"),
        pytest.param([ENTRY._replace(chunks=1)], TOC.chunks, id="more chunks than said"),
        pytest.param([ENTRY], TOC.chunks[:1], id="fewer chunks than said"),
        pytest.param([ENTRY], [TOC.chunks[0], TOC.chunks[1]._replace(entry=1)], id="no such entry"),
        pytest.param([ENTRY], [TOC.chunks[0], TOC.chunks[1]._replace(raw=ENTRY.raw)], id="chunk beyond entry"),
        pytest.param([ENTRY], [TOC.chunks[0], TOC.chunks[1]._replace(start=2**32 - 1)], id="start beyond entry"),
        pytest.param([ENTRY], [TOC.chunks[0], TOC.chunks[1]._replace(raw=0)], id="empty chunk"),
        pytest.param([ENTRY._replace(raw=0)], TOC.chunks, id="empty entry"),
        pytest.param([ENTRY._replace(chunks=4097)], [TOC.chunks[0]] * 4097, id="4,097 chunks"),
        pytest.param([ENTRY._replace(stored=TAG_BYTES)], TOC.chunks, id="entry of a tag"),
        pytest.param([ENTRY._replace(stored=limits.ENTRY_STORED_BYTES_MAX + 1)], TOC.chunks, id="long entry"),
        pytest.param([ENTRY._replace(raw=limits.ENTRY_RAW_BYTES_MAX + 1)], TOC.chunks, id="large entry"),
    ],
)
def test_toc_that_does_not_add_up_is_corruption(entries: list[EntryRow], chunks: list[ChunkRow]) -> None:
    """A table is believed only when its rows fit one another and the trailer."""
    with pytest.raises(CorruptionError):
        read_toc(table(entries, chunks), len(entries))


def test_toc_out_of_order_is_corruption() -> None:
    """Chunk rows come in the order of their entries."""
    half = ENTRY._replace(stored=ENTRY.stored // 2 + 1, chunks=1)
    other = half._replace(stored=ENTRY.stored - half.stored)
    rows = [ChunkRow(bytes(32), 0, 0, 1), ChunkRow(bytes(32), 1, 0, 1)]
    assert read_toc(table([half, other], rows), 2).chunks == rows
    with pytest.raises(CorruptionError):
        read_toc(table([half, other], rows[::-1]), 2)


def test_unknown_entry_flags_are_unsupported() -> None:
    """A flag of a later version on an entry is refused as such."""
    with pytest.raises(UnsupportedFormatError):
        read_toc(table([ENTRY], TOC.chunks, flags=1))


# --- trailers --------------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 1000), st.integers(0, 50), st.integers(0, 50), st.integers(0, 2**40), ids32
)  # entries' bytes, entries, chunks, padding, hash
def test_trailer_round_trips(stored: int, entries: int, chunks: int, padding: int, whole: bytes) -> None:
    """A trailer decodes to what was encoded, given the length that it adds up to."""
    trailer = Trailer(HEADER_BYTES + stored, toc_bytes(entries, chunks), entries, padding, PACK_ID, whole)
    length = trailer.toc_offset + 2 * trailer.toc_length + padding + TRAILER_BYTES
    data = encode_trailer(PACK_SEAL, trailer)
    assert decode_trailer(PACK_SEAL, data, length) == trailer
    for other in (length - 1, length + 1):
        with pytest.raises(CorruptionError):
            decode_trailer(PACK_SEAL, data, other)


def locator(*, offset: int = 128, length: int = 16, entries: int = 0, flags: int = 0, padding: int = 0) -> bytes:
    return struct.pack("<QQIIQ", offset, length, entries, flags, padding)


REST = PACK_LENGTH - 128 - TRAILER_BYTES


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 127, "length": 0, "padding": REST + 1},
        {"length": toc_bytes(0, limits.PACK_CHUNKS_MAX) + 1},
        {"entries": limits.PACK_ENTRIES_MAX + 1, "length": 0, "padding": REST},
        {"length": 2**64 - 1, "padding": REST + 2},
    ],
)
def test_trailer_out_of_range_is_corruption(fields: dict[str, int]) -> None:
    """A table outside the pack, or larger than any, is refused before it is read."""
    with pytest.raises(CorruptionError):
        read_trailer(trailer_of(locator(**fields)))


def test_unknown_trailer_flags_are_unsupported() -> None:
    """A flag of a later version in a trailer is refused as such."""
    good = {"length": 16, "padding": REST - 32}
    assert read_trailer(trailer_of(locator(**good))).entries == 0
    with pytest.raises(UnsupportedFormatError):
        read_trailer(trailer_of(locator(flags=1, **good)))


def test_trailer_of_another_pack_is_corruption() -> None:
    """The trailer names the pack that it ends, and says that it is a trailer."""
    good = locator(padding=REST - 32)
    for data in (trailer_of(good, pack_id=SALT), trailer_of(good, magic=b"CASTRLR2")):
        with pytest.raises(CorruptionError):
            read_trailer(data)


def test_locator_is_sealed() -> None:
    """A locator under another place's tag is refused, the trailer's check being right."""
    message = sealed(PACK_SEAL, Lane.TRAILER, 1, b"", locator(padding=REST - 32))
    body = b"CASTRLR1" + message + PACK_ID + bytes(48)
    with pytest.raises(CorruptionError):
        read_trailer(body + blake3(body).digest(8))


def test_pack_names() -> None:
    """A pack lies in a folder named for its first byte."""
    assert pack_name(PACK_ID) == "packs/10/101112131415161718191a1b1c1d1e1f"
