"""Reading ranges, files and lists: always what a plain bytes, BytesIO or sorted list would give."""

import io
import os
import shutil
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bank_scene import MIB, content, engine_of, flip, memory_place, packs_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from casbank import Bank, CorruptionError, ErrorKind, InvalidInputError, NotFoundError, ObjectFile

# Inline, one chunk, one leaf, several leaves and an inner node (1 MiB in chunks of 512 bytes is four leaves or so).
SIZES = [0, 700, 3000, 100_000, MIB + 77]


@pytest.fixture(scope="module")
def stored() -> Iterator[Bank]:
    """Objects of each of the sizes, cut so small that the largest has a manifest of two levels."""
    with Bank.create(memory_place(), chunking="fixed:512") as bank:
        for size in SIZES:
            bank.put(str(size), content(size, size))
        yield bank


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SIZES), st.data())
def test_ranges_are_slices(stored: Bank, size: int, data: st.DataObject) -> None:
    """A range of an object is the same slice of its bytes, also where it begins or ends behind them."""
    start = data.draw(st.integers(0, size + 100))
    length = data.draw(st.none() | st.integers(0, size + 100))
    expected = content(size, size)[start:] if length is None else content(size, size)[start : start + length]
    assert stored.get(str(size), start=start, length=length) == expected


@pytest.mark.parametrize("wrong", [{"start": -1}, {"length": -1}], ids=str)
def test_negative_ranges(bank: Bank, wrong: dict[str, int]) -> None:
    """A negative range is refused."""
    bank.put("x", b"abc")
    with pytest.raises(InvalidInputError):
        bank.get("x", **wrong)


def test_small_range_of_a_large_object(bank: Bank) -> None:
    """A range reads no more than the groups that it touches."""
    data = content(0, 64 * MIB)
    bank.put("x", data)
    tracemalloc.start()
    assert bank.get("x", start=40 * MIB, length=10) == data[40 * MIB : 40 * MIB + 10]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * MIB


class AgainstBytesIO(RuleBasedStateMachine):
    """An object's file behaves as a BytesIO of its bytes, whatever happens to the name meanwhile."""

    bank: Bank
    file: ObjectFile
    model: io.BytesIO

    @initialize(size=st.sampled_from(SIZES))
    def open(self, size: int) -> None:
        self.bank = Bank.create(memory_place(), chunking="fixed:512")
        self.size = size
        self.bank.put("x", content(size, size))
        self.file = self.bank.open_object("x")
        self.model = io.BytesIO(content(size, size))

    @rule(position=st.integers(0, MIB + 500))
    def seek(self, position: int) -> None:
        assert self.file.seek(position) == self.model.seek(position)

    @rule(ahead=st.integers(-2000, 2000))
    def seek_from_here(self, ahead: int) -> None:
        ahead = max(ahead, -self.model.tell())
        assert self.file.seek(ahead, os.SEEK_CUR) == self.model.seek(ahead, os.SEEK_CUR)

    @rule(back=st.integers(0, 3000))
    def seek_from_end(self, back: int) -> None:
        back = min(back, self.size)
        assert self.file.seek(-back, os.SEEK_END) == self.model.seek(-back, os.SEEK_END)

    @rule(size=st.integers(0, 5000) | st.just(200_000))
    def read(self, size: int) -> None:
        assert self.file.read(size) == self.model.read(size)
        assert self.file.tell() == self.model.tell()

    @rule(size=st.integers(0, 5000))
    def read_into(self, size: int) -> None:
        ours, theirs = bytearray(size), bytearray(size)
        assert self.file.readinto(ours) == self.model.readinto(theirs)
        assert ours == theirs

    @rule()
    def read_all(self) -> None:
        assert self.file.read() == self.model.read()

    @rule()
    def read_a_line(self) -> None:
        assert self.file.readline(3000) == self.model.readline(3000)

    @rule(data=st.binary(max_size=20))
    def overwrite(self, data: bytes) -> None:
        self.bank.put("x", data)

    @rule()
    def delete(self) -> None:
        self.bank.delete("x", missing_ok=True)

    def teardown(self) -> None:
        if hasattr(self, "bank"):
            self.file.close()
            self.bank.close()


TestAgainstBytesIO = AgainstBytesIO.TestCase
TestAgainstBytesIO.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


def test_file_protocol(bank: Bank) -> None:
    """The file is a raw one: readable, seekable, not writable, and of no use once it is closed."""
    bank.put("x", b"a\nb\n")
    with bank.open_object("x") as file:
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        assert list(file) == [b"a\n", b"b\n"]
        for wrong in ((-1, os.SEEK_SET), (0, 7)):
            with pytest.raises(ValueError, match=r"seek|whence"):
                file.seek(*wrong)
        assert io.BufferedReader(bank.open_object("x")).read(3) == b"a\nb"
    uses: list[Callable[[], object]] = [file.read, lambda: file.read(1), lambda: file.readinto(bytearray(1))]
    for use in uses:
        with pytest.raises(ValueError, match="closed"):
            use()


def test_open_object_stays_on_its_version(bank: Bank) -> None:
    """A file goes on with the version that it opened, though the name was overwritten and deleted in the middle."""
    data = content(1, 20 * MIB)
    version = bank.put("x", data).version
    file = bank.open_object("x")
    first = file.read(1000)
    bank.put("x", content(2, 20 * MIB))
    second = file.read(10 * MIB)
    bank.delete("x")
    assert first + second + file.read() == data
    assert file.version == version
    with pytest.raises(NotFoundError):
        bank.open_object("x")


def test_open_object_takes_bounded_memory(bank: Bank) -> None:
    """To read a large object piece by piece takes memory for a few pieces."""
    bank.put("x", content(1, 96 * MIB))
    tracemalloc.start()
    size = 0
    with bank.open_object("x") as file:
        while piece := file.read(MIB):
            size += len(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 96 * MIB
    assert peak < 48 * MIB


# --- damage --------------------------------------------------------------------------------------------------------


def test_every_flipped_byte_of_a_pack_is_found(place: Path) -> None:
    """A byte that changed in an entry is a CorruptionError that names object, pack, entry and offset, each time."""
    with Bank.create(place, compression="none") as bank:
        data = content(1, 10_000)
        bank.put("x", data)
        (pack,) = packs_of(place)
        for offset in range(128, 10_000, 997):
            flip(pack, offset)
            for _ in range(2):
                with pytest.raises(CorruptionError) as caught:
                    bank.get("x")
            error = caught.value
            assert error.context["object"] == "x"
            assert error.context["pack"].hex() == pack.name  # type: ignore[attr-defined]
            assert {"entry", "offset"} <= error.context.keys()
            flip(pack, offset)
        assert bank.get("x") == data


def test_file_over_damage_keeps_failing(bank: Bank, place: Path) -> None:
    """A file whose object is damaged says so at each read, and never that the object has ended."""
    bank.put("x", content(1, 9 * MIB))
    for pack in packs_of(place):
        flip(pack, 1000)
    with bank.open_object("x") as file:
        for _ in range(3):
            with pytest.raises(CorruptionError):
                file.read(100)
        with pytest.raises(CorruptionError):
            file.read()


def test_damage_leaves_other_objects_alone(place: Path) -> None:
    """What does not touch the damage is read as ever."""
    with Bank.create(place) as bank:
        bank.put("good", content(1, 300_000))
        before = set(packs_of(place))
        bank.put("bad", content(2, 300_000))
        for pack in set(packs_of(place)) - before:
            flip(pack, 500)
        with pytest.raises(CorruptionError):
            bank.get("bad")
        assert bank.get("good") == content(1, 300_000)


@pytest.mark.parametrize("size", [100_000, 9 * MIB])
def test_missing_pack(bank: Bank, place: Path, size: int) -> None:
    """A pack that is gone is a CorruptionError of its own kind that names it, and the object."""
    bank.put("x", content(1, size))
    shutil.rmtree(place / "packs")
    with pytest.raises(CorruptionError) as caught:
        bank.get("x")
    assert caught.value.kind is ErrorKind.PACK_MISSING
    assert caught.value.context["object"] == "x"
    assert "pack" in caught.value.context


def test_cut_pack(bank: Bank, place: Path) -> None:
    """A pack that was cut short is a CorruptionError, never short content."""
    bank.put("x", content(1, 10_000))
    (pack,) = packs_of(place)
    pack.chmod(0o644)
    os.truncate(pack, 5000)
    with pytest.raises(CorruptionError):
        bank.get("x")


# --- lists ---------------------------------------------------------------------------------------------------------

LONG = "p" * 480
NAMES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8),
    st.text("ab/.\x01\x7f\U0001f980\uffff", min_size=1, max_size=5),
    st.builds(lambda tail: LONG + tail, st.text("ab\U0001f980", max_size=4)),
    st.builds(lambda head, tail: LONG[:-1] + head + tail, st.text("ap\xe9", max_size=3), st.text("az", max_size=2)),
    st.sampled_from(["../x", "a//b", "/", "a" * 1024, LONG * 2 + "x", "\U0010ffff", "a\x7f", "a0", "a-b", "a/b"]),
).filter(lambda name: len(name.encode()) <= 1024)


def expected_list(names: set[str], prefix: str, start_after: str | None, limit: int | None, reverse: bool) -> list[str]:
    """What a list must be, by way of one that was sorted."""
    found = sorted((name for name in names if name.startswith(prefix)), key=str.encode, reverse=reverse)
    if start_after:
        at = start_after.encode()
        found = [name for name in found if (name.encode() < at if reverse else name.encode() > at)]
    return found if limit is None else found[:limit]


@pytest.fixture(scope="module")
def shelf() -> Iterator[Bank]:
    """A bank whose names each example replaces."""
    with Bank.create(memory_place()) as bank:
        yield bank


@settings(max_examples=120, deadline=None)
@given(st.sets(NAMES, max_size=25), st.data())
def test_lists_are_in_byte_order(shelf: Bank, names: set[str], data: st.DataObject) -> None:
    """A list is what a sorted one of all names gives, for any prefix, start, limit and direction."""
    with shelf.batch() as batch:
        for name in set(shelf) - names:
            batch.delete(name)
        for name in names:
            batch.put(name, name.encode())
    some = st.sampled_from(sorted(names)) if names else st.just("a")
    for _ in range(6):
        cut = data.draw(some)
        prefix = data.draw(st.just("") | st.just(cut[: data.draw(st.integers(0, len(cut)))]) | NAMES)
        start_after = data.draw(st.none() | some | NAMES)
        limit = data.draw(st.none() | st.integers(0, 8))
        reverse = data.draw(st.booleans())
        found = list(shelf.list(prefix, start_after=start_after, limit=limit, reverse=reverse))
        assert [info.name for info in found] == expected_list(names, prefix, start_after, limit, reverse)
    assert list(shelf) == expected_list(names, "", None, None, False)
    assert len(shelf) == len(names)
    assert all((name in shelf) == (name in names) for name in names | {"a", LONG, "absent"})


@pytest.mark.parametrize("reverse", [False, True])
def test_paging(shelf: Bank, reverse: bool) -> None:
    """Pages of any size, each begun behind the last name of the one before, make the whole list."""
    names = {f"{LONG}{number}" if number % 3 else f"n{number}" for number in range(60)}
    with shelf.batch() as batch:
        for name in set(shelf):
            batch.delete(name)
        for name in names:
            batch.put(name, b"")
    for size in (1, 7, 59, 60, 61):
        pages, after = [], None
        while page := [info.name for info in shelf.list(start_after=after, limit=size, reverse=reverse)]:
            pages += page
            after = page[-1]
        assert pages == expected_list(names, "", None, None, reverse)


def test_list_longer_than_a_page(bank: Bank) -> None:
    """A list of more rows than are read at once is whole, in both directions, while others write into it."""
    names = [f"{number:05}" for number in range(2500)]
    with bank.batch() as batch:
        for name in names:
            batch.put(name, b"")
    assert [info.name for info in bank.list()] == names
    assert [info.name for info in bank.list(reverse=True)] == names[::-1]
    rows = bank.list()
    begun = [next(rows).name for _ in range(10)]
    bank.delete("02000")
    bank.put("02001x", b"")
    rest = [info.name for info in rows]
    assert begun + rest == sorted({*names, "02001x"} - {"02000"})


@pytest.mark.parametrize(
    "wrong", [{"limit": -1}, {"prefix": "\ud800"}, {"start_after": "\ud800"}, {"prefix": None}], ids=repr
)
def test_refused_lists(bank: Bank, wrong: dict[str, object]) -> None:
    """What is no prefix, start or limit is refused at once."""
    with pytest.raises(InvalidInputError):
        bank.list(**wrong)  # type: ignore[arg-type]


def test_abandoned_lists_hold_nothing(bank: Bank) -> None:
    """A list that nobody reads to its end holds no transaction: the index's pages can be used again."""
    for number in range(20):
        bank.put(str(number), b"")
    rows = [bank.list() for _ in range(600)]
    for row in rows:
        next(row)
    bank.put("x", b"")
    assert [info.name for info in rows[0]] == sorted(map(str, range(20)))[1:]
    assert bank.get("x") == b""


def test_reads_from_many_threads(bank: Bank) -> None:
    """Any number of threads may read one object at once, and through one bank."""
    data = content(1, 10 * MIB)
    bank.put("x", data)
    wrong: list[int] = []

    def read(number: int) -> None:
        start = number * 500_000
        if bank.get("x", start=start, length=700_000) != data[start : start + 700_000] or bank.get("x") != data:
            wrong.append(number)

    threads = [threading.Thread(target=read, args=[number]) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert engine_of(bank).follower.seen.objects == 1
