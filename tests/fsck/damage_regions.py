"""What each byte of a bank is, and what it may cost if it is lost.

Rule: this is worked out from the undamaged bank, by its formats; nothing that checks or repairs banks is asked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bank_scene import engine_of, frames_of

from casbank.engine.decoded import decoded
from casbank.engine.engine import Engine
from casbank.engine.packs import WantedEntry
from casbank.format.descriptor import decode_descriptor
from casbank.format.header import HEADER_BYTES
from casbank.format.manifest import decode_inner, decode_leaf
from casbank.format.pack import TRAILER_BYTES, entry_offsets, pack_name
from casbank.format.record import Delete, Put
from casbank.index.transaction import Snapshot
from casbank.journal.base import JournalEntry
from casbank.journal.frame import FRAME_HEAD_BYTES
from fsck.damage_scene import Scene, known_copy

# What may be damaged in a bank that is called clean, and why. Of anything else one flipped bit is to be found.
HARMLESS = {
    "mark": "the journal is read without it; it is two slots that are never synced, and the log outlives it",
    "lock": "has no content",
    "swept pack": "no name needs it: it waits for slow readers, or for the collector",
    "free": "allocated ahead: a leftover, as of a writer that died, which is told and is no damage",
    "last record": "of a log without its mark: what nobody is known to have been told of is the rest of a dead writer",
}
# The same as above for a check without a key, which cannot tell that a pack is swept, and looks at it.
NOT_FOUND_KEYLESS = HARMLESS.keys() - {"swept pack"}


@dataclass(frozen=True)
class Region:
    """Bytes ``start`` to ``end`` of a file. ``objects`` may lose bytes with them, ``changes`` are names of which what
    happened last may be lost."""

    kind: str
    start: int
    end: int
    objects: frozenset[str] = frozenset()
    changes: frozenset[str] = frozenset()


@dataclass
class Regions:
    """By file: what it is called in labels, and its regions in order."""

    roles: dict[str, Path]
    of: dict[Path, list[Region]]

    def at(self, file: Path, offset: int) -> Region:
        return next(region for region in self.of[file] if region.start <= offset < region.end)


def regions_of(scene: Scene) -> Regions:
    """Name every byte. Packs are numbered as the journal names them, so a label means the same in every copy."""
    found = Regions({}, {})
    with known_copy(scene) as bank:
        engine = engine_of(bank)
        with engine.follower.read() as snapshot:
            _add_packs(found, scene, engine, snapshot)
        _add_journal(found, scene, engine)
    _add_others(found, scene)
    return found


def _add(found: Regions, role: str, file: Path, regions: list[Region]) -> None:
    found.roles[role] = file
    found.of[file] = [region for region in regions if region.end > region.start]


# --- packs -----------------------------------------------------------------------------------------------------------


def _add_packs(found: Regions, scene: Scene, engine: Engine, snapshot: Snapshot) -> None:
    users = _users(engine, snapshot)
    for number, row in snapshot.packs():
        everything = frozenset[str]().union(*(names for (pack, _), names in users.items() if pack == number))
        toc = engine.resources.packs.contents(row.info).toc
        offsets = entry_offsets(toc.entries)
        # One bit of the header or the trailer costs a whole pack, unless an index remembers what is in it: both are
        # there once. Everywhere else no more is lost than the entry, or the record, that has the bit.
        regions = [Region("pack header", 0, HEADER_BYTES, everything)]
        for place, entry in enumerate(toc.entries):
            objects = frozenset(users.get((number, place), set()))
            regions.append(Region("entry", offsets[place], offsets[place] + entry.stored, objects))
        end, length = regions[-1].end, row.info.length
        regions.append(Region("table", end, length - TRAILER_BYTES))
        regions.append(Region("trailer", length - TRAILER_BYTES, length, everything))
        _add(found, f"pack{number}", Path(pack_name(row.info.id)), regions)
    live = set(found.roles.values())
    swept = [file for file in scene.files if file.parts[0] == "packs" and file not in live]
    for place, file in enumerate(sorted(swept, key=lambda file: len(scene.read(file))), 1):
        _add(found, f"swept{place}", file, [Region("swept pack", 0, len(scene.read(file)))])


def _users(engine: Engine, snapshot: Snapshot) -> dict[tuple[int, int], set[str]]:
    """By pack and entry: the names that need it. A removed version counts, as "name (removed)"."""
    found: dict[tuple[int, int], set[str]] = {}
    named = [(row.name.decode(), row.descriptor) for row in snapshot.names(b"", None, 10**6, reverse=False)]
    named += [(f"{row.name.decode()} (removed)", row.descriptor) for row in snapshot.tombstones(None, 10**6)]
    for name, descriptor in named:
        item = decode_descriptor(descriptor)
        for place in [] if item.inline is not None else _entries(engine, snapshot, item.root, item.depth):
            found.setdefault(place, set()).add(name)
    return found


def _entries(engine: Engine, snapshot: Snapshot, node: bytes, depth: int) -> Iterator[tuple[int, int]]:
    ((_, copies),) = snapshot.all_copies([node])
    for place in copies:
        yield place.pack_number, place.entry
    if depth:
        place = copies[0]
        pack = snapshot.pack(place.pack_number)
        assert pack is not None
        (plain,) = engine.resources.packs.entries(pack, [WantedEntry(place.entry, place.offset, place.row)])
        data = bytes(memoryview(plain)[place.start : place.start + place.raw])
        for row in decode_leaf(data) if depth == 1 else decode_inner(data):
            yield from _entries(engine, snapshot, row.id, depth - 1)


# --- the journal -----------------------------------------------------------------------------------------------------


def _add_journal(found: Regions, scene: Scene, engine: Engine) -> None:
    newest = max(int(file.name.partition("-")[0]) for file in scene.files if file.parts[0] == "checkpoints")
    segments = [file for file in scene.files if file.suffix == ".log"]
    has_mark = Path("journal/synced") in scene.files
    for number, file in enumerate(segments, 1):
        frames, start, regions = frames_of(scene.place / file), 0, []
        for frame in frames:
            names: set[str] = set()
            if frame.seq > newest:
                applied = decoded(engine.resources.sealing, JournalEntry(frame.seq, frame.record))
                names = {op.name for op in applied.record.ops if isinstance(op, Put | Delete)}
            is_last = frame is frames[-1] and file == segments[-1] and not has_mark
            kind = "last record" if is_last else "record"
            body = start + FRAME_HEAD_BYTES
            regions.append(Region("last record" if is_last else "frame head", start, body, frozenset(), frozenset()))
            regions.append(Region(kind, body, frame.end, frozenset(), frozenset(names)))
            start = frame.end
        regions.append(Region("free", start, len(scene.read(file))))
        _add(found, f"journal{number}", file, regions)


# --- the rest --------------------------------------------------------------------------------------------------------


def _add_others(found: Regions, scene: Scene) -> None:
    numbers = {"slot": 0, "checkpoint": 0, "keyring": 0}
    for file in scene.files:
        if file in found.of:
            continue
        kind = _kind(file)
        role = kind
        if kind in numbers:
            numbers[kind] += 1
            role = f"{kind}{numbers[kind]}"
        _add(found, role, file, [Region(kind, 0, len(scene.read(file)))])


def _kind(file: Path) -> str:
    if file.parts[0] == "checkpoints":
        return "checkpoint"
    if file.parts[0] == "keys":
        return "keyring" if file.name.startswith("keyring-") else "slot"
    return {"synced": "mark"}.get(file.name, file.name)
