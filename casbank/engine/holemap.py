"""Which bytes of an object are lost, as far as is known.

Rule: at most ``limits.HOLES_MAX`` holes are listed; of what has no place among them the bytes are counted.
"""

from bisect import bisect_left, bisect_right

from casbank import limits
from casbank.model import Hole


class HoleMap:
    """Holes in the object's order, none touching another; the same bytes may be added again."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.omitted_bytes = 0

    def add(self, start: int, length: int) -> None:
        """These bytes are lost."""
        end = start + length
        # Those that overlap them, or lie right beside them.
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first == last and len(self._starts) >= limits.HOLES_MAX:
            self.omitted_bytes += length
            return
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def holes(self) -> list[Hole]:
        """All that are listed."""
        return [Hole(start, end - start) for start, end in zip(self._starts, self._ends, strict=True)]
