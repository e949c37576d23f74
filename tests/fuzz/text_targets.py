"""Targets for what people write: where a bank is, chunking profiles, ranges and numbers of bytes."""

from contextlib import suppress

from casbank.chunking.profile import parse_profile
from casbank.cli.byte_count import parse_bytes
from casbank.cli.byte_range import parse_range
from casbank.config import parse_bank_url
from casbank.errors import InvalidInputError
from fuzz.asked import decoded

_SIZES = (0, 1, 100, 2**63 - 1)
# Python's own bound on the digits of a number that it parses or prints.
_DIGITS_MAX = 4000


def _text(data: bytes) -> str:
    """As the command line gives it, bytes that are no UTF-8 included."""
    return data.decode(errors="surrogateescape")


def bank_url(data: bytes) -> None:
    """Any place is refused, or a place that a file system or the memory can hold; written out it is the same place."""
    url = decoded(lambda place: parse_bank_url(_text(place)), data, (InvalidInputError,))
    if url is not None:
        assert parse_bank_url(str(url)) == url
        assert "\0" not in str(url)


def profile(data: bytes) -> None:
    """Any text is refused, or a profile whose own text means it."""
    known = decoded(lambda text: parse_profile(_text(text)), data, (InvalidInputError,))
    assert known is None or parse_profile(known.text) == known


def byte_range(data: bytes) -> None:
    """Any text is refused, or a range that lies within every object that it does not begin behind."""
    known = decoded(lambda text: parse_range(_text(text)), data, (ValueError,))
    if known is None:
        return
    for size in _SIZES:
        with suppress(InvalidInputError):
            start, length = known.of(size)
            assert 0 <= start <= start + length <= size


def byte_count(data: bytes) -> None:
    """Any text is refused, or a number of bytes that means itself."""
    count = decoded(lambda text: parse_bytes(_text(text)), data, (ValueError,))
    if count is not None and len(data) < _DIGITS_MAX:
        assert parse_bytes(str(count)) == count
