"""Checkpoints: the same state by a shorter way, and never the only way that can fail."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from bank_scene import (
    MIB,
    content,
    contents_of,
    engine_of,
    flip,
    frames_of,
    memory_place,
    packs_of,
    random_work,
    rows_of,
)
from conftest import Start
from counters import count
from hypothesis import given, settings
from hypothesis import strategies as st

from casbank import Bank, CorruptionError, ErrorKind
from casbank.engine.checkpoint import load_checkpoint
from casbank.engine.sorting import ExternalSorter
from casbank.format.record import Checkpointed
from casbank.index.transaction import TABLES
from casbank.index.view import View

WRITE_CHECKPOINTS = """
import sys
from bank_scene import content
from casbank import Bank
bank = Bank.open(sys.argv[1])
for number in range(10**6):
    bank.put(f"n{number}", content(number, number % 5 * 900))
    print(number, flush=True)
    if number % 10 == 9:
        bank._engine.checkpoints.write()
"""


def checkpoints_of(place: Path) -> list[Path]:
    return sorted((place / "checkpoints").glob("*"))


def test_checkpoint_is_the_state(bank: Bank, tmp_path: Path) -> None:
    """A checkpoint that is loaded into an empty index makes the rows that a replay of its records makes."""
    for seed in range(4):
        random_work(bank, seed, 20)
        before = rows_of(bank)
        engine = engine_of(bank)
        written = engine.checkpoints.write()
        assert written is not None
        view = View(tmp_path / f"loaded{seed}")
        official = Checkpointed(written.seq, written.name, written.hash)
        load_checkpoint(engine.checkpoints._files, official, view, engine.resources.packs.contents)
        with view.read() as snapshot:
            loaded = {table: list(snapshot.rows(table)) for table in TABLES}
        view.close()
        # What is official is said by the record behind the checkpoint.
        assert _without_checkpoint(loaded) == _without_checkpoint(before)


def _without_checkpoint(rows: dict[str, list[tuple[bytes, bytes]]]) -> dict[str, list[tuple[bytes, bytes]]]:
    return rows | {"meta": [row for row in rows["meta"] if row[0] != b"checkpoint"]}


def test_journal_is_forgotten_behind_the_second_one(place: Path) -> None:
    """With two checkpoints official, older ones go, and so does the journal before them; nothing is lost by it."""
    with Bank.create(place) as bank:
        journal = engine_of(bank).journal
        journal._segment_bytes_max = 3000  # type: ignore[attr-defined]
        for number in range(5):
            random_work(bank, number, 15)
            assert engine_of(bank).checkpoints.write() is not None
            assert len(checkpoints_of(place)) == min(number + 1, 2)
        assert journal.first() > 1
        before, found = rows_of(bank), contents_of(bank)
        bank.rebuild_index()
        assert rows_of(bank) == before
    shutil.rmtree(place / "index")
    with Bank.open(place) as bank:
        assert rows_of(bank) == before
        assert contents_of(bank) == found


@pytest.mark.parametrize("behind", [False, True])
def test_damaged_checkpoint_falls_back(place: Path, behind: bool) -> None:
    """When the newest checkpoint is damaged anywhere, or gone, the one before makes the same index."""
    with Bank.create(place) as bank:
        engine_of(bank).journal._segment_bytes_max = 3000  # type: ignore[attr-defined]
        for number in range(3):
            random_work(bank, number, 25)
            for each in range(30):
                bank.put(f"{number} {each}", content(each, 3000), metadata={"k": content((number, each), 40_000)})
            bank.delete(f"{number} 7")
            engine_of(bank).checkpoints.write()
        if behind:
            random_work(bank, "behind", 20)
        before, found = rows_of(bank), contents_of(bank)
        stats = bank.stats()
    newest = checkpoints_of(place)[-1]
    whole = newest.read_bytes()
    for where in (0.001, 0.3, 0.6, 0.99, None):
        if where is None:
            newest.unlink()
        else:
            newest.chmod(0o644)
            newest.write_bytes(whole)
            flip(newest, int(len(whole) * where))
        shutil.rmtree(place / "index")
        with Bank.open(place) as bank:
            assert rows_of(bank) == before
            assert contents_of(bank) == found
            assert (bank.stats().objects, bank.stats().deleted_objects) == (stats.objects, stats.deleted_objects)


def test_two_damaged_checkpoints_are_told(place: Path) -> None:
    """When the journal no longer reaches back and both checkpoints are damaged, that is told, and nothing made up."""
    with Bank.create(place) as bank:
        engine_of(bank).journal._segment_bytes_max = 3000  # type: ignore[attr-defined]
        for number in range(3):
            random_work(bank, number, 25)
            engine_of(bank).checkpoints.write()
    for checkpoint in checkpoints_of(place):
        flip(checkpoint, 200)
    shutil.rmtree(place / "index")
    with pytest.raises(CorruptionError):
        Bank.open(place)


def test_killed_while_writing_checkpoints(program: Start, place: Path) -> None:
    """A process that is killed while it writes checkpoints leaves a bank that lacks nothing."""
    Bank.create(place).close()
    for number in range(4):
        writer = program(WRITE_CHECKPOINTS, place)
        assert writer.stdout is not None
        told = -1
        for _ in range(25 + number * 7):
            told = int(writer.stdout.readline())
        time.sleep(number * 0.004)
        writer.send_signal(signal.SIGKILL)
        told = max([told, *map(int, writer.communicate()[0].split())])
        shutil.rmtree(place / "index")
        with Bank.open(place) as bank:
            for each in range(told + 1):
                assert bank.get(f"n{each}") == content(each, each % 5 * 900)
            # Takes over what the dead one had written and not synced.
            bank.put(f"after{number}", b"")
            before = rows_of(bank)
            assert engine_of(bank).checkpoints.write() is not None
            bank.rebuild_index()
            assert rows_of(bank)["name"] == before["name"]
    count("kills", 4)


def test_rival_checkpoints(program: Start, place: Path) -> None:
    """Processes that write checkpoints at once leave one line of them, and a bank that rebuilds to the same rows."""
    Bank.create(place).close()
    writers = [program(WRITE_CHECKPOINTS, place) for _ in range(3)]
    for writer in writers:
        assert writer.stdout is not None
        for _ in range(60):
            assert writer.stdout.readline()
    for writer in writers:
        writer.kill()
        writer.wait()
    with Bank.open(place) as bank:
        before = rows_of(bank)
        bank.rebuild_index()
        assert rows_of(bank) == before


# --- a journal that is not what it was -----------------------------------------------------------------------------


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("lost", [1, 5])
def test_lost_tail_is_told(place: Path, lost: int, clean: bool) -> None:
    """A journal that ends before a record that the index knows is damage, for reading and writing alike."""
    with Bank.create(place) as bank:
        for number in range(10):
            bank.put(f"n{number}", b"%d" % number)
    (segment,) = (place / "journal").glob("*.log")
    end = frames_of(segment)[-1 - lost].end
    os.truncate(segment, end)
    (place / "journal" / "synced").unlink()
    if not clean:
        marker = place / "index" / "marker"
        marker.write_bytes(marker.read_bytes().replace(b"true", b"false"))
    for _ in range(2):
        with pytest.raises(CorruptionError) as caught:
            Bank.open(place)
        assert caught.value.kind is ErrorKind.JOURNAL
    assert frames_of(segment)[-1].end == end
    # The way out that the message names.
    Bank.drop_index(place)
    with Bank.open(place) as bank:
        assert list(bank) == [f"n{number}" for number in range(10 - lost)]


def test_foreign_journal_is_refused(tmp_path: Path) -> None:
    """Another bank's journal is refused, with an index that stands on either, and without one."""
    places = [tmp_path / name for name in "ab"]
    for place in places:
        with Bank.create(place) as bank:
            random_work(bank, place.name, 10)
    one, other = places
    shutil.rmtree(one / "journal")
    shutil.copytree(other / "journal", one / "journal")
    for index in ("own", "other's", "none"):
        if index != "own":
            shutil.rmtree(one / "index", ignore_errors=True)
        if index == "other's":
            shutil.copytree(other / "index", one / "index")
        with pytest.raises(CorruptionError):
            Bank.open(one)


def test_journal_of_another_history_is_refused(place: Path, tmp_path: Path) -> None:
    """A journal that was put back and written on is not taken for the one whose records were acknowledged, however long
    it has become; nor does refusing it make the index anew."""
    with Bank.create(place) as bank:
        bank.put("common", b"1")
    shutil.copytree(place / "journal", tmp_path / "older")
    with Bank.open(place) as bank:
        bank.put("acknowledged", b"2")
    shutil.copytree(place / "index", tmp_path / "index")
    shutil.rmtree(place / "journal")
    shutil.copytree(tmp_path / "older", place / "journal")
    shutil.rmtree(place / "index")
    with Bank.open(place) as bank:
        for number in range(3):
            bank.put(f"other {number}", b"3")
    shutil.rmtree(place / "index")
    shutil.copytree(tmp_path / "index", place / "index")
    for _ in range(2):
        with pytest.raises(CorruptionError) as refused:
            Bank.open(place)
        assert refused.value.kind is ErrorKind.JOURNAL


def test_lost_pack_costs_what_is_in_it(place: Path) -> None:
    """A bank whose index and one pack are lost opens, reads what is in other packs, and can store the lost one anew."""
    lost, kept = content("lost", 3 * MIB), content("kept", MIB)
    with Bank.create(place) as bank:
        bank.put("lost", lost)
        gone = packs_of(place)
        bank.put("kept", kept)
    for pack in gone:
        pack.unlink()
    shutil.rmtree(place / "index")
    with Bank.open(place) as bank:
        assert bank.get("kept") == kept
        assert bank.head("lost").size == len(lost)
        with pytest.raises(CorruptionError):
            bank.get("lost")
        bank.put("lost", lost)
        assert bank.get("lost") == lost


def test_foreign_bank_file_is_refused(tmp_path: Path) -> None:
    """Another bank's BANK before this journal is refused."""
    places = [tmp_path / name for name in "ab"]
    for place in places:
        with Bank.create(place) as bank:
            bank.put("x", b"1")
    (places[0] / "BANK").unlink()
    shutil.copy(places[1] / "BANK", places[0] / "BANK")
    with pytest.raises(CorruptionError):
        Bank.open(places[0])


def test_older_index_catches_up(place: Path, tmp_path: Path) -> None:
    """An index from an older copy of the bank takes in what it lacks."""
    with Bank.create(place) as bank:
        random_work(bank, 1, 10)
    shutil.copytree(place / "index", tmp_path / "older")
    with Bank.open(place) as bank:
        random_work(bank, 2, 20)
        before = rows_of(bank)
    shutil.rmtree(place / "index")
    shutil.copytree(tmp_path / "older", place / "index")
    with Bank.open(place) as bank:
        assert rows_of(bank) == before


# --- sorting -------------------------------------------------------------------------------------------------------

ROWS = st.lists(st.tuples(st.text(max_size=3), st.integers(0, 9), st.binary(max_size=3)), max_size=200)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from([1, 1000, 5000, 10**6]))
def test_sorter_sorts(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, bytes]], run: int) -> None:
    """What comes out of the sorter is what went in, sorted, whether it was spilled in runs of one row or not at all."""
    folder = tmp_path_factory.getbasetemp()
    sorter = ExternalSorter(folder, run)
    for row in rows:
        sorter.add(list(row), 10)
    assert list(sorter) == sorted(map(list, rows))
    sorter.close()


def test_checkpoint_of_what_was_spilled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint whose changes did not fit into one run is the same."""
    with Bank.create(memory_place()) as bank:
        random_work(bank, 1, 60)
        before = rows_of(bank)
        monkeypatch.setattr(ExternalSorter.__init__, "__defaults__", (2000,))
        assert engine_of(bank).checkpoints.write() is not None
        random_work(bank, 2, 30)
        assert engine_of(bank).checkpoints.write() is not None
        random_work(bank, 3, 30)
        assert engine_of(bank).checkpoints.write() is not None
        before = rows_of(bank)
        assert engine_of(bank).journal.first() > 1
        bank.rebuild_index()
        assert rows_of(bank) == before
