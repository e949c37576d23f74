"""Crashes of small workloads, at every moment: nothing that was acknowledged is lost, and every bank opens."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crash_check import INDEXES, Bases, CrashError, Steps, check, check_one, check_workload, scratch
from workloads import STEPS, WORKLOADS, Base, models, record, small_scene

from casbank.journal.local import LocalJournal
from casbank.journal.synced import SyncedFile, newest_mark
from casbank.storage import files, local
from casbank.testing.faults import CrashState, crash_states, sampled_states
from casbank.world import REAL_WORLD

STATES_OF_ALL = 20_000
STATES_OF_FEW = 8
SEED = 1


@pytest.fixture(scope="module")
def bases() -> Iterator[Bases]:
    """The banks that workloads begin with."""
    with scratch() as folder, small_scene():
        yield Bases(folder)


@pytest.mark.parametrize("step", STEPS)
def test_no_crash_of_one_step_loses_anything(bases: Bases, step: str) -> None:
    """After a crash in a step, or behind it, the bank is as before that step or as behind it."""
    report = check_workload(bases, (step,), STATES_OF_FEW, SEED)
    assert report.states > 0
    assert report.failures == []


@pytest.mark.parametrize("steps", random.Random(SEED).sample(WORKLOADS, 12), ids="-".join)
def test_no_crash_of_some_steps_loses_anything(bases: Bases, steps: tuple[str, ...]) -> None:
    """The same behind other steps."""
    assert check_workload(bases, steps, STATES_OF_FEW, SEED).failures == []


def test_every_state_of_a_put_is_whole(bases: Bases) -> None:
    """Of one put, not a sample: every prefix and subset, with each index."""
    base = bases.base_for(("put-small",))
    states = list(crash_states(record(base, ("put-small",), bases.folder / "put")))
    assert len(states) > 10
    for number, state in enumerate(states):
        index = INDEXES[number % len(INDEXES)]
        check(base, ("put-small",), state, bases.folder / "state", index, thoroughly=False)


def test_a_run_can_be_repeated(bases: Bases) -> None:
    """A second recording of a workload has the same operations, so a label tells the same state."""
    steps = ("put-large", "rotate", "rewrite")
    base = bases.base_for(steps)
    calls = []
    for _ in range(2):
        # At the same place: of an encrypted bank the index's folder is named for it.
        calls.append(record(base, steps, bases.folder / "again").calls)
        shutil.rmtree(bases.folder / "again")
    assert calls[0] == calls[1]


def test_marks_of_another_place_are_not_trusted(bases: Bases) -> None:
    """A crash state's mark is that of another file: whoever opens the state looks at the journal itself, as after a
    boot."""
    recorded = record(bases.base_for(("put-small",)), ("put-small",), bases.folder / "marked")
    trusted = 0
    for number, state in enumerate(crash_states(recorded)):
        folder = state.materialise(bases.folder / f"marked{number}")
        file = SyncedFile(folder / "bank" / "journal" / "synced", world=REAL_WORLD)
        mark = newest_mark(file.content())
        trusted += mark is not None and file.trusts(mark)
        file.close()
    assert trusted == 0


# --- would it be noticed? --------------------------------------------------------------------------------------------


def _nothing(*_: object) -> None:
    """What a sync is that was left out."""


def _forgets_the_folder(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(local, "_sync_name", _nothing)


def _forgets_the_pack(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(local, "fsync_file", _nothing)


def _forgets_the_record(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(files, "fdatasync", _nothing)


def _forgets_the_segment(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LocalJournal, "_sync", _nothing)


def _acknowledges_first(patch: pytest.MonkeyPatch) -> None:
    """Each record is synced by the next commit: nothing is left out, and the order is wrong."""
    commit = LocalJournal._commit
    waiting: list[int] = []

    def later(descriptor: int) -> None:
        waiting.append(descriptor)

    def late(self: LocalJournal, *arguments: object) -> object:
        for descriptor in waiting:
            files.fsync_file(descriptor)
        waiting.clear()
        return commit(self, *arguments)  # type: ignore[arg-type]

    patch.setattr(files, "fdatasync", later)
    patch.setattr(LocalJournal, "_commit", late)


MUTANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], tuple[str, ...]]] = {
    "a pack's folder is not synced": (_forgets_the_folder, ("put-large",)),
    "a pack is not synced": (_forgets_the_pack, ("put-large",)),
    "a record is not synced": (_forgets_the_record, ("put-small",)),
    "a record is synced by the next one": (_acknowledges_first, ("put-small", "delete")),
    "a new segment is not synced": (_forgets_the_segment, ("batch", "put-large", "batch")),
}


def check_all(base: Base, steps: Steps, states: Iterator[CrashState], folder: Path) -> None:
    for state in states:
        check(base, steps, state, folder, "absent", thoroughly=False)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_forgotten_sync_is_noticed(bases: Bases, monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    """A casbank that leaves out one sync loses what it acknowledged in some crash state, and the failure's command
    shows it again."""
    break_it, steps = MUTANTS[mutant]
    base = bases.base_for(steps)
    with monkeypatch.context() as patch:
        break_it(patch)
        recorded = record(base, steps, bases.folder / mutant)
    with pytest.raises(CrashError, match=r"\npython tools/crash_states\.py --workload") as failure:
        check_all(base, steps, sampled_states(recorded, 300, random.Random(SEED)), bases.folder / "state")
    label = str(failure.value).rpartition("--state ")[2].split(" ")[0]
    with monkeypatch.context() as patch:
        break_it(patch)
        with pytest.raises(CrashError):
            check_one(bases, steps, label, "absent")


def test_models_are_of_the_steps() -> None:
    """A put adds what it puts, a delete takes it away, and a collection changes nothing."""
    first, put, gone, same = models({"gone1": b""}, ("put-small", "delete", "collect"))
    assert first == {"gone1": b""}
    assert put == {"gone1": b"", "small0": b"small 0"}
    assert gone == same == {"small0": b"small 0"}


def test_scratch_is_removed() -> None:
    """Nothing is left of what was checked."""
    with scratch() as folder:
        (folder / "x").write_bytes(b"x")
    assert not Path(folder).exists()
