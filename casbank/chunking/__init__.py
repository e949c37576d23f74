"""Where a byte stream is cut into chunks.

Rule 1: cuts depend on the bytes, the profile and the gear table alone: never on how the bytes arrived.
Rule 2: a cut that shipped never moves; a bank that cut differently from day to day would deduplicate nothing.
Rule 3: chunkers hold no state between calls, so one serves every object and thread of a bank.
"""

from casbank.chunking.base import Chunker
from casbank.chunking.fixed import FixedChunker
from casbank.chunking.gear import KERNEL, PUBLIC_SECRET, GearChunker, gear_table
from casbank.chunking.profile import PRESETS, Profile, make_chunker, parse_profile

__all__ = [
    "KERNEL",
    "PRESETS",
    "PUBLIC_SECRET",
    "Chunker",
    "FixedChunker",
    "GearChunker",
    "Profile",
    "gear_table",
    "make_chunker",
    "parse_profile",
]
