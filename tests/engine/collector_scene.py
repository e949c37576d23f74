"""Several hosts on one bank in memory, and actors on them that a scheduler stops between any two steps.

An actor is a thread, of which one runs at a time: it stops at *points* (before and after each record, blob, delete,
replay and read of a source), holding none of the bank's locks but, before an append, that of its own engine's
committer. The journal here excludes nobody: rivals are settled by the append. What a dead actor would still do is
refused, so its lease, its packs and its rows stay as they were.

``Model`` knows what the journal says: it is told of each record when it becomes durable, and keeps what breaks a rule.
"""

import random
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from blake3 import blake3

from casbank import Bank, limits
from casbank.engine import collector, rewriting, writer
from casbank.engine.engine import Engine
from casbank.engine.leases import HeldLease, LeaseKeeper
from casbank.engine.packs import WantedEntry
from casbank.engine.place import Place
from casbank.engine.salt import fresh_salt
from casbank.errors import (
    CasbankError,
    ConflictError,
    CorruptionError,
    ErrorKind,
    LeaseError,
    NotFoundError,
    StoreError,
)
from casbank.format.bank import BANK_NAME, BankDescriptor, bank_hash, encode_bank
from casbank.format.descriptor import Descriptor, decode_descriptor
from casbank.format.header import ID_BYTES
from casbank.format.manifest import decode_inner, decode_leaf
from casbank.format.pack import pack_name
from casbank.format.record import Config, Delete, First, Lease, Packs, Put, Record, Release, Sweep
from casbank.index.apply import FORGOTTEN_KEY
from casbank.journal.base import Journal, JournalEntry, Superseded
from casbank.journal.memory import MemoryJournal
from casbank.model import Buffer
from casbank.storage.memory import MemoryStore
from casbank.world import World

NS = 10**9
HOUR_S = 3600
DAY_S = 86_400
KEEP_DELETED_S = DAY_S
EVERYTHING = 10**9
"""A number of steps that is never used up."""

_Result = TypeVar("_Result")
_here = threading.local()
_SHARED_MEMORY = Path("/dev/shm")

# With these, leases, pins, publishing and rewriting happen with kilobytes.
SMALL_LIMITS = {
    "PACK_BYTES_TARGET": 500,
    "BATCH_BYTES": 1024,
    "GROUP_BYTES_TARGET": 256,
    "UNPINNED_BYTES_MAX": 1500,
    "STREAM_KEPT_BYTES_MAX": 300,
    "SESSION_PACKS_MAX": 3,
    "SWEEP_PACKS_MAX": 2,
    "LEASE_PINS_MAX": 2,
    "MERGE_PACKS_MIN": 3,
    "ORPHAN_AGE_S": DAY_S,
    "NODE_ROWS_MIN": 3,
    "NODE_ROWS_MAX": 8,
    "NODE_BOUNDARY_MASK": 1,
    # Or what was deleted too early would still be read.
    "ENTRY_CACHE_BYTES": 0,
}
_SMALL_CONSTANTS = (
    (collector, "_SMALL_SHARE", 2),
    (collector, "_DELETES_A_RECORD", 2),
    (rewriting, "_PACKS_PUBLISHED", 1),
    (writer, "_BATCHES_MAX", 1),
)


@contextmanager
def small_limits() -> Iterator[None]:
    """Let kilobytes count as much as gigabytes."""
    replaced: list[tuple[Any, str, Any]] = [(limits, name, value) for name, value in SMALL_LIMITS.items()]
    replaced += _SMALL_CONSTANTS
    if _SHARED_MEMORY.is_dir():
        # Where a sync costs nothing; indexes are compared with such as are made there.
        replaced.append((tempfile, "tempdir", str(_SHARED_MEMORY)))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    try:
        for owner, name, value in replaced:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def block(number: int) -> bytes:
    """One of the pieces of which contents are made: some three chunks."""
    return random.Random(number).randbytes(330)


def made_of(blocks: Sequence[int]) -> bytes:
    """A content; without blocks one so short that it is kept in the record."""
    return b"".join(map(block, blocks)) or b"short"


# --- actors ------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Where a process died; what it would do from there on is refused."""


def reach(point: str, *, always: bool = False) -> None:
    """A point at which the actor that runs here, if any, can be stopped; ``always``: even where it is shielded."""
    actor = getattr(_here, "actor", None)
    if actor is not None:
        actor.reach(point, always=always)


@contextmanager
def shielded() -> Iterator[None]:
    """Where locks are held: no stopping."""
    actor = getattr(_here, "actor", None)
    if actor is None:
        yield
        return
    actor.shields += 1
    try:
        yield
    finally:
        actor.shields -= 1


def current_actor() -> "Actor | None":
    return getattr(_here, "actor", None)


class Actor:
    """One caller of one host's bank, in a thread of its own that runs when it is told to."""

    def __init__(self, host: "Host", kind: str, work: Callable[[], Any], **facts: Any) -> None:
        self.host = host
        self.kind = kind
        self.facts = facts
        self.point = "start"
        self.shields = 0
        self.fault = ""
        self.faulted = False
        self.budget = 0
        self.fine = False
        self.dying = False
        self.done = False
        self.waits_for: Actor | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.leases: set[bytes] = set()
        self.put_names: dict[str, int] = {}
        # What it read of the clock, at the least and the most.
        self.latest_ns = 0
        self._work = work
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"actor-{kind}")
        self._thread.start()

    def __repr__(self) -> str:
        return f"<{self.kind} on {self.host.name} at {self.point}>"

    def run(self, budget: int, *, fine: bool = False) -> None:
        """Let it go on, past ``budget`` points; ``fine``: the reading of a blob counts as one."""
        self.budget, self.fine = budget, fine
        self._switch()

    def finish(self) -> None:
        """Let it go on to its end, and those first for whom it has to wait."""
        while not self.done:
            if self.waits_for is not None and not self.waits_for.done:
                self.waits_for.finish()
            self.run(EVERYTHING)

    def kill(self) -> None:
        """Its process dies where it stands."""
        self.dying = True
        self._switch()
        assert self.done

    def _switch(self) -> None:
        if not self.done:
            self._go.release()
            if not self._back.acquire(timeout=30):
                raise RuntimeError(f"{self} waits for a lock that somebody holds who is stopped")
            if self.done:
                self._thread.join()

    def _run(self) -> None:
        self._go.acquire()
        _here.actor = self
        try:
            if not self.dying:
                self.result = self._work()
        except BaseException as error:
            self.error = error
        finally:
            # What frames hold (files, generators) ends while the actor is known, or it would be refused nothing.
            self._work = lambda: None
            self.done = True
            self.point = "end"
            _here.actor = None
            self._back.release()

    def reach(self, point: str, *, always: bool) -> None:
        if self.dying:
            raise Killed
        if (self.shields and not always) or (point == "get" and not self.fine):
            return
        self.point = point
        if self.budget > 0:
            self.budget -= 1
            return
        self._pause()

    def wait_for(self, other: "Actor") -> None:
        """Stop until another actor of the same engine has gone on."""
        self.waits_for = other
        self._pause()
        self.waits_for = None

    def _pause(self) -> None:
        self._back.release()
        self._go.acquire()
        if self.dying:
            raise Killed

    def take_fault(self) -> str:
        """What is to go wrong at this point: "fail" (nothing is done), "lose" (it is done, the answer is lost)."""
        fault, self.fault = self.fault, ""
        self.faulted = self.faulted or bool(fault)
        return fault


class _Inline:
    """A pool whose tasks are run by who submits them, so that they are the actor's own steps."""

    def submit(self, task: Callable[[], _Result]) -> "Future[_Result]":
        future: Future[_Result] = Future()
        try:
            future.set_result(task())
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self) -> None:
        pass


class _Keeper:
    """Remembers whose leases are to be renewed; the scheduler says when."""

    def __init__(self) -> None:
        self.kept: dict[HeldLease, Actor | None] = {}

    def keep(self, lease: HeldLease, on_failure: object = None) -> None:
        self.kept[lease] = current_actor()

    def let_go(self, lease: HeldLease) -> None:
        self.kept.pop(lease, None)

    def close(self) -> None:
        self.kept.clear()

    def renew(self) -> None:
        """What the thread that renews would do."""
        for lease, actor in list(self.kept.items()):
            if actor is not None and actor.done:
                continue
            try:
                lease.renew()
            except LeaseError:
                self.let_go(lease)


# --- store and journal -------------------------------------------------------------------------------------------


class RivalJournal(MemoryJournal):
    """Settles rivals when they append, as a database or an object store does."""

    def turn(self) -> Any:
        return nullcontext()


class HostJournal:
    """The journal as one host sees it."""

    def __init__(self, scene: "Scene", host: "Host") -> None:
        self._scene = scene
        self._host = host
        shared = scene.journal
        self.head, self.turn, self.first = shared.head, shared.turn, shared.first
        self.bytes_held, self.close = shared.bytes_held, shared.close

    def read(self, after: int) -> Iterator[JournalEntry]:
        reach("read journal")
        return self._scene.journal.read(after)

    def append(self, seq: int, record: bytes) -> None:
        reach("append", always=True)
        actor = current_actor()
        fault = actor.take_fault() if actor is not None else ""
        if fault == "fail":
            raise StoreError("the journal cannot be reached")
        self._scene.journal.append(seq, record)
        self._scene.model.note(actor, JournalEntry(seq, record))
        self._scene.changed = True
        if fault == "lose":
            raise StoreError("the answer was lost", kind=ErrorKind.OUTCOME_UNKNOWN)

    def forget(self, up_to: int) -> None:
        reach("forget")
        self._scene.journal.forget(up_to)


class HostStore:
    """The store as one host sees it: deletes may come late or twice, answers may be lost."""

    def __init__(self, scene: "Scene") -> None:
        self._scene = scene
        self.size, self.close = scene.store.size, scene.store.close

    def put_new(self, name: str, parts: Sequence[Buffer]) -> None:
        reach("put_new")
        actor = current_actor()
        fault = actor.take_fault() if actor is not None else ""
        if fault == "fail":
            raise StoreError("the store cannot be reached")
        self._scene.model.check_new_blob(name)
        self._scene.store.put_new(name, parts)
        if fault == "lose":
            raise StoreError("the answer was lost", kind=ErrorKind.OUTCOME_UNKNOWN)
        reach("stored")

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        reach("get")
        return self._scene.store.get(name, start, length)

    def list(self, prefix: str) -> Iterator[Any]:
        reach("list")
        return self._scene.store.list(prefix)

    def delete(self, name: str) -> None:
        reach("delete")
        self._scene.model.check_delete(current_actor(), name)
        how = self._scene.deletes_come
        if how != "late":
            self._scene.store.delete(name)
            self._scene.changed = True
        if how != "once":
            self._scene.late_deletes.append(name)
        reach("deleted")


# --- hosts -------------------------------------------------------------------------------------------------------


class Host:
    """One machine: a clock, and an engine with an index of its own."""

    def __init__(self, scene: "Scene", name: str) -> None:
        self.scene = scene
        self.name = name
        self.skew_ns = 0
        self.holder: Actor | None = None
        self.world = World(self._now_ns, scene.entropy, lambda _: None)
        self.folder = scene.root / name
        self.open()

    def open(self) -> None:
        """A process begins; its index is what is in the folder."""
        place = Place(
            (self.scene, self.name),
            HostStore(self.scene),
            cast(Journal, HostJournal(self.scene, self)),
            self.folder / "index",
        )
        engine = Engine(place, self.scene.descriptor, self.world, None)
        self.keeper = _Keeper()
        engine.leases = cast(LeaseKeeper, self.keeper)
        resources = engine.resources
        for name, value in (("workers", _Inline()), ("uploaders", _Inline()), ("leases", self.keeper)):
            object.__setattr__(resources, name, value)
        resources.pack_buffers.size = 64 * limits.KIB
        self._hook(engine)
        self.engine = engine
        self.bank = Bank(engine, read_only=False)

    def _hook(self, engine: Engine) -> None:
        follower, committer = cast(Any, engine.follower), cast(Any, engine._committer)
        catch_up, rebuild, own, commit = follower.catch_up, follower.rebuild, follower.own, committer.commit

        def caught_up() -> Any:
            reach("catch up")
            with shielded():
                state = catch_up()
            reach("caught up")
            return state

        def alone(call: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any) -> Any:
                with shielded():
                    return call(*arguments)

            return run

        def committed(*arguments: Any) -> Any:
            reach("commit")
            actor = current_actor()
            while self.holder is not None and actor is not None:
                actor.wait_for(self.holder)
            self.holder = actor
            try:
                with shielded():
                    version = commit(*arguments)
            finally:
                self.holder = None
            reach("committed")
            return version

        follower.catch_up, follower.rebuild, follower.own = caught_up, alone(rebuild), alone(own)
        committer.commit = committed

    def close(self, *, drop_index: bool = False) -> None:
        """The process ends, or dies."""
        self.engine.close()
        if drop_index:
            shutil.rmtree(self.folder)

    def _now_ns(self) -> int:
        self.scene.now_ns += 1000
        now_ns = self.scene.now_ns + self.skew_ns
        actor = current_actor()
        if actor is not None:
            actor.latest_ns = max(actor.latest_ns, now_ns)
        return now_ns


# --- the model ---------------------------------------------------------------------------------------------------


class Version(NamedTuple):
    """What a name has, or had: the record that put it, and its content."""

    name: str
    seq: int
    content: bytes
    item: Descriptor


class Stone(NamedTuple):
    """A version that was removed, by which record and when."""

    version: Version
    removed_seq: int
    removed_ns: int


@dataclass
class LivingLease:
    """A lease, and since which records it pins what."""

    kind: str
    seq: int
    pins: dict[bytes | str, int] = field(default_factory=dict)


class Model:
    """What the journal says. Problems are kept: they are found in the middle of somebody's work."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.contents: dict[bytes, bytes] = {}
        self.names: dict[str, Version] = {}
        self.versions: dict[tuple[str, int], Version] = {}
        self.stones: list[Stone] = []
        self.live: set[bytes] = set()
        self.swept: dict[bytes, tuple[int, int]] = {}
        self.leases: dict[bytes, LivingLease] = {}
        self.fenced: set[bytes] = set()
        self.blobs: set[str] = set()
        self.clock_went_back = False
        # Up to which record removed versions were forgotten.
        self.forgotten = 0
        self.decode: Callable[[JournalEntry], Any] = lambda entry: None

    def will_put(self, content: bytes) -> bytes:
        """Take note of a content that somebody may store."""
        self.contents[blake3(content).digest()] = content
        return content

    def expect(self, holds: bool, problem: str, *about: object) -> None:
        if not holds:
            self.problems.append(f"{problem}: {', '.join(map(str, about))}" if about else problem)

    # --- blobs

    def check_new_blob(self, name: str) -> None:
        self.expect(name not in self.blobs, "a blob was made under a name that was used before", name)
        self.blobs.add(name)

    def check_delete(self, actor: Actor | None, name: str) -> None:
        if not name.startswith("packs/"):
            return
        pack_id = bytes.fromhex(name.rpartition("/")[2])
        swept = self.swept.get(pack_id)
        self.expect(swept is not None, "a pack is deleted before a record has swept it (D)", name, actor)
        if swept is None or actor is None:
            return
        grace_ns = int(actor.facts.get("grace_s", 0) * NS)
        self.expect(swept[1] + grace_ns <= actor.latest_ns, "a pack is deleted within the readers' grace", name)
        reads = [lease for lease in self.leases.values() if lease.kind == "read" and lease.seq < swept[0]]
        self.expect(not reads, "a pack is deleted that was swept under a read lease", name)

    # --- records

    def note(self, actor: Actor | None, entry: JournalEntry) -> None:  # noqa: C901 - a case for each operation
        """A record became durable."""
        record: Record = self.decode(entry).record
        for op in record.ops:
            match op:
                case Put():
                    self._put(actor, record, op)
                case Delete():
                    self._remove(record, op.name)
                case Packs():
                    self._publish(record, op)
                case Lease():
                    self._lease(actor, record, op)
                case Release():
                    self.leases.pop(op.lease_id, None)
                    if op.reason == "fenced":
                        self.fenced.add(op.lease_id)
                case Sweep():
                    for pack_id in op.pack_ids:
                        self._sweep(record, pack_id)
                case Config() if op.key == FORGOTTEN_KEY:
                    self._forget(actor, op.value)

    def _put(self, actor: Actor | None, record: Record, op: Put) -> None:
        item = decode_descriptor(op.descriptor)
        assert item.digest is not None
        content = self.contents[item.digest]
        self._remove(record, op.name)
        self.names[op.name] = self.versions[op.name, record.seq] = Version(op.name, record.seq, content, item)
        if actor is not None:
            wanted = actor.facts.get("puts", {}).get(op.name)
            self.expect(wanted in (None, content), "another content was put than was asked for", op.name)
            actor.put_names[op.name] = record.seq

    def _remove(self, record: Record, name: str) -> None:
        before = self.names.pop(name, None)
        if before is not None:
            self.stones.append(Stone(before, record.seq, record.time_ns))

    def _publish(self, record: Record, op: Packs) -> None:
        for info in op.packs:
            self.expect(info.id not in self.swept, "PACKS names a pack that was swept (W)", info.id.hex())
            self.live.add(info.id)
            if op.lease_id in self.leases:
                self.leases[op.lease_id].pins.setdefault(info.id, record.seq)

    def _lease(self, actor: Actor | None, record: Record, op: Lease) -> None:
        for target in op.pins:
            if isinstance(target, bytes):
                self.expect(target in self.live, "a pack is pinned that is not live (P)", target.hex())
        if actor is not None and op.kind == "write":
            actor.leases.add(op.lease_id)
        self.expect(op.lease_id not in self.fenced, "a lease that was fenced is renewed (L)")
        lease = self.leases.setdefault(op.lease_id, LivingLease(op.kind, record.seq))
        for target in op.pins:
            lease.pins.setdefault(target, record.seq)

    def _sweep(self, record: Record, pack_id: bytes) -> None:
        pinned = any(pack_id in lease.pins for lease in self.leases.values())
        self.expect(not pinned, "a pack is swept that a living lease pins (G)", pack_id.hex())
        self.live.discard(pack_id)
        # A delete that comes late leaves a file that is swept again, as an orphan: readers were told the first time.
        self.swept.setdefault(pack_id, (record.seq, record.time_ns))

    def _forget(self, actor: Actor | None, until: object) -> None:
        assert isinstance(until, int)
        gone = [stone for stone in self.stones if stone.removed_seq <= until and not self.is_pinned(stone)]
        self.stones = [stone for stone in self.stones if stone not in gone]
        self.forgotten = max(self.forgotten, until)
        keep_s = actor.facts.get("keep_s", 0) if actor is not None else 0
        if keep_s and actor is not None:
            early = [stone for stone in gone if stone.removed_ns > actor.latest_ns - keep_s * NS]
            # Which come before what may go, in the order of the journal, though not by somebody's clock.
            self.expect(not early or self.clock_went_back, "a removed version was forgotten within the window", early)

    def is_pinned(self, stone: Stone) -> bool:
        """Whether a living lease holds a removed version by its name."""
        seqs = [lease.pins[stone.version.name] for lease in self.leases.values() if stone.version.name in lease.pins]
        return any(stone.version.seq <= seq < stone.removed_seq for seq in seqs)

    def removed(self) -> list[Stone]:
        """What can be brought back; not what only a lease held that has ended, which may be gone or not."""
        return [stone for stone in self.stones if stone.removed_seq > self.forgotten or self.is_pinned(stone)]

    def is_removed(self, name: str, seq: int) -> bool:
        """Whether a version can be brought back."""
        return any((stone.version.name, stone.version.seq) == (name, seq) for stone in self.removed())

    # --- what came of an actor

    def judge(self, actor: Actor) -> None:
        """Keep what an actor must not have met."""
        error = actor.error
        if error is None:
            for name in actor.facts.get("puts", {}):
                self.expect(name in actor.put_names, "a put returned and is in no record", name, actor)
            if actor.kind == "read":
                self._judge_reading(actor)
            return
        if isinstance(error, Killed) or (isinstance(error, StoreError) and actor.faulted):
            return
        if not self._is_allowed(actor, error):
            shown = "".join(traceback.format_exception(error))
            self.problems.append(f"{actor.kind} on {actor.host.name} {actor.facts} met {error!r}\n{shown}")

    def _is_allowed(self, actor: Actor, error: BaseException) -> bool:  # noqa: PLR0911 - a case for each error
        match error:
            case LeaseError() if actor.kind in _WRITERS:
                # Promise P, which holds for clocks that go on.
                return bool(actor.leases & self.fenced or self.clock_went_back)
            case NotFoundError() if actor.kind == "undelete" and error.kind is ErrorKind.GONE:
                return not self.is_removed(actor.facts["name"], actor.facts.get("version", 0))
            case NotFoundError() if actor.kind == "read" and error.kind is ErrorKind.GONE:
                return self._is_gone(actor)
            case NotFoundError():
                return actor.kind in {"delete", "copy", "undelete", "read", "pin"}
            case LeaseError():
                return actor.kind == "release"
            case ConflictError():
                return actor.kind in {"collect", "undelete"}
            case _ if actor.kind == "collect" and any(text in repr(error) for text in _KNOWN_RACES):
                return "races" in KNOWN_PROBLEMS
            case Superseded() | CorruptionError():
                # A rival was faster: no checkpoint is written, which its keeper logs.
                return actor.kind == "checkpoint" and getattr(error, "kind", None) is not ErrorKind.CHUNK_ID
        return False

    def _is_gone(self, actor: Actor) -> bool:
        name, seq = actor.facts["name"], actor.facts["version"]
        there = self.names.get(name)
        return not (there is not None and there.seq == seq) and not self.is_removed(name, seq)

    def _judge_reading(self, actor: Actor) -> None:
        expected = self.versions[actor.facts["name"], actor.facts["version"]].content
        self.expect(actor.result == expected, "a reader got other bytes than those of its version", actor)


# What test_collector_mutants.py shows by itself, so that lives may find what else there is; to be emptied as it is
# mended. "orphans": nobody takes a pack for one before the end; "races": some errors of a collection that lost one;
# "idle": something is changed before the collections at the end.
KNOWN_PROBLEMS: set[str] = set()
_KNOWN_RACES = ("there is a checkpoint of record",)
_WRITERS = {"bytes", "file", "stream", "batch"}


# --- all of it ---------------------------------------------------------------------------------------------------


class Scene:
    """A bank, its hosts, and who acts on them. To be closed."""

    def __init__(self, hosts: int = 2, seed: object = 0) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="casbank-"))
        self.chance = random.Random(str(seed))
        self.now_ns = 1_700_000_000 * NS
        self.store = MemoryStore(world=World(lambda: self.now_ns))
        self.journal = RivalJournal()
        self.model = Model()
        self.deletes_come = "once"
        # Something is changed before the collections at the end, so that none takes the bank for idle.
        self.is_stirred = "idle" in KNOWN_PROBLEMS
        self.late_deletes: list[str] = []
        self.changed = True
        self.actors: list[Actor] = []
        self.leases: list[tuple[Host, str]] = []
        self.descriptor = BankDescriptor(
            self.entropy(ID_BYTES), self.now_ns, "gear:64/128/256", None, keep_deleted_s=KEEP_DELETED_S
        )
        data = encode_bank(self.descriptor, fresh_salt(World(entropy=self.entropy)))
        self.store.put_new(BANK_NAME, [data])
        # Looks on; it has replayed everything that it is asked about.
        self.observer = Host(self, "observer")
        self.model.decode = self.observer.engine.follower.decoded
        self.observer.engine.commit(lambda _: [First(self.descriptor.bank_id, bank_hash(data))])
        self.hosts = [Host(self, f"host {number}") for number in range(hosts)]

    def entropy(self, length: int) -> bytes:
        return self.chance.randbytes(length)

    def close(self) -> None:
        for actor in self.actors:
            actor.kill()
        for host in (*self.hosts, self.observer):
            host.close()
        shutil.rmtree(self.root, ignore_errors=True)

    # --- acting

    def start(self, host: int, kind: str, work: Callable[[Host], Any], budget: int = EVERYTHING, **facts: Any) -> Actor:
        """Let somebody begin something, and go past ``budget`` points."""
        at = self.hosts[host]
        actor = Actor(at, kind, lambda: work(at), **facts)
        self.actors.append(actor)
        self.go_on(actor, budget)
        return actor

    def go_on(self, actor: Actor, budget: int = EVERYTHING, *, fine: bool = False) -> None:
        """Let somebody go past ``budget`` points."""
        if actor.waits_for is not None and not actor.waits_for.done:
            self.go_on(actor.waits_for)
        if budget >= EVERYTHING:
            actor.finish()
        else:
            actor.run(budget, fine=fine)
        self._bury()

    def go_to(self, actor: Actor, point: str) -> None:
        """Let somebody go on to a point, or to the end if there is none on the way."""
        while not actor.done and actor.point != point and actor.waits_for is None:
            actor.run(0)
        self._bury()

    def kill(self, actor: Actor) -> None:
        """Let somebody's process die."""
        actor.kill()
        self._bury()

    def _bury(self) -> None:
        for actor in [actor for actor in self.actors if actor.done]:
            self.actors.remove(actor)
            self.model.judge(actor)

    def die(self, host: int, *, drop_index: bool) -> None:
        """A machine goes down, with all who act on it, and comes back, perhaps without its index."""
        at = self.hosts[host]
        for actor in [actor for actor in self.actors if actor.host is at]:
            self.kill(actor)
        at.close(drop_index=drop_index)
        at.open()

    def put(self, host: int, name: str, content: bytes, kind: str = "bytes", budget: int = EVERYTHING) -> Actor:
        """A put: of bytes, of a file that can be read twice, of a stream that cannot, or of two in a batch."""
        self.model.will_put(content)
        if kind == "batch":
            return self._put_batch(host, name, content, budget)
        sources: dict[str, Callable[[], Any]] = {
            "bytes": lambda: content,
            "file": lambda: SlowFile(content),
            "stream": lambda: slowly(content),
        }
        source = sources[kind]

        def work(at: Host) -> Any:
            return at.bank.put(name, source(), digest=True)

        return self.start(host, kind, work, budget, puts={name: content})

    def _put_batch(self, host: int, name: str, content: bytes, budget: int) -> Actor:
        first = self.model.will_put(content[::-1])

        def work(at: Host) -> Any:
            with at.bank.batch() as batch:
                batch.put(f"{name}+", first, digest=True)
                reach("between puts")
                batch.put(name, slowly(content), digest=True)
                reach("before the commit")

        return self.start(host, "batch", work, budget, puts={f"{name}+": first, name: content})

    def delete(self, host: int, name: str, budget: int = EVERYTHING) -> Actor:
        return self.start(host, "delete", lambda at: at.bank.delete(name), budget, name=name)

    def copy(self, host: int, source: str, target: str, budget: int = EVERYTHING) -> Actor:
        return self.start(host, "copy", lambda at: at.bank.copy(source, target), budget, name=source)

    def undelete(self, host: int, name: str, budget: int = EVERYTHING) -> Actor:
        facts: dict[str, Any] = {"name": name}
        stones = [stone.version for stone in self.model.stones if stone.version.name == name]
        version = stones[-1].seq if stones else None
        if version is not None:
            facts |= {"version": version, "puts": {name: stones[-1].content}}
        return self.start(host, "undelete", lambda at: at.bank.undelete(name, version), budget, **facts)

    def collect(
        self,
        host: int,
        keep_s: int = 0,
        grace_s: float = 0,
        budget: int = EVERYTHING,
        budget_bytes: int | None = None,
    ) -> Actor:
        def work(at: Host) -> Any:
            plan = at.bank.plan_collection(keep_s, grace_s, force=True, budget_bytes=budget_bytes)
            return at.bank.collect(plan)

        return self.start(host, "collect", work, budget, keep_s=keep_s, grace_s=grace_s)

    def read(self, host: int, name: str, budget: int = EVERYTHING) -> Actor:
        facts: dict[str, Any] = {"name": name}

        def work(at: Host) -> bytes:
            with at.bank.open_object(name) as file:
                actor = current_actor()
                assert actor is not None
                actor.facts["version"] = file.version
                parts = []
                while part := file.read(400):
                    parts.append(part)
                    reach("reading")
                return b"".join(parts)

        return self.start(host, "read", work, budget, **facts)

    def checkpoint(self, host: int, budget: int = EVERYTHING) -> Actor:
        return self.start(host, "checkpoint", lambda at: at.engine.checkpoints.write(), budget)

    def lease(self, host: int, kind: str, pins: Sequence[str] = (), ttl_s: float = 600) -> Actor:
        """Somebody holds a lease, until it is released or fenced."""

        def work(at: Host) -> None:
            lease = at.bank.acquire_lease("somebody", ttl_s, kind, pins)
            self.leases.append((at, lease.id))

        return self.start(host, "pin", work)

    def release_leases(self) -> None:
        leases, self.leases = self.leases, []
        for host, lease_id in leases:
            self.start(self.hosts.index(host), "release", partial(_release, lease_id))

    def renew(self, host: int) -> None:
        """Writers that live renew their leases in the background."""
        self.start(host, "renew", lambda at: at.keeper.renew())

    def pass_time(self, seconds: float) -> None:
        """For everybody."""
        self.now_ns += int(seconds * NS)

    def jump(self, host: int, seconds: float) -> None:
        """One host's clock is set."""
        self.model.clock_went_back = True
        self.hosts[host].skew_ns += int(seconds * NS)

    def carry_out_deletes(self, *, again: bool = False) -> None:
        """What was to be deleted late is deleted now; ``again``: and once more later."""
        for name in self.late_deletes:
            self.store.delete(name)
            self.changed = True
        if not again:
            self.late_deletes.clear()

    # --- looking

    def check(self, *, whole: bool = False) -> None:
        """AssertionError unless all is as the model says; ``whole``: every host, and every row of its index."""
        self.expect_no_problem()
        if self.changed or whole:
            self.changed = False
            self._check_host(self.observer)
            self.check_files()
        if whole:
            for host in self.hosts:
                if host.holder is None:
                    self._check_host(host)
            for host in (self.observer, *self.hosts):
                if host.holder is None:
                    wrong = host.bank.verify_index()
                    assert not wrong, f"{host.name}: {wrong}"
        self.expect_no_problem()

    def expect_no_problem(self) -> None:
        assert not self.model.problems, "\n".join(self.model.problems)

    def check_files(self) -> None:
        """Every live pack is in the store."""
        there = {blob.name for blob in self.store.list("packs/")}
        missing = [pack_id.hex() for pack_id in self.model.live if pack_name(pack_id) not in there]
        assert not missing, f"live packs were deleted: {missing}"

    def _check_host(self, host: Host) -> None:
        bank = host.bank
        found = {info.name: info.version for info in bank.list()}
        assert found == {name: version.seq for name, version in self.model.names.items()}, f"names on {host.name}"
        for version in self.model.names.values():
            assert self._content(host, version) == version.content, f"{version.name} on {host.name}"
        removed = {(info.name, info.version) for info in bank.list(deleted=True)}
        possible = {(stone.version.name, stone.version.seq) for stone in self.model.stones}
        expected = {(stone.version.name, stone.version.seq) for stone in self.model.removed()}
        assert expected <= removed <= possible, f"removed versions on {host.name}: {removed}, not {expected}"
        for stone in self.model.removed():
            assert self._content(host, stone.version) == stone.version.content, f"removed {stone.version.name}"

    def _content(self, host: Host, version: Version) -> bytes | str:
        try:
            return b"".join(host.engine.reader.pieces(version.name, version.item, 0, version.item.size))
        except (CasbankError, ValueError) as error:
            return f"not readable: {error!r}"

    def pack_bytes(self) -> int:
        return sum(blob.size for blob in self.store.list("packs/"))

    # --- the end

    def settle(self) -> None:
        """Everybody ends; what is unreachable goes, and what is there stays, until nothing is there."""
        for actor in list(self.actors):
            if not actor.done:
                self.go_on(actor)
        limits.ORPHAN_AGE_S = DAY_S
        self.deletes_come = "once"
        self.carry_out_deletes()
        self.release_leases()
        for host in self.hosts:
            host.skew_ns = 0
        self.expect_no_problem()
        self._collect_all()
        self.check(whole=True)
        self._check_tight()
        for name in list(self.model.names):
            self.delete(0, name)
        self._collect_all()
        self.check()
        left = [blob.name for blob in self.store.list("packs/")]
        assert not left, f"packs are left in a bank without names: {left}"

    def _collect_all(self) -> None:
        # What expires does so in between, what crashes left becomes old enough.
        for _ in range(3):
            self.pass_time(3 * DAY_S)
            if self.is_stirred:
                self.put(0, "stir", b"stir")
                self.delete(0, "stir")
            actor = self.collect(0)
            self.expect_no_problem()
            assert actor.error is None, actor.error

    def _check_tight(self) -> None:
        """Idle, and with nothing kept, a bank has little in its store that no name reaches."""
        assert not self.model.leases, "leases are left"
        assert not self.model.stones, f"removed versions are left: {self.model.stones}"
        there = {blob.name for blob in self.store.list("packs/")}
        assert there == {pack_name(pack_id) for pack_id in self.model.live}, "dead packs are left in the store"
        plan = self.observer.bank.plan_collection(0, 0, force=True)
        assert plan.sweep_packs == 0, plan
        dead = sum(1 for live in self._unreached())
        assert not dead, f"{dead} live packs that nothing reaches"

    def _unreached(self) -> Iterable[str]:
        engine = self.observer.engine
        reached: set[int] = set()
        with engine.follower.read() as snapshot:
            packs = {number: row.info.id.hex() for number, row in snapshot.packs()}
            for version in self.model.names.values():
                if version.item.inline is None:
                    reached.update(_packs_below(engine, snapshot, version.item.root, version.item.depth))
        return [pack_id for number, pack_id in packs.items() if number not in reached]


def _packs_below(engine: Engine, snapshot: Any, node_id: bytes, depth: int) -> set[int]:
    """The packs in which any copy of what is below a node lies."""
    ((_, copies),) = snapshot.all_copies([node_id])
    found = {place.pack_number for place in copies}
    if depth:
        row = snapshot.pack(copies[0].pack_number)
        place = copies[0]
        (plain,) = engine.resources.packs.entries(row, [WantedEntry(place.entry, place.offset, place.row)])
        data = bytes(memoryview(plain)[place.start : place.start + place.raw])
        rows = decode_leaf(data) if depth == 1 else decode_inner(data)
        for below in rows:
            found |= _packs_below(engine, snapshot, below.id, depth - 1)
    return found


def _release(lease_id: str, at: Host) -> None:
    at.bank.release_lease(lease_id)


class SlowFile:
    """A file that can be read twice; its reader can be stopped at each step."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int) -> int:
        self._at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        reach("source")
        part = self._content[self._at : self._at + min(size, 500)]
        self._at += len(part)
        return part


def slowly(content: bytes) -> Iterator[bytes]:
    """A stream that cannot be read twice."""
    for start in range(0, len(content), 500):
        reach("source")
        yield content[start : start + 500]
