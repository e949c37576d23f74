"""A number of bytes as people write it."""

import re

_FORM = re.compile(r"(\d+)(?:\.(\d+))? ?(?:([KMGTPE])(iB|B)?|B)?", re.ASCII | re.IGNORECASE)
_LETTERS = "KMGTPE"


def parse_bytes(text: str) -> int:
    """``500``, ``500M``, ``1.5GiB``: powers of 1024, but ``MB`` and the like are powers of 1000, as truncate(1) of GNU
    has it. ValueError for anything else."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError("a number of bytes is written as 500, 500M or 1.5GiB")
    whole, fraction, letter, ending = (group or "" for group in match.groups())
    power = _LETTERS.index(letter.upper()) + 1 if letter else 0
    step = 1000 if ending.upper() == "B" else 1024
    # Exact: a float has no room for each byte of an exbibyte.
    count: int = int(whole + fraction) * step**power // 10 ** len(fraction)
    return count
