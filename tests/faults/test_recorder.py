"""Recordings: everything that changes files below a folder is seen, in one order, and nothing else is."""

import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from casbank.testing.faults import Recording, UnrecordedError, crash_state, crash_states, recording


def write_as_os_does(folder: Path) -> None:
    descriptor = os.open(folder / "file", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.write(descriptor, b"one ")
    os.writev(descriptor, [b"two ", bytearray(b"three")])
    os.pwrite(descriptor, b"ONE", 0)
    os.pwritev(descriptor, [b"TWO"], 4)
    os.fsync(descriptor)
    os.close(descriptor)


def append_and_cut(folder: Path) -> None:
    for text in (b"first", b"second"):
        descriptor = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, text)
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - 1)
        os.close(descriptor)
    os.truncate(folder / "log", 3)


def grow(folder: Path) -> None:
    descriptor = os.open(folder / "grown", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(descriptor, 0, 5000)
    os.pwrite(descriptor, b"beyond", 6000)
    os.close(descriptor)


def write_as_python_does(folder: Path) -> None:
    (folder / "text").write_text("ä\n" * 5000)
    (folder / "bytes").write_bytes(b"x" * 100)
    with (folder / "text").open("a") as file:
        file.write("more")
    with open(folder / "bytes", "r+b") as both:  # noqa: PTH123 - the one that others use
        both.seek(50)
        both.write(b"y")
        both.truncate(60)
    with (folder / "raw").open("xb", buffering=0) as raw:
        raw.write(b"raw")
    with (folder / "bytes").open("w") as emptied:
        emptied.write("short")


def rename_and_link(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "a" / "file").write_bytes(b"content")
    os.link(folder / "a" / "file", folder / "link")
    (folder / "a").rename(folder / "b")
    (folder / "b" / "file").write_bytes(b"new content")
    (folder / "other").write_bytes(b"other")
    (folder / "other").replace(folder / "b" / "file")
    (folder / "link").unlink()


def remove_a_tree(folder: Path) -> None:
    (folder / "tree" / "deep").mkdir(parents=True)
    (folder / "tree" / "deep" / "file").write_bytes(b"x")
    shutil.rmtree(folder / "tree")


def use_temporary_files(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"without a name")
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as named:
        named.write(b"with a name")
    Path(named.name).rename(folder / "kept")


def change_what_was_there(folder: Path) -> None:
    descriptor = os.open(folder / "there" / "before", os.O_WRONLY)
    copy = os.dup(descriptor)
    os.close(descriptor)
    os.write(copy, b"C")
    os.close(copy)


def write_in_relative_paths(folder: Path) -> None:
    os.chdir(folder)
    Path("relative").write_bytes(b"x")
    (folder / "there" / ".." / "dots").write_bytes(b"y")
    descriptor = os.open("there", os.O_RDONLY)
    os.close(os.open("below", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)


def write_in_threads(folder: Path) -> None:
    def write(number: int) -> None:
        for part in range(20):
            path = folder / f"{number}-{part}"
            path.write_bytes(b"%d" % part)
            path.rename(folder / f"{number}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


PROGRAMS = [
    write_as_os_does,
    append_and_cut,
    grow,
    write_as_python_does,
    rename_and_link,
    remove_a_tree,
    use_temporary_files,
    change_what_was_there,
    write_in_relative_paths,
    write_in_threads,
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with something in it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "root"
    (folder / "there").mkdir(parents=True)
    (folder / "there" / "before").write_bytes(b"content")
    return folder


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_whatever_is_done_is_recorded(folder: Path, tmp_path: Path, program: Callable[[Path], None]) -> None:
    """The recording, replayed whole, gives byte for byte what the program left."""
    with recording(folder) as recorded:
        program(folder)
    assert recorded.operations
    whole = crash_state(recorded, f"{len(recorded.operations)}:kill:whole:kept")
    assert _files(whole.materialise(tmp_path / "copy")) == _files(folder)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_through_a_map(folder: Path) -> None:
    with (folder / "there" / "before").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0] = 0


def write_in_another_process(folder: Path) -> None:
    child = os.fork()
    if not child:
        os.close(os.open(folder / "childs", os.O_CREAT))
        os._exit(0)
    os.waitpid(child, 0)


@pytest.mark.parametrize("program", [write_through_a_map, write_in_another_process])
def test_what_is_not_seen_is_told(folder: Path, program: Callable[[Path], None]) -> None:
    """A program that changes files behind the recording's back is no success."""
    with pytest.raises(UnrecordedError, match=r"not recorded: (there/before|childs)"), recording(folder):
        program(folder)


def test_what_is_ignored_is_not_recorded(folder: Path) -> None:
    """A pattern of a folder takes all that is in it."""
    with recording(folder, ignored=["index*", "*/index*"]) as recorded:
        (folder / "index").mkdir()
        (folder / "index" / "data").write_bytes(b"x")
        (folder / "there" / "index.new").mkdir()
        (folder / "there" / "index.new").rename(folder / "there" / "index.old")
        shutil.rmtree(folder / "there" / "index.old")
    assert recorded.operations == []


def test_what_is_elsewhere_is_not_recorded(folder: Path, tmp_path: Path) -> None:
    """Files beside the folder are none of the recording's business, nor is what they are called."""
    with recording(folder) as recorded:
        (tmp_path / "beside").write_bytes(b"x")
        (tmp_path / "rooted").mkdir()
        (tmp_path / "rooted" / "before").write_bytes(b"x")
    assert recorded.operations == []


def test_nothing_is_recorded_behind_the_end(folder: Path) -> None:
    """What was patched is put back, also where the program fails."""
    names = {name: getattr(os, name) for name in ("open", "write", "fsync", "rename")}
    opening = open
    with pytest.raises(RuntimeError), recording(folder):
        raise RuntimeError
    assert {name: getattr(os, name) for name in names} == names
    assert open is opening


def test_a_reader_changes_nothing(folder: Path) -> None:
    """Opening, reading and listing leave no operation."""
    with recording(folder) as recorded:
        assert (folder / "there" / "before").read_bytes() == b"content"
        assert len(list(folder.iterdir())) == 1
    assert recorded.operations == []


def test_steps_are_acknowledged_when_they_return(folder: Path) -> None:
    """A step that raises was begun, and never acknowledged."""

    def work(recorded: Recording) -> None:
        with recorded.step("good"):
            (folder / "good").write_bytes(b"x")
        with recorded.step("bad"):
            (folder / "bad").write_bytes(b"x")
            raise RuntimeError

    with recording(folder) as recorded, pytest.raises(RuntimeError):
        work(recorded)
    assert [(step.name, step.done is not None) for step in recorded.steps] == [("good", True), ("bad", False)]
    states = list(crash_states(recorded))
    assert {state.acknowledged for state in states} == {(), ("good",)}
    assert {state.begun for state in states} == {("good",), ("good", "bad")}
