"""A store in memory: for tests, and for banks that need not outlive their process.

"Stable storage" is the process itself here; in everything else it keeps the promises of ``Store``.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from casbank.errors import AlreadyExistsError, NotFoundError
from casbank.model import Buffer
from casbank.storage.base import BlobInfo, check_blob_name, check_range
from casbank.world import REAL_WORLD, World


class _Blob(NamedTuple):
    content: bytes
    modified_ns: int


class MemoryStore:
    """A ``Store`` in a dict; what two banks are to share must be one instance."""

    def __init__(self, *, world: World = REAL_WORLD) -> None:
        self._world = world
        self._lock = threading.Lock()
        self._blobs: dict[str, _Blob] = {}

    def put_new(self, name: str, parts: Sequence[Buffer]) -> None:
        check_blob_name(name)
        blob = _Blob(b"".join(parts), self._world.now_ns())
        with self._lock:
            if name in self._blobs:
                raise AlreadyExistsError("the name of this blob is taken", blob=name)
            self._blobs[name] = blob

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        check_range(start, length)
        content = self._blob(name).content
        return content[start:] if length is None else content[start : start + length]

    def size(self, name: str) -> int:
        return len(self._blob(name).content)

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        with self._lock:
            found = sorted((name, blob) for name, blob in self._blobs.items() if name.startswith(prefix))
        for name, blob in found:
            yield BlobInfo(name, len(blob.content), blob.modified_ns)

    def copy(self, name: str, target: str) -> None:
        self.put_new(target, [self.get(name)])

    def delete(self, name: str) -> None:
        check_blob_name(name)
        with self._lock:
            self._blobs.pop(name, None)

    def close(self) -> None:
        # The blobs stay: whoever holds this instance may hand it to another bank.
        pass

    def _blob(self, name: str) -> _Blob:
        check_blob_name(name)
        with self._lock:
            blob = self._blobs.get(name)
        if blob is None:
            raise NotFoundError("no such blob", blob=name)
        return blob
