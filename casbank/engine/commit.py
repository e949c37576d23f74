"""The commit point: everything that changes a bank is appended here, and nowhere else.

Rule 1: who appends record n+1 has replayed everything up to n, and decides on that state: conditions are evaluated
here, not where they were asked.
Rule 2: packs are durable before the record that names them (the caller's part).
Rule 3: waiting callers share a record. Each decides for itself: one whose condition fails is taken out and told so
before the record is sealed. A name occurs at most once in a record; who comes second waits for the next. All decide on
the same state, so what changes the bank itself (keys, configuration, checkpoints) has a record of its own.
Rule 4: a record that is durable is acknowledged, even if the index cannot take it in now.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from casbank import limits
from casbank.engine import rules
from casbank.engine.follow import Follower
from casbank.engine.rules import Backing
from casbank.engine.salt import fresh_salt
from casbank.errors import CasbankError, ErrorKind, InvalidInputError, StoreError
from casbank.format.header import ID_BYTES, Kind, sequence_id
from casbank.format.record import Delete, Op, Packs, Put, Record, encode_record, op_bytes
from casbank.format.seal import Sealing
from casbank.index.apply import Contents
from casbank.index.transaction import Snapshot
from casbank.journal.base import Journal, JournalEntry, SeqTaken
from casbank.world import World

# Header, tag, hash, frame and the fixed fields of the body.
_RECORD_OVERHEAD_BYTES = 4 * limits.KIB
RECORD_OPS_BYTES_MAX = limits.RECORD_BYTES_MAX - _RECORD_OVERHEAD_BYTES

Decide: TypeAlias = Callable[[Snapshot], Sequence[Op]]
"""Called with the state at n: returns the operations for record n+1, or raises what its caller is to be told."""


@dataclass(slots=True, eq=False)
class _Request:
    decide: Decide
    contents: Mapping[bytes, Contents]
    backing: Backing
    done: bool = False
    version: int = 0
    error: BaseException | None = None

    def finish(self, version: int = 0, error: BaseException | None = None) -> None:
        self.version, self.error, self.done = version, error, True


@dataclass(slots=True)
class _Draft:
    """The record that is being put together."""

    requests: list[_Request] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    size: int = 0
    shared: bool = True

    def has_room(self, ops: Sequence[Op], names: set[str], size: int) -> bool:
        if not self.requests:
            return True
        if not (self.shared and _may_share(ops)) or names & self.names:
            return False
        return self.size + size <= limits.GROUP_COMMIT_BYTES_MAX

    def take(self, request: _Request, ops: Sequence[Op], names: set[str], size: int) -> None:
        self.requests.append(request)
        self.ops += ops
        self.names |= names
        self.size += size
        self.shared = _may_share(ops)


class Committer:
    """Appends records for the threads of one process, several callers to a record."""

    def __init__(self, journal: Journal, follower: Follower, sealing: Sealing, world: World) -> None:
        self._journal = journal
        self._follower = follower
        self._sealing = sealing
        self._world = world
        self._writer_id = world.entropy(ID_BYTES)
        self._waiting: deque[_Request] = deque()
        self._lead = threading.Lock()

    def commit(self, decide: Decide, contents: Mapping[bytes, Contents] | None = None, backing: Backing = None) -> int:
        """Make what ``decide`` returns durable; the sequence number of its record, 0 if it returned nothing.

        ``contents`` are those of the packs that it publishes or sweeps, so that they need not be read back; ``backing``
        is its word for what it puts or sweeps (``rules.py``). Raises what ``decide`` raises, Stale, StoreError,
        ReadOnlyError, InvalidInputError (kind TOO_LARGE).
        """
        request = _Request(decide, contents or {}, backing)
        self._waiting.append(request)
        try:
            while not request.done:
                # Whoever gets here first writes for all who wait meanwhile; they find theirs done.
                with self._lead:
                    if not request.done:
                        self._write_one()
        except BaseException:
            # Nobody waits for it any longer; another leader may have it in hand.
            with suppress(ValueError):
                self._waiting.remove(request)
            raise
        if request.error is not None:
            raise request.error
        return request.version

    def _write_one(self) -> None:
        draft = _Draft()
        try:
            with self._journal.turn():
                while not self._attempt(draft):
                    # Another host won the number: decide anew on what it wrote.
                    self._waiting.extendleft(reversed(draft.requests))
                    draft = _Draft()
        except Exception as error:
            # None of them may wait for ever; each gets what happened to the record that it was in.
            _finish(draft.requests or ([self._waiting.popleft()] if self._waiting else []), error)
            if not isinstance(error, CasbankError):
                raise
        except BaseException:
            # This thread is interrupted, the others are not.
            _finish(
                draft.requests,
                StoreError("the thread that wrote this record was interrupted", kind=ErrorKind.OUTCOME_UNKNOWN),
            )
            raise

    def _attempt(self, draft: _Draft) -> bool:
        state = self._follower.catch_up()
        with self._follower.read() as snapshot:
            self._fill(draft, snapshot)
        if not draft.requests:
            return True
        record = Record(
            state.seq + 1, state.hash, self._world.entropy(16), self._writer_id, self._world.now_ns(), draft.ops
        )
        seal = self._sealing.create(Kind.RECORD, sequence_id(record.seq), fresh_salt(self._world))
        data = encode_record(record, seal)
        try:
            self._journal.append(record.seq, data)
        except SeqTaken:
            return False
        contents = {pack: known for request in draft.requests for pack, known in request.contents.items()}
        self._follower.own(JournalEntry(record.seq, data), record, contents)
        for request in draft.requests:
            request.finish(version=record.seq)
        return True

    def _fill(self, draft: _Draft, snapshot: Snapshot) -> None:
        deferred: list[_Request] = []
        try:
            while self._waiting and draft.size < limits.GROUP_COMMIT_BYTES_MAX:
                deferred.append(self._waiting.popleft())
                if self._settle(draft, deferred[-1], snapshot):
                    deferred.pop()
        finally:
            self._waiting.extendleft(reversed(deferred))

    def _settle(self, draft: _Draft, request: _Request, snapshot: Snapshot) -> bool:
        """Let a request decide, and take it into the draft; False if there is no room for it in this one."""
        try:
            ops = _packs_first(request.decide(snapshot))
            rules.check(snapshot, ops, request.backing)
            size = _checked_size(ops)
        except Exception as error:  # handed to the thread that asked
            request.finish(error=error)
            return True
        names = {op.name for op in ops if isinstance(op, Put | Delete)}
        if not ops:
            request.finish()
        elif draft.has_room(ops, names, size):
            draft.take(request, ops, names, size)
        else:
            return False
        return True


def _finish(requests: list[_Request], error: BaseException) -> None:
    for request in requests:
        if not request.done:
            request.finish(error=error)


def _may_share(ops: Sequence[Op]) -> bool:
    return all(isinstance(op, Put | Delete | Packs) for op in ops)


def _packs_first(ops: Sequence[Op]) -> list[Op]:
    return sorted(ops, key=lambda op: not isinstance(op, Packs))


def _checked_size(ops: Sequence[Op]) -> int:
    size = sum(op_bytes(op) for op in ops)
    if size > RECORD_OPS_BYTES_MAX or len(ops) > limits.RECORD_OPS_MAX // 2:
        raise InvalidInputError(
            f"{len(ops)} changes of {size} bytes do not fit into one record; commit in smaller batches",
            kind=ErrorKind.TOO_LARGE,
        )
    return size
