"""The argument of ``--range``: bytes as HTTP and S3 count them, the last one included."""

import re
from typing import NamedTuple

from casbank.errors import InvalidInputError

_FORM = re.compile(r"(\d*)-(\d*)", re.ASCII)


class ByteRange(NamedTuple):
    """``A-B`` is (A, B), ``A-`` is (A, None), ``-N``, the last N bytes, is (None, N)."""

    first: int | None
    last: int | None

    def of(self, size: int) -> tuple[int, int]:
        """Where it starts and how long it is in an object of ``size`` bytes; what goes beyond the end is cut off.

        InvalidInputError if it begins behind the end.
        """
        if self.first is None:
            length = min(size, self.last or 0)
            return size - length, length
        if self.first >= size:
            raise InvalidInputError(f"the range begins at {self.first}, but the object has {size} bytes only")
        end = size if self.last is None else min(size, self.last + 1)
        return self.first, end - self.first


WHOLE = ByteRange(None, 2**63)


def parse_range(text: str) -> ByteRange:
    """ValueError unless it is ``A-B``, ``A-`` or ``-N``."""
    match = _FORM.fullmatch(text)
    if match is None or text == "-":
        raise ValueError("a range is A-B, A- or -N, in bytes from 0, with B included")
    first, last = (int(number) if number else None for number in match.groups())
    if first is not None and last is not None and last < first:
        raise ValueError("a range does not end before it begins")
    return ByteRange(first, last)
