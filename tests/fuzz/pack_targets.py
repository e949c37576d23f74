"""Targets for what a pack is made of, for descriptors, and for the msgpack and zstd under all formats."""

import struct

from format_cases import PACK_ID, PACK_SEAL, SALT, SEALING, entry_row, sealed, trailer_of

from casbank import limits
from casbank.errors import ErrorKind
from casbank.format import messages
from casbank.format.compression import compress, decompress
from casbank.format.descriptor import decode_descriptor, encode_descriptor
from casbank.format.header import HEADER_BYTES, Kind
from casbank.format.manifest import decode_inner, decode_leaf, encode_inner, encode_leaf
from casbank.format.pack import (
    Toc,
    Trailer,
    decode_toc,
    decode_trailer,
    encode_toc,
    encode_trailer,
    open_entry,
)
from casbank.format.seal import TAG_BYTES, FileSeal, Lane
from casbank.model import EntryRow
from fuzz.asked import comes_back, decoded

_ROW = struct.Struct("<BBxxIII")
_LOCATOR = struct.Struct("<QQIIQ")
_META_SEAL = SEALING.create(Kind.META_PACK, PACK_ID, SALT)
_LEVELS = (None, *range(1, 23))


def entry(data: bytes) -> None:
    """An entry of any row and payload; the length that the row says is the true one, or the one it claims."""
    if len(data) < _ROW.size:
        return
    kind, codec, stored, raw, chunks = _ROW.unpack_from(data)
    payload = data[_ROW.size :]
    for length in (stored, len(payload) + TAG_BYTES):
        row = EntryRow(kind, codec, length, raw, chunks)
        message = sealed(PACK_SEAL, Lane.ENTRY, 0, entry_row(row), payload)
        plain = decoded(lambda whole, row=row: open_entry(PACK_SEAL, 0, row, whole), message)
        assert plain is None or len(plain) == raw


def toc(data: bytes) -> None:
    """Any table, in a pack that is as long as its first rows say; its second copy is as good as the first."""
    if not data:
        return
    rows, plain = data[0] >> 1, data[1:]
    whole_rows = _ROW.iter_unpack(plain[: min(rows, len(plain) // _ROW.size) * _ROW.size])
    offset = HEADER_BYTES + sum(stored for _, _, stored, _, _ in whole_rows)
    trailer = Trailer(offset, len(plain) + TAG_BYTES, rows, 0, PACK_ID, bytes(32))
    seal = _META_SEAL if data[0] & 1 else PACK_SEAL
    copies = b"".join(sealed(seal, Lane.TOC, copy, b"", plain) for copy in range(2))
    table = _comes_back(seal, trailer, copies)
    assert _comes_back(seal, trailer, bytes(len(copies) // 2) + copies[len(copies) // 2 :]) == table


def _comes_back(seal: FileSeal, trailer: Trailer, copies: bytes) -> Toc | None:
    table = decoded(lambda whole: decode_toc(seal, trailer, whole), copies)
    if table is not None:
        assert decode_toc(seal, trailer, b"".join(encode_toc(seal, table))) == table
    return table


def trailer(data: bytes) -> None:
    """Any trailer, in a pack of any length and in one of the length that it says."""
    locator = data[:32].ljust(32, b"\0")
    offset, length, _, _, padding = _LOCATOR.unpack(locator)
    whole = trailer_of(locator)
    for pack_bytes in (int.from_bytes(data[32:40], "little"), offset + 2 * length + padding + len(whole)):
        for tail in (data, whole):
            comes_back(
                lambda tail, pack_bytes=pack_bytes: decode_trailer(PACK_SEAL, tail, pack_bytes),
                lambda value: encode_trailer(PACK_SEAL, value),
                tail,
            )


def manifest(data: bytes) -> None:
    """Any leaf, any inner node."""
    comes_back(decode_leaf, encode_leaf, data)
    comes_back(decode_inner, encode_inner, data)


def descriptor(data: bytes) -> None:
    """Any descriptor."""
    comes_back(decode_descriptor, encode_descriptor, data)


def msgpack(data: bytes) -> None:
    """Any message, by both readers of it: what they take encodes to bytes that mean the same."""
    # Compared as bytes: a float may be none that equals itself, until a caller has looked at its type.
    comes_back(
        lambda whole: messages.encode(messages.decode(whole, "message", ErrorKind.GENERAL)), lambda same: same, data
    )
    comes_back(lambda whole: messages.encode(_rows(whole)), lambda same: same, data)


def _rows(data: bytes) -> list[object]:
    head, rows = messages.decode_rows(data, "rows", ErrorKind.GENERAL)
    return [head, *rows]


def compression(data: bytes) -> None:
    """Any stored bytes for any promised length; and any bytes come back from any level."""
    if len(data) < 5:
        return
    raw = int.from_bytes(data[1:5], "little") % (limits.ENTRY_RAW_BYTES_MAX + 1)
    plain = decoded(lambda stored: decompress(data[0], stored, raw, ErrorKind.PACK), data[5:])
    assert plain is None or len(plain) == raw
    codec, stored = compress(data, _LEVELS[data[0] % len(_LEVELS)])
    assert decompress(codec, stored, len(data), ErrorKind.PACK) == data
