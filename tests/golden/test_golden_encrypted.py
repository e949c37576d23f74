"""The golden encrypted banks: one of each suite, opened with each key, and with every bit of every file flipped.

They are so small that all bits can be tried. What is asked of a flip: an error of casbank, or exactly what was stored;
never other bytes, never another exception, never a missing object without an error. Damage in the last frame of a
journal looks like a writer that died, so the last record of these banks is one that no object hangs on.
"""

import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bank_scene import engine_of, frames_of, packs_of
from test_golden import described

from casbank import Bank, CasbankError, CorruptionError, KeyMismatchError
from casbank.engine.reader import ObjectReader
from casbank.format.header import HEADER_BYTES
from casbank.format.pack import entry_offsets
from casbank.index.apply import Contents
from casbank.journal.local import LocalJournal
from casbank.model import PackInfo
from casbank.world import REAL_WORLD

HERE = Path(__file__).parent
SUITES = {"aes": "aes-256-gcm", "chacha": "chacha20-poly1305"}
# No other disk syncs so fast; the code is the same.
MEMORY_FOLDER = Path("/dev/shm")
# The default suite tries one bit of every so many bytes; odd, so that all places of a repeating row are met. Each suite
# begins elsewhere, so both together are twice as dense. Every bit has slow tests below.
STEP = 15

Opening = Callable[["Golden"], Bank]
Outcomes = Counter[str]


@dataclass(frozen=True)
class Golden:
    """A copy of a golden bank that may be spoilt, and what is in it."""

    suite: str
    source: Path
    folder: Path
    contents: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        return self.folder / "bank"

    @property
    def journal(self) -> Path:
        (segment,) = (self.place / "journal").glob("*.log")
        return segment

    @property
    def checkpoint(self) -> Path:
        (checkpoint,) = (self.place / "checkpoints").iterdir()
        return checkpoint

    @property
    def key_file(self) -> Path:
        return self.source / "key"

    @property
    def passphrase(self) -> str:
        return (self.source / "passphrase.txt").read_text(encoding="utf-8").rstrip("\n")

    @property
    def recovery(self) -> str:
        return (self.source / "recovery.txt").read_text(encoding="utf-8")

    def open(self, **key: Any) -> Bank:
        """As a client does who has never seen this bank: without an index, without a memory."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        return Bank.open(self.place, cache_dir=self.folder / "cache", **(key or {"key_file": self.key_file}))


@pytest.fixture(params=SUITES)
def golden(request: pytest.FixtureRequest) -> Iterator[Golden]:
    source = HERE / f"v1.0-{request.param}"
    contents = json.loads((source / "contents.json").read_text(encoding="utf-8"))
    memory = MEMORY_FOLDER if os.access(MEMORY_FOLDER, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="casbank-golden-", dir=memory) as folder:
        shutil.copytree(source / "bank", Path(folder, "bank"))
        yield Golden(SUITES[request.param], source, Path(folder), {item["name"]: item for item in contents})


@pytest.fixture
def silent() -> Iterator[None]:
    """A hundred thousand warnings would fill the memory of the test's report."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def read_all(bank: Bank, golden: Golden) -> str:
    """Read each object by itself: "right", or "refused" if an error was told; other contents fail the test."""
    outcome = "right"
    infos = {info.name: info for info in bank.list()}
    assert infos.keys() == golden.contents.keys()
    for name, info in infos.items():
        try:
            assert described(info, bank.get(name)) == golden.contents[name]
        except CasbankError:
            outcome = "refused"
    return outcome


def opened_anew(golden: Golden, **key: Any) -> str:
    """Open as a new client and read everything."""
    try:
        with golden.open(**key) as bank:
            return read_all(bank, golden)
    except CasbankError:
        return "refused"


def behind_the_checkpoint(golden: Golden) -> None:
    """Cut the journal as section 7 of the format allows it, so that the checkpoint is needed."""
    frames, data = frames_of(golden.journal), golden.journal.read_bytes()
    golden.journal.unlink()
    (golden.place / "journal" / f"{frames[-1].seq:020d}.log").write_bytes(data[frames[-2].end :])


def files(golden: Golden) -> list[Path]:
    return [path for path in sorted(golden.place.rglob("*")) if path.is_file()]


@contextmanager
def flipped(path: Path) -> Iterator[Callable[[int, int], None]]:
    """Flips bits of a file in place, one at a time: the argument's bit, after the one before was put back."""
    data, before = path.read_bytes(), 0
    descriptor = os.open(path, os.O_RDWR)

    def flip(at: int, mask: int) -> None:
        nonlocal before
        os.pwrite(descriptor, data[before : before + 1], before)
        os.pwrite(descriptor, bytes([data[at] ^ mask]), at)
        before = at

    try:
        yield flip
        os.pwrite(descriptor, data[before : before + 1], before)
    finally:
        os.close(descriptor)
    assert path.read_bytes() == data


def flips(path: Path, ranges: list[range], attempt: Callable[[], str], *, one_each: bool = False) -> Outcomes:
    """What comes of each flip of these bytes: of every bit, or of one of each byte."""
    outcomes: Outcomes = Counter()
    with flipped(path) as flip:
        for number, at in enumerate(at for part in ranges for at in part):
            for bit in [number % 8] if one_each else range(8):
                flip(at, 1 << bit)
                outcomes[attempt()] += 1
    return outcomes


def whole(path: Path) -> list[range]:
    return [range(path.stat().st_size)]


# --- what a later version must be able to do -------------------------------------------------------------------------


def test_golden_has_one_of_everything(golden: Golden) -> None:
    """The bank is what the other tests take it for."""
    with golden.open() as bank:
        assert bank.stats().suite == golden.suite
        assert [(epoch.number, epoch.is_current, epoch.is_retired) for epoch in bank.keys.epochs()] == [
            (1, False, True),
            (2, True, False),
        ]
        assert [(slot.source, slot.label) for slot in bank.keys.slots()] == [
            ("key-file", ""),
            ("passphrase", "a person"),
        ]
        assert bank.stats().packs == len(packs_of(golden.place)) == 4
        assert bank.stats().deleted_objects == 1
        kinds = {(path.read_bytes()[10], path.read_bytes()[48]) for path in packs_of(golden.place)}
    assert kinds == {(kind, epoch) for kind in (1, 2) for epoch in (1, 2)}
    assert {frame.record[48] for frame in frames_of(golden.journal)} == {1, 2}
    assert golden.journal.stat().st_size == frames_of(golden.journal)[-1].end
    assert len(list((golden.place / "keys").glob("keyring-*"))) == 2
    assert sum(path.stat().st_size for path in files(golden)) < 12_000


@pytest.mark.parametrize("key", ["key_file", "passphrase", "recovery"])
@pytest.mark.parametrize("from_checkpoint", [False, True])
def test_each_key_opens_it(golden: Golden, key: str, from_checkpoint: bool) -> None:
    """Key file, passphrase and recovery text give the same contents, from either beginning of the journal."""
    if from_checkpoint:
        behind_the_checkpoint(golden)
    with golden.open(**{key: getattr(golden, key)}) as bank:
        assert read_all(bank, golden) == "right"
        assert bank.verify_index() == []
        bank.rebuild_index()
        assert bank.verify_index() == []
        assert read_all(bank, golden) == "right"


def test_golden_goes_on(golden: Golden) -> None:
    """It takes new objects, recognises old chunks in them, and rotates its keys."""
    chunks = golden.contents["2/chunks"]
    with golden.open() as bank:
        packs = bank.stats().packs
        again = bank.put("again", bank.get("2/chunks"))
        assert (again.etag, bank.stats().packs) == (chunks["etag"], packs)
        bank.keys.rotate()
        bank.put("new", bytes(range(256)) * 20)
        bank.delete("again")
        bank.delete("new")
    assert opened_anew(golden) == "right"


@pytest.mark.parametrize("lost", ["BANK", "keys", "both"])
def test_recovery_text_brings_it_back(golden: Golden, lost: str) -> None:
    """The text that was exported then puts back what is lost."""
    key_file = golden.folder / "new-key"
    key_file.write_bytes(bytes(range(32)))
    if lost != "keys":
        (golden.place / "BANK").unlink()
    if lost != "BANK":
        shutil.rmtree(golden.place / "keys")
    cache = golden.folder / "cache"
    with Bank.recover(golden.place, golden.recovery, key_file=key_file, cache_dir=cache) as bank:
        assert read_all(bank, golden) == "right"
    assert opened_anew(golden, key_file=key_file) == "right"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux shows what is open")
def test_opening_leaves_nothing_open(golden: Golden, tmp_path: Path) -> None:
    """A bank that was closed, or that a wrong key did not open, holds no file."""
    (tmp_path / "wrong").write_bytes(bytes(32))
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert opened_anew(golden) == "right"
    assert opened_anew(golden, key_file=tmp_path / "wrong") == "refused"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_wrong_keys_are_refused(golden: Golden, tmp_path: Path) -> None:
    other = tmp_path / "key"
    other.write_bytes(bytes(32))
    for key in ({"key_file": other}, {"passphrase": golden.passphrase + "x"}):
        with pytest.raises(KeyMismatchError):
            golden.open(**key)


# --- every bit -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("silent")
def test_some_bits(golden: Golden) -> None:
    """One bit of some bytes of every file: refused, or the right contents, for a new client."""
    outcomes: Outcomes = Counter()
    first = 0 if golden.suite == SUITES["aes"] else STEP // 2
    for path in files(golden):
        if path == golden.checkpoint:
            continue
        with flipped(path) as flip:
            for number, at in enumerate(range(first, path.stat().st_size, STEP)):
                flip(at, 1 << number % 8)
                outcomes[opened_anew(golden)] += 1
    behind_the_checkpoint(golden)
    with flipped(golden.checkpoint) as flip:
        for number, at in enumerate(range(first, golden.checkpoint.stat().st_size, STEP)):
            flip(at, 1 << number % 8)
            assert opened_anew(golden) == "refused"
    assert outcomes["refused"] > outcomes["right"] > 0
    assert opened_anew(golden) == "right"


@pytest.mark.slow
@pytest.mark.usefixtures("silent")
def test_every_bit_of_the_bank_file_and_the_keys(golden: Golden) -> None:
    """What is needed is refused; what is not needed (another slot, an older keyring) is passed over."""
    refused = {"BANK", "key file", "keyring 2"}
    for path in [golden.place / "BANK", *sorted((golden.place / "keys").iterdir())]:
        outcomes = flips(path, whole(path), lambda: opened_anew(golden))
        assert len(outcomes) == 1
        assert outcomes["refused" if role(path) in refused else "right"]
        if role(path) == "passphrase":
            # Costs nothing: a damaged slot is not worth a derivation.
            wanted = {"passphrase": golden.passphrase}
            assert flips(path, whole(path), lambda key=wanted: opened_anew(golden, **key)).keys() == {"refused"}


def role(path: Path) -> str:
    if path.name == "BANK":
        return "BANK"
    if path.name.startswith("keyring-"):
        return f"keyring {path.name.split('-')[1]}"
    # The body of a slot is in clear, with the source second: 98 01, then 1 or 2.
    return {1: "passphrase", 2: "key file"}[path.read_bytes()[HEADER_BYTES + 2]]


@pytest.mark.slow
@pytest.mark.usefixtures("silent")
def test_every_bit_of_the_journal(golden: Golden) -> None:
    """Every record but the last is refused; the last, which no object hangs on, may be taken for a torn tail."""
    frames = frames_of(golden.journal)

    def attempt() -> str:
        # What opening asks first, and lets through as it is: most flips end here, ten times as fast.
        journal = LocalJournal(
            golden.journal.parent, world=REAL_WORLD, read_only=True, quarantine=golden.place / "quarantine"
        )
        try:
            journal.head()
        except CorruptionError:
            return "refused"
        finally:
            journal.close()
        return opened_anew(golden)

    assert flips(golden.journal, [range(frames[-2].end)], attempt).keys() == {"refused"}
    assert flips(golden.journal, [range(frames[-2].end, frames[-1].end)], attempt)["right"]


@pytest.mark.slow
@pytest.mark.usefixtures("silent")
def test_every_bit_of_the_checkpoint(golden: Golden) -> None:
    """Where the journal begins behind it, and there is no other one, a checkpoint is whole or refused."""
    behind_the_checkpoint(golden)
    with golden.open() as bank:

        def attempt() -> str:
            try:
                bank.rebuild_index()
            except CasbankError:
                return "refused"
            return read_all(bank, golden)

        assert attempt() == "right"
        assert flips(golden.checkpoint, whole(golden.checkpoint), attempt).keys() == {"refused"}


@pytest.mark.slow
@pytest.mark.usefixtures("silent")
def test_every_bit_of_the_packs(golden: Golden) -> None:
    """Entries are checked as they are read; headers, tables and trailers when an index is made of them."""
    with golden.open() as bank:
        engine = engine_of(bank)

        def read_anew() -> str:
            # A new reader remembers no entry. Blobs stay open, but were changed in place.
            engine.reader = ObjectReader(engine.resources)
            return read_all(bank, golden)

        def rebuilt() -> str:
            try:
                bank.rebuild_index()
            except CasbankError:
                return "refused"
            return read_anew()

        with engine.follower.read() as snapshot:
            rows = [snapshot.pack(number) for number in range(1, 5)]
        for row in rows:
            assert row is not None
            path = golden.place / "packs" / row.info.id.hex()[:2] / row.info.id.hex()
            contents = engine.resources.packs.contents(row.info)
            entries = contents.toc.entries
            end = entry_offsets(entries)[-1] + entries[-1].stored

            def decoded(info: PackInfo = row.info, contents: Contents = contents) -> str:
                # What a rebuild asks of a pack, a hundred times as fast.
                try:
                    assert engine.resources.packs.contents(info) == contents
                except CasbankError:
                    return "refused"
                return "right"

            assert flips(path, [range(HEADER_BYTES, end)], read_anew).keys() == {"refused"}
            ends = [range(HEADER_BYTES), range(row.info.length - HEADER_BYTES, row.info.length)]
            # Each copy of the table stands in for the other.
            tables = [range(end, row.info.length - HEADER_BYTES)]
            for ranges, expected in (ends, "refused"), (tables, "right"):
                assert flips(path, ranges, decoded).keys() == {expected}
                assert flips(path, ranges, rebuilt, one_each=True).keys() == {expected}
            assert rebuilt() == "right"
