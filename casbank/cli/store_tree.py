"""``casbank put --recursive``: every regular file below a folder, by batches.

Rule 1: a file that cannot be stored is named, and the next one is tried; a bank that fails ends it all.
Rule 2: a batch is acknowledged as a whole; what was committed before a failure stays.
Rule 3: only content is kept. What is no regular file is skipped, and said to be.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypedDict

from casbank import limits
from casbank.bank import Bank
from casbank.cli.console import Console, printable
from casbank.cli.progress import Advance, progress
from casbank.cli.sizes import human_bytes, human_count
from casbank.cli.walk import BANK, FILE, Found, walk
from casbank.cli.watched import WatchedFile
from casbank.engine.batch import Batch
from casbank.errors import ConflictError, ErrorKind, InvalidInputError, StoreError

# O_NONBLOCK: a FIFO that took the file's place must not keep us waiting.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Skipped(TypedDict):
    """Something that is no regular file, as ``--json`` shows it."""

    path: str
    kind: str


class Tree(NamedTuple):
    """What is to be stored: everything below ``root`` but what ``is_excluded`` says of its path, and but for the
    folder ``bank``. A file's name is ``prefix`` and its path below ``root``."""

    root: Path
    prefix: str
    is_excluded: Callable[[str], bool]
    bank: Path


@dataclass(slots=True)
class Stored:
    """What a recursive put did. ``files`` counts what is committed, ``read_bytes`` what was read for it."""

    files: int = 0
    read_bytes: int = 0
    skipped: list[Skipped] = field(default_factory=list)


def store_tree(bank: Bank, tree: Tree, console: Console) -> None:
    """Store a tree, and say in the end what was done. Raises StoreError, and OSError if its root cannot be read."""
    begun, stored_before = time.monotonic(), bank.stats().stored_bytes
    found = walk(tree.root, tree.is_excluded, _identity(tree.bank))
    with progress(console, str(tree.root)) as advance:
        stored = _Storing(bank, tree.prefix, console, advance).store(found)
    new_bytes = bank.stats().stored_bytes - stored_before
    seconds = time.monotonic() - begun
    if console.json:
        console.document(
            {
                "files": stored.files,
                "read_bytes": stored.read_bytes,
                "stored_bytes": new_bytes,
                "seconds": round(seconds, 3),
                "skipped": stored.skipped,
                "failures": console.failures,
            }
        )
    kinds = Counter(item["kind"] for item in stored.skipped)
    if kinds:
        console.say("skipped " + ", ".join(human_count(count, kind) for kind, count in sorted(kinds.items())))
    console.say(
        f"stored {human_count(stored.files, FILE)}, {human_bytes(stored.read_bytes)}, "
        f"of which {human_bytes(new_bytes)} are new on disk, in {seconds:.1f} s"
    )


class _Storing:
    def __init__(self, bank: Bank, prefix: str, console: Console, advance: Advance) -> None:
        self._bank = bank
        self._prefix = prefix
        self._console = console
        self._advance = advance
        self._stored = Stored()

    def store(self, found: Iterator[Found]) -> Stored:
        """Everything that is found, a batch at a time."""
        more = True
        while more:
            with self._bank.batch() as batch:
                more, read_bytes = self._fill(batch, found)
            self._stored.files += len(batch)
            self._stored.read_bytes += read_bytes
        return self._stored

    def _fill(self, batch: Batch, found: Iterator[Found]) -> tuple[bool, int]:
        """Whether there may be more than fits, and the bytes read."""
        read_bytes = 0
        for item in found:
            if item.error is not None:
                self._console.failed(item.path, item.error.strerror or str(item.error))
            elif item.kind != FILE:
                self._skip(item)
            else:
                read_bytes += self._store_file(batch, item)
            if len(batch) >= limits.RECURSIVE_BATCH_OBJECTS or batch.record_bytes >= limits.RECURSIVE_BATCH_BYTES:
                return True, read_bytes
        return False, read_bytes

    def _store_file(self, batch: Batch, item: Found) -> int:
        """The bytes that were read of a file; 0 if it was not stored."""
        try:
            name = self._prefix + os.fsencode(item.path).decode()
            descriptor = os.open(item.path.rpartition("/")[2], _FILE_FLAGS, dir_fd=item.folder)
            with WatchedFile(descriptor, self._advance) as file:
                if file.size is None:
                    raise ConflictError("something else took the file's place", kind=ErrorKind.SOURCE_CHANGED)
                batch.put(name, file)
                return file.size
        except UnicodeDecodeError:
            self._console.failed(item.path, "its name is not UTF-8")
        except StoreError:
            raise
        except OSError as error:
            self._console.failed(item.path, error.strerror or str(error))
        except (ConflictError, InvalidInputError) as error:
            if error.kind not in (ErrorKind.NAME, ErrorKind.SOURCE_CHANGED):
                raise
            self._console.failed(item.path, error.message)
        return 0

    def _skip(self, item: Found) -> None:
        self._stored.skipped.append({"path": printable(item.path), "kind": item.kind})
        if item.kind == BANK:
            self._console.say(f"{item.path or 'the folder'}: skipped, it is the bank itself")
        else:
            self._console.detail(f"{item.path}: skipped, a {item.kind}")


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
