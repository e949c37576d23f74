"""Sizes, counts and times as people read them; ``--json`` has the exact ones."""

from datetime import UTC, datetime

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_STEP = 1024
_TIME_UNITS = ((86_400, "days"), (3600, "h"), (60, "min"))
_LAST_MOMENT = datetime.max.replace(microsecond=0, tzinfo=UTC)


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


def human_seconds(seconds: float) -> str:
    """How long, rounded down to the largest unit that there are two of: ``90 s``, ``2 min``, ``47 h``, ``9 days``."""
    for size, unit in _TIME_UNITS:
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def moment(nanoseconds: int) -> datetime:
    """Nanoseconds since 1970 as a time in UTC; what comes after the year 9999, as a long window may, is its end."""
    seconds = nanoseconds / 1e9
    return datetime.fromtimestamp(seconds, UTC) if seconds < _LAST_MOMENT.timestamp() else _LAST_MOMENT
