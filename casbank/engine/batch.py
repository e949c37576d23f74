"""Puts and deletes that become visible together, in one record; a single put is a batch of one.

Rule 1: nothing is visible before :meth:`Batch.commit`, and then everything is.
Rule 2: a source that fails leaves the batch usable, without that object; the last change of a name counts.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from casbank import limits
from casbank.engine.commit import RECORD_OPS_BYTES_MAX
from casbank.engine.engine import Engine
from casbank.engine.rules import Reliance, Stale
from casbank.engine.source import Reader, Source, keep, open_source, repeatable
from casbank.engine.writer import PendingObject, Session
from casbank.errors import AlreadyExistsError, ConflictError, ErrorKind, InvalidInputError, LeaseError, NotFoundError
from casbank.format import messages
from casbank.format.descriptor import Descriptor, encode_descriptor
from casbank.format.record import Delete, Op, Packs, Put
from casbank.index.transaction import Snapshot

# What a name's operation takes in a record beside its name, metadata and inline content.
_OP_OVERHEAD_BYTES = 160
MUST_NOT_EXIST = 0
NOTHING = Reliance((), 0)
"""What a request relies on whose objects are inline, or are copies of what it read in the state that it follows."""


@dataclass(frozen=True, slots=True)
class _Removal:
    expected: int | None
    missing_ok: bool


@dataclass(slots=True)
class _Storing:
    item: PendingObject
    expected: int | None
    # How to read its content once more; None where that is not needed any more, or cannot be done.
    again: Callable[[], Reader] | None
    # What was found when it was read first, if it was read twice.
    before: PendingObject | None = None
    descriptor: Descriptor | None = None


class Batch:
    """Made by ``Bank.batch()``; a context manager that commits, or abandons everything if an exception leaves it."""

    def __init__(
        self, engine: Engine, inline_max: int = limits.INLINE_BATCH_BYTES_MAX, *, keeps_sources: bool = False
    ) -> None:
        """``keeps_sources``: the caller of ``put`` waits for the commit, and leaves the source alone until then."""
        self._engine = engine
        self._inline_max = inline_max
        self._keeps_sources = keeps_sources
        self._changes: dict[str, _Storing | _Removal] = {}
        self._sizes: dict[str, int] = {}
        self._size = 0
        self._session: Session | None = None
        self._mutex = threading.RLock()
        self._is_reading = False
        self._done = False
        self.version: int | None = None

    def put(
        self,
        name: str,
        data: Source,
        *,
        metadata: Mapping[str, str | bytes] | None = None,
        digest: bool = False,
        if_absent: bool = False,
        if_version: int | None = None,
    ) -> None:
        """Store an object when the batch commits. ``data`` is read now; arguments as in ``Bank.put``."""
        check_name(name)
        expected = expected_version(if_absent, if_version)
        known = checked_metadata(metadata)
        with self._mutex:
            self._check_open()
            with self._reading():
                storing = self._store(data, known, expected, digest=digest)
            item = storing.item
            inline = 0 if item.inline is None else len(item.inline)
            self._note(name, storing, inline + (len(messages.encode(known)) if known else 0))

    def delete(self, name: str, *, missing_ok: bool = False, if_version: int | None = None) -> None:
        """Remove an object when the batch commits; arguments as in ``Bank.delete``."""
        check_name(name)
        with self._mutex:
            self._check_open()
            self._note(name, _Removal(expected_version(False, if_version), missing_ok), 0)

    def __len__(self) -> int:
        """Number of names that the batch changes."""
        return len(self._changes)

    @property
    def record_bytes(self) -> int:
        """About how much of a record (at most 64 MiB) the batch takes so far."""
        return self._size

    @property
    def is_broken(self) -> bool:
        """Whether the store or the index failed under it: nothing more can be put, and it cannot be committed."""
        return self._session is not None and self._session.is_broken

    def commit(self) -> int:
        """Make everything visible and durable; the version of what was put. 0 for an empty batch.

        Raises what a condition asks for (AlreadyExistsError, ConflictError, NotFoundError), StoreError, ReadOnlyError;
        then nothing of the batch is visible.
        """
        with self._mutex:
            self._check_open()
            self._done = True
            try:
                self.version = self._commit_twice()
            except BaseException:
                self.abandon()
                raise
            return self.version

    def _commit_twice(self) -> int:
        try:
            return self._commit()
        except Stale:
            # Some of what was stored before had been swept. Under a lease that cannot happen a second time.
            self._begin_anew()
        try:
            return self._commit()
        except Stale:
            raise _lost_lease() from None

    def _commit(self) -> int:
        session = self._session
        if session is None:
            return self._engine.commit(lambda now: self._decide(now, []), {}, NOTHING)
        packs = session.finish()
        holding = session.holding
        self._describe()
        version = self._engine.commit(
            lambda now: [*self._decide(now, packs), *holding.closing_ops(now)], session.contents, holding.reliance
        )
        holding.end(released=True)
        return version

    def descriptor(self, name: str) -> Descriptor:
        """What was stored under a name, once committed."""
        change = self._changes[name]
        assert isinstance(change, _Storing)
        assert change.descriptor is not None
        return change.descriptor

    def abandon(self) -> None:
        """Forget everything; nothing becomes visible."""
        with self._mutex:
            self._done = True
            if self._session is not None:
                self._session.abandon()

    def __enter__(self) -> "Batch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abandon()
        elif not self._done:
            self.commit()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if self._is_reading:
            raise InvalidInputError("a source cannot put into the batch that is reading it")
        self._is_reading = True
        try:
            yield
        finally:
            self._is_reading = False

    # --- what is read, and read again --------------------------------------------------------------------------

    def _store(self, data: Source, metadata: dict[str, str | bytes], expected: int | None, *, digest: bool) -> _Storing:
        """Read a source into the session; how to do so once more, should what it relies on be swept meanwhile."""
        again = repeatable(data, keeps=self._keeps_sources)
        if again is not None:
            try:
                return self._forgetful(data, self._add(again, metadata, expected, digest=digest))
            except Stale:
                self._begin_anew()
            try:
                return self._forgetful(data, self._add(again, metadata, expected, digest=digest))
            except Stale:
                raise _lost_lease() from None
        reader = open_source(data)
        try:
            reader, kept = keep(reader, limits.STREAM_KEPT_BYTES_MAX)
            if kept is not None:
                return self._store(kept, metadata, expected, digest=digest)
            self._secure()
            return _Storing(self._open_session().add(reader, metadata, digest=digest), expected, None)
        except Stale:
            raise _lost_lease() from None
        finally:
            reader.close()

    def _forgetful(self, data: Source, storing: _Storing) -> _Storing:
        """Under a lease a batch does not hold on to bytes that its caller may want to let go of."""
        if isinstance(data, bytes) and not self._keeps_sources and self._open_session().is_secured:
            storing.again = None
        return storing

    def _add(
        self, again: Callable[[], Reader], metadata: Mapping[str, str | bytes], expected: int | None, *, digest: bool
    ) -> _Storing:
        reader = again()
        try:
            item = self._open_session().add(reader, metadata, digest=digest)
        finally:
            reader.close()
        return _Storing(item, expected, again)

    def _secure(self) -> None:
        """Hold a lease from here on. What was stored under none is stored again if some of it is gone."""
        try:
            self._open_session().secure()
        except Stale:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Read everything once more, under a lease: what the session relied on was swept.

        If that fails the batch is of no further use: what it says of the others is not stored any more.
        """
        old, self._session = self._session, None
        if old is not None:
            old.abandon()
        try:
            self._open_session().secure()
            for change in self._changes.values():
                if isinstance(change, _Storing) and change.item.inline is None:
                    self._read_again(change)
        except BaseException:
            self.abandon()
            raise

    def _read_again(self, change: _Storing) -> None:
        before = change.item
        if change.again is None:
            raise _lost_lease()
        try:
            made = self._add(change.again, before.metadata, change.expected, digest=before.digest is not None)
        except Stale:
            raise _lost_lease() from None
        change.item, change.before = made.item, before

    def _open_session(self) -> Session:
        if self._session is None:
            self._session = Session(self._engine.resources, self._inline_max)
        return self._session

    def _check_open(self) -> None:
        self._engine.check_usable()
        if self._done:
            raise InvalidInputError("this batch was committed or abandoned", kind=ErrorKind.CLOSED)

    def _note(self, name: str, change: _Storing | _Removal, size: int) -> None:
        taken = len(name.encode()) + size + _OP_OVERHEAD_BYTES
        total = self._size - self._sizes.get(name, 0) + taken
        if total > RECORD_OPS_BYTES_MAX:
            raise InvalidInputError(
                "the batch is larger than a record can be; commit in smaller batches", kind=ErrorKind.TOO_LARGE
            )
        self._size = total
        self._sizes[name] = taken
        self._changes.pop(name, None)
        self._changes[name] = change

    def _describe(self) -> None:
        created_ns = self._engine.world.now_ns()
        chunk_id = self._engine.resources.ids.chunk
        for change in self._changes.values():
            if isinstance(change, _Storing):
                _check_same(change)
                inline_id = b"" if change.item.inline is None else chunk_id(change.item.inline)
                change.descriptor = change.item.descriptor(inline_id, created_ns)

    def _decide(self, now: Snapshot, packs: list[Packs]) -> list[Op]:
        ops: list[Op] = list(packs)
        for name, change in self._changes.items():
            if isinstance(change, _Removal):
                ops += delete_ops(now, name, change.expected, missing_ok=change.missing_ok)
            else:
                check_expected(now, name, change.expected)
                assert change.descriptor is not None
                ops.append(Put(name, encode_descriptor(change.descriptor), change.expected))
        return ops


def _check_same(change: _Storing) -> None:
    before, after = change.before, change.item
    if before is None:
        return
    # The first reading may have ended before everything was hashed.
    if before.size != after.size or (before.tree is not None and before.tree != after.tree):
        raise ConflictError("a source changed between two readings", kind=ErrorKind.SOURCE_CHANGED)


def _lost_lease() -> LeaseError:
    return LeaseError(
        "the lease was lost, and with it what was stored before; a stream, or what a long batch has let go of, cannot "
        "be read again",
        kind=ErrorKind.LEASE_LOST,
    )


def delete_ops(now: Snapshot, name: str, expected: int | None, *, missing_ok: bool) -> list[Op]:
    """The operation that removes a name, or none if it is absent and that is fine."""
    if expected is not None:
        check_expected(now, name, expected)
    elif now.name(name.encode()) is None:
        if missing_ok:
            return []
        raise NotFoundError("no such object", kind=ErrorKind.NO_OBJECT, name=name)
    return [Delete(name, expected)]


def check_expected(now: Snapshot, name: str, expected: int | None) -> None:
    """Raise AlreadyExistsError or ConflictError unless the name is as its caller expects it."""
    if expected is None:
        return
    row = now.name(name.encode())
    if expected == MUST_NOT_EXIST:
        if row is not None:
            raise AlreadyExistsError(
                "an object of this name exists", kind=ErrorKind.OBJECT_EXISTS, name=name, version=row.version
            )
    elif row is None or row.version != expected:
        found = "absent" if row is None else row.version
        raise ConflictError(
            "the object is of another version", kind=ErrorKind.VERSION, name=name, expected=expected, found=found
        )


def expected_version(if_absent: bool, if_version: int | None) -> int | None:
    """The ``expected`` field of an operation. InvalidInputError for conditions that contradict each other."""
    if if_absent and if_version is not None:
        raise InvalidInputError("if_absent and if_version exclude each other")
    if if_version is not None and (not isinstance(if_version, int) or if_version < 1):
        raise InvalidInputError(f"not a version: {if_version!r}")
    return MUST_NOT_EXIST if if_absent else if_version


def check_name(name: str) -> None:
    """Raise InvalidInputError (kind NAME) unless it is 1 to 1024 bytes of UTF-8 without NUL."""
    if not isinstance(name, str):
        raise InvalidInputError(f"an object's name is a str, not {type(name).__name__}", kind=ErrorKind.NAME)
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidInputError(f"an object's name must be UTF-8: {name!r}", kind=ErrorKind.NAME) from None
    if not 1 <= length <= limits.NAME_BYTES_MAX:
        raise InvalidInputError(
            f"an object's name is 1 to {limits.NAME_BYTES_MAX} bytes long, this one {length}", kind=ErrorKind.NAME
        )
    if "\0" in name:
        raise InvalidInputError("an object's name has no NUL in it", kind=ErrorKind.NAME)


def checked_metadata(metadata: Mapping[str, str | bytes] | None) -> dict[str, str | bytes]:
    """A copy of user metadata. InvalidInputError unless it is str to str or bytes, 64 KiB at most."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise InvalidInputError("metadata is a mapping of str to str or bytes")
    known = dict(metadata)
    if not all(isinstance(key, str) and isinstance(value, str | bytes) for key, value in known.items()):
        raise InvalidInputError("metadata is a mapping of str to str or bytes")
    try:
        size = len(messages.encode(known))
    except UnicodeEncodeError:
        raise InvalidInputError("metadata must be UTF-8") from None
    if len(known) > limits.METADATA_KEYS_MAX or size > limits.METADATA_BYTES_MAX:
        raise InvalidInputError(f"metadata of {size} bytes is too large", kind=ErrorKind.TOO_LARGE)
    return known
