"""The LMDB environment by itself: its map grows, processes share it, errors are casbank's."""

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bank_scene import fill_up, small_disk
from conftest import Start

from casbank import CasbankError, CorruptionError, ErrorKind, InvalidInputError, StoreError
from casbank.index.tables import NameRow, State
from casbank.index.transaction import Edit
from casbank.index.view import View, is_in_use

MIB = 2**20

# Reads all names again and again, and tells how many there were each time.
READ = """
import sys
from pathlib import Path
from casbank.index.view import View
view = View(Path(sys.argv[1]), 2**20)
print("open", flush=True)
for line in sys.stdin:
    with view.read() as snapshot:
        print(len(snapshot.names(b"", None, 10**6, reverse=False)), flush=True)
"""

DIE_READING = """
import os, sys
from pathlib import Path
from casbank.index.view import View
view = View(Path(sys.argv[1]), 2**20)
with view.read() as snapshot:
    snapshot.state()
    print("reading", flush=True)
    sys.stdin.read()
"""


def add(view: View, first: int, count: int, size: int = 100) -> None:
    def change(edit: Edit) -> None:
        for number in range(first, first + count):
            edit.put_name(NameRow(b"%08d" % number, number, bytes(size)))

    view.update(change)


def count(view: View) -> int:
    with view.read() as snapshot:
        return len(snapshot.names(b"", None, 10**6, reverse=False))


def test_map_grows_by_itself(tmp_path: Path) -> None:
    """A map that is too small for what is written grows, in the middle of a transaction too, and loses nothing."""
    view = View(tmp_path / "index", MIB)
    add(view, 0, 100)
    add(view, 100, 20_000)
    assert count(view) == 20_100
    for number in range(20):
        add(view, 30_000 + number * 1000, 1000)
    assert count(view) == 40_100
    assert view.used_bytes() > 4 * MIB
    view.close()
    again = View(tmp_path / "index", MIB)
    assert count(again) == 40_100
    again.close()


def test_map_grows_under_another_process(program: Start, tmp_path: Path) -> None:
    """A process that reads takes over the size to which another one let the map grow, both ways."""
    view = View(tmp_path / "index", MIB)
    reader = program(READ, tmp_path / "index")
    assert reader.stdin is not None
    assert reader.stdout is not None
    assert reader.stdout.readline() == "open\n"
    for number in range(1, 8):
        add(view, number * 5000, 5000)
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == f"{number * 5000}\n"
    reader.communicate()
    view.close()


def test_map_grows_though_threads_read_without_a_gap(tmp_path: Path) -> None:
    """Readers that follow each other without a gap do not keep a writer from letting the map grow."""
    view = View(tmp_path / "index", MIB)
    stop = threading.Event()
    failed: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                with view.read() as snapshot:
                    snapshot.state()
                    time.sleep(0.01)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    writer = threading.Thread(target=add, args=[view, 0, 60_000])
    writer.start()
    writer.join(20)
    alive = writer.is_alive()
    stop.set()
    for thread in [*threads, writer]:
        thread.join()
    assert not alive
    assert failed == []
    assert count(view) == 60_000
    view.close()


def test_failing_change_changes_nothing(tmp_path: Path) -> None:
    """A change that raises leaves the tables as they were, and its own error as it was."""
    view = View(tmp_path / "index", MIB)
    add(view, 0, 10)

    def fails(edit: Edit) -> None:
        edit.put_name(NameRow(b"x", 1, b""))
        edit.put_state(State(1, bytes(32), 1, 1, 1, 1, 1, 1))
        raise CorruptionError("mine", kind=ErrorKind.RECORD)

    with pytest.raises(CorruptionError, match="mine"):
        view.update(fails)
    assert count(view) == 10
    with view.read() as snapshot:
        assert snapshot.state() is None
    view.close()


def test_dead_readers_are_cleared(program: Start, tmp_path: Path) -> None:
    """The slot of a reader that was killed is given up, so that its pages can be used again."""
    view = View(tmp_path / "index", 64 * MIB)
    add(view, 0, 2000)
    reader = program(DIE_READING, tmp_path / "index")
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    reader.kill()
    reader.wait()
    view.clear_stale_readers()
    used = view.used_bytes()
    for _ in range(30):
        add(view, 0, 2000)
    assert view.used_bytes() < 3 * used
    view.close()


def test_in_use(program: Start, tmp_path: Path) -> None:
    """An index is in use as long as any process has it open, and no longer."""
    folder = tmp_path / "index"
    assert not is_in_use(folder)
    view = View(folder, MIB)
    reader = program(READ, folder)
    assert reader.stdout is not None
    reader.stdout.readline()
    assert is_in_use(folder)
    view.close()
    assert is_in_use(folder)
    reader.kill()
    reader.wait()
    assert not is_in_use(folder)


def test_failed_open_leaves_nothing_in_use(tmp_path: Path) -> None:
    """An index that could not be opened is a StoreError, and is not held open."""
    folder = tmp_path / "index"
    View(folder, MIB).close()
    (folder / "data.mdb").unlink()
    (folder / "data.mdb").mkdir()
    with pytest.raises(StoreError):
        View(folder, MIB)
    assert not is_in_use(folder)


def test_closed_view_says_so(tmp_path: Path) -> None:
    """A view that was closed refuses to be used, with casbank's own error."""
    view = View(tmp_path / "index", MIB)
    view.close()
    with pytest.raises(InvalidInputError) as caught, view.read():
        pass
    assert caught.value.kind is ErrorKind.CLOSED
    with pytest.raises(CasbankError):
        add(view, 0, 1)


def test_close_waits_for_readers(tmp_path: Path) -> None:
    """To close a view waits for the transactions of other threads, and never pulls the map from under one."""
    view = View(tmp_path / "index", MIB)
    add(view, 0, 1000)
    inside, wrong = threading.Event(), []

    def read() -> None:
        try:
            with view.read() as snapshot:
                inside.set()
                time.sleep(0.3)
                if len(snapshot.names(b"", None, 10**6, reverse=False)) != 1000:
                    wrong.append("names")
        except BaseException as error:
            wrong.append(repr(error))

    thread = threading.Thread(target=read)
    thread.start()
    inside.wait()
    view.abandon()
    thread.join()
    assert wrong == []


def test_more_readers_than_there_is_room_for(tmp_path: Path) -> None:
    """When every place for a reader is taken, the next one is a StoreError."""
    view = View(tmp_path / "index", MIB)
    done, full = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        try:
            with view.read():
                done.wait()
        except BaseException as error:
            errors.append(error)
            full.set()

    threading.stack_size(256 * 1024)
    try:
        threads = [threading.Thread(target=read) for _ in range(620)]
        for thread in threads:
            thread.start()
    finally:
        threading.stack_size(0)
    assert full.wait(20)
    done.set()
    for thread in threads:
        thread.join()
    assert {type(error) for error in errors} == {StoreError}
    assert count(view) == 0
    view.close()


def test_lock_table_on_a_full_disk(tmp_path: Path) -> None:
    """An index on a full disk is opened or refused; it never ends in a signal, however many threads read."""
    program = """
import sys, threading
from pathlib import Path
from casbank import StoreError
from casbank.index.view import View
try:
    view = View(Path(sys.argv[1]), 2**20)
except StoreError as error:
    print(error.kind)
    sys.exit(0)
done = threading.Barrier(200)
def read():
    with view.read() as snapshot:
        snapshot.state()
        done.wait()
threads = [threading.Thread(target=read) for _ in range(200)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("read")
"""
    try:
        with small_disk(tmp_path / "disk", MIB) as disk:
            for existing in (False, True):
                folder = disk / f"index{existing}"
                if existing:
                    (disk / "ballast").unlink()
                    view = View(folder, MIB)
                    add(view, 0, 10)
                    view.close()
                else:
                    folder.mkdir()
                    for name in ("marker", "users"):
                        (folder / name).write_bytes(bytes(256))
                    shutil.copy(_empty_data(tmp_path), folder / "data.mdb")
                fill_up(disk / "ballast")
                command = [sys.executable, "-c", program, str(folder)]
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
                assert done.returncode == 0, done.stderr
                assert done.stdout.strip() == ("read" if existing else "disk-full")
    except PermissionError as error:
        pytest.skip(str(error))


def _empty_data(tmp_path: Path) -> Path:
    View(tmp_path / "empty", MIB).close()
    return tmp_path / "empty" / "data.mdb"
