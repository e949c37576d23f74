"""What is lost for good, as rows of the bank's configuration (format, section 6).

``lost/<pack id>``: which entries of a live pack are unavailable; made by LOST, gone with the pack, set by no CONFIG.
``incomplete/<root id>``: a repair found that objects with this root lack bytes; set by CONFIG, nil once they are whole.
"""

import re
from collections.abc import Container, Iterable

from casbank.format.record import ConfigValue

# Anybody with the key may write rows of any name: only one with exactly so many digits names a root.
_ROOT_DIGITS = re.compile("[0-9a-f]{64}", re.ASCII)

LOST_PREFIX = "lost/"
INCOMPLETE_PREFIX = "incomplete/"


class LostEntries(Container[int]):
    """Numbers of entries, one bit each: bit n of the little-endian row is entry n."""

    def __init__(self, bits: int = 0) -> None:
        self._bits = bits

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and bool(self._bits >> number & 1)

    def __len__(self) -> int:
        return self._bits.bit_count()

    def joined(self, numbers: Iterable[int]) -> "LostEntries":
        """These, and more."""
        # Through bytes: shifting a large integer once for each number would be quadratic.
        bits = bytearray(self.encode())
        for number in numbers:
            bits.extend(bytes(max(0, number // 8 + 1 - len(bits))))
            bits[number // 8] |= 1 << number % 8
        return LostEntries(int.from_bytes(bits, "little"))

    def encode(self) -> bytes:
        """The row's value."""
        return self._bits.to_bytes((self._bits.bit_length() + 7) // 8, "little")


NOTHING_LOST = LostEntries()


def lost_key(pack_id: bytes) -> str:
    """The row that says which entries of a live pack are lost."""
    return f"{LOST_PREFIX}{pack_id.hex()}"


def lost_entries(value: ConfigValue) -> LostEntries:
    """What that row says; nothing if there is none."""
    return LostEntries(int.from_bytes(value, "little")) if isinstance(value, bytes) else NOTHING_LOST


def incomplete_key(root: bytes) -> str:
    """The row that says that objects with this root lack bytes."""
    return f"{INCOMPLETE_PREFIX}{root.hex()}"


def incomplete_root(key: str) -> bytes | None:
    """The root that such a row names; None for every other row, and for one that a repair cannot have written."""
    digits = key.removeprefix(INCOMPLETE_PREFIX)
    return bytes.fromhex(digits) if key != digits and _ROOT_DIGITS.fullmatch(digits) else None
