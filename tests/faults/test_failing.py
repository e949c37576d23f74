"""Calls that fail: the right one, in the right way, and the others not."""

import errno
import os
from pathlib import Path

import pytest

from casbank.testing.faults import Fault, failing


def work(folder: Path) -> None:
    """Open, write, sync, close, rename, remove: six calls."""
    descriptor = os.open(folder / "a", os.O_WRONLY | os.O_CREAT)
    try:
        os.write(descriptor, b"0123456789")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    (folder / "a").rename(folder / "b")
    (folder / "b").unlink()


CALLS = ["open a", "write a", "fsync a", "close a", "rename a -> b", "unlink b"]


@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize("fault", [Fault.EIO, Fault.EINTR])
def test_the_nth_call_fails(tmp_path: Path, fault: Fault, number: int) -> None:
    """Exactly that call raises, with its errno, and the failure tells which it was."""
    with failing(tmp_path, number, fault) as failure, pytest.raises(OSError, match=r".+") as error:
        work(tmp_path)
    assert error.value.errno == fault.value
    assert failure.failed == CALLS[number - 1]


def test_it_ends_behind_the_last_call(tmp_path: Path) -> None:
    """A number that is never reached changes nothing, and the failure says so."""
    with failing(tmp_path, 7, Fault.EIO) as failure:
        work(tmp_path)
    assert (failure.calls, failure.failed) == (6, None)


def test_a_disk_is_full_for_who_needs_space(tmp_path: Path) -> None:
    """ENOSPC hits what takes space: never a close, a removal or a read."""
    names = []
    for number in range(1, 5):
        with failing(tmp_path, number, Fault.ENOSPC) as failure, pytest.raises(OSError, match="No space left"):
            work(tmp_path)
        names.append(failure.failed)
    assert names == ["open a", "write a", "fsync a", "rename a -> b"]
    with failing(tmp_path, 5, Fault.ENOSPC) as failure:
        work(tmp_path)
    assert failure.failed is None


def test_for_good(tmp_path: Path) -> None:
    """From the n-th call on every one fails, until the context ends."""
    with failing(tmp_path, 2, Fault.EIO, forever=True) as failure:
        descriptor = os.open(tmp_path / "a", os.O_WRONLY | os.O_CREAT)
        for _ in range(3):
            with pytest.raises(OSError, match=r".+"):
                os.write(descriptor, b"x")
    os.write(descriptor, b"x")
    os.close(descriptor)
    assert failure.failed == "write a"


def test_a_short_write_writes_half(tmp_path: Path) -> None:
    """Each kind of write says how much it took, which is half of what it was given."""
    descriptor = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    with failing(tmp_path, 1, Fault.SHORT_WRITE, forever=True):
        assert os.write(descriptor, b"0123456789") == 5
        assert os.writev(descriptor, [b"ab", b"cdef"]) == 3
        assert os.pwrite(descriptor, b"XY", 0) == 1
        assert os.pwritev(descriptor, [b"Z", b"Z"], 1) == 1
        assert os.write(descriptor, b"!") == 1
    os.close(descriptor)
    assert (tmp_path / "a").read_bytes() == b"XZ234abc!"


def test_a_failed_close_has_closed(tmp_path: Path) -> None:
    """The descriptor is gone all the same: to close it again could close somebody else's."""
    descriptor = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    with failing(tmp_path, 1, Fault.EIO), pytest.raises(OSError, match=r".+"):
        os.close(descriptor)
    with pytest.raises(OSError, match=r".+") as error:
        os.fstat(descriptor)
    assert error.value.errno == errno.EBADF


def test_others_are_left_alone(tmp_path: Path) -> None:
    """What lies outside the folder, or is ignored, never fails."""
    (tmp_path / "in" / "index").mkdir(parents=True)
    with failing(tmp_path / "in", 1, Fault.EIO, forever=True) as failure:
        (tmp_path / "beside").write_bytes(b"x")
        (tmp_path / "in" / "index" / "data").write_bytes(b"x")
    assert failure.calls == 0
