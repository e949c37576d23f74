"""Where a bank is: from what a caller writes to what can be opened."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from casbank.errors import InvalidInputError

CACHE_VARIABLE = "CASBANK_CACHE_DIR"


@dataclass(frozen=True, slots=True)
class BankUrl:
    """A bank's place: ``local`` with a folder, or ``memory`` with a name that lives as long as the process."""

    scheme: Literal["local", "memory"]
    path: Path = Path()
    name: str = ""

    def __str__(self) -> str:
        return str(self.path) if self.scheme == "local" else f"memory://{self.name}"


def parse_bank_url(place: str | os.PathLike[str]) -> BankUrl:
    """A path, ``file:///path`` or ``memory://name``. InvalidInputError for anything else."""
    if isinstance(place, os.PathLike):
        return BankUrl("local", Path(place))
    if not isinstance(place, str) or not place or "\0" in place:
        raise InvalidInputError(f"not the place of a bank: {place!r}")
    if "://" not in place:
        return BankUrl("local", Path(place))
    parts = urlsplit(place)
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return BankUrl("local", Path(unquote(parts.path)))
    if parts.scheme == "memory" and parts.netloc:
        return BankUrl("memory", name=parts.netloc + parts.path)
    raise InvalidInputError(f"cannot open {place!r}: this release knows paths, file:///path and memory://name")


def default_cache_dir() -> Path:
    """Where a client keeps indexes of banks that it cannot write to: CASBANK_CACHE_DIR, or the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "casbank"
