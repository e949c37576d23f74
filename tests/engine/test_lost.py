"""LOST: entries of a live pack that are gone for good, in the index, in checkpoints, for writers, for collections."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bank_scene import content, contents_of, engine_of, flip, packs_of, rows_of
from collect_scene import collect_now
from hypothesis import given
from hypothesis import strategies as st

from casbank import Bank, CorruptionError, ErrorKind, limits
from casbank.engine.checkpoint import CheckpointFiles
from casbank.engine.marking import Moved
from casbank.engine.survey import Sources, Survey
from casbank.format.loss import NOTHING_LOST, LostEntries, incomplete_key, lost_entries, lost_key
from casbank.format.record import Config, Lost
from casbank.model import EntryType, PackInfo

CHUNK = 4096
NUMBERS = st.lists(st.integers(0, 5000), max_size=40)


@pytest.fixture
def small(place: Path, monkeypatch: pytest.MonkeyPatch) -> Bank:
    """A bank whose entries have two chunks."""
    monkeypatch.setattr(limits, "GROUP_BYTES_TARGET", 2 * CHUNK)
    return Bank.create(place, chunking=f"fixed:{CHUNK}", compression="none")


def pack_of(bank: Bank, data: bytes) -> PackInfo:
    """The pack that has an object's first chunk."""
    engine = engine_of(bank)
    with engine.follower.read() as snapshot:
        ((_, copies),) = snapshot.all_copies([engine.resources.ids.chunk(data[:CHUNK])])
        row = snapshot.pack(copies[0].pack_number)
    assert row is not None
    return row.info


def lose(bank: Bank, pack_id: bytes, *entries: int) -> None:
    engine_of(bank).commit(lambda _: [Lost(pack_id, entries)])


def lose_nodes(bank: Bank, name: str) -> None:
    """Lose the manifest of an object, and write down that it lacks bytes, as a repair does."""
    engine = engine_of(bank)
    root = bytes.fromhex(bank.head(name).etag)
    with engine.follower.read() as snapshot:
        ((_, copies),) = snapshot.all_copies([root])
        (place,) = copies
        row = snapshot.pack(place.pack_number)
    assert row is not None
    assert place.row.type != EntryType.CHUNKS
    lose(bank, row.info.id, place.entry)
    engine.commit(lambda now: [Config(incomplete_key(root), 1)])


def lost_of(bank: Bank, pack_id: bytes) -> LostEntries:
    with engine_of(bank).follower.read() as snapshot:
        return lost_entries(snapshot.config(lost_key(pack_id)))


# --- the set of entries ----------------------------------------------------------------------------------------------


@given(NUMBERS, NUMBERS)
def test_lost_entries_are_a_set(first: list[int], second: list[int]) -> None:
    """What was joined is in it, once, nothing else is, and its bytes give it back."""
    lost = NOTHING_LOST.joined(first).joined(second)
    expected = {*first, *second}
    assert len(lost) == len(expected)
    assert {number for number in range(5010) if number in lost} == expected
    again = lost_entries(lost.encode())
    assert again.encode() == lost.encode() == NOTHING_LOST.joined(sorted(expected)).encode()
    assert len(again) == len(lost)


@pytest.mark.parametrize("value", [None, 5, "text", b""])
def test_a_row_that_is_none(value: object) -> None:
    """Without a row of bytes nothing is lost."""
    assert len(lost_entries(value)) == 0  # type: ignore[arg-type]


# --- rows ------------------------------------------------------------------------------------------------------------


def test_same_rows_by_every_road(place: Path, small: Bank) -> None:
    """Applied as it came, replayed, or loaded from a checkpoint before or behind it, a LOST gives the same rows."""
    engine_of(small).journal._segment_bytes_max = 500  # type: ignore[attr-defined]
    data = content(1, 12 * CHUNK)
    small.put("x", data)
    engine_of(small).checkpoints.write()
    pack = pack_of(small, data)
    lose(small, pack.id, 1)
    lose(small, pack.id, 3)
    small.put("y", content(2, 3 * CHUNK))
    assert small.verify_index() == []
    rows = rows_of(small)
    small.rebuild_index()
    assert rows_of(small) == rows
    for name in ("1", "2"):
        small.put(name, b"small")
        engine_of(small).checkpoints.write()
    # What made the pack, and what was lost of it, is in checkpoints alone.
    assert engine_of(small).journal.first() > 6
    assert small.verify_index() == []
    small.close()
    Bank.drop_index(place)
    with Bank.open(place) as again:
        assert rows_of(again)["chunk"] == rows["chunk"]
        assert set(map(lost_of(again, pack.id).__contains__, (1, 3))) == {True}
        assert again.verify_index() == []


def test_two_losses_add_up(small: Bank) -> None:
    """A second LOST of a pack takes nothing back."""
    data = content(1, 12 * CHUNK)
    small.put("x", data)
    pack = pack_of(small, data)
    lose(small, pack.id, 1)
    lose(small, pack.id, 1, 4)
    lost = lost_of(small, pack.id)
    assert [number for number in range(pack.entries) if number in lost] == [1, 4]
    assert small.verify_index() == []
    with small.open_object("x", allow_holes=True) as file:
        file.read()
        assert [(hole.start, hole.length) for hole in file.holes] == [
            (2 * CHUNK, 2 * CHUNK),
            (8 * CHUNK, 2 * CHUNK),
        ]


def test_a_pack_that_is_not_live(small: Bank) -> None:
    """A LOST of a pack that nobody knows, or that was swept, changes no table."""
    data = content(1, 12 * CHUNK)
    small.put("x", data)
    pack = pack_of(small, data)
    small.delete("x")
    small.collect(small.plan_collection(0, 3600, force=True))
    before = {table: rows for table, rows in rows_of(small).items() if table != "meta"}
    lose(small, pack.id, 0)
    lose(small, bytes(16), 0, 7)
    assert {table: rows for table, rows in rows_of(small).items() if table != "meta"} == before
    assert small.verify_index() == []


def test_a_pack_goes_with_its_losses(small: Bank) -> None:
    """Who sweeps a pack forgets what was lost of it."""
    data = content(1, 12 * CHUNK)
    small.put("x", data)
    pack = pack_of(small, data)
    lose(small, pack.id, *range(pack.entries))
    small.delete("x")
    assert collect_now(small, force=True).swept_packs
    assert len(lost_of(small, pack.id)) == 0
    with engine_of(small).follower.read() as snapshot:
        assert snapshot.config(lost_key(pack.id)) is None
    assert small.verify_index() == []


# --- writers ---------------------------------------------------------------------------------------------------------


def test_what_is_lost_is_stored_again(small: Bank) -> None:
    """Nobody deduplicates against an entry that is lost: putting the content again makes every object whole."""
    data = content(1, 12 * CHUNK)
    small.put("x", data)
    small.copy("x", "twin")
    lose(small, pack_of(small, data).id, 0, 5)
    with pytest.raises(CorruptionError):
        small.get("x")
    before = small.stats().unique_bytes
    small.put("new", data)
    assert small.stats().unique_bytes - before == 4 * CHUNK
    assert contents_of(small) == dict.fromkeys(("x", "twin", "new"), data)
    assert small.verify_index() == []


def test_a_batch_that_relied_on_it(small: Bank) -> None:
    """A batch that was open while entries that it relied on were lost stores their chunks again before it commits."""
    data = content(1, 12 * CHUNK)
    small.put("x", data)
    with small.batch() as batch:
        batch.put("y", data)
        lose(small, pack_of(small, data).id, 2)
    assert contents_of(small) == {"x": data, "y": data}
    assert small.verify_index() == []


def test_a_stream_that_relied_on_it(small: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream cannot be read twice, and still has all it relied on, though entries of that were lost under way."""
    monkeypatch.setattr(limits, "STREAM_KEPT_BYTES_MAX", 4 * CHUNK)
    monkeypatch.setattr(limits, "BATCH_BYTES", 4 * CHUNK)
    data = content(1, 40 * CHUNK)
    small.put("x", data)
    pack = pack_of(small, data)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(data), CHUNK):
            if start == 36 * CHUNK:
                lose(small, pack.id, 0)
            yield data[start : start + CHUNK]

    small.put("y", pieces())
    assert small.get("y") == data
    assert small.verify_index() == []


# --- collections -----------------------------------------------------------------------------------------------------


def survey_of(bank: Bank, scratch: Path) -> Survey:
    engine = engine_of(bank)
    resources = engine.resources
    files = CheckpointFiles(resources.store, resources.sealing, scratch)
    return Survey(Sources(engine.journal, engine.follower, files, resources), None)


def test_a_collection_beside_a_loss_begins_anew(small: Bank, tmp_path: Path) -> None:
    """What was marked before a LOST counts no more: the pack has another number."""
    data = content(1, 12 * CHUNK)
    small.put("x", data)
    survey = survey_of(small, tmp_path)
    lose(small, pack_of(small, data).id, 0)
    with pytest.raises(Moved):
        survey.follow()
    survey.close()


def test_a_collection_with_known_losses(place: Path, small: Bank) -> None:
    """A collection frees what is dead, keeps what is left of an object that lacks chunks, and nothing else."""
    whole, dead = content(1, 12 * CHUNK), content(2, 12 * CHUNK)
    small.put("x", whole)
    small.put("dead", dead)
    lose(small, pack_of(small, whole).id, 2)
    root = bytes.fromhex(small.head("x").etag)
    engine_of(small).commit(lambda _: [Config(incomplete_key(root), 1)])
    small.delete("dead")
    assert collect_now(small, force=True).deleted_packs == 2
    left = whole[: 4 * CHUNK] + bytes(2 * CHUNK) + whole[6 * CHUNK :]
    with small.open_object("x", allow_holes=True) as file:
        assert file.read() == left
    assert len(packs_of(place)) == 2
    assert small.verify_index() == []


def test_a_live_object_without_its_manifest(small: Bank) -> None:
    """Nothing is freed while nobody can tell what a live object still needs; the message names it, and what helps."""
    small.put("x", content(1, 12 * CHUNK))
    small.put("dead", content(2, 12 * CHUNK))
    small.delete("dead")
    lose_nodes(small, "x")
    with pytest.raises(CorruptionError, match="put it again, or remove it") as caught:
        collect_now(small, force=True)
    assert (caught.value.kind, caught.value.context["object"]) == (ErrorKind.MANIFEST, "x")
    small.delete("x")
    assert collect_now(small, force=True).swept_packs == 4


def test_a_removed_version_without_its_manifest(small: Bank) -> None:
    """A version that was removed and lost its manifest keeps no collection from working."""
    small.put("x", content(1, 12 * CHUNK))
    lose_nodes(small, "x")
    small.put("live", content(3, 12 * CHUNK))
    small.put("dead", content(2, 12 * CHUNK))
    small.delete("dead")
    small.delete("x")
    plan = small.plan_collection(3600, 0, force=True)
    small.collect(plan)
    assert collect_now(small, force=True).swept_packs >= 2
    assert contents_of(small) == {"live": content(3, 12 * CHUNK)}
    assert small.verify_index() == []


def test_a_flip_without_a_record_is_no_loss(place: Path, small: Bank) -> None:
    """Only the journal says what is lost: damage alone changes no row."""
    data = content(1, 12 * CHUNK)
    small.put("x", data)
    rows = rows_of(small)
    flip(packs_of(place)[0], 500)
    assert rows_of(small) == rows
    assert small.verify_index() == []
