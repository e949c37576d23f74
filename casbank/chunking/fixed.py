"""Cut every n bytes: for disk images and databases, whose changes stay aligned.

An insertion moves every later cut, so anything else is better served by :class:`~casbank.chunking.gear.GearChunker`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # profile.py makes this class, so here it can only be named
    from casbank.chunking.profile import Profile
    from casbank.model import Buffer


@dataclass(frozen=True, slots=True)
class FixedChunker:
    """Chunks of ``profile.max_bytes`` each, the last as short as need be."""

    profile: Profile

    def cut(self, data: Buffer, *, final: bool) -> list[int]:
        """See :meth:`casbank.chunking.Chunker.cut`."""
        whole, rest = divmod(len(data), self.profile.max_bytes)
        lengths = [self.profile.max_bytes] * whole
        if final and rest:
            lengths.append(rest)
        return lengths
