"""The local store keeps the protocol's promises, and its own about crashes, full disks and descriptors."""

import errno
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from casbank.errors import ErrorKind, NotFoundError, ReadOnlyError, StoreError
from casbank.limits import MIB
from casbank.storage.base import Store
from casbank.storage.local import OPEN_BLOBS_MAX, LocalStore
from casbank.testing.faults import Fault, failing
from casbank.testing.stores import StoreConformance

# Runs a Python program: see conftest.py.
Start = Callable[..., Any]
Trace = Callable[..., tuple[str, list[str]]]

PUT_ONE = """
import sys
from pathlib import Path
from casbank.errors import StoreError
from casbank.storage.local import LocalStore
try:
    LocalStore(Path(sys.argv[1])).put_new("packs/blob", [b"content"])
except StoreError as error:
    print(error.errno)
"""
STOP_IN_PUT = """
import sys
from pathlib import Path
from casbank.storage.local import LocalStore
class Endless(list):
    def __iter__(self):
        yield from [b"x" * 4096] * 2000
        print("writing", flush=True)
        sys.stdin.read()
LocalStore(Path(sys.argv[1])).put_new("packs/blob", Endless())
"""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc or strace")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with closing(LocalStore(tmp_path / "root")) as store:
        yield store


class TestLocalStore(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[LocalStore]:
        with closing(LocalStore(tmp_path / "root")) as store:
            yield store

    def reopen(self, store: Store) -> Store:
        assert isinstance(store, LocalStore)
        return LocalStore(store.root)


def temporaries(root: Path) -> list[Path]:
    return list((root / "tmp").iterdir())


# --- durability: what the kernel is asked for, and in which order ---------------------------------------------------


@pytest.fixture
def trace(tmp_path: Path, start: Start) -> Trace:
    """Puts one blob in a traced process, with faults; returns what it printed and its calls, paths in them."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "trace"

    def run(root: Path, *options: str) -> tuple[str, list[str]]:
        calls = "trace=mkdir,mkdirat,fsync,fdatasync,link,linkat,unlink,unlinkat,writev"
        under = [strace, "-f", "-y", "-qq", "-o", str(log), "-e", calls, *options]
        printed = start(PUT_ONE, root, under=under).communicate(timeout=60)[0]
        if not log.exists() or "writev" not in log.read_text():
            pytest.skip("strace may not trace here")
        return printed, [line for line in log.read_text().splitlines() if str(root) in line]

    return run


def steps(root: Path, calls: list[str]) -> list[str]:
    """The calls in short: name and path below the root, temporary names replaced."""
    found = []
    for call in calls:
        name = re.search(r"(\w+?)(at)?\(", call)
        path = re.search(rf"[<\"]{re.escape(str(root))}/?([^>\"]*)", call)
        assert name, call
        assert path, call
        found.append(f"{name[1]} {re.sub(r'tmp/.+', 'tmp/*', path[1]) or '.'}")
    return found


@linux_only
def test_a_name_appears_after_its_data_and_is_synced(tmp_path: Path, trace: Trace) -> None:
    """The data reach the disk before the link, the link before put_new returns, and each new folder before its use."""
    root = tmp_path / "root"
    root.mkdir()
    printed, calls = trace(root)
    assert printed == ""
    assert steps(root, calls) == [
        "mkdir tmp",
        "fsync .",
        "mkdir packs",
        "fsync .",
        "writev tmp/*",
        "fsync tmp/*",
        "link tmp/*",
        "unlink tmp/*",
        "fsync packs",
    ]


@linux_only
@pytest.mark.parametrize(
    ("fault", "victim", "number"),
    [
        ("writev:error=EIO:when=1", "writev tmp/*", errno.EIO),
        ("writev:error=EDQUOT:when=1", "writev tmp/*", errno.EDQUOT),
        ("fsync:error=EIO:when=3", "fsync tmp/*", errno.EIO),
        ("link,linkat:error=EMLINK", "link tmp/*", errno.EMLINK),
        ("fsync:error=EIO:when=4", "fsync packs", errno.EIO),
    ],
)
def test_a_failed_put_leaves_nothing(tmp_path: Path, trace: Trace, fault: str, victim: str, number: int) -> None:
    """Whichever call fails, put_new says so, no blob and no temporary file stay, and no fsync is tried again."""
    root = tmp_path / "root"
    root.mkdir()
    printed, calls = trace(root, "-e", f"inject={fault}")
    assert printed == f"{number}\n"
    assert [steps(root, [call]) for call in calls if "INJECTED" in call] == [[victim]]
    assert steps(root, calls).count(victim) == 1
    assert list(LocalStore(root).list("")) == []
    assert list((root / "packs").iterdir()) == []
    assert temporaries(root) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "casbank-test", str(folder)]
    if sys.platform != "linux" or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root on Linux")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_left_usable(small_disk: Path) -> None:
    """A blob that does not fit raises DISK_FULL, leaves nothing, and what does fit can be put afterwards."""
    with closing(LocalStore(small_disk)) as store:
        store.put_new("packs/first", [bytes(2 * MIB)])
        with pytest.raises(StoreError, match="free some space") as failed:
            store.put_new("packs/second", [bytes(MIB)] * 3)
        assert failed.value.kind is ErrorKind.DISK_FULL
        assert failed.value.errno == errno.ENOSPC
        assert [info.name for info in store.list("")] == ["packs/first"]
        assert temporaries(small_disk) == []
        store.delete("packs/first")
        store.put_new("packs/third", [bytes(MIB)] * 3)


def test_a_removed_folder_is_made_again(store: LocalStore) -> None:
    """A put fails when somebody removed its folder, and the next one makes a new one."""
    store.put_new("packs/first", [b"x"])
    shutil.rmtree(store.root / "packs")
    with pytest.raises(StoreError):
        store.put_new("packs/second", [b"x"])
    store.put_new("packs/third", [b"x"])
    assert [info.name for info in store.list("")] == ["packs/third"]


def test_a_blob_that_cannot_be_closed(store: LocalStore) -> None:
    """A read blob's close that fails is no error, and the store is of use."""
    store.put_new("packs/first", [b"x"])
    store.get("packs/first")
    with failing(store.root, 1, Fault.EIO) as failure:
        store.close()
    assert failure.failed == "close packs/first"
    assert store.get("packs/first") == b"x"


# --- the dead and the living ----------------------------------------------------------------------------------------


def test_clean_removes_what_the_dead_left(store: LocalStore, start: Start) -> None:
    """A writer that is killed leaves a temporary file and no blob; clean() removes that, and not before it is dead."""
    writer = start(STOP_IN_PUT, store.root)
    assert writer.stdout.readline() == "writing\n"
    assert store.clean() == 0
    assert len(temporaries(store.root)) == 1

    writer.kill()
    writer.wait()
    assert len(temporaries(store.root)) == 1
    assert list(store.list("")) == []
    assert store.clean() == 1
    assert temporaries(store.root) == []


def test_clean_never_hurts_a_living_put(store: LocalStore) -> None:
    """Puts succeed while clean() runs all the time beside them, also between creation and lock."""
    ended = threading.Event()

    def clean() -> None:
        other = LocalStore(store.root)
        while not ended.is_set():
            other.clean()

    with ThreadPoolExecutor(3) as pool:
        cleaner = pool.submit(clean)
        try:
            list(pool.map(lambda number: store.put_new(f"packs/{number}", [b"x"]), range(300)))
        finally:
            ended.set()
        cleaner.result()
    assert len(list(store.list("packs/"))) == 300


def test_clean_of_nothing_is_nothing(store: LocalStore) -> None:
    """A store that was never written to is clean, and stays uncreated."""
    assert store.clean() == 0
    assert not store.root.exists()


# --- reading --------------------------------------------------------------------------------------------------------


def open_blobs(root: Path) -> int:
    links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(str(path.readlink()).startswith(str(root)) for path in links)


@linux_only
def test_open_descriptors_are_bounded(store: LocalStore) -> None:
    """However many blobs are read, few stay open, and none after close(), not even by a late read."""
    names = [f"packs/{number}" for number in range(OPEN_BLOBS_MAX + 10)]
    for name in names:
        store.put_new(name, [name.encode()])
        assert store.get(name) == name.encode()
    assert open_blobs(store.root) == OPEN_BLOBS_MAX
    store.close()
    assert open_blobs(store.root) == 0
    assert store.get(names[0]) == names[0].encode()
    assert open_blobs(store.root) == 0


@linux_only
def test_a_deleted_blob_is_let_go(store: LocalStore) -> None:
    """Nothing keeps the space of a blob that was read and then deleted."""
    store.put_new("packs/blob", [b"x"])
    assert store.get("packs/blob") == b"x"
    store.delete("packs/blob")
    assert open_blobs(store.root) == 0


@linux_only
def test_a_blob_that_another_deleted_is_let_go(store: LocalStore) -> None:
    """A descriptor that is kept does not bring back, nor keep the space of, what another store deleted."""
    store.put_new("packs/blob", [b"x"])
    assert store.get("packs/blob") == b"x"
    LocalStore(store.root).delete("packs/blob")
    with pytest.raises(NotFoundError):
        store.get("packs/blob")
    assert open_blobs(store.root) == 0


def test_threads_never_read_a_strangers_bytes(store: LocalStore) -> None:
    """Descriptors that are closed and used again under many readers never give a reader another blob's bytes."""
    count = 2 * OPEN_BLOBS_MAX
    for number in range(count):
        store.put_new(f"packs/{number}", [number.to_bytes(2, "big") * 50])

    def read(first: int) -> None:
        for step in range(3000):
            number = (first * 17 + step * 7) % count
            assert store.get(f"packs/{number}", 10, 4) == number.to_bytes(2, "big") * 2

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))


def test_a_huge_range_allocates_no_more_than_the_blob(store: LocalStore) -> None:
    """The length that is asked for is cut before memory is asked for it."""
    store.put_new("blob", [b"12345"])
    assert store.get("blob", 1, 2**50) == b"2345"


def test_read_only_changes_nothing(tmp_path: Path) -> None:
    """A store that was opened read-only reads, and refuses whatever would change the disk."""
    with closing(LocalStore(tmp_path)) as writer:
        writer.put_new("blob", [b"x"])
    with closing(LocalStore(tmp_path, read_only=True)) as store:
        assert store.get("blob") == b"x"
        for change in (lambda: store.put_new("other", []), lambda: store.delete("blob"), store.clean):
            with pytest.raises(ReadOnlyError):
                change()
        assert [info.name for info in store.list("")] == ["blob"]


def test_strangers_files_are_no_blobs(store: LocalStore) -> None:
    """Temporary files, links and files whose names no blob has are not listed."""
    store.put_new("packs/blob", [b"x"])
    (store.root / "tmp" / "half").write_bytes(b"half")
    (store.root / "lost+found").mkdir()
    (store.root / "packs" / "blob~").write_bytes(b"x")
    (store.root / "packs" / "link").symlink_to("blob")
    (store.root / "again").symlink_to("packs")
    assert [info.name for info in store.list("")] == ["packs/blob"]


def test_blobs_are_not_writable(store: LocalStore) -> None:
    """A blob's file refuses to be opened for writing by accident."""
    store.put_new("blob", [b"x"])
    assert (store.root / "blob").stat().st_mode & 0o222 == 0


def test_disk_errors_leave_as_store_errors(store: LocalStore) -> None:
    """What the operating system refuses is told as StoreError, with its errno."""
    store.root.write_bytes(b"a file, not a folder")
    with pytest.raises(StoreError) as failed:
        store.put_new("packs/blob", [b"x"])
    assert failed.value.errno in {errno.ENOTDIR, errno.EEXIST}
    with pytest.raises(StoreError):
        list(store.list(""))
