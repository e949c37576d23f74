"""zstd with a hard cap: what an entry, a record's body and a checkpoint's block are compressed with.

Rule: memory is allocated for a length that was checked before, never for one that compressed bytes claim.
"""

import threading

import zstandard

from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.model import Buffer, Codec

# zstd's compressor and decompressor objects are not for two threads at once, and cost too much to make for each call.
_local = threading.local()


def compress(plain: Buffer, level: int | None) -> tuple[Codec, Buffer]:
    """``plain`` compressed at a zstd level, or as it is if that is not shorter or the level is None."""
    if level is None:
        return Codec.STORED, plain
    packed = _compressor(level).compress(plain)
    return (Codec.ZSTD, packed) if len(packed) < len(plain) else (Codec.STORED, plain)


def decompress(codec: int, stored: Buffer, raw: int, kind: ErrorKind) -> Buffer:
    """The ``raw`` plain bytes behind ``stored``. ``raw`` must have been compared with its limit by the caller.

    Raises CorruptionError of the kind given, or UnsupportedFormatError for an unknown codec.
    """
    if codec == Codec.STORED:
        plain = stored
    elif codec == Codec.ZSTD:
        plain = _unzstd(stored, raw, kind)
    else:
        raise UnsupportedFormatError(f"unknown codec {codec}")
    if len(plain) != raw:
        raise CorruptionError(f"{len(plain)} bytes where {raw} were promised", kind=kind)
    return plain


def _unzstd(stored: Buffer, raw: int, kind: ErrorKind) -> bytes:
    try:
        # zstd allocates what the frame claims, whatever cap it is given: so the claim is read first.
        if zstandard.frame_content_size(stored) != raw:
            raise CorruptionError("compressed bytes claim another length", kind=kind)
        return _decompressor().decompress(stored, max_output_size=raw, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptionError("bytes do not decompress", kind=kind) from error


def _compressor(level: int) -> zstandard.ZstdCompressor:
    try:
        return _local.compressors[level]  # type: ignore[no-any-return]  # threading.local is untyped
    except AttributeError:
        _local.compressors = {}
    except KeyError:
        pass
    return _local.compressors.setdefault(  # type: ignore[no-any-return]
        level, zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
    )


def _decompressor() -> zstandard.ZstdDecompressor:
    try:
        return _local.decompressor  # type: ignore[no-any-return]
    except AttributeError:
        _local.decompressor = zstandard.ZstdDecompressor()
        return _local.decompressor  # type: ignore[no-any-return]
