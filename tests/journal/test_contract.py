"""What every journal promises, whatever it is made of."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from casbank import limits
from casbank.errors import InvalidInputError
from casbank.format.record import record_hash
from casbank.journal.base import EMPTY_HEAD, Head, Journal, SeqTaken, Superseded
from casbank.journal.memory import MemoryJournal
from journal.scene import Scene, append, make_record, records_of

Open = Callable[[], Journal]


@pytest.fixture(params=["local", "memory"])
def open_journal(request: pytest.FixtureRequest, scene: Scene) -> Open:
    """Opens one more journal over the same place."""
    if request.param == "local":
        return scene.journal
    shared = MemoryJournal()
    return lambda: shared


@pytest.fixture
def journal(open_journal: Open) -> Journal:
    return open_journal()


def test_empty_journal_has_no_head(journal: Journal) -> None:
    """Before the first record the head is number 0, and nothing is held."""
    assert journal.head() == EMPTY_HEAD == Head(0, bytes(32))
    assert (journal.first(), journal.bytes_held(), list(journal.read(0))) == (1, 0, [])


def test_appended_records_are_read_back_in_order(journal: Journal, open_journal: Open) -> None:
    """What append returned for is read back by this journal and by any other, from any number on."""
    records = [make_record(n, n % 3 * 1000) for n in range(1, 21)]
    append(journal, *records)
    for each in (journal, open_journal()):
        assert each.head() == Head(20, record_hash(records[-1]))
        assert [each.first(), *records_of(each)] == [1, *range(1, 21)]
        for after in range(22):
            assert list(records_of(each, after).values()) == records[after:]


def test_reader_follows_step_by_step(journal: Journal, open_journal: Open) -> None:
    """A reader that asks again gets exactly what came in between."""
    follower = open_journal()
    for n in range(1, 30):
        record = make_record(n, 300)
        append(journal, record)
        assert list(follower.read(n - 1)) == [(n, record)]
        assert list(follower.read(n)) == []


def test_read_ends_at_the_head_of_its_call(journal: Journal) -> None:
    """What is appended after read() was called does not come out of it."""
    append(journal, make_record(1))
    reading = journal.read(0)
    append(journal, make_record(2))
    assert [entry.seq for entry in reading] == [1]


@pytest.mark.parametrize("seq", [0, 1, 2, 4, 2**63])
def test_only_the_next_number_can_be_won(journal: Journal, seq: int) -> None:
    """An append under any number but the next raises SeqTaken and writes nothing."""
    append(journal, make_record(1), make_record(2))
    with journal.turn(), pytest.raises(SeqTaken):
        journal.append(seq, make_record("late"))
    assert records_of(journal) == {1: make_record(1), 2: make_record(2)}


def test_record_must_end_in_its_hash(journal: Journal) -> None:
    """Bytes that are no record, or too large a one, are refused before anything is written."""
    large = make_record("large", limits.RECORD_BYTES_MAX)
    for wrong in (b"", b"short", make_record("a")[:-1] + b"\0", large):
        with journal.turn(), pytest.raises(InvalidInputError):
            journal.append(1, wrong)
    assert journal.head() == EMPTY_HEAD


def test_largest_record_fits(journal: Journal, open_journal: Open) -> None:
    """A record of the greatest length is written and read like any other."""
    record = make_record("large", limits.RECORD_BYTES_MAX - 32)
    append(journal, record, make_record("next"))
    assert [entry.record for entry in open_journal().read(0)] == [record, make_record("next")]


def test_forgotten_records_are_superseded(journal: Journal, open_journal: Open) -> None:
    """Behind a checkpoint old records may go; who still asks for them is told, and the rest is all there."""
    records = {n: make_record(n, 700) for n in range(1, 21)}
    append(journal, *records.values())
    held = journal.bytes_held()
    journal.forget(10)
    first = journal.first()
    assert 1 < first <= 11
    assert journal.bytes_held() < held
    for each in (journal, open_journal()):
        with pytest.raises(Superseded):
            list(each.read(0))
        with pytest.raises(Superseded):
            list(each.read(first - 2))
        assert records_of(each, first - 1) == {n: records[n] for n in range(first, 21)}


def test_head_survives_forgetting_everything(journal: Journal, open_journal: Open) -> None:
    """The newest record is kept, so the next one gets the next number."""
    append(journal, *(make_record(n, 700) for n in range(1, 11)))
    for up_to in (10, 2**40):
        journal.forget(up_to)
        assert open_journal().head() == Head(10, record_hash(make_record(10, 700)))
    assert append(open_journal(), make_record(11)) == 11


def test_threads_take_turns(journal: Journal, open_journal: Open) -> None:
    """Threads that share a journal, or have one each, win every number once and lose no record."""
    shared = open_journal()
    journals = [journal, shared, shared, open_journal()]

    def work(name: int) -> None:
        for n in range(25):
            append(journals[name], make_record(f"{name} {n}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {make_record(f"{name} {n}") for name in range(4) for n in range(25)}
    found = records_of(open_journal())
    assert (list(found), set(found.values())) == (list(range(1, 101)), expected)


def test_nothing_is_written_by_looking(tmp_path: Path, scene: Scene) -> None:
    """A journal that was only read has created no file."""
    journal = scene.journal()
    assert (journal.head(), journal.first(), list(journal.read(0))) == (EMPTY_HEAD, 1, [])
    assert list(tmp_path.iterdir()) == []
