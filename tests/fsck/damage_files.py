"""What can be done to whole files and folders of a bank: cut, emptied, deleted, swapped, taken back in time, doubled,
lengthened.

Rule: what is lost is bounded by what the file held: of a pack its objects, of the journal what no checkpoint has.
Where a damage cannot be seen (a file more, or an older journal without its mark), the bank is right as it is.
"""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path

from fsck.damage_judge import Expected
from fsck.damage_regions import Regions
from fsck.damage_scene import Scene

# So many lengths of each file, spread evenly, and those around its end and its beginning.
_LENGTHS = 24
_GARBAGE = random.Random(1).randbytes(300)
_FOLDERS = ("packs", "keys", "checkpoints", "journal", "index")
_NOTHING = frozenset[str]()
# Kinds whose contents must be as they are for a bank to be called clean; the others are in HARMLESS, or a copy.
_NEEDED = {"BANK", "BANK.copy", "slot", "keyring", "checkpoint", "pack", "journal"}


@dataclass(frozen=True)
class FileDamage:
    """``apply`` does it to the bank in a folder."""

    label: str
    apply: Callable[[Path], None]
    expected: Expected

    def joined(self, other: "FileDamage") -> "FileDamage":
        """This and the other."""

        def both(place: Path) -> None:
            self.apply(place)
            other.apply(place)

        return FileDamage(f"{self.label}+{other.label}", both, _both(self.expected, other.expected))


def _both(one: Expected, other: Expected) -> Expected:
    """Two damages may hide each other (a truncation of what was deleted), and may be more than a repair can mend."""
    objects = None if one.objects is None or other.objects is None else one.objects | other.objects
    changes = None if one.changes is None or other.changes is None else one.changes | other.changes
    return Expected(False, False, False, objects, changes)


def damages_of(scene: Scene, regions: Regions) -> list[FileDamage]:
    """All of them, by labels that are the same for every bank of this kind."""
    making = _Making(scene, regions)
    return [
        *making.truncated(),
        *making.deleted(),
        *making.swapped(),
        *making.older(),
        *making.of_another_bank(),
        *making.doubled(),
        *making.lengthened(),
        *making.folders(),
        *making.index(),
    ]


class _Making:
    def __init__(self, scene: Scene, regions: Regions) -> None:
        self._scene = scene
        self._regions = regions
        self._files = [(role, file) for role, file in regions.roles.items() if role != "lock"]
        everything = [region for each in regions.of.values() for region in each]
        self._recent = frozenset[str]().union(*(region.changes for region in everything))

    def _expected(self, role: str) -> Expected:
        """What damage to the content of a file may cost."""
        file = self._regions.roles[role]
        kind = role.rstrip("0123456789")
        # Without its mark nobody can tell the end of a journal: then all that was put decides (rule 2 of the judge).
        found = kind in _NEEDED and (kind != "journal" or "mark" in self._regions.roles)
        objects = frozenset[str]().union(*(region.objects for region in self._regions.of[file]))
        changes = self._recent if kind in {"journal", "mark"} else _NOTHING
        # Without its newest keyring, its only slot, or its only BANK, nothing of a bank can be opened.
        locked = kind in {"slot", "keyring"} or (kind == "BANK" and "BANK.copy" not in self._regions.roles)
        refusals = frozenset({"KeyMismatchError"}) if locked else _NOTHING
        return Expected(found, found and kind != "journal", not locked, objects, changes, refusals)

    # --- one file ---------------------------------------------------------------------------------------------------

    def truncated(self) -> Iterator[FileDamage]:
        for role, file in self._files:
            size = self._used(role)
            step = max(1, size // _LENGTHS)
            for length in sorted({*range(0, size, step), 1, size - 1, max(0, size - 32)} - {size}):
                if 0 <= length < size:
                    apply = partial(_truncate, file, length)
                    yield FileDamage(f"truncated {length}:{role}", apply, self._expected(role))

    def _used(self, role: str) -> int:
        """Without what is allocated ahead, which a file system may cut off."""
        regions = [region for region in self._regions.of[self._regions.roles[role]] if region.kind != "free"]
        return regions[-1].end if regions else 0

    def deleted(self) -> Iterator[FileDamage]:
        for role, file in self._files:
            expected = self._expected(role)
            if role == "BANK.copy" or role.startswith(("slot", "keyring")):
                # A bank may have none, and that of another slot, or keyring, is nobody's business.
                expected = expected._replace(found=False, found_keyless=False)
            if role.startswith(("pack", "checkpoint")):
                expected = expected._replace(found_keyless=False)
            yield FileDamage(f"deleted:{role}", partial(_delete, file), expected)

    def lengthened(self) -> Iterator[FileDamage]:
        for role, file in self._files:
            expected = self._expected(role)
            if role.startswith("journal"):
                expected = expected._replace(found=False, found_keyless=False, changes=_NOTHING)
            yield FileDamage(f"lengthened:{role}", partial(_append, file, _GARBAGE), expected)

    def doubled(self) -> Iterator[FileDamage]:
        """The same again under another name of its kind: nothing is lost."""
        for role, file in self._files:
            expected = Expected(objects=_NOTHING, changes=_NOTHING)
            for number, name in enumerate(_other_names(file)):
                yield FileDamage(f"doubled {number}:{role}", partial(_copy, file, name), expected)

    # --- other files' contents ----------------------------------------------------------------------------------------

    def swapped(self) -> Iterator[FileDamage]:
        kinds: dict[str, list[str]] = {}
        for role, _ in self._files:
            kinds.setdefault(role.rstrip("0123456789").replace("swept", "pack"), []).append(role)
        for siblings in kinds.values():
            for role, sibling in permutations(siblings, 2):
                apply = partial(_copy, self._regions.roles[sibling], self._regions.roles[role])
                expected = self._expected(role)
                if role.startswith("keyring"):
                    # The newest has all that the others have.
                    expected = expected._replace(found=False, found_keyless=False)
                yield FileDamage(f"replaced by {sibling}:{role}", apply, expected)

    def older(self) -> Iterator[FileDamage]:
        """What the file was at an earlier moment."""
        for number, moment in enumerate(self._scene.moments):
            for role, file in self._files:
                source = moment / file
                if source.exists() and source.read_bytes() != self._scene.read(file):
                    apply = partial(_take, source, file)
                    yield FileDamage(f"older {number}:{role}", apply, self._expected(role))

    def of_another_bank(self) -> Iterator[FileDamage]:
        other = self._scene.other
        if other is None:
            return
        theirs = [file for file in other.files if file.name != "lock"]
        for role, file in self._files:
            same = [source for source in theirs if _folder(source) == _folder(file)]
            if same:
                source = other.place / random.Random(role).choice(same)
                yield FileDamage(f"another bank's:{role}", partial(_take, source, file), self._expected(role))

    # --- many files ---------------------------------------------------------------------------------------------------

    def folders(self) -> Iterator[FileDamage]:
        for folder in _FOLDERS:
            if not (self._scene.place / folder).exists():
                continue
            objects = None if folder == "packs" else _NOTHING
            changes = self._recent if folder == "journal" else _NOTHING
            found = folder in {"packs", "checkpoints", "journal"}
            locked = folder == "keys"
            refusals = frozenset({"KeyMismatchError"}) if locked else _NOTHING
            expected = Expected(found, False, not locked, objects, changes, refusals)
            yield FileDamage(f"deleted:{folder}/", partial(_delete_folder, Path(folder)), expected)

    def index(self) -> Iterator[FileDamage]:
        """The map of an index: nothing of the bank is lost."""
        data = Path("index/data.mdb")
        if not (self._scene.place / data).exists():
            return
        size = (self._scene.place / data).stat().st_size
        expected = Expected(objects=_NOTHING, changes=_NOTHING)
        chance = random.Random(1)
        for at in chance.sample(range(8 * size), 40):
            yield FileDamage(f"flipped {at}:index", partial(_flip, data, at), expected)
        for number in range(20):
            at, length = chance.randrange(size), chance.choice([16, 4096, size])
            apply = partial(_overwrite, data, at, chance.randbytes(min(length, size - at)))
            yield FileDamage(f"garbage {number}:index", apply, expected)
        for length in [0, 1, 4096, 8192, size // 2 & ~4095, size - 4096, size - 1]:
            yield FileDamage(f"truncated {length}:index", partial(_truncate, data, length), expected)


def _folder(file: Path) -> tuple[str, ...]:
    """What makes two files of one kind."""
    top = file.parts[0]
    return (top, "keyring" if "keyring" in file.name else file.suffix) if len(file.parts) > 1 else (file.name[:4],)


def _other_names(file: Path) -> list[Path]:
    """Names under which a bank would look for a file of this kind."""
    folder = file.parts[0]
    if folder == "packs":
        return [Path("packs/ab/ab" + 30 * "1"), Path("packs") / file.name, Path("packs/ab/other")]
    if folder == "checkpoints":
        later = int(file.name.partition("-")[0]) + 100
        return [Path(f"checkpoints/{later:020d}-{16 * '1'}"), file.with_name(file.name[:-1] + "_")]
    if file.suffix == ".log":
        first = int(file.stem)
        return [file.with_name(f"{number:020d}.log") for number in (first + 1, first + 5, first + 1000)]
    if file.name.startswith("keyring-"):
        return [Path("keys/keyring-1-" + 16 * "2"), Path("keys/keyring-9-" + 16 * "2")]
    return [Path("keys") / (32 * "1")] if folder == "keys" else [file.with_name(file.name + ".old")]


# --- doing it --------------------------------------------------------------------------------------------------------


def _write(path: Path, data: bytes) -> None:
    """In the place of what was there, whose mode may forbid it."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _truncate(file: Path, length: int, place: Path) -> None:
    if (place / file).exists():
        _write(place / file, (place / file).read_bytes()[:length])


def _delete(file: Path, place: Path) -> None:
    (place / file).unlink(missing_ok=True)


def _append(file: Path, data: bytes, place: Path) -> None:
    before = (place / file).read_bytes() if (place / file).exists() else b""
    _write(place / file, before + data)


def _copy(source: Path, target: Path, place: Path) -> None:
    if (place / source).exists():
        _write(place / target, (place / source).read_bytes())


def _take(source: Path, target: Path, place: Path) -> None:
    _write(place / target, source.read_bytes())


def _delete_folder(folder: Path, place: Path) -> None:
    shutil.rmtree(place / folder, ignore_errors=True)


def _flip(file: Path, bit: int, place: Path) -> None:
    if (place / file).exists():
        data = bytearray((place / file).read_bytes())
        if bit // 8 < len(data):
            data[bit // 8] ^= 1 << bit % 8
        _write(place / file, bytes(data))


def _overwrite(file: Path, at: int, data: bytes, place: Path) -> None:
    if (place / file).exists():
        before = (place / file).read_bytes()
        _write(place / file, before[:at] + data + before[at + len(data) :])
