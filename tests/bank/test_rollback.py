"""A store that goes back in time, or is forked: who remembers notices, reads, and does not write.

Nothing in a store can show that it is an old one. So each client remembers the newest record that it has seen, beside
its indexes; who has seen nothing cannot know.
"""

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bank_scene import contents_of, engine_of

from casbank import Bank, CorruptionError, ErrorKind, ReadOnlyError, StoreError

WARNING = "went back in time or was forked"
SUITES = ["aes-256-gcm", "chacha20-poly1305"]
Content = dict[str, bytes]


@dataclass(frozen=True)
class Client:
    """Somebody with a cache folder of his own, and with the key."""

    cache: Path
    key_file: Path

    def open(self, place: Path) -> Bank:
        return Bank.open(place, key_file=self.key_file, cache_dir=self.cache)

    def create(self, place: Path, **options: Any) -> Bank:
        return Bank.create(place, key_file=self.key_file, cache_dir=self.cache, **options)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    (tmp_path / "key").write_bytes(bytes(range(32)))
    return Client(tmp_path / "cache", tmp_path / "key")


@pytest.fixture
def stranger(client: Client, tmp_path: Path) -> Client:
    """Another one, who has seen nothing."""
    return Client(tmp_path / "another cache", client.key_file)


def fill(bank: Bank, what: str, count: int) -> None:
    for number in range(count):
        bank.put(f"{what} {number}", f"{what} {number}".encode() * 500)


def copy(place: Path, target: Path) -> Path:
    return shutil.copytree(place, target)


def put_back(place: Path, copy: Path, *, mark: str) -> None:
    """Put an earlier copy in a store's place; ``journal/synced``: the copy's, none, or the one that was there."""
    synced = place / "journal" / "synced"
    newest = synced.read_bytes() if mark == "newest" else b""
    shutil.rmtree(place)
    shutil.copytree(copy, place)
    if mark == "none":
        synced.unlink()
    elif mark == "newest":
        synced.write_bytes(newest)


def earlier_and_later(client: Client, place: Path, target: Path, *, checkpoint: str, suite: str = SUITES[0]) -> Content:
    """A bank that went on after it was copied; what was in the copy."""
    with client.create(place, suite=suite) as bank:
        fill(bank, "early", 5)
        if checkpoint in ("before", "both"):
            engine_of(bank).checkpoints.write()
        early = contents_of(bank)
    copy(place, target)
    with client.open(place) as bank:
        bank.delete("early 0")
        fill(bank, "late", 3)
        if checkpoint in ("after", "both"):
            engine_of(bank).checkpoints.write()
    return early


WRITES: dict[str, Callable[[Bank, Client], object]] = {
    "put": lambda bank, _: bank.put("new", b"x"),
    "large put": lambda bank, _: bank.put("new", bytes(100_000)),
    "delete": lambda bank, _: bank.delete("early 1"),
    "copy": lambda bank, _: bank.copy("early 1", "new"),
    "batch": lambda bank, _: put_in_batch(bank),
    "retire": lambda bank, _: bank.keys.retire(1),
    "remove slot": lambda bank, _: bank.keys.remove(bank.keys.slots()[0].id),
    # These store a file before the journal is asked, or do not ask the engine.
    "checkpoint": lambda bank, _: engine_of(bank).checkpoints.write(),
    "rotate": lambda bank, _: bank.keys.rotate(),
    "add slot": lambda bank, client: bank.keys.add(key_file=client.key_file),
}


def put_in_batch(bank: Bank) -> None:
    with bank.batch() as batch:
        batch.put("new", b"x")


def refuses_writes(bank: Bank) -> None:
    with pytest.raises(ReadOnlyError) as caught:
        bank.put("new", b"x")
    assert caught.value.kind is ErrorKind.ROLLED_BACK
    assert "new" not in bank


@dataclass(frozen=True)
class Check:
    """What a client that remembers must do."""

    caplog: pytest.LogCaptureFixture

    def rolled_back(self, client: Client, place: Path, there: Content) -> None:
        """It warns, reads what is there, and refuses to write; and so it stays."""
        for _ in range(3):
            self.caplog.clear()
            with client.open(place) as bank:
                warnings = [record.levelno for record in self.caplog.records if WARNING in record.message]
                assert warnings == [logging.WARNING]
                assert contents_of(bank) == there
                refuses_writes(bank)
                assert contents_of(bank) == there
                assert bank.verify_index() == []
        self.caplog.clear()

    def nothing_said(self) -> None:
        assert WARNING not in self.caplog.text


@pytest.fixture
def check(caplog: pytest.LogCaptureFixture) -> Check:
    return Check(caplog)


# --- an earlier copy --------------------------------------------------------------------------------------------------


CASES = [
    (checkpoint, mark, suite)
    for checkpoint, suite in zip(["never", "before", "after", "both"], SUITES * 2, strict=True)
    for mark in ("the copy's", "none")
]


@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_earlier_copy(client: Client, stranger: Client, place: Path, check: Check, case: tuple[str, str, str]) -> None:
    """A store that was put back is noticed by who remembers, read right, and not written before he says so."""
    checkpoint, mark, suite = case
    tmp_path = place.parent
    early = earlier_and_later(client, place, tmp_path / "copy", checkpoint=checkpoint, suite=suite)
    put_back(place, tmp_path / "copy", mark=mark)
    check.rolled_back(client, place, early)
    Bank.drop_index(place, cache_dir=client.cache)
    check.rolled_back(client, place, early)
    # Who was never here cannot know.
    with stranger.open(place) as bank:
        assert contents_of(bank) == early
        bank.put("by a stranger", b"x")
    check.nothing_said()
    check.rolled_back(client, place, early | {"by a stranger": b"x"})
    Bank.drop_index(place, forget_head=True, cache_dir=client.cache)
    for number in range(2):
        with client.open(place) as bank:
            bank.put(f"again {number}", b"x")
            assert bank.get("early 0") == early["early 0"]
    check.nothing_said()


def test_earlier_copy_beside_the_newest_mark(client: Client, stranger: Client, place: Path, tmp_path: Path) -> None:
    """Where ``journal/synced`` was left in place, it remembers too: nobody takes the older state for the newest."""
    earlier_and_later(client, place, tmp_path / "copy", checkpoint="never")
    with client.open(place) as bank:
        newest = set(bank)
    put_back(place, tmp_path / "copy", mark="newest")
    with pytest.raises(CorruptionError) as caught:
        stranger.open(place)
    assert caught.value.kind is ErrorKind.JOURNAL

    def go_on() -> None:
        # The file may have got the number of the one before, and then its mark is trusted: so the index is right.
        with client.open(place) as bank:
            assert set(bank) == newest
            bank.put("new", b"x")

    with pytest.raises(CorruptionError) as caught:
        go_on()
    assert caught.value.kind is ErrorKind.JOURNAL


@pytest.mark.parametrize(
    "write",
    WRITES,
)
def test_every_write_is_refused(client: Client, place: Path, tmp_path: Path, write: str) -> None:
    """In a bank that went back in time no call changes the store, not by a file either."""
    early = earlier_and_later(client, place, tmp_path / "copy", checkpoint="never")
    put_back(place, tmp_path / "copy", mark="none")
    # Packs are stored before the record that names them, and a collector finds them; keys nobody collects.
    counted = ("BANK", "keys", "journal")
    before = store_of(place, *counted)
    with client.open(place) as bank:
        with pytest.raises(ReadOnlyError) as caught:
            WRITES[write](bank, client)
        assert caught.value.kind is ErrorKind.ROLLED_BACK
        assert contents_of(bank) == early
    assert store_of(place, *counted) == before


def store_of(place: Path, *parts: str) -> dict[str, bytes]:
    files = (path for path in place.rglob("*") if path.is_file() and path.name not in {"lock", "synced"})
    found = {str(path.relative_to(place)): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if name.partition("/")[0] in parts}


def test_going_forward_again_ends_it(client: Client, place: Path, tmp_path: Path, check: Check) -> None:
    """Who puts the newest store back again is asked nothing: what was remembered is there."""
    early = earlier_and_later(client, place, tmp_path / "copy", checkpoint="never")
    newest = copy(place, tmp_path / "newest")
    put_back(place, tmp_path / "copy", mark="none")
    check.rolled_back(client, place, early)
    put_back(place, newest, mark="none")
    with client.open(place) as bank:
        bank.put("new", b"x")
        assert set(bank) >= {"late 0", "late 1", "late 2", "new"}
    check.nothing_said()


def test_memory_is_of_the_bank_and_not_of_its_place(client: Client, place: Path, tmp_path: Path, check: Check) -> None:
    """An earlier copy at another place is noticed as well, and the bank itself goes on."""
    early = earlier_and_later(client, place, tmp_path / "copy", checkpoint="never")
    check.rolled_back(client, tmp_path / "copy", early)
    with client.open(place) as bank:
        bank.put("new", b"x")
    check.nothing_said()


def test_open_bank_whose_store_goes_back(client: Client, place: Path, tmp_path: Path) -> None:
    """A client that has the bank open is told, and writes nothing, when the journal is replaced under it."""
    earlier_and_later(client, place, tmp_path / "copy", checkpoint="never")
    with client.open(place) as bank:
        shutil.rmtree(place / "journal")
        shutil.copytree(tmp_path / "copy" / "journal", place / "journal")
        with pytest.raises((CorruptionError, StoreError, ReadOnlyError)):
            bank.put("new", b"x")


def test_lost_tail(client: Client, place: Path, check: Check) -> None:
    """A journal without its last record is a state of the past like any other."""
    with client.create(place) as bank:
        bank.put("kept", b"1")
        kept = engine_of(bank).journal.head()
        bank.put("lost", b"2")
    (segment,) = (place / "journal").glob("*.log")
    data = segment.read_bytes()
    os.truncate(segment, data.index(kept.hash) + len(kept.hash))
    (place / "journal" / "synced").unlink()
    check.rolled_back(client, place, {"kept": b"1"})


# --- a fork -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("records", [(1, 1), (1, 3), (3, 1), (3, 3), (3, 6)], ids=str)
def test_fork(client: Client, stranger: Client, place: Path, check: Check, records: tuple[int, int]) -> None:
    """Two copies that went on to different records are told apart, whichever has more of them."""
    ours, theirs = records
    with client.create(place) as bank:
        fill(bank, "early", 3)
    fork = copy(place, place.with_name("fork"))
    with client.open(place) as bank:
        fill(bank, "ours", ours)
    with stranger.open(fork) as bank:
        fill(bank, "theirs", theirs)
        contents = contents_of(bank)
    put_back(place, fork, mark="none")
    check.rolled_back(client, place, contents)
    # He goes on with it: it remains another history for who remembers this one.
    with stranger.open(place) as bank:
        fill(bank, "theirs again", 10)
        contents = contents_of(bank)
    check.rolled_back(client, place, contents)


def test_copies_do_not_share_an_index(client: Client, place: Path, tmp_path: Path) -> None:
    """Two places of one bank can be open at once, each with an index of its own."""
    with client.create(place) as bank:
        fill(bank, "early", 3)
        early = contents_of(bank)
    other = copy(place, tmp_path / "copy")
    with client.open(place) as one, client.open(other) as two:
        folders = [engine_of(bank).follower._place.folder for bank in (one, two)]
        assert folders[0] != folders[1]
        assert all(client.cache in folder.parents for folder in folders)
        one.put("in one", b"1")
        assert contents_of(two) == early
        assert contents_of(one) == early | {"in one": b"1"}
    with client.open(other) as two:
        assert contents_of(two) == early
        refuses_writes(two)


# --- nothing to complain of -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [True, False], ids=["index", "no index"])
def test_away_while_the_journal_was_forgotten(
    client: Client, stranger: Client, place: Path, check: Check, index: bool
) -> None:
    """What a client remembers may be behind a checkpoint by now: he opens the bank, and writes."""
    with client.create(place) as bank:
        fill(bank, "early", 3)
        seen = engine_of(bank).follower.seen.seq
    with stranger.open(place) as bank:
        engine_of(bank).journal._segment_bytes_max = 1000  # type: ignore[attr-defined]
        for number in range(3):
            fill(bank, f"late {number}", 10)
            engine_of(bank).checkpoints.write()
        contents = contents_of(bank)
        assert engine_of(bank).journal.first() > seen + 1
    if not index:
        Bank.drop_index(place, cache_dir=client.cache)
    with client.open(place) as bank:
        assert contents_of(bank) == contents
        bank.put("new", b"x")
    check.nothing_said()


@pytest.mark.parametrize("damage", ["gone", "empty", "torn", "flipped"])
def test_unreadable_memory_is_none(client: Client, place: Path, tmp_path: Path, check: Check, damage: str) -> None:
    """A memory that a power cut took, or tore, keeps nobody out; it is made anew."""
    early = earlier_and_later(client, place, tmp_path / "copy", checkpoint="never")
    (head,) = client.cache.glob("*/head")
    data = head.read_bytes()
    head.write_bytes({"empty": b"", "torn": data[:30], "flipped": data[:9] + b"\xff" + data[10:]}.get(damage, data))
    if damage == "gone":
        head.unlink()
    with client.open(place) as bank:
        assert len(bank) == 7
    assert head.read_bytes() == data
    put_back(place, tmp_path / "copy", mark="none")
    check.rolled_back(client, place, early)


def test_reader_remembers_too(client: Client, stranger: Client, place: Path, tmp_path: Path, check: Check) -> None:
    """It is enough to have seen a record; one need not have written it."""
    with client.create(place) as bank:
        fill(bank, "early", 3)
        early = contents_of(bank)
    copy(place, tmp_path / "copy")
    with client.open(place) as bank:
        fill(bank, "late", 3)
    with Bank.open(place, key_file=stranger.key_file, cache_dir=stranger.cache, read_only=True) as bank:
        assert len(bank) == 6
    put_back(place, tmp_path / "copy", mark="none")
    check.rolled_back(stranger, place, early)


def test_bank_without_keys_remembers_nothing(place: Path, tmp_path: Path, check: Check) -> None:
    """Suite 0 promises nothing of this kind: who can write the store can forge all of it."""
    cache = tmp_path / "cache"
    with Bank.create(place, cache_dir=cache) as bank:
        bank.put("x", b"1")
    assert not list(cache.rglob("head"))
