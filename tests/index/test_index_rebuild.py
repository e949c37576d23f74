"""The index is a function of the store: lost, dropped or left behind, it comes back the same to the last row."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from bank_scene import (
    content,
    contents_of,
    engine_of,
    falsify_session,
    marker_is_clean,
    memory_place,
    random_work,
    rows_of,
)
from conftest import Start
from hypothesis import given, settings
from hypothesis import strategies as st

from casbank import Bank, StoreError

OPEN_AND_WAIT = """
import sys
from casbank import Bank
bank = Bank.open(sys.argv[1])
print("open", flush=True)
for line in sys.stdin:
    bank.put(line.strip(), b"data of " + line.strip().encode())
    print("done", flush=True)
bank.close()
"""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("checkpoints", [(), (20,), (15, 30), (5, 15, 25, 35)], ids=str)
def test_lost_index_comes_back_the_same(place: Path, seed: int, checkpoints: tuple[int, ...]) -> None:
    """After any work, and checkpoints in the middle of it, a lost index is rebuilt with the very same rows."""

    def checkpoint(step: int) -> None:
        if step in checkpoints:
            engine_of(bank).checkpoints.write()

    with Bank.create(place) as bank:
        expected = random_work(bank, seed, 45, checkpoint)
        before = rows_of(bank)
        bank.rebuild_index()
        assert rows_of(bank) == before
    shutil.rmtree(place / "index")
    with Bank.open(place) as bank:
        assert rows_of(bank) == before
        assert contents_of(bank) == expected
        assert len(bank) == len(expected)
    Bank.drop_index(place)
    assert not (place / "index").exists()
    with Bank.open(place) as bank:
        assert rows_of(bank) == before


NAMES = st.sampled_from(["a", "b", "c/d", "p" * 480, "p" * 480 + "x", "p" * 1024])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), NAMES, st.binary(max_size=20) | st.just(b"x" * 5000)),
        st.tuples(st.just("delete"), NAMES, st.none()),
        st.tuples(st.just("copy"), NAMES, NAMES),
        st.tuples(st.just("batch"), st.lists(NAMES, max_size=4), st.binary(max_size=200)),
        st.tuples(st.just("checkpoint"), st.none(), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_any_history_replays_to_the_same_rows(steps: list[tuple[str, Any, Any]]) -> None:
    """Whatever was done in whatever order, a rebuilt index has the rows of the one that grew with the work."""
    with Bank.create(memory_place()) as bank:
        for act, name, value in steps:
            match act:
                case "put":
                    bank.put(name, value)
                case "delete":
                    bank.delete(name, missing_ok=True)
                case "copy" if name in bank:
                    bank.copy(name, value)
                case "batch":
                    with bank.batch() as batch:
                        for number, each in enumerate(name):
                            if number % 3 == 2:
                                batch.delete(each, missing_ok=True)
                            else:
                                batch.put(each, value)
                case "checkpoint":
                    engine_of(bank).checkpoints.write()
        before, found = rows_of(bank), contents_of(bank)
        bank.rebuild_index()
        assert rows_of(bank) == before
        assert contents_of(bank) == found
        assert bank.stats().objects == len(found)
        assert bank.stats().logical_bytes == sum(map(len, found.values()))


def test_drop_is_refused_while_open(program: Start, bank: Bank, place: Path) -> None:
    """An index that this or another process has open is not dropped."""
    with pytest.raises(StoreError):
        Bank.drop_index(place)
    bank.close()
    other = program(OPEN_AND_WAIT, place)
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"
    with pytest.raises(StoreError):
        Bank.drop_index(place)
    other.communicate()
    Bank.drop_index(place)
    assert not (place / "index").exists()


def test_rebuild_while_another_process_has_it_open(program: Start, bank: Bank, place: Path) -> None:
    """A process whose index another one replaced goes on with its own, and both see everything."""
    bank.put("x", b"1")
    other = program(OPEN_AND_WAIT, place)
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"
    for number in range(5):
        bank.rebuild_index()
        other.stdin.write(f"n{number}\n")
        other.stdin.flush()
        assert other.stdout.readline() == "done\n"
        assert bank.get(f"n{number}") == b"data of n%d" % number
    assert [path.name for path in place.iterdir() if path.name.startswith("index")] == ["index"]
    other.communicate()
    assert not marker_is_clean(place)
    expected = rows_of(bank)
    bank.close()
    assert marker_is_clean(place)
    falsify_session(place)
    with Bank.open(place) as again:
        assert rows_of(again) == expected


def test_replaced_index_leaves_the_new_marker_alone(program: Start, bank: Bank, place: Path) -> None:
    """Who closes an index that was replaced meanwhile does not call the one in its place clean."""
    other = program(OPEN_AND_WAIT, place)
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"
    bank.rebuild_index()
    bank.put("x", b"1")
    other.communicate()
    assert other.returncode == 0
    assert not marker_is_clean(place)


def test_leftovers_of_a_dead_rebuild_are_removed(bank: Bank, place: Path) -> None:
    """The half-made index of a process that died in a rebuild is removed by the next one that opens the bank."""
    bank.close()
    for name in ("index.new-0011223344556677", "index.old-0011223344556677"):
        shutil.copytree(place / "index", place / name)
    with Bank.open(place):
        assert [path.name for path in place.iterdir() if path.name.startswith("index")] == ["index"]


def test_index_that_fell_behind(program: Start, bank: Bank, place: Path) -> None:
    """A process that slept while others wrote and forgot records under it catches up by way of a checkpoint."""
    other = program(OPEN_AND_WAIT, place)
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"
    shutil.rmtree(place / "index")
    for number in range(3):
        for each in range(10):
            bank.put(f"{number}-{each}", content((number, each), 3000))
        engine_of(bank).checkpoints.write()
    other.stdin.write("other\n")
    other.stdin.flush()
    assert other.stdout.readline() == "done\n"
    assert bank.get("other") == b"data of other"
    assert len(bank) == 31


def test_rebuilds_at_once(bank: Bank) -> None:
    """Rebuilds by several threads follow each other."""
    for number in range(50):
        bank.put(str(number), b"%d" % number)
    before = rows_of(bank)
    failed: list[BaseException] = []

    def rebuild() -> None:
        try:
            bank.rebuild_index()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=rebuild) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert rows_of(bank) == before
