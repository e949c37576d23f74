"""Bytes to values and back: format v1, as ``docs/format.md`` says it.

Nothing here does I/O, reads a clock or draws randomness. Every decoder answers bad bytes with CorruptionError or
UnsupportedFormatError and checks each length against ``limits`` before it allocates for it.
"""

MAJOR = 1
MINOR = 0
