"""Who can write the store, and has no key: nothing of theirs is taken for the bank's, and nothing in it can be read.

What is asked of each attempt: an error of casbank, or exactly what was stored. A journal can also be cut: then a client
sees a state that the bank once had, and one that has a memory says so (see test_rollback.py).
"""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import msgpack
import pytest
from bank_scene import content, contents_of, engine_of, frames_of, packs_of
from blake3 import blake3

import casbank
from casbank import Bank, CasbankError, CorruptionError, ErrorKind, KeyMismatchError, UnsupportedFormatError, limits
from casbank.engine.packing import PACK_BUFFER_BYTES, Group, PackBuilder
from casbank.engine.rules import Reliance
from casbank.format.bank import BankDescriptor, decode_bank, encode_bank
from casbank.format.descriptor import Descriptor, encode_descriptor
from casbank.format.header import Header, Kind, Suite, sequence_id
from casbank.format.keyring import keyring_name
from casbank.format.keyslot import SlotParameters, SlotSource, encode_key_slot, key_slot_name
from casbank.format.pack import Toc, Trailer, encode_toc, encode_trailer, pack_name
from casbank.format.record import Delete, Op, Packs, Put, Record, encode_record
from casbank.format.seal import Lane
from casbank.journal.frame import encode_frame_head
from casbank.model import Buffer, Codec, EntryType, PackInfo
from casbank.sealing.aead import make_seal
from casbank.sealing.checksum import ChecksumSealing
from casbank.world import REAL_WORLD, World

MIB = 2**20
KEY, OTHER_KEY, DOMAIN = (bytes([number]) * 32 for number in (1, 2, 3))
# More would need a stored length to be believed; much less is what one opening takes.
MEMORY_BYTES_MAX = 256 * MIB
# No other disk syncs so fast; the code is the same.
SHARED_MEMORY = Path("/dev/shm")

Contents = dict[str, bytes]


@dataclass
class Scene:
    """A bank that can be spoilt and put back: its folder, its whole and its earlier store, what was in it when."""

    folder: Path
    key_file: Path
    history: list[Contents] = field(default_factory=list)

    @property
    def place(self) -> Path:
        return self.folder / "bank"

    @property
    def cache(self) -> Path:
        """That of the client at hand."""
        return self.folder / "cache"

    @property
    def contents(self) -> Contents:
        return self.history[-1]

    @property
    def descriptor(self) -> BankDescriptor:
        return decode_bank((self.folder / "whole" / "BANK").read_bytes())

    def keep(self, name: str) -> None:
        """Keep the store as it is now, but for what only tells processes of one machine about each other."""
        shutil.copytree(self.place, self.folder / name, ignore=shutil.ignore_patterns("lock", "synced", "tmp"))

    def reset(self, *, memory: bool) -> None:
        """The whole store again, for a client that wrote it and remembers, or for one that never saw it."""
        for path in (self.place, self.cache):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.folder / "whole", self.place)
        if memory:
            shutil.copytree(self.folder / "owner", self.cache)

    def names(self) -> list[str]:
        whole = self.folder / "whole"
        return [str(path.relative_to(whole)) for path in sorted(whole.rglob("*")) if path.is_file()]

    def open(self, **key: Any) -> Bank:
        return Bank.open(self.place, cache_dir=self.cache, **(key or {"key_file": self.key_file}))


def make_scene(folder: Path, key: bytes) -> Scene:
    """A bank with two epochs, two slots, two checkpoints, a journal that was forgotten in part."""
    folder.mkdir()
    scene = Scene(folder, folder / "key")
    scene.key_file.write_bytes(key)
    (folder / "second").write_bytes(key[::-1] + b"second")
    (folder / "domain").write_bytes(DOMAIN)
    with Bank.create(
        scene.place,
        chunking="gear:64/128/256",
        key_file=scene.key_file,
        dedup_domain=folder / "domain",
        cache_dir=folder / "owner",
    ) as bank:
        engine_of(bank).journal._segment_bytes_max = 1500  # type: ignore[attr-defined]
        scene.history.append({})
        for epoch in (1, 2):
            for number in range(2):
                with bank.batch() as batch:
                    batch.put(f"inline {epoch} {number}", b"inline %d %d" % (epoch, number))
                    batch.put(f"chunk {epoch} {number}", content((epoch, number), 150))
                    batch.put(f"chunks {epoch} {number}", content((epoch, number, "many"), 1500))
                scene.history.append(contents_of(bank))
            bank.put("overwritten", b"in epoch %d" % epoch)
            scene.history.append(contents_of(bank))
            bank.delete(f"inline {epoch} 0")
            scene.history.append(contents_of(bank))
            assert engine_of(bank).checkpoints.write() is not None
            if epoch == 1:
                bank.keys.add(key_file=folder / "second", label="second")
                bank.keys.rotate()
                bank.put("between", b"the epochs")
                scene.history.append(contents_of(bank))
                scene.keep("older")
        assert engine_of(bank).journal.first() > 1
        bank.put("last", b"record")
        scene.history.append(contents_of(bank))
    scene.keep("whole")
    return scene


@pytest.fixture(scope="module")
def scenes() -> Iterator[dict[str, Scene]]:
    """The victim; a bank of other people; one of the same key file, whose chunks have the same ids."""
    keys = {"victim": KEY, "foreign": OTHER_KEY, "cousin": KEY}
    memory = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="casbank-hostile-", dir=memory) as folder:
        yield {name: make_scene(Path(folder, name), key) for name, key in keys.items()}


@pytest.fixture
def victim(scenes: dict[str, Scene]) -> Scene:
    scene = scenes["victim"]
    scene.reset(memory=False)
    return scene


# --- files that are damaged, or put in each other's place ------------------------------------------------------------


def role(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return "keyring" if "keyring" in file else folder.partition("/")[0] or file


def with_role(scene: Scene, wanted: str) -> list[str]:
    return [name for name in scene.names() if role(name) == wanted]


def put_back(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def cut(length: Callable[[int], int]) -> Callable[[Scene, dict[str, Scene], str], Iterator[Path]]:
    def attempts(scene: Scene, _others: dict[str, Scene], name: str) -> Iterator[Path]:
        path = scene.place / name
        data = path.read_bytes()
        put_back(path, data[: length(len(data))])
        yield path

    return attempts


def deleted(scene: Scene, _others: dict[str, Scene], name: str) -> Iterator[Path]:
    (scene.place / name).unlink()
    yield scene.place / name


def replaced_by_siblings(scene: Scene, _others: dict[str, Scene], name: str) -> Iterator[Path]:
    """Of its own kind all, and one of each other kind."""
    first = {role(sibling): sibling for sibling in reversed(scene.names())}
    yield from replaced_by(scene, name, sorted({*with_role(scene, role(name)), *first.values()}))


def replaced_by_any_sibling(scene: Scene, _others: dict[str, Scene], name: str) -> Iterator[Path]:
    yield from replaced_by(scene, name, scene.names())


def replaced_by(scene: Scene, name: str, siblings: list[str]) -> Iterator[Path]:
    for sibling in siblings:
        # BANK and its copy are the same bytes.
        if {sibling, name} != {"BANK", "BANK.copy"} and sibling != name:
            put_back(scene.place / name, (scene.folder / "whole" / sibling).read_bytes())
            yield scene.place / name


def replaced_by_other(which: str) -> Callable[[Scene, dict[str, Scene], str], Iterator[Path]]:
    def attempts(scene: Scene, others: dict[str, Scene], name: str) -> Iterator[Path]:
        other = others[which]
        for rival in with_role(other, role(name)):
            put_back(scene.place / name, (other.folder / "whole" / rival).read_bytes())
            yield scene.place / name

    return attempts


def replaced_by_older(scene: Scene, _others: dict[str, Scene], name: str) -> Iterator[Path]:
    older = scene.folder / "older" / name
    if older.exists() and older.read_bytes() != (scene.place / name).read_bytes():
        put_back(scene.place / name, older.read_bytes())
        yield scene.place / name


ATTEMPTS = {
    "emptied": cut(lambda length: 0),
    "halved": cut(lambda length: length // 2),
    "shortened by a byte": cut(lambda length: length - 1),
    "deleted": deleted,
    "sibling": replaced_by_siblings,
    "any sibling": replaced_by_any_sibling,
    "foreign": replaced_by_other("foreign"),
    "cousin": replaced_by_other("cousin"),
    "older": replaced_by_older,
}


def found_in(bank: Bank) -> dict[str, bytes | None]:
    """Every object by itself; None where an error was told."""
    found: dict[str, bytes | None] = {}
    for name in bank:
        try:
            found[name] = bank.get(name)
        except CasbankError:
            found[name] = None
    return found


def agrees(found: dict[str, bytes | None], state: Contents) -> bool:
    return found.keys() == state.keys() and all(data in (None, state[name]) for name, data in found.items())


def check_outcome(scene: Scene, caplog: pytest.LogCaptureFixture, *, memory: bool, is_journal: bool) -> str:
    """What became of an attempt: "refused" or "right"; "warned" or "older" where the journal was cut."""
    caplog.clear()
    try:
        with scene.open() as bank:
            found = found_in(bank)
    except CasbankError:
        return "refused"
    if agrees(found, scene.contents):
        return "refused" if None in found.values() else "right"
    assert is_journal
    assert any(agrees(found, state) for state in scene.history)
    assert not memory or "went back in time" in caplog.text
    return "warned" if memory else "older"


@pytest.mark.parametrize("memory", [False, True], ids=["new client", "owner"])
@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[pytest.mark.slow] if what == "any sibling" else []) for what in ATTEMPTS]
)
def test_spoilt_files(scenes: dict[str, Scene], caplog: pytest.LogCaptureFixture, what: str, memory: bool) -> None:
    """Every file cut, deleted, or replaced by another: an error or the right contents, whatever the client knows."""
    scene = scenes["victim"]
    outcomes = set()
    for name in scene.names():
        scene.reset(memory=memory)
        whole = (scene.place / name).read_bytes()
        for path in ATTEMPTS[what](scene, scenes, name):
            is_journal = role(name) == "journal"
            outcomes.add((role(name), check_outcome(scene, caplog, memory=memory, is_journal=is_journal)))
            put_back(path, whole)
            shutil.rmtree(scene.cache, ignore_errors=True)
            if memory:
                shutil.copytree(scene.folder / "owner", scene.cache)
        assert check_outcome(scene, caplog, memory=memory, is_journal=False) == "right"
    assert any(outcome == "refused" for _, outcome in outcomes) or what == "older"
    assert what == "older" or ("BANK", "right") not in outcomes
    assert what == "older" or memory or ("packs", "right") not in outcomes


def test_whole_parts_of_a_cousin(victim: Scene, scenes: dict[str, Scene], caplog: pytest.LogCaptureFixture) -> None:
    """Any mixture of two banks that have one key file and one dedup domain is refused, or is wholly one of them."""
    cousin = scenes["cousin"]
    parts = ["BANK", "keys", "journal", "packs", "checkpoints"]
    for mixture in range(1, 2 ** len(parts) - 1):
        victim.reset(memory=False)
        for number, part in enumerate(parts):
            if mixture >> number & 1:
                target = victim.place / part
                target.unlink() if target.is_file() else shutil.rmtree(target)
                source = cousin.folder / "whole" / part
                shutil.copy(source, target) if source.is_file() else shutil.copytree(source, target)
        assert check_outcome(victim, caplog, memory=False, is_journal=False) == "refused"


@pytest.mark.parametrize("memory", [False, True], ids=["new client", "owner"])
def test_swapped_keyrings(victim: Scene, caplog: pytest.LogCaptureFixture, memory: bool) -> None:
    """Keyrings under each other's names, the older one under both, the newer one under both."""
    keyrings = with_role(victim, "keyring")
    assert len(keyrings) == 2
    for one, other in [*permutations(keyrings), (keyrings[0],) * 2, (keyrings[1],) * 2]:
        victim.reset(memory=memory)
        for name, source in zip(keyrings, (one, other), strict=True):
            put_back(victim.place / name, (victim.folder / "whole" / source).read_bytes())
        outcome = check_outcome(victim, caplog, memory=memory, is_journal=False)
        assert outcome == ("refused" if one == other == keyrings[0] else "right")
        if (one, other) == (keyrings[1], keyrings[0]):
            # It can be read; but nothing is sealed with a keyring that is not the one that the journal names.
            with victim.open() as bank, pytest.raises(CorruptionError):
                bank.put("new", b"x")


@pytest.mark.parametrize("part", ["journal", "keys", "packs", "checkpoints"])
def test_lost_folders(victim: Scene, caplog: pytest.LogCaptureFixture, part: str) -> None:
    shutil.rmtree(victim.place / part)
    assert check_outcome(victim, caplog, memory=False, is_journal=False) == "refused"


# --- another suite, another descriptor -------------------------------------------------------------------------------


def append_frame(scene: Scene, suite0: ChecksumSealing, ops: list[Op]) -> None:
    """A record that follows the last one, sealed as in a bank without keys."""
    segment = max((scene.place / "journal").glob("*.log"))
    last = frames_of(segment)[-1]
    seal = suite0.create(Kind.RECORD, sequence_id(last.seq + 1), bytes(16))
    record = encode_record(Record(last.seq + 1, last.record[-32:], bytes(16), bytes(16), 1, ops), seal)
    segment.chmod(0o644)
    with segment.open("r+b") as file:
        file.seek(last.end)
        file.write(encode_frame_head(last.seq + 1, len(record)) + record)


@pytest.mark.parametrize("memory", [False, True], ids=["new client", "owner"])
def test_injected_record_without_encryption(victim: Scene, memory: bool) -> None:
    """A record of suite 0 at the end of the chain is refused, not followed."""
    victim.reset(memory=memory)
    append_frame(victim, ChecksumSealing(victim.descriptor.bank_id), [Delete("last")])
    with pytest.raises(UnsupportedFormatError):
        victim.open()


@pytest.mark.parametrize("memory", [False, True], ids=["new client", "owner"])
def test_injected_pack_without_encryption(victim: Scene, memory: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A pack of suite 0 in an encrypted one's place is refused, though what is in it is what the bank has."""
    victim.reset(memory=memory)
    buffer = bytearray(PACK_BUFFER_BYTES)
    for path in packs_of(victim.place):
        entropy = iter([bytes.fromhex(path.name)])
        world = World(entropy=lambda length, ids=entropy: next(ids, bytes(length)))
        kind = Kind(path.read_bytes()[10])
        builder = PackBuilder(kind, ChecksumSealing(victim.descriptor.bank_id), world, buffer)
        row_type = EntryType.CHUNKS if kind is Kind.DATA_PACK else EntryType.LEAVES
        builder.add(Group(row_type, Codec.STORED, b"forged", 6, [(blake3(b"forged").digest(), 6)]))
        put_back(path, b"".join(builder.finish().parts))
    assert check_outcome(victim, caplog, memory=memory, is_journal=False) == "refused"


def change_bank(scene: Scene, **changes: Any) -> None:
    """Another BANK with a hash of its own, as anybody can make one."""
    put_back(scene.place / "BANK", encode_bank(scene.descriptor._replace(**changes), bytes(16)))


def test_bank_without_encryption(victim: Scene) -> None:
    """A BANK of suite 0 is refused by who brings a key, and by who brings none: the rest of the store is sealed."""
    change_bank(victim, suite=Suite.CHECKSUM)
    with pytest.raises(KeyMismatchError) as caught:
        victim.open()
    assert caught.value.kind is ErrorKind.NOT_ENCRYPTED
    for key_given in ({"passphrase": "anything"}, {"recovery": "anything"}):
        with pytest.raises(KeyMismatchError):
            victim.open(**key_given)
    with pytest.raises(UnsupportedFormatError):
        Bank.open(victim.place, cache_dir=victim.cache)


def test_whole_bank_without_encryption(victim: Scene) -> None:
    """A bank without keys in the encrypted one's place, of the same id, gets nothing from who brings the key."""
    shutil.rmtree(victim.place)
    ids = iter([victim.descriptor.bank_id])
    world = replace(REAL_WORLD, entropy=lambda length: next(ids, None) or os.urandom(length))
    with Bank.create(victim.place, world=world) as bank:
        assert bank.stats().bank_id == victim.descriptor.bank_id.hex()
        bank.put("last", b"forged")
    with pytest.raises(KeyMismatchError) as caught:
        victim.open()
    assert caught.value.kind is ErrorKind.NOT_ENCRYPTED


CHANGES: dict[str, dict[str, Any]] = {
    "read-only flag": {"read_only_compatible": 1},
    "collector flag": {"collector_compatible": 1},
    "chunking": {"chunking": "fixed:512"},
    "compression": {"compression": None},
    "created": {"created_ns": 1},
    "keep deleted": {"keep_deleted_s": 0},
    "only the salt": {},
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_bank_file(victim: Scene, change: str) -> None:
    """A BANK that was changed, its own hash mended, is refused: the keyrings have the hash of the right one."""
    change_bank(victim, **CHANGES[change])
    with pytest.raises(CorruptionError) as caught:
        victim.open()
    assert caught.value.kind is ErrorKind.BANK_DESCRIPTOR


def test_changed_suite(victim: Scene) -> None:
    """A BANK of the other suite with encryption finds no slot of its own."""
    change_bank(victim, suite=Suite.CHACHA20_POLY1305)
    with pytest.raises(KeyMismatchError):
        victim.open()


def test_changed_bank_file_and_recovery_text(victim: Scene) -> None:
    """Nor does a recovery text open a bank whose BANK was changed, or mend it silently."""
    with victim.open() as bank:
        text = bank.keys.export()
    change_bank(victim, chunking="fixed:512")
    shutil.rmtree(victim.cache)
    with pytest.raises(CorruptionError):
        victim.open(recovery=text)
    with pytest.raises(CorruptionError):
        Bank.recover(victim.place, text, key_file=victim.folder / "second", cache_dir=victim.cache)


# --- nothing can be read ---------------------------------------------------------------------------------------------

NAME, GONE, META_KEY, META_VALUE = "distinctive-name", "distinctive-gone", "distinctive-key", "distinctive-value"
INLINE, TEXT, RAW_META = b"distinctive inline content", b"distinctive text in a chunk ", b"\xfe distinctive bin"
SIZE = 1_234_577
NOISE = content("noise", 5000)
LABEL = "distinctive-label"


def forms_of_size(size: int) -> list[bytes]:
    """As fixed-width integers, and as a descriptor has it: msgpack, before a root id."""
    packed = msgpack.packb(size)
    return [size.to_bytes(8, "little"), size.to_bytes(8, "big"), packed + b"\xc4\x20"]


SECRETS: dict[str, list[bytes]] = {
    "name": [NAME.encode()],
    "deleted name": [GONE.encode()],
    "metadata key": [META_KEY.encode()],
    "metadata value": [META_VALUE.encode()],
    "metadata bytes": [RAW_META],
    "inline content": [INLINE],
    "text": [TEXT],
    "noise": [NOISE[:32], NOISE[2000:2032]],
    "size": forms_of_size(SIZE),
    "chunk id": [blake3(NOISE).digest()],
    "digest": [blake3(INLINE).digest()],
}


def fill_with_secrets(bank: Bank) -> None:
    bank.put(NAME, INLINE, metadata={META_KEY: META_VALUE, "raw": RAW_META}, digest=True)
    bank.put("text", TEXT * 200)
    bank.put("noise", NOISE)
    bank.put("large", content("large", SIZE))
    bank.put(GONE, b"")
    bank.delete(GONE)
    assert engine_of(bank).checkpoints.write() is not None


def seen_in(folder: Path) -> set[str]:
    """Which secrets any file of a store has in clear."""
    blobs = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return {what for what, forms in SECRETS.items() if any(form in blob for form in forms for blob in blobs)}


def test_search_finds_what_is_in_clear(place: Path) -> None:
    """The next test can fail: in a bank without keys all of it is found, the index left aside."""
    with Bank.create(place, compression="none") as bank:
        fill_with_secrets(bank)
    shutil.rmtree(place / "index")
    assert seen_in(place) == SECRETS.keys()


@pytest.mark.parametrize("suite", ["aes-256-gcm", "chacha20-poly1305"])
def test_nothing_is_in_clear(place: Path, tmp_path: Path, suite: str) -> None:
    """No name, metadata, content, size or plain id is in any file of an encrypted bank; of a slot, only its label."""
    key_file = tmp_path / "key"
    key_file.write_bytes(KEY)
    cache = tmp_path / "cache"
    with Bank.create(place, compression="none", key_file=key_file, suite=suite, cache_dir=cache) as bank:
        fill_with_secrets(bank)
        bank.keys.add(key_file=key_file, label=LABEL)
        bank.keys.rotate()
        bank.put("noise again", NOISE + b"!", metadata={META_KEY: META_VALUE})
        engine_of(bank).checkpoints.write()
    assert not seen_in(place)
    assert not (place / "index").exists()
    labelled = [path for path in place.rglob("*") if path.is_file() and LABEL.encode() in path.read_bytes()]
    # Where it is in clear, and must be, to say which slot is whose.
    assert {path.parent.name for path in labelled} == {"keys"}
    assert seen_in(cache) >= {"name", "inline content"}


def test_cache_is_private(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else may look into the index of an encrypted bank, whatever the umask and who made the folder."""
    key_file = tmp_path / "key"
    key_file.write_bytes(KEY)
    monkeypatch.setenv("CASBANK_CACHE_DIR", str(tmp_path / "cache"))
    before = os.umask(0)
    try:
        Bank.create(place, key_file=key_file).close()
        (folder,) = (tmp_path / "cache").iterdir()
        folder.chmod(0o777)
        Bank.open(place, key_file=key_file).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "head").stat().st_mode) == 0o600
    assert list(folder.rglob("data.mdb"))
    assert not list(place.rglob("data.mdb"))
    for path in (place / "keys").iterdir():
        assert not stat.S_IMODE(path.stat().st_mode) & 0o222


# --- bounds: what a slot, a keyring, a pack may ask for --------------------------------------------------------------

READ_IN_BOUNDS = """
import resource, sys
from casbank import Bank, CasbankError
place, cache, kind, key = sys.argv[1:]
# Minutes would be far more than this; a machine that is busy does not count.
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
told = []
try:
    with Bank.open(place, cache_dir=cache, **{kind: key}) as bank:
        for name in list(bank):
            try:
                bank.get(name)
            except CasbankError as error:
                told.append(f"{name}: {type(error).__name__}")
except CasbankError as error:
    told.append(type(error).__name__)
# Linux counts in KiB, macOS in bytes.
taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1024 if sys.platform == "linux" else 1)
print(taken, *told, sep="\\n")
"""


def read_in_bounds(scene: Scene, **key: Any) -> list[str]:
    """Open and read everything in a process of its own, which may take little memory and time; the errors it told."""
    kind, value = next(iter((key or {"key_file": scene.key_file}).items()))
    command = [sys.executable, "-c", READ_IN_BOUNDS, *map(str, (scene.place, scene.cache, kind, value))]
    environment = os.environ | {"PYTHONPATH": str(Path(casbank.__path__[0]).parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    memory, *told = done.stdout.splitlines()
    assert int(memory) < MEMORY_BYTES_MAX
    return told


def hostile_slot(scene: Scene, parameters: SlotParameters, label: str = "") -> Path:
    """A slot that anybody can write: well formed, with every hash in order."""
    descriptor, slot_id = scene.descriptor, os.urandom(16)
    seal = make_seal(bytes(32), Header(Kind.KEY_SLOT, descriptor.suite, descriptor.bank_id, slot_id, bytes(16)))
    path = scene.place / key_slot_name(slot_id)
    path.write_bytes(encode_key_slot(parameters, 0, label, bytes(32), seal))
    return path


GIB_KIB = 2**20
GREEDY = {
    "5 GiB of memory": (5 * GIB_KIB, 1, 1),
    "65 passes": (4 * GIB_KIB, 65, 4),
    "1000 lanes": (4 * GIB_KIB, 64, 1000),
    "2^32 - 1 of all": (2**32 - 1,) * 3,
    "more than u32": (2**40,) * 3,
    "no memory": (0, 1, 1),
    "no passes": (64 * 1024, 0, 1),
    "negative": (-1, -1, -1),
    "less than a lane needs": (63, 1, 8),
}


@pytest.mark.parametrize("greed", GREEDY)
def test_greedy_slot(victim: Scene, greed: str) -> None:
    """A slot that asks for more than is reasonable is not tried, and keeps nobody out."""
    path = hostile_slot(victim, SlotParameters(SlotSource.PASSPHRASE, *GREEDY[greed]))
    assert read_in_bounds(victim, passphrase="any") == ["KeyMismatchError"]
    with victim.open() as bank:
        assert path.name not in [slot.id for slot in bank.keys.slots()]
        assert contents_of(bank) == victim.contents


SLOTS = {
    "long token": (SlotParameters(SlotSource.COMMAND, token=bytes(limits.KEY_TOKEN_BYTES_MAX + 1)), ""),
    "endless token": (SlotParameters(SlotSource.COMMAND, token=bytes(40 * MIB)), ""),
    "endless label": (SlotParameters(SlotSource.KEY_FILE), "x" * 40 * MIB),
    "long label": (SlotParameters(SlotSource.KEY_FILE), "x" * (limits.KEY_LABEL_BYTES_MAX + 1)),
    "label with controls": (SlotParameters(SlotSource.KEY_FILE), "\x1b[2Jgone"),
}


@pytest.mark.parametrize(
    "what",
    SLOTS,
)
def test_boundless_slot(victim: Scene, what: str) -> None:
    """A token or label beyond its bound is refused with its slot, and never shown."""
    path = hostile_slot(victim, *SLOTS[what])
    assert read_in_bounds(victim) == []
    with victim.open() as bank:
        assert path.name not in [slot.id for slot in bank.keys.slots()]


def test_endless_slot_file(victim: Scene) -> None:
    """A slot file of a terabyte is not read."""
    path = hostile_slot(victim, SlotParameters(SlotSource.KEY_FILE))
    os.truncate(path, 2**40)
    assert read_in_bounds(victim) == []
    path.rename(victim.place / "keys" / "keyring-9-0000000000000000")
    assert read_in_bounds(victim) == []


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["{:032x}", "keyring-2-{:016x}"])
def test_countless_files(victim: Scene, name: str, count: int, caplog: pytest.LogCaptureFixture) -> None:
    """Of so many slots or keyrings a bounded number is looked at; then it is an error, or the bank opens."""
    path = slot = hostile_slot(victim, SlotParameters(SlotSource.PASSPHRASE, 4 * GIB_KIB, 64, 1))
    folder = victim.place / "keys"
    for number in range(count):
        target = folder / name.format(number)
        # A file may not have more links than that.
        os.link(path, target) if number % 20_000 else shutil.copy(path, target)
        path = path if number % 20_000 else target
    slot.unlink()
    try:
        # Their names sort before those of the real ones, which are not found any more.
        assert read_in_bounds(victim) in (["KeyMismatchError"], ["CorruptionError"], [])
        assert read_in_bounds(victim, passphrase="any") == ["KeyMismatchError"]
        with pytest.raises(CasbankError):
            victim.open(passphrase="any")
        assert len(caplog.records) <= limits.KEY_SLOTS_MAX
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("count", [b"\xdd\x80\x00\x00\x00", b"\xdd\xff\xff\xff\xff", b"\xdc\x10\x01"])
def test_keyring_of_countless_epochs(victim: Scene, count: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A keyring that is sealed with the bank's key and claims 2^31 epochs is passed over, or refused where needed."""
    with victim.open() as bank:
        keys = engine_of(bank).keys
        assert keys is not None
        key, descriptor = keys.keyrings.key, victim.descriptor
    head = [1, 3, (victim.place / "BANK").read_bytes()[-32:], [int(descriptor.suite)], bytes(32)]
    rows = b"".join(msgpack.packb([number, bytes(32), 0]) for number in range(1, 4))
    body = b"\x96" + b"".join(map(msgpack.packb, head)) + count + rows
    seal = make_seal(key, Header(Kind.KEYRING, descriptor.suite, descriptor.bank_id, sequence_id(3), bytes(16)))
    whole = b"".join((seal.header_bytes, *seal.seal(Lane.BODY, 0, b"", body)))
    data = whole + blake3(whole).digest()
    (victim.place / keyring_name(3, bytes(8))).write_bytes(data)
    assert read_in_bounds(victim) == []
    put_back(victim.place / with_role(victim, "keyring")[-1], data)
    shutil.rmtree(victim.cache)
    assert read_in_bounds(victim) == ["CorruptionError"]


def frame_claiming(size: int) -> bytes:
    """A zstd frame that claims so many bytes; RFC 8878, section 3.1.1."""
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x01\x00\x00"


def publish(bank: Bank, name: str, info: PackInfo, parts: Sequence[Buffer]) -> None:
    """An object of one chunk, whose id is the hash of its name, in this pack."""
    engine = engine_of(bank)
    engine.resources.store.put_new(pack_name(info.id), parts)
    root = blake3(name.encode()).digest()
    item = encode_descriptor(Descriptor(limits.ENTRY_RAW_BYTES_MAX, root, None, 0, 0, 0, {}, None))
    engine.commit(lambda now: [Packs((info,)), Put(name, item)], None, Reliance((), engine.follower.seen.seq))


def test_hostile_writer_with_the_key(victim: Scene) -> None:
    """What a client with the key wrote cannot make a reader take terabytes: an entry, its row, a table, its trailer."""
    raw = limits.ENTRY_RAW_BYTES_MAX
    with victim.open() as bank:
        sealing = engine_of(bank).resources.sealing
        for name, claimed, frame in ("entry of terabytes", raw, 2**42), ("row of gigabytes", 2**32 - 1, 2**32 - 1):
            builder = PackBuilder(Kind.DATA_PACK, sealing, REAL_WORLD, bytearray(PACK_BUFFER_BYTES))
            chunk = blake3(name.encode()).digest(), raw
            builder.add(Group(EntryType.CHUNKS, Codec.ZSTD, frame_claiming(frame), claimed, [chunk]))
            finished = builder.finish()
            publish(bank, name, finished.info, finished.parts)
        for rows in (10**9, limits.PACK_ENTRIES_MAX):
            pack_id = os.urandom(16)
            seal = sealing.create(Kind.DATA_PACK, pack_id, os.urandom(16))
            front = b"".join((seal.header_bytes, *encode_toc(seal, Toc([], []))))
            trailer = Trailer(128, 16 * rows + 16, rows, 0, pack_id, blake3(front).digest())
            parts = [front, encode_trailer(seal, trailer)]
            info = PackInfo(pack_id, Kind.DATA_PACK, sum(map(len, parts)), trailer.hash, 1, 1)
            publish(bank, f"table of {rows} rows", info, parts)
    shutil.rmtree(victim.cache)
    names = ["entry of terabytes", "row of gigabytes", "table of 1000000000 rows", "table of 1048576 rows"]
    assert read_in_bounds(victim) == [f"{name}: CorruptionError" for name in names]
