"""Small banks that have one of everything, the same bytes each time they are made; and what is in them.

Rule: entropy and clock are the scene's own, so that a place in a file is a place that can be gone back to.
"""

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from bank_scene import content, engine_of, frames_of
from blake3 import blake3

from casbank import Bank, World, limits
from casbank.engine import rewriting, writer

GOLDEN = Path(__file__).parent.parent / "golden"
_NOW_NS = 1_800_000_000 * 10**9
_LEASE_S = 10**7
_ZEROS = 64
# With these some kilobytes have packs, trees of two levels, and objects of every kind.
_SMALL_LIMITS = {
    "PACK_BYTES_TARGET": 1200,
    "BATCH_BYTES": 1024,
    "GROUP_BYTES_TARGET": 256,
    "INLINE_BYTES_MAX": 64,
    "INLINE_BATCH_BYTES_MAX": 64,
    "NODE_ROWS_MIN": 3,
    "NODE_ROWS_MAX": 4,
    "NODE_BOUNDARY_MASK": 1,
}


@contextmanager
def small_limits() -> Iterator[None]:
    """Let a bank of kilobytes be built as one of gigabytes is."""
    replaced: list[tuple[Any, str, Any]] = [(limits, name, value) for name, value in _SMALL_LIMITS.items()]
    replaced += [(rewriting, "_PACKS_PUBLISHED", 1), (writer, "_BATCHES_MAX", 1)]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    try:
        for owner, name, value in replaced:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def scene_world(seed: object) -> World:
    """A clock that goes a millisecond each time it is asked, and entropy that is always the same."""
    chance = random.Random(str(seed))
    ticks = iter(range(_NOW_NS, _NOW_NS + 10**15, 10**6))
    return World(now_ns=partial(next, ticks), entropy=chance.randbytes)


class Made(NamedTuple):
    """A version of an object: its etag, and its content."""

    etag: str
    content: bytes


@dataclass
class Scene:
    """A bank that nobody damages: ``place`` is copied. ``names`` are its objects; ``earlier`` are versions that were
    replaced or removed: what a lost record may bring back."""

    label: str
    place: Path
    key: dict[str, Any]
    names: dict[str, Made]
    earlier: dict[str, list[Made]] = field(default_factory=dict)
    # The same bank at earlier moments, the oldest first.
    moments: list[Path] = field(default_factory=list)
    other: "Scene | None" = None
    # Whether the same content, put again, makes the same tree.
    cuts_as_before: bool = True

    @cached_property
    def files(self) -> list[Path]:
        """Its files but the index, by their paths in the bank: those that it cannot do without, first."""
        found = (path.relative_to(self.place) for path in self.place.rglob("*") if path.is_file())
        return sorted(path for path in found if path.parts[0] not in {"index", "tmp"})

    def read(self, file: Path) -> bytes:
        return (self.place / file).read_bytes()


# --- banks that are made ---------------------------------------------------------------------------------------------


def _block(number: int) -> bytes:
    return content(("block", number), 130)


def _text(seed: object, lines: int) -> bytes:
    return b"".join(b"%s line %d\n" % (str(seed).encode(), number) for number in range(lines))


class _Building:
    """A bank that grows, and what must be in it then."""

    def __init__(self, scene: Scene, bank: Bank) -> None:
        self.scene = scene
        self.bank = bank

    def put(self, name: str, data: bytes, **options: Any) -> None:
        self._remember(name)
        self.scene.names[name] = Made(self.bank.put(name, data, **options).etag, data)

    def put_all(self, contents: dict[str, bytes]) -> None:
        with self.bank.batch() as batch:
            for name, data in contents.items():
                batch.put(name, data)
        for name, data in contents.items():
            self.scene.names[name] = Made(self.bank.head(name).etag, data)

    def delete(self, name: str) -> None:
        self._remember(name)
        self.bank.delete(name)

    def _remember(self, name: str) -> None:
        if name in self.scene.names:
            self.scene.earlier.setdefault(name, []).append(self.scene.names.pop(name))

    def moment(self) -> None:
        """Keep a copy of all files as they are now."""
        moments = self.scene.place.parent / "moments"
        kept = moments / str(len(self.scene.moments))
        shutil.copytree(self.scene.place, kept, ignore=shutil.ignore_patterns("index"))
        self.scene.moments.append(kept)


def _build(at: _Building) -> None:
    """Each statement is a record, or a few."""
    bank = at.bank
    at.put("gone", content("gone", 100))
    shared = _block(99) + b"".join(map(_block, range(7)))
    at.put_all({"tree": b"".join(map(_block, range(11))), "shared": shared, "inline": b"x" * 60})
    at.moment()
    if at.scene.key:
        bank.keys.rotate()
    at.put("replaced", content("first", 90))
    at.put("replaced", content("second", 90), metadata={"text": "text", "raw": b"\0\xff"})
    engine_of(bank).checkpoints.write()
    at.delete("gone")
    # Swept, and kept for slow readers.
    assert bank.collect(bank.plan_collection(0, 10**6, force=True)).swept_packs
    at.put_all({"text": _text("text", 20), "removed": content("removed", 90), "empty": b""})
    at.delete("removed")
    at.moment()
    engine_of(bank).checkpoints.write()
    at.put("last", content("last", 250), digest=True)
    bank.acquire_lease("somebody", _LEASE_S, kind="read", tied_to_process=False)
    at.put("latest", b"y" * 40)


def make_scene(folder: Path, label: str, *, other: bool = True) -> Scene:
    """The bank of that label: plain, aes or chacha, with -cut if its journal begins behind its first checkpoint, with
    -index if it has its index; or golden, golden-aes, golden-chacha."""
    folder.mkdir(parents=True)
    is_golden = label.startswith("golden")
    scene = (_golden if is_golden else _made_scene)(folder, label)
    if other:
        kind = "plain" if label == "golden" else label.split("-")[-1 if is_golden else 0]
        scene.other = _made_scene(folder / "other", kind, seed="other")
    return scene


def _made_scene(folder: Path, label: str, *, seed: str = "damage") -> Scene:
    kind, *options = label.split("-")
    folder.mkdir(exist_ok=True)
    scene = Scene(label, folder / "bank", {}, {})
    suites = {"aes": "aes-256-gcm", "chacha": "chacha20-poly1305"}
    if kind in suites:
        (folder / "key").write_bytes(content((seed, "key"), 32))
        scene.key = {"key_file": folder / "key"}
    suite = {"suite": suites[kind]} if kind in suites else {}
    with small_limits():
        options_of_bank = {**scene.key, **suite, "cache_dir": folder / "cache", "world": scene_world(seed)}
        if "index" in options:
            del options_of_bank["cache_dir"]
        with Bank.create(scene.place, chunking="gear:64/128/256", **options_of_bank) as bank:
            _build(_Building(scene, bank))
    (segment,) = (scene.place / "journal").glob("*.log")
    # A mebibyte is allocated ahead; a file system may cut it off, and reading it takes time.
    os.truncate(segment, frames_of(segment)[-1].end + _ZEROS)
    if "cut" in options:
        _cut_journal(scene.place)
    return scene


def _cut_journal(place: Path) -> None:
    """Let the journal begin behind the older checkpoint, as it does when segments were deleted."""
    older = min((place / "checkpoints").iterdir())
    (segment,) = (place / "journal").glob("*.log")
    frames, data = frames_of(segment), segment.read_bytes()
    first = int(older.name.partition("-")[0]) + 1
    start = next(before.end for before, frame in pairwise(frames) if frame.seq == first)
    segment.unlink()
    (place / "journal" / f"{first:020d}.log").write_bytes(data[start:])


def _golden(folder: Path, label: str) -> Scene:
    source = GOLDEN / label.replace("golden", "v1.0")
    shutil.copytree(source / "bank", folder / "bank")
    key = {"key_file": source / "key"} if (source / "key").exists() else {}
    scene = Scene(label, folder / "bank", key, {}, cuts_as_before=False)
    with known_copy(scene) as bank:
        scene.names = {info.name: Made(info.etag, bank.get(info.name)) for info in bank.list()}
        for info in list(bank.list(deleted=True)):
            bank.undelete(info.name, info.version)
            scene.earlier.setdefault(info.name, []).append(Made(info.etag, bank.get(info.name)))
    listed = json.loads((source / "contents.json").read_text(encoding="utf-8"))
    assert {name: blake3(one.content).hexdigest() for name, one in scene.names.items()} == {
        item["name"]: item["blake3"] for item in listed
    }
    return scene


@contextmanager
def known_copy(scene: Scene) -> Iterator[Bank]:
    """The undamaged bank, open; what opening it changes is changed in a copy."""
    folder = scene.place.parent / "known"
    shutil.copytree(scene.place, folder / "bank")
    try:
        with Bank.open(folder / "bank", cache_dir=folder / "cache", world=scene_world("known"), **scene.key) as bank:
            yield bank
    finally:
        shutil.rmtree(folder)
