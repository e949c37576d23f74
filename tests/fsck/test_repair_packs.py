"""Mending packs: what may pass is no loss, no good bytes go, and what was given up comes back."""

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from bank_scene import content, contents_of, engine_of, flip, packs_of
from collect_scene import collect_now

from casbank import Bank, ConflictError, CorruptionError, ErrorKind, StoreError, limits
from casbank.config import CACHE_VARIABLE
from casbank.engine.checkpoint import CheckpointFiles
from casbank.engine.engine import Engine
from casbank.engine.fsck.history import read_history
from casbank.engine.fsck.log import Findings
from casbank.engine.fsck.packcheck import PackCheck, PackVerdict
from casbank.engine.fsck.packrepair import PackRepair, refuse_unmounted
from casbank.engine.fsck.replay import Replayed
from casbank.engine.fsck.trees import Trees
from casbank.engine.leases import HeldLease
from casbank.engine.packing import make_group
from casbank.engine.packout import PackOutput
from casbank.engine.packs import PackReader
from casbank.engine.rules import Reliance
from casbank.findings import FindingKind
from casbank.format.header import HEADER_BYTES, Kind, parse_id
from casbank.format.loss import NOTHING_LOST, LostEntries, lost_entries, lost_key
from casbank.format.pack import TRAILER_BYTES, pack_name, toc_bytes
from casbank.format.record import Deleted, Lost, Sweep
from casbank.index.apply import chunk_rows
from casbank.index.transaction import Snapshot
from casbank.model import EntryType, PackInfo

CHUNK = 4096
DATA = content("data", 6 * CHUNK)


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of two chunks; notes of checks stay in a folder of the test."""
    monkeypatch.setattr(limits, "GROUP_BYTES_TARGET", 2 * CHUNK)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture
def bank(place: Path) -> Bank:
    """An open bank with one object of three entries."""
    with Bank.create(place, chunking=f"fixed:{CHUNK}", compression="none") as made:
        made.put("x", DATA)
    return Bank.open(place)


def pack_of(bank: Bank) -> PackInfo:
    """The newest data pack."""
    with engine_of(bank).follower.read() as snapshot:
        return [row.info for _, row in snapshot.packs() if row.info.kind == Kind.DATA_PACK][-1]


def file_of(place: Path, info: PackInfo) -> Path:
    return place / pack_name(info.id)


def lost_of(bank: Bank, info: PackInfo) -> LostEntries:
    with engine_of(bank).follower.read() as snapshot:
        return lost_entries(snapshot.config(lost_key(info.id)))


def mend(bank: Bank, info: PackInfo) -> list[str]:
    repair = PackRepair(engine_of(bank))
    repair.mend(PackVerdict(info, ["it is damaged"]))
    return repair.done


def damage_tables(place: Path, info: PackInfo, chunks: int) -> None:
    length = toc_bytes(info.entries, chunks)
    for copy in (1, 2):
        flip(file_of(place, info), info.length - TRAILER_BYTES - copy * length + 5)


def add_pack(bank: Bank, kind: EntryType, chunks: Sequence[tuple[bytes, bytes]]) -> PackInfo:
    """A live pack of one entry with these ids and bytes."""
    engine = engine_of(bank)
    out = PackOutput(engine.resources)
    plain = b"".join(data for _, data in chunks)
    out.add(Kind.DATA_PACK, make_group(kind, plain, [(chunk_id, len(data)) for chunk_id, data in chunks], None))
    out.close()
    engine.commit(lambda _: [*out.publication(None)], out.contents, Reliance((), engine.follower.seen.seq))
    return pack_of(bank)


class Disk:
    """Reads of some files fail, those that begin at an offset or behind it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = os.pread
        self._left: dict[int, tuple[int, int, int]] = {}
        monkeypatch.setattr(os, "pread", self._pread)

    def fail(self, path: Path, number: int, times: int, first: int = 0) -> None:
        self._left[path.stat().st_ino] = number, times, first

    def _pread(self, descriptor: int, length: int, offset: int) -> bytes:
        inode = os.fstat(descriptor).st_ino
        number, times, first = self._left.get(inode, (0, 0, 0))
        if times and offset >= first:
            self._left[inode] = number, times - 1, first
            raise OSError(number, os.strerror(number))
        return self._real(descriptor, length, offset)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


# --- errors that may pass --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EACCES])
def test_what_may_pass_gives_nothing_up(place: Path, bank: Bank, disk: Disk, number: int) -> None:
    """A repair that cannot read a pack for a reason that may pass ends, and the pack is as it was."""
    info = pack_of(bank)
    disk.fail(file_of(place, info), number, 1000)
    before = engine_of(bank).follower.seen
    with pytest.raises(StoreError):
        mend(bank, info)
    disk.fail(file_of(place, info), number, 0)
    assert engine_of(bank).follower.catch_up() == before
    assert bank.get("x") == DATA


def test_a_spare_that_cannot_be_read_now(place: Path, bank: Bank, disk: Disk) -> None:
    """Nothing is given up while a pack that may have it cannot be read for a reason that may pass."""
    info = pack_of(bank)
    orphan = place / "packs" / "ab" / ("ab" * 16)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(file_of(place, info).read_bytes())
    disk.fail(orphan, errno.EMFILE, 1000)
    flip(file_of(place, info), HEADER_BYTES + 9)
    with pytest.raises(StoreError):
        mend(bank, info)
    assert len(lost_of(bank, info)) == 0


def test_a_disk_that_reads_at_the_second_try(place: Path, bank: Bank, disk: Disk) -> None:
    """What a disk reads at the second try is neither damaged nor lost."""
    info, resources = pack_of(bank), engine_of(bank).resources
    check = PackCheck(resources.store, resources.sealing, resources.ids)
    disk.fail(file_of(place, info), errno.EIO, 1)
    assert check.check(info, NOTHING_LOST, read_data=True).is_whole
    disk.fail(file_of(place, info), errno.EIO, 1)
    assert not any("lost" in line for line in mend(bank, info))
    assert contents_of(bank) == {"x": DATA}


def test_a_disk_that_never_reads(place: Path, bank: Bank, disk: Disk) -> None:
    """What a disk cannot read twice is lost, and what it had is kept in quarantine/."""
    info = pack_of(bank)
    disk.fail(file_of(place, info), errno.EIO, 10**6, HEADER_BYTES)
    assert "3 entries are lost" in mend(bank, info)[-1]
    assert len(list((place / "quarantine").iterdir())) == 1


def test_a_node_that_may_be_read_later(place: Path, bank: Bank, disk: Disk) -> None:
    """A node that cannot be read for a reason that may pass is told apart from one that is lost."""
    engine = engine_of(bank)
    resources = engine.resources
    files = CheckpointFiles(resources.store, resources.sealing, place)
    reader = PackReader(resources.store, resources.sealing)
    (meta,) = (path for path in packs_of(place) if path != file_of(place, pack_of(bank)))
    with closing(Replayed(place / "scratch", reader)) as replayed:
        assert replayed.run(read_history(engine.journal, files, (), Findings()), files, engine.journal) is None
        for number, expected in ((errno.EMFILE, {parse_id(meta.name)}), (errno.EIO, set())):
            disk.fail(meta, number, 1000)
            trees = Trees(replayed, reader, resources.ids, {})
            trees.run(lambda version, damage: None, lambda _: None)
            assert trees.unreadable == expected


# --- other copies ----------------------------------------------------------------------------------------------------


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let something happen between what a repair stores and its record."""
    real = PackOutput.close

    def close(out: PackOutput) -> None:
        real(out)
        act()

    monkeypatch.setattr(PackOutput, "close", close)


def test_a_collection_takes_the_other_copy(place: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that a repair found in another pack is there when a collection frees that pack before its record."""
    piece = content("piece", CHUNK)
    bank.put("one", piece)
    newer = add_pack(bank, EntryType.CHUNKS, [(engine_of(bank).resources.ids.chunk(piece), piece)])
    flip(file_of(place, newer), HEADER_BYTES + 9)
    meanwhile(monkeypatch, lambda: (collect_now(bank, force=True), collect_now(bank, force=True)))
    mend(bank, newer)
    monkeypatch.undo()
    assert bank.get("one") == piece


class _Allowed:
    def allows(self, now: Snapshot, pack_ids: Sequence[bytes]) -> bool:
        return True


def _forget_an_orphan(engine: Engine) -> None:
    """What a collection does that found the remains of a crash; whoever began a pack before has to begin it anew."""
    ids = (os.urandom(16),)
    engine.commit(lambda _: [Sweep(ids)], None, _Allowed())
    engine.commit(lambda _: [Deleted(ids)])


@pytest.mark.parametrize(("times", "ends"), [(2, True), (100, False)], ids=["twice", "for ever"])
def test_collections_in_the_way(
    place: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch, times: int, ends: bool
) -> None:
    """A pack is mended again when a collection came between, a bounded number of times, and nothing is lost."""
    info = pack_of(bank)
    flip(file_of(place, info), info.length - TRAILER_BYTES - 5)
    left = [times]

    def act() -> None:
        if left[0]:
            left[0] -= 1
            _forget_an_orphan(engine_of(bank))

    meanwhile(monkeypatch, act)
    if ends:
        mend(bank, info)
    else:
        with pytest.raises(ConflictError):
            mend(bank, info)
    assert len(lost_of(bank, info)) == 0
    assert bank.get("x") == DATA


# --- an index that lacks rows ----------------------------------------------------------------------------------------


def _without_tables(place: Path, bank: Bank, missing: Sequence[int]) -> PackInfo:
    """Damage both tables of the data pack, and take some chunks out of the index."""
    engine, info = engine_of(bank), pack_of(bank)
    with engine.follower.read() as snapshot:
        number = snapshot.pack_number(info.id)
    assert number is not None
    rows = chunk_rows(number, engine.resources.packs.contents(info).toc)
    engine.follower._view.update(lambda edit: edit.remove_chunks([rows[place] for place in missing]))
    damage_tables(place, info, len(rows))
    return info


@pytest.mark.parametrize("missing", [(0,), (1,), (0, 3, 5)], ids=str)
def test_the_index_lacks_a_row(place: Path, bank: Bank, missing: tuple[int, ...]) -> None:
    """A chunk that the index forgot is found by its bytes where its place is known, and the pack is kept."""
    damaged = file_of(place, _without_tables(place, bank, missing))
    assert not any("lost" in line for line in mend(bank, pack_of(bank)))
    bank.rebuild_index()
    assert bank.get("x") == DATA
    assert [path.read_bytes() for path in (place / "quarantine").iterdir()] == [damaged.read_bytes()]


def test_the_index_lacks_neighbours(place: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody knows how an entry is cut, what is known of it is kept, the rest is lost, and the pack is kept."""
    monkeypatch.setattr(limits, "GROUP_BYTES_TARGET", 4 * CHUNK)
    data = content("other", 8 * CHUNK)
    bank.put("x", data)
    info = _without_tables(place, bank, (1, 2))
    mend(bank, info)
    assert (0 in lost_of(bank, info), (place / "quarantine").is_dir()) == (False, True)
    bank.rebuild_index()
    with bank.open_object("x", allow_holes=True) as file:
        assert file.read() == data[:CHUNK] + bytes(2 * CHUNK) + data[3 * CHUNK :]


def test_the_index_lacks_an_entry(place: Path, bank: Bank) -> None:
    """An entry of which the index knows nothing is lost, and its pack is kept."""
    info = _without_tables(place, bank, (2, 3))
    assert "1 entries are lost" in mend(bank, info)[-1]
    assert len(list((place / "quarantine").iterdir())) == 1


def test_a_chunk_that_is_not_what_its_id_says(place: Path, bank: Bank) -> None:
    """The neighbours of a chunk with a wrong id are kept; the entry counts as lost, and the pack is kept."""
    pieces = [content(number, 1000) for number in range(3)]
    ids = [engine_of(bank).resources.ids.chunk(piece) for piece in pieces]
    ids[1] = bytes(32)
    info = add_pack(bank, EntryType.CHUNKS, list(zip(ids, pieces, strict=True)))
    assert "2 chunks and nodes sealed anew; 1 entries are lost" in mend(bank, info)[-1]
    with engine_of(bank).follower.read() as snapshot:
        assert [len(copies) for _, copies in snapshot.all_copies(ids)] == [1, 0, 1]
    assert (place / "quarantine").is_dir()


# --- files that are away ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reads", [False, True], ids=["quick", "data"])
def test_what_was_put_back(place: Path, bank: Bank, reads: bool) -> None:
    """Packs that were away when a repair gave them up are taken up again once they are back."""
    bank.close()
    away = place.with_name("away")
    (place / "packs").rename(away)
    report = Bank.check(place, repair=True)
    assert (report.clean, report.known_losses) == (True, 1)
    assert Bank.check(place, read_data=True).clean
    (place / "packs").rmdir() if (place / "packs").exists() else None
    away.rename(place / "packs")
    report = Bank.check(place, read_data=reads)
    assert {finding.kind for finding in report.findings} >= {FindingKind.PACK}
    report = Bank.check(place, read_data=reads, repair=True)
    assert (report.clean, report.known_losses) == (True, 0)
    with Bank.open(place) as again:
        assert contents_of(again) == {"x": DATA}
        collect_now(again)
        assert contents_of(again) == {"x": DATA}
    assert Bank.check(place, read_data=True).findings == ()


def test_a_missing_pack_is_not_swept(place: Path, bank: Bank) -> None:
    """A pack whose file is missing stays live, all of it lost."""
    info = pack_of(bank)
    file_of(place, info).unlink()
    bank.close()
    with Bank.open(place) as again:
        mend(again, info)
        assert len(lost_of(again, info)) == info.entries
        with engine_of(again).follower.read() as snapshot:
            assert snapshot.pack_number(info.id) is not None
            assert snapshot.swept_pack(info.id) is None


def test_entries_that_can_be_read_again(place: Path, bank: Bank) -> None:
    """Entries that were given up and can be read again are found, and mended."""
    info = pack_of(bank)
    engine_of(bank).commit(lambda _: [Lost(info.id, (1,))])
    with pytest.raises(CorruptionError):
        bank.get("x")
    bank.close()
    report = Bank.check(place)
    assert any("can be read again" in finding.what for finding in report.findings)
    assert Bank.check(place, repair=True).clean
    with Bank.open(place) as again:
        assert contents_of(again) == {"x": DATA}


def test_a_folder_that_is_not_mounted() -> None:
    """A repair is refused where more than ten packs and more than one in ten are missing."""
    info = PackInfo(bytes(16), 1, 0, bytes(32), 1, 0)
    missing = [PackVerdict(info, is_missing=True)] * 11
    with pytest.raises(CorruptionError, match="mounted") as caught:
        refuse_unmounted([*missing, PackVerdict(info)], 109)
    assert caught.value.kind is ErrorKind.PACK_MISSING
    refuse_unmounted(missing, 110)
    refuse_unmounted(missing[:10], 10)


# --- the old pack ----------------------------------------------------------------------------------------------------


def test_readers_of_the_old_pack(place: Path, bank: Bank) -> None:
    """The file of a pack that was mended is deleted by a collection, and not before older readers are done."""
    info = pack_of(bank)
    lease = bank.acquire_lease("backup", kind="read")
    flip(file_of(place, info), info.length - TRAILER_BYTES - 5)
    mend(bank, info)
    collect_now(bank)
    assert file_of(place, info).exists()
    lease.release()
    collect_now(bank)
    assert not file_of(place, info).exists()
    bank.close()
    assert Bank.check(place, read_data=True).findings == ()


def _pin(bank: Bank, info: PackInfo) -> HeldLease:
    engine = engine_of(bank)
    lease = HeldLease(engine.commit, engine.world, "writer", ttl_s=600, kind="write")
    lease.acquire([info.id])
    return lease


def test_a_pack_that_a_lease_holds(place: Path, bank: Bank) -> None:
    """Of a pack that stays because of a lease that is said."""
    info = pack_of(bank)
    _pin(bank, info)
    flip(file_of(place, info), info.length - TRAILER_BYTES - 5)
    assert mend(bank, info)[-1].endswith("stays until no lease holds it")


def test_a_pack_that_a_rival_swept(place: Path, bank: Bank) -> None:
    """Of a pack that somebody else swept meanwhile nobody says that a lease holds it."""
    info = pack_of(bank)

    class Overtaken(PackRepair):
        def _sweep(self, info: PackInfo, kept: Sequence[bytes]) -> None:
            engine_of(bank).commit(lambda _: [Sweep((info.id,))], None, _Allowed())
            super()._sweep(info, kept)

    flip(file_of(place, info), info.length - TRAILER_BYTES - 5)
    repair = Overtaken(engine_of(bank))
    repair.mend(PackVerdict(info, ["it is damaged"]))
    assert not any("lease" in line for line in repair.done)


# --- numbers that a pack does not have -------------------------------------------------------------------------------


def test_losses_that_no_pack_can_have(place: Path, bank: Bank) -> None:
    """A LOST of entries that a pack does not have makes no damage pass for known, by whatever road it came."""
    info = pack_of(bank)
    engine = engine_of(bank)
    engine.commit(lambda _: [Lost(info.id, tuple(range(1000, 1000 + info.entries)))])
    assert len(lost_of(bank, info)) == 0
    engine.checkpoints.write()
    engine.checkpoints.write()
    bank.close()
    Bank.drop_index(place)
    with Bank.open(place) as again:
        assert len(lost_of(again, info)) == 0
    flip(file_of(place, info), HEADER_BYTES + 9)
    assert not Bank.check(place, read_data=True).clean
