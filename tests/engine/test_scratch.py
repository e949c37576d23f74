"""Temporary files: what the disk does to them is told in our own words, whoever uses them."""

import errno
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bank_scene import MIB

from casbank import Bank, StoreError
from casbank.engine.scratch import ScratchFile
from casbank.engine.sorting import ExternalSorter


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The system lets no file of this process grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_written_can_be_read(tmp_path: Path) -> None:
    """Bytes come back in parts and as one view, from a file that leaves no name."""
    with ScratchFile(tmp_path) as file:
        file.write(b"first ")
        file.write(b"second")
        assert bytes(file.view()) == b"first second"
        file.seek(6)
        assert (file.read(3), file.read(100), file.read(1)) == (b"sec", b"ond", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    """Without a folder to lie in it is a StoreError."""
    with pytest.raises(StoreError) as error:
        ScratchFile(tmp_path / "missing")
    assert error.value.errno == errno.ENOENT


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """A write that fails is a StoreError, at once or when its buffer is emptied, and closing the file is none."""
    with no_file_beyond(100):
        large = ScratchFile(tmp_path)
        with pytest.raises(StoreError):
            large.write(bytes(MIB))
        large.close()
        for use in (lambda file: file.view(), lambda file: file.seek(0), lambda file: file.read(1)):
            small = ScratchFile(tmp_path)
            small.write(bytes(101))
            with pytest.raises(StoreError) as error:
                use(small)
            assert error.value.errno == errno.EFBIG
            small.close()


def test_a_view_outlives_its_file(tmp_path: Path) -> None:
    """Who still holds a view when the file is closed, as an error on its way may, gets no other error for it."""
    with ScratchFile(tmp_path) as file:
        file.write(b"content")
        part = file.view()[3:]
    assert bytes(part) == b"tent"


def test_rows_that_cannot_be_sorted(tmp_path: Path) -> None:
    """Where no temporary file can be written, sorting more than memory holds is a StoreError, in the end too."""
    with pytest.raises(StoreError):
        ExternalSorter(tmp_path / "missing", run_bytes=1).add([1], 1)
    sorter = ExternalSorter(tmp_path, run_bytes=1)
    with no_file_beyond(100), pytest.raises(StoreError):
        sorter.add([bytes(MIB)], MIB)
    sorter.close()


def test_verification_without_a_temporary_folder(bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no folder for temporary files, verify_index is a StoreError, and the bank is of use."""
    bank.put("a", b"1")
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
        with pytest.raises(StoreError):
            bank.verify_index()
    assert bank.verify_index() == []
