"""zstd with a hard cap."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.format.compression import compress, decompress
from casbank.model import Codec

KIND = ErrorKind.PACK
plains = st.builds(lambda unit, times: unit * times, st.binary(max_size=30), st.integers(0, 50))


@given(plains, st.none() | st.integers(1, 5))
def test_compression_round_trips_and_never_grows(plain: bytes, level: int | None) -> None:
    """What was compressed comes back, and is stored as it is where compressing does not shorten it."""
    codec, stored = compress(plain, level)
    assert len(stored) < len(plain) if codec is Codec.ZSTD else stored == plain
    assert decompress(codec, stored, len(plain), KIND) == plain


@given(plains, st.integers(0, 3000))
def test_another_length_is_corruption(plain: bytes, raw: int) -> None:
    """Bytes come out exactly as long as promised, or not at all."""
    for codec, stored in ((0, plain), (1, zstandard.compress(plain))):
        if raw == len(plain):
            assert decompress(codec, stored, raw, KIND) == plain
        else:
            with pytest.raises(CorruptionError):
                decompress(codec, stored, raw, KIND)


@pytest.mark.parametrize("codec", [2, 255, -1])
def test_unknown_codec_is_unsupported(codec: int) -> None:
    """A codec of a later version is refused as such."""
    with pytest.raises(UnsupportedFormatError):
        decompress(codec, b"abc", 3, KIND)


@pytest.mark.parametrize("kind", [ErrorKind.PACK, ErrorKind.RECORD, ErrorKind.CHECKPOINT])
def test_corruption_has_the_callers_kind(kind: ErrorKind) -> None:
    """The error says what was being read, not that zstd was used."""
    with pytest.raises(CorruptionError) as caught:
        decompress(1, b"no frame at all", 5, kind)
    assert caught.value.kind is kind


@pytest.mark.parametrize(
    "stored",
    [
        zstandard.ZstdCompressor(write_content_size=False).compress(b"abc"),
        zstandard.compress(b"abc") + b"\0",
        zstandard.compress(b"abc") + zstandard.compress(b""),
        zstandard.compress(b"abc") + b"\x50\x2a\x4d\x18\0\0\0\0",
        b"\x50\x2a\x4d\x18\0\0\0\0" + zstandard.compress(b"abc"),
        zstandard.compress(b"abc")[:-1],
    ],
    ids=["unknown size", "a byte more", "two frames", "skippable behind", "skippable before", "cut"],
)
def test_anything_but_one_frame_that_says_its_size_is_corruption(stored: bytes) -> None:
    """Stored bytes are one zstd frame that says its content's size, and nothing else."""
    with pytest.raises(CorruptionError):
        decompress(1, stored, 3, KIND)


def test_threads_do_not_share_compressors() -> None:
    """Many threads at once get what one gets."""
    plains = [bytes([number]) * 5000 + str(number).encode() for number in range(200)]

    def there_and_back(plain: bytes) -> bytes:
        codec, stored = compress(plain, 1)
        return bytes(decompress(codec, stored, len(plain), KIND))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(there_and_back, plains)) == plains
