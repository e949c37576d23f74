"""Crash states: they are what a power cut or a kill can leave, each once, and each found again by its label."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from casbank import Bank
from casbank.testing.faults import CrashState, Recording, crash_state, crash_states, recording, sampled_states


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "settings").write_bytes(b"old")
    return folder


def save_wrongly(folder: Path, content: bytes) -> None:
    """What most programs do."""
    (folder / "new").write_bytes(content)
    (folder / "new").replace(folder / "settings")


def save_without_the_folder(folder: Path, content: bytes) -> None:
    """What careful programs do."""
    with (folder / "new").open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    (folder / "new").replace(folder / "settings")


def save(folder: Path, content: bytes) -> None:
    """What it takes."""
    save_without_the_folder(folder, content)
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def states_of(folder: Path, program: Callable[[Path, bytes], None], content: bytes) -> list[CrashState]:
    with recording(folder) as recorded, recorded.step("saved"):
        program(folder, content)
    return list(crash_states(recorded))


def settings(states: list[CrashState], *, saved: bool) -> set[bytes]:
    return {state.files["settings"].content for state in states if bool(state.acknowledged) is saved}


def test_a_wrong_program_is_caught(folder: Path) -> None:
    """A rename that is not preceded by a sync can leave a file that is neither the old nor the new one."""
    states = states_of(folder, save_wrongly, b"new" * 500)
    assert {b"", b"old", b"new" * 500} <= settings(states, saved=True)


def test_a_forgotten_folder_is_caught(folder: Path) -> None:
    """A name is durable with a sync of its folder, and not before: the old content comes back, never half a one."""
    states = states_of(folder, save_without_the_folder, b"new" * 500)
    assert settings(states, saved=True) == {b"old", b"new" * 500}
    assert settings(states, saved=False) == {b"old"}


def test_a_right_program_passes(folder: Path) -> None:
    """Of a program that syncs what it should, where it should, each crash leaves the old or the new, and behind its
    acknowledgement the new."""
    states = states_of(folder, save, b"new" * 500)
    assert settings(states, saved=False) == {b"old", b"new" * 500}
    assert settings(states, saved=True) == {b"new" * 500}


def test_a_kill_loses_nothing(folder: Path) -> None:
    """The pages of a process that was killed are the kernel's: its states are prefixes of what it did."""
    kills = [state for state in states_of(folder, save_wrongly, b"new") if state.is_kill]
    assert settings(kills, saved=True) == {b"new"}
    assert settings(kills, saved=False) == {b"old"}


def test_every_subset_of_four(folder: Path) -> None:
    """Four pending writes may be there in any of sixteen ways."""
    with (folder / "settings").open("r+b", buffering=0) as file:
        file.write(b"....")
        os.fsync(file.fileno())
        with recording(folder) as recorded:
            for offset in range(4):
                os.pwrite(file.fileno(), b"x", offset)
    found = {state.files["settings"].content for state in crash_states(recorded)}
    assert {content for content in found if b"\0" not in content} == {
        bytes(b"x."[bits >> place & 1] for place in range(4)) for bits in range(16)
    }


def test_more_than_four_are_bounded(folder: Path) -> None:
    """Of many pending operations there are none, all, each alone, all but each, every prefix, and the last four in
    every way: what is to be looked at grows with their number, not with its exponential."""
    with recording(folder) as recorded:
        for number in range(20):
            (folder / f"{number:02}").mkdir()
    names = [f"{number:02}" for number in range(20)]
    states = list(crash_states(recorded))
    found = {state.folders for state in states}
    assert tuple(name for name in names if name != "07") in found
    assert {("07",), (), tuple(names), (*names[:16], "17", "19")} <= found
    assert ("07", "09") not in found
    assert len(states) < 20 * (3 * 20 + 16)


TEARS = {
    "torn512": b"x" * 412 + b"." * 9000,
    "torn4096": b"x" * 3996 + b"." * 9000,
    "tornlate": b"x" * (8704 - 100) + b"." * 9000,
    "tail512": b"." * 412 + b"x" * 9000,
    "zeros": b"\0" * 9000,
}


@pytest.mark.parametrize("tear", TEARS)
def test_writes_are_torn_at_sectors_and_pages(folder: Path, tear: str) -> None:
    """A write that is cut off ends where a sector or a page of the file does, not of the write; or begins there; or
    left its length alone."""
    descriptor = os.open(folder / "settings", os.O_RDWR)
    os.pwrite(descriptor, b"." * 10_000, 0)
    with recording(folder) as recorded:
        os.pwrite(descriptor, b"x" * 9000, 100)
    os.close(descriptor)
    content = crash_state(recorded, f"1:1:{tear}:kept").files["settings"].content
    assert content == b"." * 100 + TEARS[tear][:8900] + TEARS[tear][8900:9000] + b"." * 900
    assert crash_state(recorded, "1:0:whole:kept").files["settings"].content == b"." * 10_000


def test_a_label_tells_one_state(folder: Path) -> None:
    """Each state is made again from its label alone, by whoever has the recording."""
    with recording(folder) as recorded:
        save_wrongly(folder, b"x" * 5000)
    for state in crash_states(recorded):
        assert crash_state(recorded, state.label) == state


@pytest.mark.parametrize(
    "label", ["", "1", "x:1:whole:kept", "99:1:whole:kept", "1:11111:whole:kept", "1:1:torn7:kept"]
)
def test_bad_labels_are_refused(folder: Path, label: str) -> None:
    """What is no label of this recording is a ValueError."""
    with recording(folder) as recorded:
        save_wrongly(folder, b"new")
    with pytest.raises(ValueError, match=r".+"):
        crash_state(recorded, label)


def test_states_that_look_the_same_come_once(folder: Path) -> None:
    """No two states of a recording are equal to who finds them."""
    with recording(folder) as recorded:
        save_wrongly(folder, b"x" * 5000)
        (folder / "settings").unlink()
    digests = [state.digest for state in crash_states(recorded)]
    assert len(digests) == len(set(digests)) > 10


def test_what_is_never_synced_has_any_age(folder: Path) -> None:
    """A file that is not synced on purpose is of any time so far, empty or gone, whatever was synced beside it; a kill
    leaves it as it was."""
    with recording(folder, unsynced=["mark"]) as recorded:
        mark = os.open(folder / "mark", os.O_RDWR | os.O_CREAT)
        for number in range(6):
            os.pwrite(mark, b"%d" % number, 0)
            save(folder, b"%d" % number)
        os.fsync(mark)
        os.close(mark)
    ends = [state for state in crash_states(recorded) if state.label.startswith(f"{len(recorded.operations)}:")]
    assert crash_state(recorded, f"{len(recorded.operations)}:kill:whole:kept").files["mark"].content == b"5"
    assert all(state.files["settings"].content == b"5" for state in ends)
    found = {state.files["mark"].content if "mark" in state.files else None for state in crash_states(recorded)}
    assert found == {None, b"", b"0", b"1", b"2", b"3", b"4", b"5"}


def test_names_stay_links(folder: Path, tmp_path: Path) -> None:
    """Two names of one file are that again, with the mode that it had."""
    with recording(folder) as recorded:
        os.close(os.open(folder / "one", os.O_WRONLY | os.O_CREAT, 0o444))
        os.link(folder / "one", folder / "two")
    made = crash_state(recorded, "2:11:whole:kept").materialise(tmp_path / "made")
    assert (made / "one").samefile(made / "two")
    assert (made / "one").stat().st_mode & 0o777 == 0o444


def _many(folder: Path) -> Recording:
    with recording(folder) as recorded:
        for number in range(10):
            save_wrongly(folder, b"%d" % number * 700)
    return recorded


def test_samples_are_drawn_by_chance(folder: Path) -> None:
    """A sample is of so many different states, the same for the same seed, of the moments that were asked for."""
    recorded = _many(folder)
    drawn = [
        [state.label for state in sampled_states(recorded, 20, random.Random(seed), since=7)] for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 20
    assert min(int(label.split(":")[0]) for label in drawn[0]) >= 7


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    """A program that stands on a bank is tested in a dozen lines: what it acknowledged is there in every state."""
    folder = tmp_path / "data"
    Bank.create(folder / "bank").close()
    with recording(folder) as recorded, Bank.open(folder / "bank") as bank:
        for day in ("monday", "tuesday"):
            with recorded.step(day):
                bank.put(day, b"backup")
    acknowledged = set()
    for number, state in enumerate(crash_states(recorded)):
        with Bank.open(state.materialise(tmp_path / str(number)) / "bank") as bank:
            assert set(state.acknowledged) <= set(bank), state.label
        acknowledged.add(state.acknowledged)
    assert acknowledged == {(), ("monday",), ("monday", "tuesday")}
