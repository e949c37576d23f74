"""The memory of the newest record: a disk that fails costs it nothing, nor whoever stores."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from casbank import StoreError
from casbank.engine.remembered import RememberedHead, remembered_head
from casbank.journal.base import Head
from casbank.testing.faults import Fault, failing

OLD, NEW = Head(4, bytes(32)), Head(5, bytes(range(32)))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[RememberedHead]:
    """One that remembers an old record, as who opens the bank anew finds it."""
    before = RememberedHead(tmp_path / "head")
    before.advance(OLD)
    before.close()
    opened = RememberedHead(tmp_path / "head")
    yield opened
    opened.close()


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("fault", [Fault.EIO, Fault.ENOSPC, Fault.SHORT_WRITE])
def test_a_record_that_cannot_be_remembered(
    tmp_path: Path, memory: RememberedHead, caplog: pytest.LogCaptureFixture, fault: Fault, number: int
) -> None:
    """A failure to remember is logged and not raised, and the next attempt makes up for it."""
    with failing(tmp_path, number, fault) as failure:
        memory.advance(NEW)
    assert ("record 5 cannot be remembered" in caplog.text) is (failure.failed is not None)
    memory.advance(NEW)
    assert remembered_head(tmp_path / "head") == NEW


def test_a_memory_that_cannot_be_read(tmp_path: Path, memory: RememberedHead) -> None:
    """A read that fails is a StoreError and not an empty memory: an older record does not take its place."""
    with failing(tmp_path, 1, Fault.EIO), pytest.raises(StoreError):
        memory.read()
    with failing(tmp_path, 1, Fault.EIO):
        memory.advance(Head(1, bytes(32)))
    assert memory.read() == OLD


def test_a_memory_that_cannot_be_closed(tmp_path: Path) -> None:
    """A close that fails is no error, and whoever comes late writes into no file that has the number by now."""
    memory = RememberedHead(tmp_path / "head")
    with failing(tmp_path, 1, Fault.EIO) as failure:
        memory.close()
    assert failure.failed == "close head"
    with (tmp_path / "other").open("w+b", buffering=0) as other:
        memory.advance(NEW)
        assert other.read() == b""
