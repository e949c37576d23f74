"""The patterns of ``--exclude``.

Rule: a pattern without a slash is compared with the last part of a path, one with a slash with the whole path below
the folder that is stored. ``*`` matches slashes too, as fnmatch has it.
"""

import fnmatch
import re
from collections.abc import Callable, Sequence


def exclude(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path below the folder is to be left out."""
    if not patterns:
        return lambda path: False  # noqa: ARG005 - excludes nothing
    trimmed = [pattern.rstrip("/") for pattern in patterns]
    by_name = _any_of([pattern for pattern in trimmed if "/" not in pattern])
    by_path = _any_of([pattern.lstrip("/") for pattern in trimmed if "/" in pattern])
    return lambda path: bool(by_name(path.rpartition("/")[2]) or by_path(path))


def _any_of(patterns: Sequence[str]) -> Callable[[str], "re.Match[str] | None"]:
    # (?!) matches nothing.
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns) or "(?!)").match
