"""The bank: the one public object.

Every method is one operation of the engine; what it promises is in its docstring. All of them may be called from many
threads, and several processes may have one bank open.
"""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from casbank import limits
from casbank.chunking import parse_profile
from casbank.config import parse_bank_url
from casbank.engine.batch import (
    NOTHING,
    Batch,
    check_expected,
    check_name,
    delete_ops,
    expected_version,
)
from casbank.engine.collector import checked_options, collect, default_options, last_collection, make_plan, plan_options
from casbank.engine.credential import Credential, RecoveryText, credential_of, read_key_file
from casbank.engine.engine import Engine
from casbank.engine.fsck.examination import FsckOptions
from casbank.engine.fsck.run import Outside, Watch, fsck_open, fsck_outside
from casbank.engine.holes import HoleReader
from casbank.engine.leases import (
    HeldLease,
    check_lease_options,
    describe_lease,
    parse_lease_id,
    release_lease,
    renew_lease,
)
from casbank.engine.objectfile import ObjectFile
from casbank.engine.opening import close_engine, create_engine, drop_index, open_engine, recover_engine
from casbank.engine.source import Source
from casbank.engine.undelete import removed_versions, undelete
from casbank.engine.verify import verify_index
from casbank.errors import ErrorKind, InvalidInputError, NotFoundError, ReadOnlyError, UnsupportedFormatError
from casbank.findings import Finding, FsckProgress, FsckReport
from casbank.format import MAJOR, MINOR
from casbank.format.bank import BankDescriptor
from casbank.format.descriptor import Descriptor, decode_descriptor, encode_descriptor
from casbank.format.header import ID_BYTES, Suite
from casbank.format.record import Op, Put
from casbank.index.tables import NameRow
from casbank.index.transaction import Snapshot
from casbank.keys import Keys
from casbank.lease import Lease
from casbank.model import (
    BankStats,
    CollectPlan,
    CollectProgress,
    CollectReport,
    LastCollection,
    LeaseInfo,
    LeaseStatus,
    ObjectInfo,
)
from casbank.sealing.schedule import domain_secret
from casbank.world import REAL_WORLD, World

_COMPRESSION_LEVELS = range(1, 23)
_SUITE_DEFAULT = "aes-256-gcm"
_SUITES = {"aes-256-gcm": Suite.AES_256_GCM, "chacha20-poly1305": Suite.CHACHA20_POLY1305}


class Bank:
    """A namespace of objects, deduplicated, durable; made by :meth:`create` or :meth:`open`.

    Use it as a context manager, or call :meth:`close`. After a fork the child must open its own.
    """

    def __init__(self, engine: Engine, *, read_only: bool) -> None:
        self._engine: Engine | None = engine
        self._read_only = read_only

    # --- opening and closing -----------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        place: str | os.PathLike[str],
        *,
        chunking: str = "default",
        compression: int | str = limits.COMPRESSION_LEVEL_DEFAULT,
        keep_deleted_s: int = limits.KEEP_DELETED_S_DEFAULT,
        passphrase: str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        key_command: Sequence[str] | None = None,
        suite: str | None = None,
        dedup_domain: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        world: World = REAL_WORLD,
    ) -> Bank:
        """Create a bank in a folder that is absent or empty (or ``memory://name``), and open it.

        ``chunking`` is fine, default, coarse, archive, fixed:N or gear:MIN/AVG/MAX (bytes); ``compression`` a zstd
        level from 1 to 22 or "none"; ``keep_deleted_s`` how long deleted versions can be brought back, in seconds.

        With a ``passphrase``, a ``key_file`` (32 bytes to 1 MiB) or a ``key_command`` (called with "wrap" or "unwrap",
        see docs/keys.md) the bank is encrypted, by ``suite`` "aes-256-gcm" (the default) or "chacha20-poly1305". Who
        loses them, and what :meth:`Keys.export` gave, has lost the bank. Banks that name one file as ``dedup_domain``
        recognise each other's chunks. ``cache_dir`` is where the index is kept: by default in the bank, and of an
        encrypted one, whose index is in clear, in the user's cache folder.

        Raises AlreadyExistsError (kind BANK_EXISTS), InvalidInputError, StoreError, KeyMismatchError for a key command
        that fails.
        """
        if compression == "none":
            level = None
        elif type(compression) is int and compression in _COMPRESSION_LEVELS:
            level = compression
        else:
            raise InvalidInputError(f"compression is a zstd level from 1 to 22 or 'none', not {compression!r}")
        if type(keep_deleted_s) is not int or not 0 <= keep_deleted_s < 2**40:
            raise InvalidInputError(f"keep_deleted_s is a number of seconds, not {keep_deleted_s!r}")
        profile = parse_profile(chunking).text
        credential = credential_of(passphrase, key_file, key_command)
        if suite is not None and (not isinstance(suite, str) or suite not in _SUITES):
            raise InvalidInputError(f"suite is {' or '.join(_SUITES)}, not {suite!r}")
        if suite is not None and credential is None:
            raise InvalidInputError("an encrypted bank needs a passphrase, a key_file or a key_command")
        domain = None if dedup_domain is None else domain_secret(read_key_file(dedup_domain))
        if domain is not None and credential is None:
            raise InvalidInputError("banks without a key recognise each other's chunks anyway: no dedup_domain")
        descriptor = BankDescriptor(
            world.entropy(ID_BYTES),
            world.now_ns(),
            profile,
            level,
            keep_deleted_s,
            suite=Suite.CHECKSUM if credential is None else _SUITES[suite or _SUITE_DEFAULT],
        )
        url = parse_bank_url(place)
        engine = create_engine(url, descriptor, world, _path(cache_dir), credential=credential, dedup_secret=domain)
        return cls(engine, read_only=False)

    @classmethod
    def open(
        cls,
        place: str | os.PathLike[str],
        *,
        passphrase: str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        key_command: Sequence[str] | None = None,
        recovery: str | None = None,
        read_only: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        world: World = REAL_WORLD,
    ) -> Bank:
        """Open a bank that exists; an encrypted one with any of its keys, or with its recovery text.

        Raises NotFoundError (kind NO_BANK), KeyMismatchError, CorruptionError, UnsupportedFormatError, StoreError.
        """
        credential: Credential | RecoveryText | None = credential_of(passphrase, key_file, key_command)
        if recovery is not None:
            if credential is not None:
                raise InvalidInputError("a recovery text is given in place of a key")
            credential = RecoveryText(recovery)
        return cls(open_engine(parse_bank_url(place), world, _path(cache_dir), credential), read_only=read_only)

    @classmethod
    def recover(
        cls,
        place: str | os.PathLike[str],
        recovery: str,
        *,
        passphrase: str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        key_command: Sequence[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        world: World = REAL_WORLD,
    ) -> Bank:
        """Open a bank whose ``BANK`` file or ``keys/`` folder was lost, put them back, and give it a new key.

        ``recovery`` is what :meth:`Keys.export` returned. A key epoch that began later cannot be recovered. Raises
        what :meth:`open` does, and InvalidInputError for a text that has a mistake in it.
        """
        credential = credential_of(passphrase, key_file, key_command)
        if credential is None:
            raise InvalidInputError("a recovered bank needs a new passphrase, key_file or key_command")
        url = parse_bank_url(place)
        engine = recover_engine(url, world, _path(cache_dir), RecoveryText(recovery), credential)
        return cls(engine, read_only=False)

    def close(self) -> None:
        """Close the bank; everything acknowledged is durable already. Idempotent; does nothing in a forked child."""
        engine, self._engine = self._engine, None
        if engine is not None:
            close_engine(engine)

    def __enter__(self) -> Bank:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- writing -----------------------------------------------------------------------------------------------

    def put(
        self,
        name: str,
        data: Source,
        *,
        metadata: Mapping[str, str | bytes] | None = None,
        digest: bool = False,
        if_absent: bool = False,
        if_version: int | None = None,
    ) -> ObjectInfo:
        """Store an object under ``name``, replacing what was there; durable when it returns.

        ``data`` is bytes or any buffer, a path, a binary file or an iterable of bytes. ``metadata`` (64 KiB at most)
        is kept with it; with ``digest`` so is BLAKE3 of the whole content. ``if_absent``: only if the name is free;
        ``if_version``: only if that version is there.

        Raises AlreadyExistsError, ConflictError (kind VERSION; kind SOURCE_CHANGED for a file that changed while it
        was read), InvalidInputError, StoreError, ReadOnlyError, and what ``data`` itself raises. Then nothing is
        visible.
        """
        engine = self._writable()
        batch = Batch(engine, limits.INLINE_BYTES_MAX, keeps_sources=True)
        try:
            batch.put(name, data, metadata=metadata, digest=digest, if_absent=if_absent, if_version=if_version)
            version = batch.commit()
        except BaseException:
            batch.abandon()
            raise
        return _info(name, version, batch.descriptor(name))

    def delete(self, name: str, *, missing_ok: bool = False, if_version: int | None = None) -> None:
        """Remove an object. Raises NotFoundError if it is absent, ConflictError if it is of another version."""
        check_name(name)
        expected = expected_version(False, if_version)
        self._writable().commit(lambda now: delete_ops(now, name, expected, missing_ok=missing_ok))

    def copy(self, source: str, target: str, *, if_absent: bool = False, if_version: int | None = None) -> ObjectInfo:
        """Store the content and metadata of ``source`` under ``target`` too: one record, no data.

        The conditions are on ``target``, as in :meth:`put`. Raises NotFoundError if ``source`` is absent.
        """
        check_name(source)
        check_name(target)
        expected = expected_version(if_absent, if_version)
        engine = self._writable()
        made: builtins.list[Descriptor] = []

        def decide(now: Snapshot) -> builtins.list[Op]:
            # The source is read in the state that the record follows, so its content is available there.
            before = decode_descriptor(_required(now, source).descriptor)
            check_expected(now, target, expected)
            made[:] = [replace(before, created_ns=engine.world.now_ns())]
            return [Put(target, encode_descriptor(made[0]), expected)]

        version = engine.commit(decide, None, NOTHING)
        return _info(target, version, made[0])

    def undelete(self, name: str, version: int | None = None) -> ObjectInfo:
        """Bring back what was removed from ``name`` or replaced there last, or the given version of it.

        What is there now is replaced, and can be brought back in turn. Raises NotFoundError, of kind NO_OBJECT if
        there is no such version within the undelete window, GONE if its content has been collected.
        """
        check_name(name)
        if version is not None and (type(version) is not int or version < 1):
            raise InvalidInputError(f"not a version: {version!r}")
        made, item = undelete(self._writable(), name, version)
        return _info(name, made, item)

    def batch(self) -> Batch:
        """Several puts and deletes as one: all of them visible and durable when it commits, or none."""
        return Batch(self._writable())

    # --- reading -----------------------------------------------------------------------------------------------

    def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """The object's bytes, or ``length`` of them from ``start`` (less where the object ends before).

        Raises NotFoundError, CorruptionError, InvalidInputError for a negative number, StoreError.
        """
        if start < 0 or (length is not None and length < 0):
            raise InvalidInputError(f"a range is not negative: start {start}, length {length}")
        while True:
            engine = self._current()
            item = decode_descriptor(self._row(engine, name).descriptor)
            end = item.size if length is None else min(item.size, start + length)
            whole = io.BytesIO()
            try:
                for piece in engine.reader.pieces(name, item, start, end):
                    whole.write(piece)
            except NotFoundError as error:
                # Replaced and collected while it was read: the next version is there, or none.
                if error.kind is not ErrorKind.GONE:
                    raise
                continue
            # Shares the buffer: no second copy of a large object.
            return whole.getvalue()

    def open_object(self, name: str, *, allow_holes: bool = False) -> ObjectFile:
        """The object as a read-only, seekable binary file (a raw one: wrap it in io.BufferedReader for many small
        reads). It stays on the version that is there now. Raises NotFoundError; reading raises what :meth:`get` does.

        ``allow_holes``: where bytes of the object are lost, reading gives zeros and ``ObjectFile.holes`` says where.
        """
        engine = self._current()
        row = self._row(engine, name)
        item = decode_descriptor(row.descriptor)
        if allow_holes:
            holes = HoleReader(engine.reader)
            return ObjectFile(name, item, row.version, lambda start: holes.pieces(name, item, start))
        return ObjectFile(
            name, item, row.version, lambda start: engine.reader.pieces(name, item, start, item.size, eager=False)
        )

    def head(self, name: str) -> ObjectInfo:
        """What is known of an object without reading it. Raises NotFoundError."""
        row = self._row(self._current(), name)
        return _info(name, row.version, decode_descriptor(row.descriptor))

    def list(
        self,
        prefix: str = "",
        *,
        start_after: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
        deleted: bool = False,
    ) -> Iterator[ObjectInfo]:
        """Objects whose names begin with ``prefix``, in the byte order of their names, or against it.

        ``start_after`` is the name behind which to begin, in the direction of the list; ``limit`` the most to return.
        The list is read a page at a time: each page is the state of one moment, the whole need not be. ``deleted``:
        the versions that :meth:`undelete` can bring back instead, the newest of each name first.
        """
        if deleted:
            if start_after is not None or limit is not None or reverse:
                raise InvalidInputError("a list of deleted versions is whole and in order")
            return self._removed(self._current(), prefix)
        if limit is not None and limit < 0:
            raise InvalidInputError(f"limit is not negative: {limit}")
        bounds = [_encoded(text) for text in (prefix, start_after or "")]
        return self._pages(self._current(), bounds[0], bounds[1] if start_after else None, limit, reverse)

    def _removed(self, engine: Engine, prefix: str) -> Iterator[ObjectInfo]:
        _encoded(prefix)
        for stone in removed_versions(engine, prefix):
            info = _info(stone.name.decode(), stone.version, decode_descriptor(stone.descriptor))
            yield replace(info, removed_ns=stone.removed_ns)

    def _pages(
        self, engine: Engine, prefix: bytes, after: bytes | None, limit: int | None, reverse: bool
    ) -> Iterator[ObjectInfo]:
        left = limit
        while left is None or left > 0:
            page = limits.LIST_PAGE_ROWS if left is None else min(left, limits.LIST_PAGE_ROWS)
            self._use()
            rows = engine.follower.names(prefix, after, page, reverse=reverse)
            for row in rows:
                yield _info(row.name.decode(), row.version, decode_descriptor(row.descriptor))
            if len(rows) < page:
                return
            after = rows[-1].name
            left = None if left is None else left - page

    def __contains__(self, name: object) -> bool:
        """Whether an object of this name is there."""
        if not isinstance(name, str):
            return False
        check_name(name)
        with self._current().follower.read() as snapshot:
            return snapshot.name(name.encode()) is not None

    def __len__(self) -> int:
        """Number of objects."""
        return self._current().follower.seen.objects

    def __iter__(self) -> Iterator[str]:
        """The names, in byte order."""
        return (info.name for info in self.list())

    # --- leases and collection ---------------------------------------------------------------------------------

    def acquire_lease(
        self,
        owner: str,
        ttl_s: float = limits.LEASE_TTL_S_DEFAULT,
        kind: str = "client",
        pins: Sequence[str] = (),
        note: str = "",
        *,
        tied_to_process: bool = True,
    ) -> Lease:
        """Say that ``owner`` lives, for ``ttl_s`` seconds unless renewed.

        ``kind`` is "client" (protects nothing), "read" (holds back physical deletes of what is swept later) or "pin",
        which keeps the versions that the names ``pins`` have now, whatever becomes of the names. A lease that has
        expired is ended by the next collection, after a margin for skewed clocks, and at once if its process is known
        to be dead; not so if it is not ``tied_to_process``, because others will renew it. Raises NotFoundError for a
        pinned name that is absent, InvalidInputError.
        """
        check_lease_options(owner, ttl_s, kind, pins, note)
        for name in pins:
            check_name(name)
        engine = self._writable()
        held = HeldLease(
            engine.commit, engine.world, owner, ttl_s=ttl_s, kind=kind, note=note, tied_to_process=tied_to_process
        )

        def check(now: Snapshot) -> None:
            for name in pins:
                _required(now, name)

        held.acquire(pins, check)
        return Lease(held, engine.leases, engine.in_child)

    def check_lease(self, lease_id: str) -> LeaseStatus:
        """Whether a lease lives, and how many seconds are left of it. InvalidInputError for what is no id."""
        engine = self._current()
        with engine.follower.read() as snapshot:
            row = snapshot.lease(parse_lease_id(lease_id))
        return LeaseStatus(None if row is None else (row.expires_ns - engine.world.now_ns()) / 1e9)

    def renew_lease(self, lease_id: str, ttl_s: float = limits.LEASE_TTL_S_DEFAULT) -> None:
        """Extend a lease by its id alone, from whichever process. LeaseError (kind LEASE_LOST) if it has ended."""
        renew_lease(self._writable(), parse_lease_id(lease_id), ttl_s)

    def release_lease(self, lease_id: str) -> None:
        """End a lease by its id alone. LeaseError (kind LEASE_UNKNOWN) if it has ended, or never was."""
        release_lease(self._writable(), parse_lease_id(lease_id))

    def leases(self) -> builtins.list[LeaseInfo]:
        """All living leases, the oldest first."""
        engine = self._current()
        with engine.follower.read() as snapshot:
            rows = [(row, sum(1 for _ in snapshot.pins(row.id))) for row in snapshot.leases()]
        return sorted((describe_lease(row, pins) for row, pins in rows), key=lambda info: info.seq)

    def plan_collection(
        self,
        keep_deleted_s: int | None = None,
        reader_grace_s: float = limits.READER_GRACE_S_DEFAULT,
        *,
        budget_bytes: int | None = None,
        budget_s: float | None = None,
        force: bool = False,
    ) -> CollectPlan:
        """What a collection would do now, and what keeps it from doing more. Nothing is changed.

        ``keep_deleted_s``: how long removed versions are kept, None for the bank's own window; ``reader_grace_s``: how
        long swept packs stay for slow readers; ``budget_bytes``: plain bytes that are copied at most; ``budget_s``:
        seconds after which no more is begun; ``force``: collect even if suspiciously much belongs to nothing.

        Raises CorruptionError if a tree is not whole or the journal is not the newest, ConflictError.
        """
        engine = self._current()
        keep_s = engine.descriptor.keep_deleted_s if keep_deleted_s is None else keep_deleted_s
        return make_plan(engine, checked_options(keep_s, reader_grace_s, budget_bytes, budget_s, force=force))

    def collect(
        self, plan: CollectPlan | None = None, *, progress: Callable[[CollectProgress], None] | None = None
    ) -> CollectReport:
        """Free what nothing reaches, by the choices of a plan (None: the defaults). Nobody waits for it.

        What was written since the plan is taken into account. Several collections at once are safe, and so is a kill
        at any step. Raises what :meth:`plan_collection` does, StoreError, ReadOnlyError.
        """
        engine = self._writable()
        if engine.descriptor.collector_compatible:
            raise UnsupportedFormatError("the bank has a feature that this casbank cannot collect")
        options = default_options(engine) if plan is None else plan_options(plan)
        return collect(engine, options, progress)

    # --- the bank itself ---------------------------------------------------------------------------------------

    @property
    def keys(self) -> Keys:
        """The keys of an encrypted bank: slots that open it, epochs in which it is sealed."""
        return Keys(self._current, self._writable)

    def stats(self) -> BankStats:
        """Sizes and counts."""
        engine = self._current()
        descriptor = engine.descriptor
        with engine.follower.read() as snapshot:
            state = snapshot.state() or engine.follower.seen
            packs, chunks, deleted = (snapshot.count(table) for table in ("pack", "chunk", "tombstone"))
        last = last_collection(engine)
        return BankStats(
            bank_id=descriptor.bank_id.hex(),
            format=f"{MAJOR}.{MINOR}",
            chunking=descriptor.chunking,
            compression="none" if descriptor.compression is None else f"zstd {descriptor.compression}",
            suite=next((text for text, suite in _SUITES.items() if suite is descriptor.suite), "none"),
            created_ns=descriptor.created_ns,
            keep_deleted_s=descriptor.keep_deleted_s,
            objects=state.objects,
            logical_bytes=state.logical_bytes,
            unique_bytes=state.unique_bytes,
            stored_bytes=state.stored_bytes,
            packs=packs,
            chunks=chunks,
            deleted_objects=deleted,
            journal_bytes=engine.journal.bytes_held(),
            index_bytes=engine.follower.index_bytes,
            version=state.seq,
            last_collection=None
            if last is None
            else LastCollection(last.time_ns, last.freed_bytes, last.live_bytes, last.dead_bytes, last.is_complete),
        )

    def refresh(self) -> None:
        """Take in what others wrote. Every call does that by itself on a local disk."""
        self._current()

    def sync(self) -> None:
        """Wait for work in the background (a checkpoint that is being written). Puts are durable without it."""
        self._use().checkpoints.wait()

    def rebuild_index(self) -> None:
        """Make the index anew from the store. Nothing else depends on it; other users of the bank go on."""
        self._use().follower.rebuild()

    def verify_index(self) -> builtins.list[str]:
        """Compare the index, row by row, with one that is made of the store for this, in a temporary folder.

        What differs, a line a table; empty if nothing does. Raises CorruptionError where the index cannot be read.
        """
        return verify_index(self._use())

    def fsck(
        self,
        *,
        read_data: bool | int = False,
        repair: bool = False,
        progress: Callable[[FsckProgress], None] | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        on_repair: Callable[[str], None] | None = None,
    ) -> FsckReport:
        """Check the bank: its files, the journal's chain, checkpoints, packs, what every name reaches, and the index.

        ``read_data``: read every byte of the packs and check each tag and id; or of so many percent of them (1 to 100),
        other ones each time. What an interrupted check has read is not read again. ``repair``: mend what can be mended,
        keep what cannot in ``quarantine/``, and write down what is lost; the report is that of a check behind it.
        ``progress`` and ``on_finding`` are told at once, ``on_repair`` of each thing that was done.

        A bank that does not open is checked by :meth:`check`. Raises StoreError, and for a repair ReadOnlyError,
        ConflictError if others collect meanwhile.
        """
        engine = self._writable() if repair else self._current()
        watch = Watch(progress, on_finding, on_repair)
        return fsck_open(engine, FsckOptions(_percent(read_data), keyless=False), watch, repair=repair)

    @staticmethod
    def check(
        place: str | os.PathLike[str],
        *,
        passphrase: str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        key_command: Sequence[str] | None = None,
        read_data: bool | int = False,
        keyless: bool = False,
        repair: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        progress: Callable[[FsckProgress], None] | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        on_repair: Callable[[str], None] | None = None,
        world: World = REAL_WORLD,
    ) -> FsckReport:
        """The same for a bank that is not open here, and may not open at all; ``repair`` makes it open again.

        ``keyless``: check, of an encrypted bank too, only what needs no key: the hashes of all files. Raises
        NotFoundError (kind NO_BANK), KeyMismatchError, StoreError, and for a repair what opening and writing raise.
        """
        credential = credential_of(passphrase, key_file, key_command)
        where = Outside(parse_bank_url(place), None if keyless else credential, _path(cache_dir), world)
        watch = Watch(progress, on_finding, on_repair)
        return fsck_outside(where, FsckOptions(_percent(read_data), keyless), watch, repair=repair)

    @staticmethod
    def drop_index(
        place: str | os.PathLike[str], *, forget_head: bool = False, cache_dir: str | os.PathLike[str] | None = None
    ) -> None:
        """Remove the index of a bank that nobody has open; opening it makes it anew. StoreError if it is open.

        ``forget_head``: forget, too, what this client has seen of an encrypted bank, so that an older copy that was
        restored on purpose can be written again.
        """
        drop_index(parse_bank_url(place), REAL_WORLD, _path(cache_dir), forget_head=forget_head)

    # --- helpers -----------------------------------------------------------------------------------------------

    def _use(self) -> Engine:
        engine = self._engine
        if engine is None:
            raise InvalidInputError("the bank is closed", kind=ErrorKind.CLOSED)
        engine.check_usable()
        return engine

    def _current(self) -> Engine:
        engine = self._use()
        engine.follower.catch_up()
        return engine

    def _writable(self) -> Engine:
        engine = self._use()
        if self._read_only:
            raise ReadOnlyError("the bank was opened read-only", kind=ErrorKind.OPENED_READ_ONLY)
        return engine

    def _row(self, engine: Engine, name: str) -> NameRow:
        check_name(name)
        with engine.follower.read() as snapshot:
            return _required(snapshot, name)


def _required(snapshot: Snapshot, name: str) -> NameRow:
    row = snapshot.name(name.encode())
    if row is None:
        raise NotFoundError("no such object", kind=ErrorKind.NO_OBJECT, name=name)
    return row


def _info(name: str, version: int, item: Descriptor) -> ObjectInfo:
    digest = None if item.digest is None else item.digest.hex()
    return ObjectInfo(name, item.size, item.root.hex(), digest, version, item.created_ns, item.metadata)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except (UnicodeEncodeError, AttributeError):
        raise InvalidInputError(f"not text in UTF-8: {text!r}", kind=ErrorKind.NAME) from None


def _percent(read_data: bool | int) -> int:
    if type(read_data) is bool:
        return 100 if read_data else 0
    if type(read_data) is int and 1 <= read_data <= 100:
        return read_data
    raise InvalidInputError(f"read_data is True, False or a percentage from 1 to 100, not {read_data!r}")


def _path(place: str | os.PathLike[str] | None) -> Path | None:
    return None if place is None else Path(place)
