"""Sizes, counts and times as people read them; ``--json`` has the exact ones."""

from datetime import datetime

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_STEP = 1024


def human_bytes(count: int) -> str:
    """Three or four digits and a binary unit: ``512 B``, ``1.5 MiB``."""
    if count < _STEP:
        return f"{count} B"
    # Rounded first: 1 MiB less a byte is not 1024.0 KiB.
    sizes = [round(count / _STEP**power, 1) for power in range(1, len(_UNITS) + 1)]
    size, unit = next(pair for pair in zip(sizes, _UNITS, strict=True) if pair[0] < _STEP)
    return f"{size:.1f} {unit}"


def human_count(count: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def human_time(moment: datetime) -> str:
    """To the second, in UTC."""
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")
