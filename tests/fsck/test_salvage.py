"""The journal begun anew: what is proved, what is rescued, and what must not happen on the way."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from casbank import Bank, CorruptionError, FindingKind, StoreError
from casbank.engine.fsck import run
from casbank.engine.fsck.salvage import Salvage
from casbank.journal.segment import SegmentFile

Contents = dict[str, bytes]


class Scene:
    """A bank with two checkpoints, twelve versions of eight names, one removed."""

    def __init__(self, tmp_path: Path, **key: str) -> None:
        self.place, self.cache, self.key = tmp_path / "bank", tmp_path / "cache", key
        self.contents: Contents = {}
        chance = random.Random(2)
        with Bank.create(self.place, cache_dir=self.cache, **key) as bank:
            for number in range(12):
                name = f"o{number % 8}"
                self.contents[name] = chance.randbytes([50, 5000, 200_000][number % 3])
                bank.put(name, self.contents[name])
                if number in (5, 8):
                    bank._engine.checkpoints.write()
            bank.delete("o3")
            del self.contents["o3"]
            self.put(bank, "last")

    def put(self, bank: Bank, name: str) -> None:
        self.contents[name] = name.encode() * 10
        bank.put(name, self.contents[name])

    def open(self) -> Bank:
        return Bank.open(self.place, cache_dir=self.cache, **self.key)

    def check(self, *, repair: bool = False, **options: bool):
        return Bank.check(self.place, cache_dir=self.cache, repair=repair, read_data=True, **self.key, **options)

    def found(self) -> Contents:
        with self.open() as bank:
            return {name: bank.get(name) for name in bank}

    def forget_index(self) -> None:
        shutil.rmtree(self.cache)

    @property
    def segment(self) -> Path:
        return max((self.place / "journal").glob("*.log"))

    def ends(self) -> list[int]:
        """Where each record of the last segment ends."""
        with SegmentFile(self.segment, int(self.segment.stem), os.O_RDONLY) as file:
            return [0, *(frame.end for frame in file.scanner(seq=file.first))]

    def spoil(self, path: Path, offset: int) -> None:
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        data[offset] ^= 0x10
        path.write_bytes(data)

    def spoil_record(self, place: int) -> None:
        """The record at a place from the end, which is -1."""
        self.spoil(self.segment, self.ends()[place - 1] + 60)

    def newest_checkpoint(self) -> Path:
        return max((self.place / "checkpoints").iterdir())


@pytest.fixture(params=[{}, pytest.param({"passphrase": "pw"}, marks=pytest.mark.slow)], ids=["plain", "encrypted"])
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Scene:
    return Scene(tmp_path, **request.param)


DAMAGE: dict[str, Callable[[Scene], object]] = {
    "last record": lambda scene: scene.spoil_record(-1),
    "middle record": lambda scene: scene.spoil_record(-3),
    "newest checkpoint": lambda scene: scene.spoil(scene.newest_checkpoint(), 300),
    "newest checkpoint gone": lambda scene: scene.newest_checkpoint().unlink(),
    "journal gone": lambda scene: shutil.rmtree(scene.place / "journal"),
    "index damaged": lambda scene: [path.write_bytes(b"x" * 50_000) for path in scene.cache.rglob("data.mdb")],
    "BANK": lambda scene: scene.spoil(scene.place / "BANK", 150),
    "BANK gone": lambda scene: (scene.place / "BANK").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_what_the_journal_lost_is_rescued(scene: Scene, damage: Callable[[Scene], object]) -> None:
    """With the index at hand nothing that was acknowledged is lost, whichever part of the history is damaged."""
    damage(scene)
    report = scene.check(repair=True)
    assert report.clean
    assert scene.found() == scene.contents
    with scene.open() as bank:
        scene.put(bank, "new")
        assert bank.verify_index() == []
        assert bank.collect(bank.plan_collection(force=True)).is_complete
    assert scene.check().clean
    assert scene.found() == scene.contents


# Names that are lost where the index is gone too, and what is there in place of what was removed.
LOST = {
    "last record": ({"last"}, set()),
    "middle record": (set(), set()),
    "newest checkpoint": (set(), set()),
    "newest checkpoint gone": (set(), set()),
    "journal gone": ({"o1", "o2", "last"}, {"o3"}),
}


@pytest.mark.parametrize("what", LOST)
def test_without_an_index_the_proved_state_comes_back(tmp_path: Path, what: str) -> None:
    """What is proved is there, what only the lost records said is not, and the report tells that records are lost."""
    scene = Scene(tmp_path)
    DAMAGE[what](scene)
    scene.forget_index()
    assert not scene.check().clean
    report = scene.check(repair=True)
    assert report.clean
    found, (lost, back) = scene.found(), LOST[what]
    assert {name for name in scene.contents if found.get(name) != scene.contents[name]} == lost
    assert found.keys() - scene.contents.keys() == back


def test_nothing_is_written_between_the_look_and_the_new_journal(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A put that comes before the lock is taken is in the new journal; numbers are never given twice."""
    scene.spoil_record(-3)
    with scene.open() as bank:
        # Has applied everything, so it can go on beside the damage.
        salvage = run._salvage

        def late(*arguments: object) -> None:
            scene.put(bank, "late")
            bank.close()
            salvage(*arguments)

        monkeypatch.setattr(run, "_salvage", late)
        assert scene.check(repair=True).clean
    assert scene.found() == scene.contents


def test_a_bank_that_is_open_elsewhere_is_not_begun_anew(scene: Scene) -> None:
    """Who has it open remembers what is lost, and would stumble: the repair asks for it to be closed, first."""
    scene.spoil_record(-3)
    before = sorted(path.name for path in (scene.place / "journal").iterdir())
    with scene.open(), pytest.raises(StoreError, match="close it"):
        scene.check(repair=True)
    assert sorted(path.name for path in (scene.place / "journal").iterdir()) == before


def test_a_salvage_that_dies_before_it_drops_the_index_can_be_repeated(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the new journal the old index is another history's: a check says so, and a repair removes it."""
    scene.spoil_record(-1)
    with monkeypatch.context() as patch:
        patch.setattr(run, "drop_index", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            scene.check(repair=True)
    with pytest.raises(CorruptionError):
        scene.open()
    assert [finding.kind for finding in scene.check().findings if finding.is_damage] == [FindingKind.INDEX]
    assert scene.check(repair=True).clean
    assert scene.found() == scene.contents


@pytest.mark.parametrize("name", ["18446744073709551610-ab", "9" * 30 + "-ab", "00000000000000999999-ab", "x-ab"])
def test_names_that_anybody_can_make_up_drive_no_numbers(scene: Scene, name: str) -> None:
    """An empty file in checkpoints/ neither raises nor moves the journal's numbers."""
    scene.spoil_record(-1)
    (scene.place / "checkpoints" / name).write_bytes(b"")
    assert scene.check(repair=True).clean
    with scene.open() as bank:
        assert bank.stats().version < 100
    assert scene.found() == scene.contents


def test_packs_that_cannot_be_adopted_are_kept(tmp_path: Path) -> None:
    """Of a gap's packs one that is damaged goes to the quarantine: as an orphan a collection would delete it."""
    scene = Scene(tmp_path)
    published = set((scene.place / "packs").rglob("*"))
    with scene.open() as bank:
        bank.put("lost", random.Random(5).randbytes(50_000))
    (pack,) = (path for path in set((scene.place / "packs").rglob("*")) - published if path.is_file())
    scene.spoil(pack, pack.stat().st_size - 20)
    scene.spoil_record(-1)
    scene.check(repair=True)
    kept = [path for path in (scene.place / "quarantine").iterdir() if path.name.startswith("pack-")]
    assert [path.read_bytes() for path in kept] == [pack.read_bytes()]


def test_a_damaged_checkpoint_is_kept_and_two_are_written(scene: Scene) -> None:
    """The repair sets the damaged file aside before newer checkpoints make it superfluous."""
    damaged = scene.newest_checkpoint()
    scene.spoil(damaged, 300)
    data = damaged.read_bytes()
    assert scene.check(repair=True).clean
    assert data in [path.read_bytes() for path in (scene.place / "quarantine").iterdir() if path.is_file()]
    assert len(list((scene.place / "checkpoints").iterdir())) >= 2


def test_without_any_state_nothing_is_touched(tmp_path: Path) -> None:
    """Neither journal nor checkpoint: the report says that nothing can be proved, and a repair does not guess."""
    scene = Scene(tmp_path)
    shutil.rmtree(scene.place / "journal")
    shutil.rmtree(scene.place / "checkpoints")
    scene.forget_index()
    report = scene.check(repair=True)
    assert not report.clean
    assert report.repaired == ()


def test_a_bank_without_a_second_copy_gets_one(tmp_path: Path) -> None:
    """A bank of an older release is clean, and a repair writes the copy of BANK that it lacks."""
    scene = Scene(tmp_path)
    (scene.place / "BANK.copy").unlink()
    assert scene.check().clean
    scene.check(repair=True)
    assert (scene.place / "BANK.copy").read_bytes() == (scene.place / "BANK").read_bytes()


def test_salvage_holds_the_journal(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can append while it is decided what is left."""
    scene.spoil_record(-1)
    held: list[bool] = []
    adopt = Salvage._adopt

    def watching(self: Salvage, merge: object) -> None:
        held.append(self._journal._turn_of is not None)
        adopt(self, merge)

    monkeypatch.setattr(Salvage, "_adopt", watching)
    scene.check(repair=True)
    assert held == [True]
