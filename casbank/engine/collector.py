"""Collections: plan, show, do (docs/collector.md).

    fence -> forget -> mark -> sweep what is dead -> rewrite what is mostly dead, and sweep that -> delete

Rule 1: nobody waits. Whatever is done is decided by a record that is appended only if its rule holds in the state that
it follows; what others did meanwhile makes a collection take packs back, or begin anew, never wait.
Rule 2: a kill at any step loses no work that matters: what was swept is in the bank's state, so any process deletes it,
and what was copied counts in the place of what it was copied from.
Rule 3 (D): a pack is deleted after the record that swept it is durable, and after the readers' grace.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import NamedTuple

from casbank import limits
from casbank.engine.checkpoint import CHECKPOINTS, checkpoint_seq
from casbank.engine.collected import Collected, decode_collected, encode_collected
from casbank.engine.engine import Engine
from casbank.engine.keys import retired_epochs
from casbank.engine.leases import describe_lease, fence, fenceable
from casbank.engine.losses import incomplete_roots
from casbank.engine.marking import Moved
from casbank.engine.orphans import Orphan, find_orphans
from casbank.engine.packs import PackReader
from casbank.engine.rewriting import Rewriting
from casbank.engine.rules import Stale
from casbank.engine.survey import Copied, Sources, Survey
from casbank.errors import (
    ConflictError,
    CorruptionError,
    ErrorKind,
    InvalidInputError,
    StoreError,
    UnsupportedFormatError,
)
from casbank.format.pack import pack_name
from casbank.format.record import Config, Delete, Deleted, Op, Packs, Put, Sweep
from casbank.index.apply import COLLECTED_KEY, FORGOTTEN_KEY, Contents
from casbank.index.tables import SweptRow
from casbank.index.transaction import Snapshot
from casbank.journal.base import Superseded
from casbank.model import BlockedSpace, CollectPlan, CollectProgress, CollectReport, PackInfo

_log = logging.getLogger(__name__)
_NS = 10**9
_SECONDS_MAX = 2**60
# Each one lost means that others collected, or wrote checkpoints, faster than this one could mark.
_ATTEMPTS = 5
_DELETES_A_RECORD = 512
# A pack of at most this share of the usual length is small.
_SMALL_SHARE = 8

OnProgress = Callable[[CollectProgress], None]


class Options(NamedTuple):
    """What a caller may choose: seconds, and bytes that are copied at most."""

    keep_deleted_s: int
    reader_grace_s: float
    budget_bytes: int | None = None
    budget_s: float | None = None
    force: bool = False


class _Choice(NamedTuple):
    """Pack numbers: what can be swept as it is, and what is worth rewriting."""

    sweep: list[int]
    rewrite: list[int]
    # Whether the budget left some out.
    is_cut: bool


def checked_options(
    keep_deleted_s: int, reader_grace_s: float, budget_bytes: int | None, budget_s: float | None, *, force: bool
) -> Options:
    """InvalidInputError for what is negative or no number."""
    numbers = [keep_deleted_s, reader_grace_s, budget_bytes or 0, budget_s or 0]
    if not all(type(number) in (int, float) and 0 <= number < _SECONDS_MAX for number in numbers):
        raise InvalidInputError("windows, graces and budgets are numbers, and not negative")
    return Options(int(keep_deleted_s), reader_grace_s, budget_bytes, budget_s, force)


def default_options(engine: Engine) -> Options:
    """The bank's own window, and an hour for readers."""
    return Options(engine.descriptor.keep_deleted_s, limits.READER_GRACE_S_DEFAULT)


def plan_options(plan: CollectPlan) -> Options:
    """What a plan was made with."""
    return Options(plan.keep_deleted_s, plan.reader_grace_s, plan.budget_bytes, plan.budget_s, plan.force)


def make_plan(engine: Engine, options: Options) -> CollectPlan:
    """What :func:`collect` would do now. Nothing is changed.

    Raises CorruptionError if a live tree is not whole or the journal is older than its checkpoints, ConflictError if
    the bank changes too fast.
    """
    _check_journal(engine)
    last = last_collection(engine)
    if last is not None and _is_idle(engine, last, options):
        return _idle_plan(engine, last, options)
    for _ in range(_ATTEMPTS):
        try:
            with closing(_survey(engine, options)) as survey:
                return _describe(engine, survey, options)
        except Moved:
            _log.info("the bank changed while it was marked: beginning anew")
    raise _changing_too_fast()


def collect(engine: Engine, options: Options, progress: OnProgress | None = None) -> CollectReport:
    """Do it. Several collections at once are safe, and so is a kill at any step.

    Raises what :func:`make_plan` does, and StoreError.
    """
    _check_journal(engine)
    last = last_collection(engine)
    if last is not None and _is_idle(engine, last, options):
        return _Collection(engine, options, progress).tidy(last)
    run = _Collection(engine, options, progress)
    for _ in range(_ATTEMPTS):
        try:
            return run.run()
        except (Moved, Stale):
            _log.info("the bank changed while it was collected: beginning anew")
    # Somebody else is at it, who leaves as little behind.
    return run.given_up()


def _changing_too_fast() -> ConflictError:
    return ConflictError("others change the bank faster than it can be marked; try again later")


def last_collection(engine: Engine) -> Collected | None:
    """When the last collection ended, and what it left."""
    with engine.follower.read() as snapshot:
        value = snapshot.config(COLLECTED_KEY)
    return decode_collected(value)


class _Collection:
    """One run. Survey and journal move on with it."""

    def __init__(self, engine: Engine, options: Options, progress: OnProgress | None) -> None:
        self._engine = engine
        self._options = options
        self._progress = progress
        self._started = time.monotonic()
        self._packs = PackReader(engine.resources.store, engine.resources.sealing)
        self._swept = self._freed = self._copied = self._fenced = self._deleted = 0
        self._total = 0

    def run(self) -> CollectReport:
        self._fence()
        with closing(_survey(self._engine, self._options)) as survey:
            forgotten = self._forget(survey)
            orphans = find_orphans(self._engine, survey.bank, force=self._options.force)
            survey.follow()
            choice = _choose(self._engine, survey, self._options)
            self._total = sum(_info(survey, number).length for number in choice.sweep)
            self._sweep(survey, choice.sweep, Copied())
            self._sweep_orphans(survey, orphans)
            is_complete = self._rewrite(survey, choice.rewrite) and not choice.is_cut
            survey.follow()
            waiting = self._delete(survey.bank.swept.values(), _read_leases(survey))
            survey.follow()
            # What a lease holds now may be free at the next look, without a record that says so.
            is_blocked = any(_blocked(survey))
            is_complete = is_complete and not is_blocked and not survey.sweepable(choice.sweep, Copied())
            self._note(survey, is_complete)
            return self._report(waiting, forgotten, is_complete=is_complete)

    def given_up(self) -> CollectReport:
        """What was done before others were in the way too often."""
        return self._report(0, 0, is_complete=False)

    def tidy(self, last: Collected) -> CollectReport:
        """Nothing is to be marked: only delete what is due."""
        self._fence()
        with self._engine.follower.read() as snapshot:
            swept = list(snapshot.swept_packs())
            reads = [lease.seq for lease in snapshot.leases() if lease.kind == "read"]
        waiting = self._delete(swept, reads)
        now_ns, seq = self._engine.world.now_ns(), self._engine.follower.seen.seq
        note = last._replace(time_ns=now_ns, seq=seq, freed_bytes=0)
        self._engine.commit(lambda _: [Config(COLLECTED_KEY, encode_collected(note))])
        return self._report(waiting, 0, is_complete=last.is_complete)

    def _report(self, waiting: int, forgotten: int, *, is_complete: bool) -> CollectReport:
        return CollectReport(
            swept_packs=self._swept,
            freed_bytes=self._freed,
            copied_bytes=self._copied,
            deleted_packs=self._deleted,
            waiting_bytes=waiting,
            fenced_leases=self._fenced,
            forgotten_versions_until=forgotten,
            is_complete=is_complete,
        )

    # --- leases and removed versions ---------------------------------------------------------------------------

    def _fence(self) -> None:
        """First, so that nothing waits a second time for who is dead."""
        self._engine.follower.catch_up()
        with self._engine.follower.read() as snapshot:
            wanted = fenceable(list(snapshot.leases()), self._engine.world.now_ns(), limits.LEASE_MARGIN_S)
        ended: list[Op] = []

        def decide(now: Snapshot) -> list[Op]:
            ended[:] = fence(now, wanted)
            return ended

        if wanted:
            self._engine.commit(decide)
            self._fenced += len(ended)

    def _forget(self, survey: Survey) -> int:
        until = survey.undelete.forgotten if survey.undelete.is_due else 0
        if until:
            self._engine.commit(lambda _: [Config(FORGOTTEN_KEY, until)])
        return until

    # --- sweeping ----------------------------------------------------------------------------------------------

    def _sweep(self, survey: Survey, numbers: Sequence[int], copied: Copied) -> None:
        for part in survey.portions(numbers):
            contents = self._contents(survey, part)
            # What is marked here need not be marked under the journal's lock.
            survey.follow()
            freed: list[int] = []

            def decide(now: Snapshot, part: Sequence[int] = part, freed: list[int] = freed) -> list[Op]:
                survey.follow(now)
                freed[:] = survey.sweepable(part, copied)
                return [Sweep(tuple(survey.ids[number] for number in freed))] if freed else []

            lengths = {
                number: _info(survey, number).length for number in part if survey.ids[number] in survey.bank.packs
            }
            self._engine.commit(decide, contents, _Word(survey, part, copied))
            survey.swept.update(freed)
            self._swept += len(freed)
            self._freed += sum(lengths[number] for number in freed)
            self._tell("sweep", self._freed)

    def _sweep_orphans(self, survey: Survey, orphans: list[Orphan]) -> None:
        for start in range(0, len(orphans), limits.SWEEP_PACKS_MAX):
            part = dict(orphans[start : start + limits.SWEEP_PACKS_MAX])
            left: list[bytes] = []

            def decide(now: Snapshot, part: dict[bytes, int] = part, left: list[bytes] = left) -> list[Op]:
                survey.follow(now)
                left[:] = [pack_id for pack_id in part if survey.is_orphan(pack_id)]
                return [Sweep(tuple(left))] if left else []

            self._engine.commit(decide, None, _OrphanWord(survey))
            self._swept += len(left)
            self._freed += sum(part[pack_id] for pack_id in left)

    def _contents(self, survey: Survey, numbers: Sequence[int]) -> dict[bytes, Contents]:
        """What is in packs, read before anybody waits for it."""
        contents = {}
        for number in numbers:
            live = survey.bank.packs.get(survey.ids[number])
            if live is not None:
                try:
                    contents[live.info.id] = self._packs.contents(live.info)
                except (CorruptionError, StoreError, UnsupportedFormatError) as error:
                    _log.warning("the table of a pack that is swept cannot be read: %s", error)
        return contents

    # --- rewriting ---------------------------------------------------------------------------------------------

    def _rewrite(self, survey: Survey, chosen: Sequence[int]) -> bool:
        """Copy what is live in the chosen packs, and sweep them; whether all of it was done."""
        if not chosen:
            return True
        if self._is_over():
            return False
        engine = self._engine
        with closing(Rewriting(engine.resources, engine.reader, engine.files.scratch)) as rewriting:

            def published() -> bool:
                survey.follow()
                done = [number for number in chosen if survey.reached(number) == rewriting.copied.chunks.get(number, 0)]
                self._sweep(survey, survey.sweepable(done, rewriting.copied), rewriting.copied)
                self._tell("rewrite", rewriting.bytes_copied)
                return not self._is_over()

            try:
                rewriting.run(survey, set(chosen), published)
            except CorruptionError:
                survey.follow()
                if any(survey.ids[number] not in survey.bank.packs for number in chosen):
                    # A rival has swept one of them under our hands.
                    raise Moved("a chosen pack") from None
                raise
            self._copied += rewriting.bytes_copied
            self._freed -= rewriting.bytes_stored
        survey.follow()
        return not any(survey.ids[number] in survey.bank.packs for number in chosen)

    def _is_over(self) -> bool:
        budget = self._options.budget_s
        return budget is not None and time.monotonic() - self._started > budget

    # --- deleting ----------------------------------------------------------------------------------------------

    def _delete(self, swept: Collection[SweptRow], read_seqs: Sequence[int]) -> int:
        """Rule 3; the bytes that are still to wait."""
        due_ns = self._engine.world.now_ns() - int(self._options.reader_grace_s * _NS)
        oldest_read = min(read_seqs, default=None)
        due = [row for row in swept if row.swept_ns <= due_ns and (oldest_read is None or row.seq < oldest_read)]
        for start in range(0, len(due), _DELETES_A_RECORD):
            part = due[start : start + _DELETES_A_RECORD]
            for row in part:
                self._engine.resources.store.delete(pack_name(row.id))
            self._engine.commit(partial(_deleted, rows=part))
            self._deleted += len(part)
            self._tell("delete", self._freed)
        return sum(row.length for row in swept) - sum(row.length for row in due)

    def _note(self, survey: Survey, is_complete: bool) -> None:
        live, dead = _totals(survey)
        now_ns = self._engine.world.now_ns()
        window, until_ns = _window(survey, self._options)
        note = Collected(now_ns, survey.bank.state.seq, self._freed, live, dead, is_complete, window, until_ns, now_ns)
        self._engine.commit(lambda _: [Config(COLLECTED_KEY, encode_collected(note))])

    def _tell(self, step: str, done: int) -> None:
        if self._progress is not None:
            self._progress(CollectProgress(step, done, max(done, self._total)))


class _Word:
    """The collection's word for a sweep (rule G)."""

    def __init__(self, survey: Survey, numbers: Sequence[int], copied: Copied) -> None:
        self._survey = survey
        self._numbers = numbers
        self._copied = copied

    def allows(self, now: Snapshot, pack_ids: Sequence[bytes]) -> bool:
        if not self._survey.stands_on(now):
            return False
        free = {self._survey.ids[number] for number in self._survey.sweepable(self._numbers, self._copied)}
        return free.issuperset(pack_ids)


class _OrphanWord:
    """The same for packs that were never published: nothing can reach them, and rule W keeps it so."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey

    def allows(self, now: Snapshot, pack_ids: Sequence[bytes]) -> bool:
        return self._survey.stands_on(now) and all(map(self._survey.is_orphan, pack_ids))


def _deleted(now: Snapshot, rows: Sequence[SweptRow]) -> list[Op]:
    # Who began a pack under a lease must be able to see that it was swept.
    oldest_write = min((lease.seq for lease in now.leases() if lease.kind == "write"), default=None)
    left = tuple(
        row.id
        for row in rows
        if now.swept_pack(row.id) is not None
        and not (row.is_orphan and oldest_write is not None and oldest_write < row.seq)
    )
    return [Deleted(left)] if left else []


def _survey(engine: Engine, options: Options) -> Survey:
    keep_ns = options.keep_deleted_s * _NS
    # No clock is asked where nothing is to be kept: another host's may be ahead.
    before_ns = engine.world.now_ns() - keep_ns if keep_ns else None
    if incomplete_roots(engine.follower):
        # Where chunks may be missing, the index must not be the reason.
        engine.follower.rebuild()
    sources = Sources(engine.journal, engine.follower, engine.files, engine.resources)
    return Survey(sources, before_ns)


def _read_leases(survey: Survey) -> list[int]:
    return [lease.seq for lease in survey.bank.leases.values() if lease.kind == "read"]


def _info(survey: Survey, number: int) -> PackInfo:
    return survey.bank.packs[survey.ids[number]].info


# --- what to do --------------------------------------------------------------------------------------------------


def _choose(engine: Engine, survey: Survey, options: Options) -> _Choice:
    """Section 4 of the design: dead packs for free; then the deadest, until few dead bytes are left; then small ones,
    and those of retired key epochs."""
    held = survey.holders()
    free = [live for live in survey.bank.packs.values() if live.info.id not in held and live.number in survey.ids]
    sweep = [live.number for live in free if not survey.reached(live.number)]
    partly = [live for live in free if survey.reached(live.number)]
    with engine.follower.read() as snapshot:
        epochs = retired_epochs(snapshot)
    retired = {number for epoch in epochs for number in survey.epochs.get(epoch, ())}
    chosen = [live.number for live in partly if live.number in retired]
    small = [live for live in partly if live.info.length * _SMALL_SHARE <= limits.PACK_BYTES_TARGET]
    for kind in (1, 2):
        alike = [live.number for live in small if live.info.kind == kind]
        if len(alike) >= limits.MERGE_PACKS_MIN:
            chosen += alike
    left = sum(_dead_bytes(survey, live.number) for live in partly)
    enough = limits.DEAD_SHARE_LEFT * sum(live.info.length for live in partly)
    for live in sorted(partly, key=lambda live: _dead_share(survey, live.number), reverse=True):
        if left <= enough or _dead_share(survey, live.number) < limits.REWRITE_DEAD_SHARE:
            break
        chosen.append(live.number)
        left -= _dead_bytes(survey, live.number)
    wanted = list(dict.fromkeys(chosen))
    taken = _within(survey, wanted, options.budget_bytes)
    return _Choice(sweep, taken, len(taken) < len(wanted))


def _within(survey: Survey, chosen: list[int], budget: int | None) -> list[int]:
    if budget is None:
        return chosen
    taken = []
    for number in chosen:
        size = survey.reached_raw(number)
        if size <= budget:
            taken.append(number)
            budget -= size
    return taken


def _dead_share(survey: Survey, number: int) -> float:
    raw = _info(survey, number).raw
    return 1 - survey.reached_raw(number) / raw if raw else 0.0


def _dead_bytes(survey: Survey, number: int) -> int:
    return int(_info(survey, number).length * _dead_share(survey, number))


def _window_bytes(survey: Survey, number: int) -> int:
    info = _info(survey, number)
    return info.length * survey.window.raw(number) // info.raw if info.raw else 0


def _window(survey: Survey, options: Options) -> tuple[int, int]:
    """Stored bytes that are held for undelete, and until when; 0 if nothing is."""
    size = sum(_window_bytes(survey, number) for number in survey.ids if survey.ids[number] in survey.bank.packs)
    until_ns = survey.undelete.until_ns
    return size, until_ns + options.keep_deleted_s * _NS if until_ns else 0


def _totals(survey: Survey) -> tuple[int, int]:
    """Live and dead stored bytes."""
    dead = sum(_dead_bytes(survey, live.number) for live in survey.bank.packs.values() if live.number in survey.ids)
    return survey.bank.state.stored_bytes - dead, dead


def _describe(engine: Engine, survey: Survey, options: Options) -> CollectPlan:
    fencing = fenceable(list(survey.bank.leases.values()), engine.world.now_ns(), limits.LEASE_MARGIN_S)
    for item in fencing:
        survey.bank.end_lease(item.row.id)
    choice = _choose(engine, survey, options)
    orphans = find_orphans(engine, survey.bank, force=True)
    live, dead = _totals(survey)
    window, until_ns = _window(survey, options)
    swept = survey.bank.swept.values()
    grace_ns = int(options.reader_grace_s * _NS)
    return CollectPlan(
        version=survey.bank.state.seq,
        keep_deleted_s=options.keep_deleted_s,
        reader_grace_s=options.reader_grace_s,
        live_bytes=live,
        dead_bytes=dead,
        reclaimable_bytes=sum(_info(survey, number).length for number in choice.sweep)
        + sum(_dead_bytes(survey, number) for number in choice.rewrite),
        sweep_packs=len(choice.sweep),
        rewrite_packs=len(choice.rewrite),
        rewrite_live_bytes=sum(_info(survey, number).length - _dead_bytes(survey, number) for number in choice.rewrite),
        window_bytes=window,
        window_until_ns=until_ns,
        blocked=tuple(_blocked(survey)),
        waiting_packs=len(swept),
        waiting_bytes=sum(row.length for row in swept),
        waiting_until_ns=max((row.swept_ns + grace_ns for row in swept), default=0),
        orphan_packs=len(orphans),
        orphan_bytes=sum(orphan.bytes for orphan in orphans),
        expired_leases=len(fencing),
        is_idle=False,
        budget_bytes=options.budget_bytes,
        budget_s=options.budget_s,
        force=options.force,
    )


def _blocked(survey: Survey) -> Iterator[BlockedSpace]:
    sizes: dict[bytes, int] = {}
    for pack_id, lease in survey.holders().items():
        live = survey.bank.packs.get(pack_id)
        if live is not None and live.number in survey.ids:
            sizes[lease.id] = sizes.get(lease.id, 0) + _dead_bytes(survey, live.number)
    for lease_id, size in sizes.items():
        if size:
            held = len(survey.bank.pins.get(lease_id, ()))
            yield BlockedSpace(describe_lease(survey.bank.leases[lease_id], held), size)


# --- nothing to do -----------------------------------------------------------------------------------------------


def _is_idle(engine: Engine, last: Collected, options: Options) -> bool:
    """Whether nothing can have died since the last collection, so that nothing need be marked."""
    now_ns = engine.world.now_ns()
    # Orphans are found by looking, not in the journal.
    if not last.is_complete or now_ns - last.marked_ns > limits.ORPHAN_AGE_S * _NS:
        return False
    engine.follower.catch_up()
    with engine.follower.read() as snapshot:
        oldest = next(iter(snapshot.tombstones(None, 1)), None)
    forget_ns = now_ns - options.keep_deleted_s * _NS
    if oldest is not None and (not options.keep_deleted_s or oldest.removed_ns < forget_ns):
        return False
    try:
        records = (engine.follower.decoded(entry).record for entry in engine.journal.read(last.seq))
        return not any(isinstance(op, _CHANGING) and not _is_note(op) for record in records for op in record.ops)
    except Superseded:
        return False


_CHANGING = (Put, Delete, Packs, Sweep, Config)


def _is_note(op: Op) -> bool:
    return isinstance(op, Config) and op.key == COLLECTED_KEY


def _idle_plan(engine: Engine, last: Collected, options: Options) -> CollectPlan:
    with engine.follower.read() as snapshot:
        swept = list(snapshot.swept_packs())
        expired = fenceable(list(snapshot.leases()), engine.world.now_ns(), limits.LEASE_MARGIN_S)
    grace_ns = int(options.reader_grace_s * _NS)
    return CollectPlan(
        version=engine.follower.seen.seq,
        keep_deleted_s=options.keep_deleted_s,
        reader_grace_s=options.reader_grace_s,
        live_bytes=last.live_bytes,
        dead_bytes=last.dead_bytes,
        reclaimable_bytes=0,
        sweep_packs=0,
        rewrite_packs=0,
        rewrite_live_bytes=0,
        window_bytes=last.window_bytes,
        window_until_ns=last.window_until_ns,
        blocked=(),
        waiting_packs=len(swept),
        waiting_bytes=sum(row.length for row in swept),
        waiting_until_ns=max((row.swept_ns + grace_ns for row in swept), default=0),
        orphan_packs=0,
        orphan_bytes=0,
        expired_leases=len(expired),
        is_idle=True,
        budget_bytes=options.budget_bytes,
        budget_s=options.budget_s,
        force=options.force,
    )


def _check_journal(engine: Engine) -> None:
    """A journal that was put back to an older state would make everything look dead."""
    head = engine.follower.catch_up()
    for blob in engine.resources.store.list(CHECKPOINTS):
        seq = checkpoint_seq(blob.name)
        # Others may have written it since; and a file of a made-up name says nothing.
        if (
            seq is not None
            and seq > head.seq
            and engine.files.is_checkpoint(blob.name, seq)
            and seq > engine.follower.catch_up().seq
        ):
            raise CorruptionError(
                f"the journal ends at record {head.seq}, but there is a checkpoint of record {seq}: it was cut or "
                "replaced by an older one; nothing is collected",
                kind=ErrorKind.JOURNAL,
            )
