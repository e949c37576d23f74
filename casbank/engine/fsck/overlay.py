"""A store as it will be when some of its small files are put back.

Rule: nothing is written; a check goes on with what a repair would restore, so that one damage does not hide the next.
"""

from collections.abc import Iterator, Mapping, Sequence

from casbank.errors import ErrorKind, ReadOnlyError
from casbank.model import Buffer
from casbank.storage.base import BlobInfo, Store, check_range


class Overlay:
    """A ``Store`` for reading: ``restored`` are whole blobs that stand in for those of the store."""

    def __init__(self, store: Store, restored: Mapping[str, bytes]) -> None:
        self._store = store
        self._restored = restored

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        data = self._restored.get(name)
        if data is None:
            return self._store.get(name, start, length)
        check_range(start, length)
        return data[start:] if length is None else data[start : start + length]

    def size(self, name: str) -> int:
        data = self._restored.get(name)
        return self._store.size(name) if data is None else len(data)

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        return self._store.list(prefix)

    def put_new(self, name: str, parts: Sequence[Buffer]) -> None:  # noqa: ARG002 - the protocol's
        raise _read_only(name)

    def copy(self, name: str, target: str) -> None:  # noqa: ARG002 - the protocol's
        raise _read_only(name)

    def delete(self, name: str) -> None:
        raise _read_only(name)

    def close(self) -> None:
        """The store is its owner's to close."""


def _read_only(name: str) -> ReadOnlyError:
    return ReadOnlyError("a check writes nothing", kind=ErrorKind.OPENED_READ_ONLY, blob=name)
