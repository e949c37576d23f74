"""A writer that says what it was told until it is killed or loses its power, and what must be in the bank then.

A line of its log announces each change, another one tells that it has returned, so that what was under way at the end
is known too. The seed of an object makes its content; the seed of a name that is deleted is empty. Names begin with
what is the writer's own, so that several can share a bank.
"""

import json
import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from bank_scene import content, contents_of, engine_of
from collect_scene import collect_now

from casbank import Bank, CasbankError, ConflictError, LeaseError, NotFoundError, limits
from casbank.cli.main import run
from casbank.storage import files, local

# A writer whose bank told it that it cannot go on ends with this.
ENDED_BY_THE_BANK = 3
EVERYTHING = "put put put put large batch batch delete copy undelete"
WRITE = "from crash_scene import write_until_killed\nwrite_until_killed()"

RECURSIVE_BATCH = 10
# Packs, leases and checkpoints come and go within a second.
_LIMITS = {
    "LEASE_TTL_S_DEFAULT": 0.6,
    "LEASE_MARGIN_S": 0.6,
    "UNPINNED_BYTES_MAX": 2**18,
    "STREAM_KEPT_BYTES_MAX": 2**16,
    "SESSION_PACKS_MAX": 2,
    "SESSION_CHUNKS_MAX": 100,
    "PACK_BYTES_TARGET": 2**18,
    "BATCH_BYTES": 2**16,
    "CHECKPOINT_JOURNAL_BYTES_MIN": 2**16,
    "ORPHAN_AGE_S": 2,
    "RECURSIVE_BATCH_OBJECTS": RECURSIVE_BATCH,
}
CHUNKING = "gear:512/2048/8192"
_SEGMENT_BYTES = 50_000


@dataclass(frozen=True)
class Job:
    """What a writer is to do. ``acts`` are names of its methods, of which one is drawn each time."""

    place: str
    log: str = ""
    own: str = ""
    seed: str = ""
    acts: str = EVERYTHING
    key_file: str | None = None
    cache_dir: str | None = None
    mutant: str = ""


def open_bank(job: Job) -> Bank:
    """The bank of a job, with segments that are soon full."""
    bank = Bank.open(job.place, key_file=job.key_file, cache_dir=job.cache_dir)
    engine_of(bank).journal._segment_bytes_max = _SEGMENT_BYTES  # type: ignore[attr-defined]
    return bank


def use_small_limits() -> None:
    """In a process of its own: let everything that is done once in a while be done all the time."""
    for name, value in _LIMITS.items():
        setattr(limits, name, value)


def content_of(seed: str) -> bytes | None:
    """What an object of this seed holds; its last field is its size."""
    return content(seed, int(seed.rpartition("-")[2])) if seed else None


# --- the writer ------------------------------------------------------------------------------------------------------


def _sync_nothing(_: int) -> None:
    """What a disk does that says yes and keeps the data in its cache."""


# What a mutant forgets to bring to stable storage.
MUTANTS: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "journal": lambda: setattr(files, "fdatasync", _sync_nothing),
    "packs": lambda: setattr(local, "fsync_file", _sync_nothing),
}


class _Writer:
    def __init__(self, bank: Bank, job: Job) -> None:
        self._bank = bank
        self._own = job.own
        self._chance = random.Random(job.seed)
        self._log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._prefix = f"{job.own}-{self._chance.randrange(10**6)}"
        self._number = 0
        # Seeds of what is there under a name, and of what was removed from it or replaced there last.
        self._there: dict[str, str] = {}
        self._before: dict[str, str] = {}

    def act(self, what: str) -> None:
        getattr(self, f"_{what}")()

    def _put(self) -> None:
        self._put_one(self._chance.choice([0, 100, 3000, 60_000]))

    def _large(self) -> None:
        self._put_one(self._chance.randrange(1_500_000))

    def _put_one(self, most: int) -> None:
        name, seed = self._name(), self._seed(most)
        self._change({name: seed}, partial(self._bank.put, name, content_of(seed), digest=True))

    def _batch(self) -> None:
        changes = {self._name(): self._seed(20_000) for _ in range(4)}
        if changes.keys() & self._there.keys():
            changes[min(changes.keys() & self._there.keys())] = ""
        self._change(changes, partial(self._commit, changes))

    def _commit(self, changes: Mapping[str, str]) -> None:
        with self._bank.batch() as batch:
            for name, seed in changes.items():
                data = content_of(seed)
                if data is None:
                    batch.delete(name)
                else:
                    batch.put(name, data)

    def _delete(self) -> None:
        name = self._name()
        self._change({name: ""}, partial(self._bank.delete, name, missing_ok=True))

    def _copy(self) -> None:
        if self._there:
            source, target = self._chance.choice(sorted(self._there)), self._name()
            self._change({target: self._there[source]}, partial(self._bank.copy, source, target))

    def _undelete(self) -> None:
        if self._before:
            name = self._chance.choice(sorted(self._before))
            self._change({name: self._before[name]}, partial(self._bank.undelete, name))

    def _collect(self) -> None:
        try:
            collect_now(self._bank, force=True)
        except ConflictError:
            self._note("conflict", {})

    def _checkpoint(self) -> None:
        engine_of(self._bank).checkpoints.write()

    def _rebuild(self) -> None:
        self._bank.rebuild_index()

    def _rotate(self) -> None:
        try:
            self._bank.keys.rotate()
        except ConflictError:
            self._note("conflict", {})

    def _name(self) -> str:
        return f"{self._own}{self._chance.randrange(25)}"

    def _seed(self, most: int) -> str:
        self._number += 1
        return f"{self._prefix}-{self._number}-{self._chance.randrange(most + 1)}"

    def _change(self, changes: Mapping[str, str], work: Callable[[], object]) -> None:
        self._note("begin", changes)
        try:
            work()
        except (NotFoundError, LeaseError):
            # A removed version was collected, or a collector did not hear of us for too long.
            self._note("refused", changes)
            return
        self._note("done", changes)
        for name, seed in changes.items():
            if name in self._there:
                self._before[name] = self._there.pop(name)
            if seed:
                self._there[name] = seed

    def _note(self, what: str, changes: Mapping[str, str]) -> None:
        os.write(self._log, (" ".join([what, *(f"{name}={seed}" for name, seed in changes.items())]) + "\n").encode())


def write_until_killed() -> None:
    """The program: its only argument is a job, as JSON."""
    job = Job(**json.loads(sys.argv[1]))
    use_small_limits()
    MUTANTS[job.mutant]()
    chance = random.Random(f"acts {job.seed}")
    acts = job.acts.split()
    try:
        with open_bank(job) as bank:
            writer = _Writer(bank, job)
            while True:
                writer.act(chance.choice(acts))
    except CasbankError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(ENDED_BY_THE_BANK)


def create_bank() -> None:
    """The program: a place, and options as JSON."""
    place, options = sys.argv[1:]
    Bank.create(place, **json.loads(options))


def run_command() -> None:
    """The program: the command line, with the words of one, and small batches."""
    use_small_limits()
    run()


def argument_of(job: Job) -> str:
    """The job as its writer wants it."""
    return json.dumps(asdict(job))


# --- what must be there ----------------------------------------------------------------------------------------------


def expectations(log: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What each name must hold (the seed of its content), and what was under way at the end."""
    certain: dict[str, str] = {}
    under_way: dict[str, str] = {}
    # What is behind the last end of a line was not said.
    for line in log.read_text().split("\n")[:-1] if log.exists() else []:
        what, *pairs = line.split(" ")
        names = dict(pair.split("=", 1) for pair in pairs)
        if what == "begin":
            under_way = names
        else:
            certain |= names if what == "done" else {}
            under_way = {}
    return certain, under_way


def acknowledged(logs: Sequence[Path]) -> int:
    """How many changes the writers were told of."""
    return sum(log.read_text().count("done ") for log in logs if log.exists())


def differences(found: Mapping[str, bytes], settled: dict[str, str], logs: Sequence[Path]) -> list[str]:
    """What is lost, wrong, or there by half, a line each.

    ``settled`` is what the bank had to hold before the logs began, each after the ones before it; it becomes what the
    bank holds now.
    """
    told = [expectations(log) for log in logs]
    allowed = {name: {seed} for name, seed in settled.items()}
    wrong = []
    for number, (certain, under_way) in enumerate(told):
        allowed |= {name: {seed} for name, seed in certain.items()}
        # What somebody changed later says nothing of this change.
        later = {name for names in told[number + 1 :] for each in names for name in each}
        new = {name: seed for name, seed in under_way.items() if name not in later}
        new = {name: seed for name, seed in new.items() if seed not in allowed.get(name, {""})}
        arrived = [name for name, seed in new.items() if found.get(name) == content_of(seed)]
        if 0 < len(arrived) < len(new):
            wrong.append(f"there by half: of {new} there is {arrived}")
        for name, seed in under_way.items():
            allowed.setdefault(name, {""}).add(seed)
    for name in sorted(found.keys() | allowed.keys()):
        seeds = allowed.get(name, {""})
        holds = next((seed for seed in seeds if content_of(seed) == found.get(name)), None)
        if holds is None:
            is_there = f"{len(found[name])} other bytes are" if name in found else "nothing is"
            wrong.append(f"lost: {name} should be {sorted(seeds)}; {is_there} there")
        else:
            settled[name] = holds
    return wrong


def _again() -> list[str]:
    """The command that repeats the test that runs, if one does."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    return [f"again: {sys.executable} -m pytest -m '' '{test}'"] if test else []


def take_over(bank: Bank) -> None:
    """As the next writer does: what a dead one had written and not synced is not seen before somebody keeps it."""
    bank.delete("nobody's", missing_ok=True)


def check_bank(bank: Bank, settled: dict[str, str], logs: Sequence[Path]) -> None:
    """The bank holds what its writers were told, and its index is what the store says."""
    take_over(bank)
    found = contents_of(bank)
    assert sorted(found) == list(bank)
    wrong = differences(found, settled, logs)
    assert not wrong, "\n".join([*wrong, *_again()])
    assert bank.verify_index() == []
