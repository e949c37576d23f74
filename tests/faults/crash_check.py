"""Is a bank whole after a crash? The check of one state, and of as many as are asked for, in two processes.

Rule: whatever a crash left, the bank opens, holds what was acknowledged and nothing by half, takes new objects, and
raises nothing that is not ours.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from workloads import ENCRYPTED, WORKLOADS, Base, Contents, made_of, models, open_bank, record, small_scene

from casbank import Bank
from casbank.config import BankUrl
from casbank.engine.place import index_folder
from casbank.format.bank import decode_bank
from casbank.journal.synced import SLOT_BYTES, SyncedFile, decode_mark, encode_mark
from casbank.testing.faults import CrashState, Recording, crash_state, sampled_states
from casbank.world import REAL_WORLD

Steps = tuple[str, ...]

INDEXES = ("absent", "stale", "garbage")
"""What the crash left of the index: LMDB writes it through its own map."""

_SHARED_MEMORY = Path("/dev/shm")
_GARBAGE_BYTES = 40_000


class CrashError(AssertionError):
    """A crash state from which the bank did not come back, and the command that shows it again."""


def command(steps: Steps, label: str, index: str) -> str:
    return f"python tools/crash_states.py --workload {','.join(steps)} --state {label} --index {index}"


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder where a sync costs nothing, if there is such a place."""
    parent = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="casbank-crash-", dir=parent) as folder:
        yield Path(folder)


# --- one state -------------------------------------------------------------------------------------------------------


def examine(folder: Path, *, encrypted: bool, thoroughly: bool) -> tuple[Contents, Contents]:
    """What can be asked of any bank, whatever was done with it. Returns what it held when it was opened, and once it
    had been written again: what a dead writer had under way is seen by then at the latest, or never."""
    new = {"new and small": b"small", "new and large": made_of([1, 400, 401])}
    with open_bank(folder, encrypted=encrypted, seed="examine") as bank:
        before = _contents(bank)
        for name, content in new.items():
            bank.put(name, content)
        if thoroughly:
            bank.collect(bank.plan_collection(0, 0))
            assert bank.verify_index() == [], "the index is not what the store says"
        behind = _contents(bank)
    for name, content in new.items():
        assert behind.pop(name) == content, f"{name} is another one now"
    return before, behind


def _contents(bank: Bank) -> Contents:
    found = {name: bank.get(name) for name in bank}
    assert [info.name for info in bank.list()] == sorted(found), "the list is not in order"
    assert len(bank) == len(found), "the number of objects is wrong"
    return found


def check_contents(found: tuple[Contents, Contents], allowed: list[Contents]) -> None:
    """Raise AssertionError unless each is one of those that are allowed, and the later not the older of them."""
    for contents in found:
        assert contents in allowed, f"other than expected: {', '.join(_different(contents, allowed[0]))}"
    before, behind = map(allowed.index, found)
    assert before <= behind, "what was seen is gone"


def _different(found: Contents, expected: Contents) -> list[str]:
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def check(base: Base, steps: Steps, state: CrashState, folder: Path, index: str, *, thoroughly: bool) -> None:
    """Raise CrashError unless the bank comes back whole. ``folder`` is made, and removed."""
    try:
        state.materialise(folder)
        put_index(base, folder, index)
        if state.is_kill:
            trust_mark(folder / "bank" / "journal" / "synced")
        found = examine(folder, encrypted=base.encrypted, thoroughly=thoroughly)
        check_contents(found, models(base.contents, steps)[len(state.acknowledged) : len(state.begun) + 1])
    except Exception as error:
        raise CrashError(f"{type(error).__name__}: {error}\n{command(steps, state.label, index)}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_index(base: Base, folder: Path, index: str) -> None:
    """Leave an index in a crash state: an older one that was closed in order, or noise that says it was."""
    target = _index_of(base, folder)
    if index == "absent":
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(_index_of(base, base.folder), target)
    if index == "garbage":
        (target / "data.mdb").write_bytes(random.Random(0).randbytes(_GARBAGE_BYTES))


def _index_of(base: Base, folder: Path) -> Path:
    descriptor = decode_bank((folder / "bank" / "BANK").read_bytes())
    return index_folder(BankUrl("local", folder / "bank"), descriptor, folder / "cache" if base.encrypted else None)


def trust_mark(path: Path) -> None:
    """Let the mark be one of this boot, mount and file, as it is for who comes after a process that was killed."""
    if not path.exists():
        return
    file = SyncedFile(path, world=REAL_WORLD)
    content = file.content()
    marks = [decode_mark(content[start : start + SLOT_BYTES]) for start in range(0, len(content), SLOT_BYTES)]
    descriptor = os.open(path, os.O_WRONLY)
    for number, mark in enumerate(marks):
        if mark is not None:
            os.pwrite(descriptor, encode_mark(mark._replace(identity=file._identity)), number * SLOT_BYTES)
    os.close(descriptor)
    file.close()


# --- many ------------------------------------------------------------------------------------------------------------


class Bases:
    """The two banks that workloads begin with, below one folder, made when they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[bool, Base] = {}

    def base_for(self, steps: Steps) -> Base:
        encrypted = ENCRYPTED in steps
        if encrypted not in self._made:
            self._made[encrypted] = Base(self.folder / f"base {encrypted}", encrypted=encrypted)
        return self._made[encrypted]


@dataclass
class Report:
    """How many states were checked, and what went wrong."""

    states: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        self.states += other.states
        self.failures += other.failures


def check_workload(bases: Bases, steps: Steps, count: int, seed: object) -> Report:
    """Check so many states of a workload, drawn from those in its last step and behind it: those before are the states
    of the workload without that step."""
    base, report = bases.base_for(steps), Report()
    with _recorded(bases, base, steps) as recorded:
        since = recorded.steps[-1].begun + 1
        chance = random.Random(f"{seed} {steps}")
        for state in sampled_states(recorded, count, chance, since=since):
            number = report.states
            report.states += 1
            try:
                index = INDEXES[(number + len(state.label)) % len(INDEXES)]
                check(base, steps, state, bases.folder / "state", index, thoroughly=number % 8 == 0)
            except CrashError as error:
                report.failures.append(str(error))
    return report


def check_one(bases: Bases, steps: Steps, label: str, index: str) -> None:
    """Check the state that a label tells. Raises CrashError, ValueError."""
    base = bases.base_for(steps)
    with _recorded(bases, base, steps) as recorded:
        state = crash_state(recorded, label)
        check(base, steps, state, bases.folder / "state", index, thoroughly=True)


@contextmanager
def _recorded(bases: Bases, base: Base, steps: Steps) -> Iterator[Recording]:
    folder = bases.folder / "recorded"
    try:
        yield record(base, steps, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_workloads(workloads: list[Steps], count: int, seed: object) -> Report:
    """Check so many states of each workload, in this process."""
    report = Report()
    with scratch() as folder, small_scene():
        bases = Bases(folder)
        for steps in workloads:
            report.add(check_workload(bases, steps, count, seed))
    return report


def run(states: int, seed: object, processes: int = 2) -> Report:
    """Check at least so many states of all workloads, and tell."""
    chance = random.Random(str(seed))
    left = chance.sample(WORKLOADS, len(WORKLOADS))
    report = Report()
    # The workers are new processes: what this one has open and patched is none of theirs.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        round_number = 0
        while report.states < states and not report.failures:
            # Short steps have fewer states than are asked for.
            count = -(-(states - report.states) * 21 // (20 * len(left)))
            parts = [left[start : start + 32] for start in range(0, len(left), 32)]
            tasks = [pool.submit(check_workloads, part, count, (seed, round_number)) for part in parts]
            for task in tasks:
                report.add(task.result())
            round_number += 1
    return report
