"""Several changes as one: all of them or none."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bank_scene import MIB, content

from casbank import (
    AlreadyExistsError,
    Bank,
    Batch,
    CasbankError,
    ConflictError,
    ErrorKind,
    InvalidInputError,
    NotFoundError,
    StoreError,
)


def test_batch_is_one_version(bank: Bank) -> None:
    """All changes of a batch come with one record."""
    bank.put("old", b"1")
    with bank.batch() as batch:
        batch.put("a", content("a", 10_000))
        batch.put("b", b"b", metadata={"k": "v"}, digest=True)
        batch.delete("old")
        assert list(bank) == ["old"]
        assert len(batch) == 3
    assert {bank.head(name).version for name in bank} == {batch.version}
    assert {name: bank.get(name) for name in bank} == {"a": content("a", 10_000), "b": b"b"}
    assert bank.head("b").metadata == {"k": "v"}


def test_exception_abandons(bank: Bank) -> None:
    """An exception that leaves the block leaves nothing of the batch."""
    batch = bank.batch()

    def fail() -> None:
        with batch:
            batch.put("a", content("a", 10 * MIB))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(bank) == []
    with pytest.raises(InvalidInputError):
        batch.put("b", b"")


@pytest.mark.parametrize("size", [10, 10_000])
def test_failing_condition_abandons_all(bank: Bank, size: int) -> None:
    """A batch of which one condition fails leaves nothing visible."""
    version = bank.put("there", b"1").version
    conditions: list[tuple[type[CasbankError], Callable[[Batch], object]]] = [
        (AlreadyExistsError, lambda batch: batch.put("there", b"", if_absent=True)),
        (ConflictError, lambda batch: batch.put("there", b"", if_version=version + 1)),
        (ConflictError, lambda batch: batch.delete("there", if_version=version + 1)),
        (NotFoundError, lambda batch: batch.delete("absent")),
    ]
    for expected, change in conditions:
        batch = bank.batch()
        batch.put("a", content("a", size))
        change(batch)
        with pytest.raises(expected):
            batch.commit()
        assert {name: bank.get(name) for name in bank} == {"there": b"1"}


def test_last_change_of_a_name_counts(bank: Bank) -> None:
    """Of several changes of one name in one batch the last one is made."""
    bank.put("c", b"before")
    with bank.batch() as batch:
        batch.put("a", b"1")
        batch.put("a", content("a", 5000))
        batch.put("b", b"1")
        batch.delete("b", missing_ok=True)
        batch.delete("c")
        batch.put("c", b"after")
    assert {name: bank.get(name) for name in bank} == {"a": content("a", 5000), "c": b"after"}


def test_empty_batch_writes_nothing(bank: Bank) -> None:
    """A batch without changes, or with none that changes anything, takes no version."""
    before = bank.stats().version
    with bank.batch() as batch:
        pass
    with bank.batch() as other:
        other.delete("absent", missing_ok=True)
    assert (batch.version, other.version, bank.stats().version) == (0, 0, before)


def test_too_large_batch(bank: Bank) -> None:
    """A batch that needs more than one record is refused before anything is visible."""

    def put_all() -> None:
        with bank.batch() as batch:
            for number in range(1100):
                batch.put(str(number), b"", metadata={"k": "x" * 65_000})

    with pytest.raises(InvalidInputError) as caught:
        put_all()
    assert caught.value.kind is ErrorKind.TOO_LARGE
    assert list(bank) == []


def test_replaced_changes_take_no_room(bank: Bank) -> None:
    """A name that is put again and again takes the room of its last put only."""
    with bank.batch() as batch:
        for number in range(1100):
            batch.put("x", b"%d" % number, metadata={"k": "x" * 65_000})
    assert bank.get("x") == b"1099"


def test_failing_source_leaves_the_rest(bank: Bank) -> None:
    """A source that fails within a batch loses its own object, and no byte of those before and behind it."""

    def failing(size: int) -> Iterator[bytes]:
        yield content("failing", size)
        raise RuntimeError("source")

    expected = {}
    with bank.batch() as batch:
        for number, size in enumerate([50, 3000, 100_000, 6 * MIB, 700]):
            for kind in ("before", "behind"):
                name = f"{number} {kind}"
                expected[name] = content(name, size)
                batch.put(name, expected[name])
                if kind == "before":
                    with pytest.raises(RuntimeError, match="source"):
                        batch.put(f"{number} fails", failing(size + 1000))
    assert {name: bank.get(name) for name in bank} == expected


def test_failing_store_breaks_the_batch(bank: Bank, place: Path) -> None:
    """A batch of which one pack could not be stored is never acknowledged, though the store has recovered since."""
    (place / "packs").write_bytes(b"in the way")
    batch = bank.batch()
    healed = threading.Event()

    def heals_itself() -> Iterator[bytes]:
        yield content(2, 4 * MIB)
        # The first pack has failed by now, and nobody has looked yet.
        threading.Event().wait(0.5)
        (place / "packs").unlink()
        healed.set()
        yield content(3, 70 * MIB)

    batch.put("a", content(1, 60 * MIB))
    with pytest.raises(StoreError):
        batch.put("b", heals_itself())
    assert healed.is_set()
    with pytest.raises(StoreError):
        batch.put("c", content(3, 10 * MIB))
    with pytest.raises(StoreError):
        batch.commit()
    assert list(bank) == []
    bank.put("a", content(1, 40 * MIB))
    assert bank.get("a") == content(1, 40 * MIB)


def test_source_cannot_put_into_its_own_batch(bank: Bank) -> None:
    """A generator that puts into the batch that is reading it is refused, and mixes nothing."""
    with bank.batch() as batch:

        def nested() -> Iterator[bytes]:
            yield b"A" * 300
            batch.put("inner", b"B" * 300)

        with pytest.raises(InvalidInputError):
            batch.put("outer", nested())
        batch.put("whole", b"C" * 300)
    assert {name: bank.get(name) for name in bank} == {"whole": b"C" * 300}


def test_committed_batch_is_done(bank: Bank) -> None:
    """A batch that was committed takes no more changes, and leaving its block commits nothing again."""
    with bank.batch() as batch:
        batch.put("a", b"1")
        version = batch.commit()
        for late in (lambda: batch.put("b", b""), lambda: batch.delete("a"), batch.commit):
            with pytest.raises(InvalidInputError):
                late()
    assert batch.version == version == bank.stats().version


def test_threads_share_a_batch(bank: Bank) -> None:
    """Threads may put into one batch; all of it is there then."""
    sizes = [10, 3000, 90_000, 2 * MIB]
    with bank.batch() as batch, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: batch.put(str(number), content(number, sizes[number % 4])), range(24)))
    assert {name: bank.get(name) for name in bank} == {str(n): content(n, sizes[n % 4]) for n in range(24)}


def test_large_batch_of_small_objects(bank: Bank) -> None:
    """Thousands of small objects in a batch each come back."""
    expected = {f"{number:05}": b"%d " % number * (number % 300) for number in range(5000)}
    with bank.batch() as batch:
        for name, data in expected.items():
            batch.put(name, data)
    assert {name: bank.get(name) for name in bank} == expected
    assert bank.stats().packs <= 2


def attempt_to_win(bank: Bank, name: str, version: int | None, start: threading.Barrier, rival: int) -> int:
    """Put under a condition, alone or in a batch; the rival's number, or -1 if it lost."""
    start.wait()
    try:
        if rival % 2:
            with bank.batch() as batch:
                batch.put(name, b"%d" % rival, if_absent=version is None, if_version=version)
        else:
            bank.put(name, b"%d" % rival, if_absent=version is None, if_version=version)
    except (AlreadyExistsError, ConflictError):
        return -1
    return rival


@pytest.mark.parametrize("condition", ["if_absent", "if_version"])
def test_one_winner(bank: Bank, condition: str) -> None:
    """Of 8 threads that ask for one condition exactly one succeeds, whatever way each of them writes."""
    for number in range(20):
        name = f"x{number}"
        version = None if condition == "if_absent" else bank.put(name, b"0").version
        attempt = partial(attempt_to_win, bank, name, version, threading.Barrier(8))
        with ThreadPoolExecutor(8) as pool:
            won = [rival for rival in pool.map(attempt, range(8)) if rival >= 0]
        assert len(won) == 1
        assert bank.get(name) == b"%d" % won[0]


def test_errors_are_casbanks(bank: Bank) -> None:
    """What a batch raises for its caller's mistakes is always one of casbank's errors."""
    batch = bank.batch()
    text: Any = "text"
    calls: list[Callable[[], object]] = [
        lambda: batch.put("", b""),
        lambda: batch.put("x", text),
        lambda: batch.delete("x", if_version=-1),
    ]
    for wrong in calls:
        with pytest.raises(CasbankError):
            wrong()
    assert batch.commit() == 0
