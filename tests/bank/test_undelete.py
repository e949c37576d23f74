"""What was deleted or replaced can be brought back until its window is over."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bank_scene import MIB, content, contents_of, engine_of, pack_bytes, packs_of, rows_of
from collect_scene import DAY_S, Clock, collect_now

from casbank import Bank, ErrorKind, InvalidInputError, NotFoundError, ReadOnlyError
from casbank.engine import undelete


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(place: Path, clock: Clock) -> Iterator[Bank]:
    with Bank.create(place, world=clock.world) as bank:
        yield bank


def removed(bank: Bank, prefix: str = "") -> list[tuple[str, int]]:
    return [(info.name, info.version) for info in bank.list(prefix, deleted=True)]


@pytest.mark.parametrize("size", [0, 100, 5000, 9 * MIB])
def test_deleted_object_comes_back(bank: Bank, size: int) -> None:
    """What is brought back is what was removed, content, metadata and digest, as a new version."""
    data = content(size, size)
    before = bank.put("x", data, metadata={"k": b"v"}, digest=True)
    bank.delete("x")
    after = bank.undelete("x")
    assert (after.size, after.etag, after.digest, after.metadata) == (size, before.etag, before.digest, {"k": b"v"})
    assert after.version > before.version
    assert after.created_ns >= before.created_ns
    assert bank.head("x") == after
    assert bank.get("x") == data
    assert bank.verify_index() == []


def test_each_version_comes_back(bank: Bank) -> None:
    """Of many versions the last removed one comes back, or the one that is asked for; what was there is removed."""
    data = [content(number, 30_000) for number in range(4)]
    versions = [bank.put("x", each).version for each in data]
    assert removed(bank) == [("x", version) for version in reversed(versions[:3])]
    assert bank.undelete("x").etag == bank.head("x").etag
    assert bank.get("x") == data[2]
    for number in (0, 3, 1):
        bank.undelete("x", versions[number])
        assert bank.get("x") == data[number]
    bank.delete("x")
    bank.undelete("x")
    assert bank.get("x") == data[1]


def test_list_of_removed_versions(timed: Bank, clock: Clock) -> None:
    """The list has names in byte order, the newest of each first, when each was removed, and prefixes."""
    for name in ("b", "a/1", "a/2", "\U0001f980"):
        timed.put(name, b"1")
        timed.put(name, b"22")
        clock.go(1)
        timed.delete(name)
    found = list(timed.list(deleted=True))
    assert [(info.name, info.size) for info in found] == [
        (name, size) for name in ("a/1", "a/2", "b", "\U0001f980") for size in (2, 1)
    ]
    assert [info.removed_ns for info in found if info.name == "\U0001f980"] == [clock.ns, clock.ns - 10**9]
    assert [info.name for info in timed.list("a/", deleted=True)] == ["a/1", "a/1", "a/2", "a/2"]
    assert list(timed.list("zz", deleted=True)) == []
    assert timed.stats().deleted_objects == 8
    assert all(info.removed_ns is None for info in timed.list())


def test_many_removed_versions(bank: Bank) -> None:
    """More of them than one page of the index."""
    names = [f"{number:05}" for number in range(2500)]
    for put in (True, False):
        with bank.batch() as batch:
            for name in names:
                if put:
                    batch.put(name, name.encode())
                else:
                    batch.delete(name)
    assert [name for name, _ in removed(bank)] == names
    bank.undelete(names[-1])
    assert bank.get(names[-1]) == names[-1].encode()


@pytest.mark.parametrize("name", ["never", "there"])
def test_what_was_never_removed(bank: Bank, name: str) -> None:
    """A name that never was, or that is there in its first version, has nothing to bring back."""
    bank.put("there", b"1")
    with pytest.raises(NotFoundError) as absent:
        bank.undelete(name)
    assert absent.value.kind is ErrorKind.NO_OBJECT
    bank.delete("there")
    with pytest.raises(NotFoundError):
        bank.undelete("there", 10**6)


@pytest.mark.parametrize(("name", "version"), [("", None), ("x", 0), ("x", -1), ("x", "1"), ("x", True), ("x", 1.0)])
def test_bad_arguments_are_refused(bank: Bank, name: str, version: Any) -> None:
    """What no caller can ask for is told as such."""
    with pytest.raises(InvalidInputError):
        bank.undelete(name, version)


@pytest.mark.parametrize("option", [{"start_after": "a"}, {"limit": 1}, {"reverse": True}], ids=str)
def test_list_of_removed_versions_is_whole(bank: Bank, option: dict[str, Any]) -> None:
    """It has no pages to ask for."""
    with pytest.raises(InvalidInputError):
        bank.list(deleted=True, **option)


def test_read_only_bank_brings_nothing_back(bank: Bank, place: Path) -> None:
    """It lists what could be."""
    bank.put("x", b"1")
    bank.delete("x")
    with Bank.open(place, read_only=True) as reader:
        assert len(removed(reader)) == 1
        with pytest.raises(ReadOnlyError):
            reader.undelete("x")


@pytest.mark.parametrize("how", ["rebuild", "drop", "checkpoint"])
def test_removed_versions_survive(place: Path, how: str) -> None:
    """What can be brought back is the same after the index was lost, and by a checkpoint with no journal behind it."""
    with Bank.create(place) as bank:
        engine_of(bank).journal._segment_bytes_max = 500  # type: ignore[attr-defined]
        for number in range(10):
            bank.put(f"{number % 3}", content(number, 20_000))
        bank.delete("0")
        if how == "checkpoint":
            for number in range(3):
                bank.put("filler", b"%d" % number)
                engine_of(bank).checkpoints.write()
        before, rows = removed(bank), rows_of(bank)
        if how == "rebuild":
            bank.rebuild_index()
            assert rows_of(bank) == rows
    if how != "rebuild":
        Bank.drop_index(place)
    with Bank.open(place) as bank:
        assert rows_of(bank) == rows
        assert removed(bank) == before
        for name, version in before:
            bank.undelete(name, version)
        assert bank.verify_index() == []


def test_window_ends_for_each_version(timed: Bank, clock: Clock, place: Path) -> None:
    """A collection forgets what was removed before the window, and keeps the rest, all of it readable."""
    data = [content(number, 60_000) for number in range(6)]
    versions = []
    for each in data:
        versions.append(timed.put("x", each).version)
        clock.go(DAY_S / 4)
    # Removed 5, 4, 3, 2 and 1 quarters of a day ago.
    timed.collect(timed.plan_collection(reader_grace_s=0))
    assert [version for _, version in removed(timed)] == list(reversed(versions[1:5]))
    assert 5 * 60_000 < pack_bytes(place) < 5.3 * 60_000
    timed.undelete("x", versions[1])
    assert timed.get("x") == data[1]
    timed.collect(timed.plan_collection(DAY_S // 2, 0))
    assert [version for _, version in removed(timed)][1:] == [versions[4], versions[3]]
    for number in (3, 4, 5):
        timed.undelete("x", versions[number])
        assert timed.get("x") == data[number]
    with pytest.raises(NotFoundError) as absent:
        timed.undelete("x", versions[2])
    assert absent.value.kind is ErrorKind.NO_OBJECT
    assert timed.verify_index() == []


def test_clock_that_goes_back(timed: Bank, clock: Clock) -> None:
    """What another clock removed out of order is kept as long as anything before it in the journal is."""
    for name in "ab":
        timed.put(name, content(name, 30_000))
    timed.delete("a")
    clock.go(-3 * DAY_S)
    timed.delete("b")
    clock.go(3 * DAY_S)
    timed.collect(timed.plan_collection(reader_grace_s=0))
    for name in "ab":
        timed.undelete(name)
        assert timed.get(name) == content(name, 30_000)


def test_brought_back_content_is_alive(bank: Bank, place: Path) -> None:
    """What was brought back is like any other object: collections keep it, whatever becomes of the rest."""
    data = content("x", 300_000)
    bank.put("x", data)
    bank.put("y", content("y", 300_000))
    bank.delete("x")
    bank.undelete("x")
    bank.delete("y")
    collect_now(bank)
    assert contents_of(bank) == {"x": data}
    assert removed(bank) == []
    assert pack_bytes(place) < 310_000
    assert bank.verify_index() == []


def test_collected_under_an_undelete(bank: Bank, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version whose content is collected between the look and the record is gone, and not brought back in part."""
    bank.put("x", content("x", 300_000))
    bank.delete("x")
    packs_of_tree = undelete._packs_of
    calls = []

    def collected_behind(*arguments: Any) -> Any:
        reliance = packs_of_tree(*arguments)
        if not calls:
            collect_now(bank)
        calls.append(len(packs_of(place)))
        return reliance

    monkeypatch.setattr(undelete, "_packs_of", collected_behind)
    with pytest.raises(NotFoundError) as gone:
        bank.undelete("x")
    assert gone.value.kind is ErrorKind.GONE
    assert calls == [0]
    assert list(bank) == []


def test_rewritten_under_an_undelete(bank: Bank, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version whose packs are rewritten between the look and the record is brought back from where it is now."""
    data = {name: content(name, 300_000) for name in "abcdefgh"}
    with bank.batch() as batch:
        for name, each in data.items():
            batch.put(name, each)
    bank.acquire_lease("x", kind="pin", pins=["a"])
    with bank.batch() as batch:
        for name in data:
            batch.delete(name)
    packs_of_tree = undelete._packs_of
    calls = []

    def rewritten_behind(*arguments: Any) -> Any:
        reliance = packs_of_tree(*arguments)
        if not calls:
            assert collect_now(bank).copied_bytes >= 300_000
        calls.append(1)
        return reliance

    monkeypatch.setattr(undelete, "_packs_of", rewritten_behind)
    bank.undelete("a")
    assert len(calls) == 2
    assert contents_of(bank) == {"a": data["a"]}
    assert bank.verify_index() == []
