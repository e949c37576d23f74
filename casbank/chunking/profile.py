"""Chunking profiles: what a bank's descriptor says about how its objects are cut.

Rule 1: a Profile that exists is valid; nothing behind it checks again.
Rule 2: ``parse_profile(profile.text) == profile``, for every profile and release.
"""

import re
from dataclasses import dataclass
from typing import Final

from casbank import limits
from casbank.chunking.base import Chunker
from casbank.chunking.fixed import FixedChunker
from casbank.chunking.gear import PUBLIC_SECRET, GearChunker, gear_table
from casbank.errors import InvalidInputError

# A disk sector: nothing is aligned more finely, and below it a chunk's table rows would rival its content.
FIXED_BYTES_MIN: Final = 512

_NUMBER = "([1-9][0-9]{0,9})"
_FIXED = re.compile(f"fixed:{_NUMBER}")
_GEAR = re.compile(f"gear:{_NUMBER}/{_NUMBER}/{_NUMBER}")


@dataclass(frozen=True, slots=True)
class Profile:
    """How to cut: by content (kind ``gear``) or every n bytes (kind ``fixed``, all three sizes n). Sizes in bytes.

    ``average_bytes`` of a gear profile is a power of two: below it cuts are made rarer, above it likelier; the mean
    of the lengths comes out some 15 % above it. Raises InvalidInputError for sizes out of order or bounds.
    """

    kind: str
    min_bytes: int
    average_bytes: int
    max_bytes: int

    def __post_init__(self) -> None:
        if self.kind == "gear":
            self._check_gear()
        elif self.kind == "fixed":
            self._check_fixed()
        else:
            raise InvalidInputError(f"a profile is of kind gear or fixed, not {self.kind!r}")

    @classmethod
    def fixed(cls, chunk_bytes: int) -> "Profile":
        """The profile that cuts every ``chunk_bytes`` bytes."""
        return cls("fixed", chunk_bytes, chunk_bytes, chunk_bytes)

    @property
    def text(self) -> str:
        """The shortest text that :func:`parse_profile` takes back: ``fine``, ``fixed:4096``, ``gear:64/256/1024``."""
        for name, preset in PRESETS.items():
            if self == preset:
                return name
        if self.kind == "fixed":
            return f"fixed:{self.max_bytes}"
        return f"gear:{self.min_bytes}/{self.average_bytes}/{self.max_bytes}"

    def _check_gear(self) -> None:
        if not limits.CHUNK_BYTES_MIN <= self.min_bytes < self.average_bytes < self.max_bytes <= limits.CHUNK_BYTES_MAX:
            raise InvalidInputError(
                f"a gear profile wants {limits.CHUNK_BYTES_MIN} <= minimum < average < maximum <= "
                f"{limits.CHUNK_BYTES_MAX} bytes, not {self.min_bytes}/{self.average_bytes}/{self.max_bytes}"
            )
        if self.average_bytes.bit_count() != 1:
            raise InvalidInputError(f"the average of a gear profile is a power of two, not {self.average_bytes}")

    def _check_fixed(self) -> None:
        if not self.min_bytes == self.average_bytes == self.max_bytes:
            raise InvalidInputError("the three sizes of a fixed profile are one")
        if not FIXED_BYTES_MIN <= self.max_bytes <= limits.CHUNK_BYTES_MAX:
            raise InvalidInputError(
                f"a fixed profile cuts every {FIXED_BYTES_MIN} to {limits.CHUNK_BYTES_MAX} bytes, not {self.max_bytes}"
            )


PRESETS: Final = {
    "fine": Profile("gear", 4 * limits.KIB, 16 * limits.KIB, 64 * limits.KIB),
    "default": Profile("gear", 16 * limits.KIB, 64 * limits.KIB, 256 * limits.KIB),
    "coarse": Profile("gear", 64 * limits.KIB, 256 * limits.KIB, 1024 * limits.KIB),
    "archive": Profile("gear", 512 * limits.KIB, 2048 * limits.KIB, 8192 * limits.KIB),
}


def parse_profile(text: str) -> Profile:
    """The profile that a text names: a preset, ``fixed:BYTES`` or ``gear:MINIMUM/AVERAGE/MAXIMUM`` in bytes.

    Raises InvalidInputError for any other text, and for sizes that make no profile.
    """
    if text in PRESETS:
        return PRESETS[text]
    if match := _FIXED.fullmatch(text):
        return Profile.fixed(int(match[1]))
    if match := _GEAR.fullmatch(text):
        return Profile("gear", *map(int, match.groups()))
    raise InvalidInputError(
        f"unknown chunking {text!r}: choose {', '.join(PRESETS)}, fixed:BYTES or gear:MINIMUM/AVERAGE/MAXIMUM"
    )


def make_chunker(profile: Profile, table: bytes | None = None) -> Chunker:
    """The chunker of a profile. ``table`` is the bank's gear table (2,048 bytes; a fixed profile ignores it), or None
    for the public one. Raises InvalidInputError for a table of another length."""
    if profile.kind == "fixed":
        return FixedChunker(profile)
    return GearChunker(profile, gear_table(PUBLIC_SECRET) if table is None else table)
