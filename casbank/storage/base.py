"""What the engine demands of a store: immutable blobs under names that are used once.

Rule 1: a blob is never changed. It appears whole, stays as it is, and goes whole.
Rule 2: a name is never used again, not even after a delete: a delayed delete must not be able to hit a later blob.
Rule 3: creation is durable and has one winner; deletion promises nothing but to come at last.
The obligations below are tested by ``casbank.testing.stores``; who writes a store inherits that suite.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from casbank.errors import ErrorKind, InvalidInputError
from casbank.model import Buffer

# One name must fit into one path segment of any file system, should a store want to flatten it. Ours are below 64.
BLOB_NAME_BYTES_MAX = 255
# The local store's half-written files; reserved in every store, so that a bank can move from one to another.
TEMPORARY_FOLDER = "tmp"

_BLOB_NAME = re.compile(r"(?!\.{1,2}(/|\Z))[A-Za-z0-9._-]+(/(?!\.{1,2}(/|\Z))[A-Za-z0-9._-]+)*", re.ASCII)


class BlobInfo(NamedTuple):
    """One blob as ``Store.list`` shows it: ``size`` in bytes, ``modified_ns`` nanoseconds since 1970 by the store's
    own clock, which may differ from ours."""

    name: str
    size: int
    modified_ns: int


class Store(Protocol):
    """Named immutable blobs. MUST be usable from several threads at once, and by several stores over one place.

    A name that ``check_blob_name`` refuses MUST raise InvalidInputError from every method that takes one. A store MAY
    fail to hold ``a/b`` beside a blob ``a``, or names that differ in case alone. Whatever the disk or the network does
    MUST leave as StoreError.
    """

    def put_new(self, name: str, parts: Sequence[Buffer]) -> None:
        """Store the parts, one behind the other, durably under a name that was never used.

        MUST be atomic: a reader sees nothing or all of it. MUST raise AlreadyExistsError, and write nothing, when the
        name is taken; of any number of rivals for a name MUST let exactly one win. MUST have reached stable storage
        when it returns. MUST leave nothing visible when it raises, or raise StoreError with kind OUTCOME_UNKNOWN.
        MUST NOT refer to the parts after it returns. Raises StoreError (kind DISK_FULL for want of space).
        """

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Read ``length`` bytes from offset ``start``, or all that follows it.

        MUST return exactly that range, cut at the blob's end; what begins at or behind the end is empty. Raises
        NotFoundError for a blob that is not there, InvalidInputError for a negative number.
        """

    def size(self, name: str) -> int:
        """The blob's length in bytes. Raises NotFoundError."""

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Every blob whose name begins with ``prefix``, in byte order of the names.

        The prefix is one of strings, not of folders: ``a/b`` finds ``a/bc``; the empty one finds all. MUST show what
        was there from the first to the last step of the iteration; MAY or may not show what came or went meanwhile.
        MUST NOT show a blob before it is whole.
        """

    def copy(self, name: str, target: str) -> None:
        """Give a blob's content a second name that was never used, durably; MAY share its bytes. A repair sets damaged
        blobs aside with it. Raises NotFoundError, AlreadyExistsError, StoreError."""

    def delete(self, name: str) -> None:
        """Remove a blob. MUST accept one that is absent.

        Deletes may come late, twice or, after a crash, not at all: nothing may depend on when.
        """

    def close(self) -> None:
        """Let go of descriptors and connections. MUST be idempotent, and harmless to a call that is under way."""


def is_blob_name(name: str) -> bool:
    """Whether ``name`` is segments of ``A-Z a-z 0-9 . _ -`` between single slashes, and no more than 255 bytes.

    No segment is empty, ``.`` or ``..``; the first is not ``tmp``.
    """
    fits = len(name) <= BLOB_NAME_BYTES_MAX and name.partition("/")[0] != TEMPORARY_FOLDER
    return fits and _BLOB_NAME.fullmatch(name) is not None


def check_blob_name(name: str) -> None:
    """Raise InvalidInputError (kind NAME) unless ``is_blob_name``."""
    if not is_blob_name(name):
        raise InvalidInputError("not a name for a blob", kind=ErrorKind.NAME, blob=repr(name))


def check_range(start: int, length: int | None) -> None:
    """Raise InvalidInputError for a negative start or length."""
    if start < 0 or (length is not None and length < 0):
        raise InvalidInputError("a range cannot be negative", start=start, length=length)
