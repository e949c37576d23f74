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
        return _local(os.fspath(place))
    if not isinstance(place, str):
        raise InvalidInputError(f"not the place of a bank: {place!r}")
    if "://" not in place:
        return _local(place)
    try:
        parts = urlsplit(place)
    except ValueError as error:
        raise InvalidInputError(f"not the place of a bank: {place!r}: {error}") from error
    # What urlsplit leaves out of the parts would lead to another bank than the one that was written.
    is_whole = parts.geturl() == place and not (parts.query or parts.fragment)
    if is_whole and parts.scheme == "file" and not parts.netloc and parts.path:
        return _local(unquote(parts.path))
    if is_whole and parts.scheme == "memory" and parts.netloc:
        return BankUrl("memory", name=parts.netloc + parts.path)
    raise InvalidInputError(f"cannot open {place!r}: this release knows paths, file:///path and memory://name")


def _local(path: str | bytes) -> BankUrl:
    """A folder; refused if no file system can have one of that name."""
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"not the place of a bank: {path!r}") from error
    if not raw or b"\0" in raw:
        raise InvalidInputError(f"not the place of a bank: {path!r}")
    return BankUrl("local", Path(os.fsdecode(raw)))


def default_cache_dir() -> Path:
    """Where a client keeps indexes of banks that it cannot write to: CASBANK_CACHE_DIR, or the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "casbank"
