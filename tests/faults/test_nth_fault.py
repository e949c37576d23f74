"""The n-th call of five workloads fails, in every way and for every n: the bank keeps its word."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import count

import pytest
from crash_check import Bases, scratch
from nth_fault import FAULTED, WAYS, FaultError, Way, check_fault
from workloads import ENCRYPTED, open_bank, small_scene

from casbank.errors import CasbankError, ErrorKind, ReadOnlyError, StoreError
from casbank.testing.faults import Failure, Fault, failing

STRIDE = 40
EVERY = [(workload, way) for workload in FAULTED for way in WAYS]


@pytest.fixture(scope="module")
def bases() -> Iterator[Bases]:
    """The banks that workloads begin with."""
    with scratch() as folder, small_scene():
        yield Bases(folder)


@pytest.mark.parametrize(("workload", "way"), EVERY, ids=str)
def test_some_calls_fail(bases: Bases, workload: str, way: Way) -> None:
    """Whichever call fails, only CasbankError leaves, and what was acknowledged is there when the bank is reopened."""
    number = 1 + EVERY.index((workload, way)) % STRIDE
    while check_fault(bases, workload, way, number).failed is not None:
        number += STRIDE


@pytest.mark.parametrize("steps", [(), (ENCRYPTED,)], ids=["plain", "encrypted"])
def test_a_failed_opening_leaves_nothing_open(bases: Bases, steps: tuple[str, ...]) -> None:
    """Whichever call of opening and closing a bank fails, it can be opened again in the same process."""
    base = bases.base_for(steps)
    folder = base.copy(bases.folder / f"reopened {base.encrypted}")
    for number in count(1):
        with failing(folder, number, Fault.EIO) as failure, suppress(CasbankError):
            open_bank(folder, encrypted=base.encrypted).close()
        with open_bank(folder, encrypted=base.encrypted) as bank:
            assert {name: bank.get(name) for name in bank} == base.contents, failure.failed
        if failure.failed is None:
            break
    assert number > 10


def test_a_failed_sync_of_the_journal_makes_it_read_only(bases: Bases) -> None:
    """Behind a failed fsync nothing is appended until the bank is opened again, and what is there can be read; the put
    that it hit has an unknown outcome."""
    base = bases.base_for(())
    folder = base.copy(bases.folder / "unsynced")
    with open_bank(folder, encrypted=False) as bank:
        bank.put("before", b"1")
        # The mark, the frame, its sync.
        with failing(folder, 3, Fault.EIO) as failure, pytest.raises(StoreError) as error:
            bank.put("lost?", b"2")
        assert str(failure.failed).startswith("fdatasync bank/journal/")
        assert error.value.kind is ErrorKind.OUTCOME_UNKNOWN
        for _ in range(2):
            with pytest.raises(ReadOnlyError) as read_only:
                bank.put("refused", b"3")
            assert read_only.value.kind is ErrorKind.FSYNC_FAILED
        assert bank.get("before") == b"1"
    with open_bank(folder, encrypted=False) as bank:
        bank.put("again", b"4")
        assert bank.get("before") == b"1"
        assert "refused" not in bank


def test_a_foreign_exception_is_noticed(bases: Bases, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not a CasbankError is a failure of the test, and its command names the call."""

    def careless(self: Failure, call: object, run: object) -> object:
        raise KeyError("foreign")

    monkeypatch.setattr(Failure, "handle", careless)
    with pytest.raises(FaultError, match=r"KeyError.*\n.*put-large,overwrite --fault EIO --call 1"):
        check_fault(bases, "puts", WAYS[0], 1)
