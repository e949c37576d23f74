"""Encrypted banks of today, read by the stranger, who knows nothing but docs/format.md; and the document's vectors."""

import json
import random
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import stranger
from blake3 import blake3
from stranger import CorruptError, Credential, RefusedError, StrangerBank, WrongKeyError

from casbank import Bank
from casbank.chunking.gear import gear_table
from casbank.format.header import Header, Kind, Suite
from casbank.format.keyring import keyring_hash
from casbank.format.keyslot import SlotParameters, SlotSource
from casbank.format.pack import EntryRow, seal_entry
from casbank.format.record import Config, Keyring, Noop, Op, Record, encode_record
from casbank.format.seal import Lane
from casbank.model import Codec, EntryType
from casbank.sealing.aead import AeadSeal, make_seal
from casbank.sealing.ids import keyed_ids
from casbank.sealing.schedule import domain_secret, epoch_key, file_key
from casbank.sealing.secrets import key_file_secret, passphrase_secret

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
SUITES = {"aes-256-gcm": Suite.AES_256_GCM, "chacha20-poly1305": Suite.CHACHA20_POLY1305}
KEY = bytes(range(64))
# As one keyboard gives it, and as another.
PASSPHRASE, DECOMPOSED = "Gr\u00fc\u00dfe an den Schl\u00fcssel", "Gru\u0308\u00dfe an den Schlu\u0308ssel"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASBANK_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(KEY)
    return path


def described(info: Any, content: bytes) -> tuple[object, ...]:
    """casbank's ObjectInfo or the stranger's StoredObject."""
    metadata = sorted(info.metadata.items())
    return info.name, info.size, info.etag, info.digest, info.version, info.created_ns, metadata, content


def by_casbank(bank: Bank) -> list[tuple[object, ...]]:
    return [described(info, bank.get(info.name)) for info in bank.list()]


def by_stranger(bank: StrangerBank) -> list[tuple[object, ...]]:
    return [described(item, item.content) for item in bank.objects()]


SHAPES = {"1/inline": (0, True), "1/chunk": (0, False), "1/noise": (1, False), "1/tree": (2, False)}
"""Depth, and whether the content is in the descriptor."""


def fill(bank: Bank, seed: int) -> None:
    """Every shape of an object, with metadata; names that are overwritten and deleted."""
    noise = random.Random(seed).randbytes
    metadata: dict[str, str | bytes] = {"epoch": str(seed), "raw": b"\x00\xff"}
    bank.put(f"{seed}/empty", b"")
    bank.put(f"{seed}/inline", b"x" * 60, metadata=metadata)
    bank.put(f"{seed}/chunk", noise(70), metadata=metadata, digest=True)
    bank.put(f"{seed}/tree", b"".join(b"%d %d\n" % (seed, number) for number in range(25_000)), digest=True)
    bank.put(f"{seed}/noise", noise(30_000), metadata=metadata)
    bank.put("in every epoch", noise(100))
    bank.put("deleted", noise(100))
    bank.delete("deleted")
    with bank.batch() as batch:
        for number in range(20):
            batch.put(f"{seed}/batch/{number}", noise(60 * number))


class Made(NamedTuple):
    folder: Path
    suite: Suite
    contents: list[tuple[object, ...]]
    recovery: str


@pytest.fixture(scope="module", params=SUITES)
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A bank of three epochs with a checkpoint in the second, opened by a key file; not to be changed."""
    scratch = tmp_path_factory.mktemp("made")
    folder, key_file = scratch / "bank", scratch / "key"
    key_file.write_bytes(KEY)
    # A domain fixes the dedup secret and so the cuts: the tree has two levels whenever this runs.
    with Bank.create(
        folder,
        chunking="gear:64/256/1024",
        key_file=key_file,
        suite=request.param,
        dedup_domain=key_file,
        cache_dir=scratch / "cache",
    ) as bank:
        fill(bank, 1)
        assert bank.keys.rotate() == 2
        fill(bank, 2)
        assert bank._writable().checkpoints.write() is not None
        bank.put("behind the checkpoint", b"replayed")
        assert bank.keys.rotate() == 3
        fill(bank, 3)
        bank.keys.retire(1)
        return Made(folder, SUITES[request.param], by_casbank(bank), bank.keys.export())


@pytest.fixture
def made(original: Made, tmp_path: Path) -> Made:
    """A copy of that bank, for a client who has never seen it."""
    shutil.copytree(original.folder, tmp_path / "bank", ignore=shutil.ignore_patterns("synced"))
    return original._replace(folder=tmp_path / "bank")


def opened(made: Made, *, from_checkpoint: bool = False) -> StrangerBank:
    return StrangerBank(made.folder, Credential(key_file=KEY), from_checkpoint=from_checkpoint)


def read_all(made: Made) -> None:
    """Everything that is there, also what no object needs."""
    bank = opened(made)
    by_stranger(bank)
    for record in bank.records:
        for operation in record.operations:
            if operation[0] == 10:
                stranger.load_checkpoint(made.folder, bank.secrets, operation)


# --- the stranger reads what casbank wrote ---------------------------------------------------------------------------


@pytest.mark.parametrize("from_checkpoint", [False, True])
def test_stranger_finds_what_casbank_finds(made: Made, from_checkpoint: bool) -> None:
    bank = opened(made, from_checkpoint=from_checkpoint)
    assert by_stranger(bank) == made.contents
    assert (bank.started_at > 0) == from_checkpoint
    assert bank.secrets.suite == made.suite
    assert sorted(bank.secrets.epochs) == [1, 2, 3]
    assert {record.epoch for record in bank.records} == {1, 2, 3}
    assert {stranger.epoch_of(pack.sealed.header) for pack in bank.packs.values()} == {1, 2, 3}
    depths = {stranger.parse_descriptor(packed, bank.secrets)[4] for _, packed in bank.state.names.values()}
    assert depths == {0, 1, 2}
    shapes = {name: stranger.parse_descriptor(bank.state.names[name][1], bank.secrets)[4::4] for name in SHAPES}
    assert {name: (depth, inline is not None) for name, (depth, inline) in shapes.items()} == SHAPES


def test_checkpoint_is_the_state_that_replay_reaches(made: Made) -> None:
    bank = opened(made)
    (operation,) = (op for record in bank.records for op in record.operations if op[0] == 10)
    replayed = stranger.State()
    for record in bank.records[: operation[1]]:
        replayed.apply(record, bank.secrets)
    assert replayed.epoch == 2
    assert stranger.load_checkpoint(made.folder, bank.secrets, operation) == replayed


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("typed", [PASSPHRASE, DECOMPOSED])
def test_passphrase_is_normalised(tmp_path: Path, suite: str, typed: str) -> None:
    """A passphrase opens the bank whichever way its letters were typed, when it was made and when it is opened."""
    with Bank.create(tmp_path / "bank", passphrase=typed, suite=suite) as bank:
        bank.put("name", b"content", metadata={"key": "value"})
        expected = by_casbank(bank)
    for other in (PASSPHRASE, DECOMPOSED):
        assert by_stranger(StrangerBank(tmp_path / "bank", Credential(passphrase=other))) == expected
    with pytest.raises(WrongKeyError):
        StrangerBank(tmp_path / "bank", Credential(passphrase=typed + " "))


def test_key_command(tmp_path: Path) -> None:
    program = tmp_path / "program"
    # Its "wrapping" is base64: what it is asked for, and in which way, is what counts here.
    program.write_text('#!/bin/sh\ncase "$1" in wrap) base64;; unwrap) base64 -d;; *) exit 2;; esac\n')
    program.chmod(0o755)
    with Bank.create(tmp_path / "bank", key_command=[str(program)]) as bank:
        bank.put("name", b"content")
        expected = by_casbank(bank)
    assert by_stranger(StrangerBank(tmp_path / "bank", Credential(command=[str(program)]))) == expected
    # It says that it failed, whatever it wrote.
    program.write_text("#!/bin/sh\nbase64 -d\nexit 1\n")
    with pytest.raises(WrongKeyError):
        StrangerBank(tmp_path / "bank", Credential(command=[str(program)]))


def test_recovery_text_is_enough(made: Made) -> None:
    """The text alone opens a bank whose BANK and keys/ are lost."""
    (made.folder / "BANK").unlink()
    for path in (made.folder / "keys").iterdir():
        path.unlink()
    text = f"print this\n{made.recovery}and lock it away\n"
    assert by_stranger(StrangerBank(made.folder, Credential(recovery=text))) == made.contents
    body = made.recovery.index("KEY-----\n") + 40
    wrong = made.recovery[:body] + ("A" if made.recovery[body] != "A" else "B") + made.recovery[body + 1 :]
    with pytest.raises(CorruptError, match="recovery text: check"):
        StrangerBank(made.folder, Credential(recovery=wrong))


def test_dedup_domain(tmp_path: Path, key_file: Path) -> None:
    """Banks of one domain give one content one id and cut it alike; the ids are those of the document."""
    content, roots = random.Random(4).randbytes(5000), set()
    domain = tmp_path / "domain"
    domain.write_bytes(b"shared by two banks, 32 bytes or more")
    for place in (tmp_path / "one", tmp_path / "two"):
        with Bank.create(place, chunking="gear:64/256/1024", key_file=key_file, dedup_domain=domain) as bank:
            bank.put("name", content)
        bank_read = StrangerBank(place, Credential(key_file=KEY))
        (item,) = bank_read.objects()
        assert item.content == content
        assert bank_read.secrets.dedup == stranger.dedup_domain(domain.read_bytes())
        _, _, root, _, depth, *_ = stranger.parse_descriptor(bank_read.state.names["name"][1], bank_read.secrets)
        cut = list(stranger.cuts(content, 64, 256, 1024, bank_read.secrets.dedup))
        assert list(bank_read.chunks(root, depth)) == cut
        assert cut != list(stranger.cuts(content, 64, 256, 1024))
        roots.add(item.etag)
    assert len(roots) == 1


def test_keyring_that_lost_a_race(made: Made, key_file: Path) -> None:
    """A keyring of the same number that never became official keeps nobody from reading."""
    with Bank.open(made.folder, key_file=key_file) as bank:
        keys = bank._writable().keys
        assert keys is not None
        official = keys.keyrings._official
        assert official is not None
        name = next(path.name for path in (made.folder / "keys").iterdir() if path.name.startswith("keyring-2-"))
        data = (made.folder / "keys" / name).read_bytes()
        lost = keys.keyrings.write_next(Keyring(2, f"keys/{name}", keyring_hash(data)))
        assert (lost.number, lost.name != official.name) == (3, True)
    bank_read = opened(made)
    assert len(set(bank_read.secrets.epochs[3])) == 2
    assert by_stranger(bank_read) == made.contents


@pytest.mark.parametrize("golden", ["v1.0-aes", "v1.0-chacha"])
@pytest.mark.parametrize("from_checkpoint", [False, True])
def test_golden_banks_are_as_the_document_says(golden: str, from_checkpoint: bool) -> None:
    """Section 15: three ways to open each, and what is in it."""
    place = Path(__file__).parent / golden
    contents = json.loads((place / "contents.json").read_text(encoding="utf-8"))
    expected = [(entry["name"], entry["etag"], entry["digest"], entry["blake3"]) for entry in contents]
    for credential in (
        Credential(key_file=(place / "key").read_bytes()),
        Credential(passphrase=(place / "passphrase.txt").read_text(encoding="utf-8").removesuffix("\n")),
        Credential(recovery=(place / "recovery.txt").read_text(encoding="utf-8")),
    ):
        bank = StrangerBank(place / "bank", credential, from_checkpoint=from_checkpoint)
        found = [(item.name, item.etag, item.digest, blake3(item.content).hexdigest()) for item in bank.objects()]
        assert found == expected
    heads = [pack.sealed.header for pack in bank.packs.values()]
    assert sorted((stranger.epoch_of(head), head[10]) for head in heads) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert [record.seq for record in bank.records if record.operations[0][0] == 11] == [3]
    assert [op[1] for record in bank.records for op in record.operations if op[0] == 10] == [6]
    assert (bank.state.epoch, "retired-key-epoch/1" in bank.state.config) == (2, True)
    assert bank.descriptor[2] == ["gear:64/128/256"]
    names = sorted(path.name.partition("-")[0] for path in (place / "bank" / "keys").iterdir())
    assert (len(names), names.count("keyring")) == (4, 2)


# --- keys that do not open -------------------------------------------------------------------------------------------


def test_another_key_does_not_open(made: Made) -> None:
    for wrong in (Credential(key_file=KEY[::-1]), Credential(passphrase="guessed"), Credential()):
        with pytest.raises(WrongKeyError):
            StrangerBank(made.folder, wrong)


def test_removed_slot_does_not_open(made: Made, key_file: Path, tmp_path: Path) -> None:
    """A slot that was removed opens nothing, even if its file is put back; another one does."""
    other = tmp_path / "other"
    other.write_bytes(KEY[::-1])
    with Bank.open(made.folder, key_file=key_file) as bank:
        bank.keys.add(key_file=other)
        first = bank.keys.slots()[0].id
        slot = made.folder / "keys" / first
        data = slot.read_bytes()
        bank.keys.remove(first)
    assert not slot.exists()
    slot.write_bytes(data)
    with pytest.raises(WrongKeyError, match="removed"):
        opened(made)
    assert by_stranger(StrangerBank(made.folder, Credential(key_file=KEY[::-1]))) == made.contents


def test_key_of_a_bank_that_is_not_encrypted(tmp_path: Path) -> None:
    """Who has a key expects an encrypted bank: one in its place that is not is refused."""
    with Bank.create(tmp_path / "bank") as bank:
        bank.put("name", b"content")
    StrangerBank(tmp_path / "bank")
    with pytest.raises(RefusedError, match="not encrypted"):
        StrangerBank(tmp_path / "bank", Credential(key_file=KEY))


# --- damage and forgery ----------------------------------------------------------------------------------------------


def flipped(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.chmod(0o644)
    path.write_bytes(data)


def rehashed(data: bytes) -> bytes:
    """With the check of its header and the hash at its end made right again: what who has no key can do."""
    body = data[:120] + blake3(data[:120]).digest()[:8] + data[128:-32]
    return body + blake3(body).digest()


def victims(made: Made) -> Iterator[Path]:
    """All durable files but keyrings that a newer one replaces."""
    for path in sorted(made.folder.rglob("*")):
        if path.is_file() and path.parent.name not in {"journal", "tmp", "bank"} and "keyring" not in path.name:
            yield path
    yield made.folder / "BANK"


def test_stranger_notices_damage(made: Made) -> None:
    """Every file: a bit in header, body, tag or hash is noticed. The two suites take turns."""
    for number, path in enumerate(victims(made)):
        whole = path.read_bytes()
        places = [20, 40, 70, 100, 124, len(whole) // 2, len(whole) - 120, len(whole) - 5]
        for at in places[(number + made.suite) % 2 :: 2]:
            if at >= len(whole):
                continue
            flipped(path, at)
            with pytest.raises((CorruptError, RefusedError, WrongKeyError)):
                read_all(made)
            path.write_bytes(whole)


@pytest.mark.parametrize("offset", [64, 80, 150, 1000])
def test_stranger_does_not_believe_hashes(made: Made, offset: int) -> None:
    """Salt, commitment and sealed bytes: whoever changes them can mend the hashes, and not the tags."""
    checkpoint = next((made.folder / "checkpoints").iterdir())
    slot = next(path for path in (made.folder / "keys").iterdir() if "keyring" not in path.name)
    record = _last_record(made.folder)
    for data, parse in (
        (checkpoint.read_bytes(), _checkpoint_parser(made, checkpoint)),
        (record[1], lambda data: stranger.parse_record(data, record[0], opened(made).secrets)),
        (slot.read_bytes(), _slot_parser(slot)),
    ):
        parse(data)
        changed = bytearray(data)
        changed[min(offset, len(data) - 40)] ^= 1
        with pytest.raises((CorruptError, RefusedError)):
            parse(rehashed(bytes(changed)))


def _checkpoint_parser(made: Made, path: Path) -> Callable[[bytes], object]:
    seq, secrets = int(path.name[:20]), opened(made).secrets
    return lambda data: stranger.checkpoint_rows(data[:-32], seq, secrets)


def _slot_parser(path: Path) -> Callable[[bytes], object]:
    def parse(data: bytes) -> bytes:
        slot = stranger.parse_slot(data, bytes.fromhex(path.name), data[16:32], data[11])
        return stranger.sealed_under(slot.header, [stranger.key_file_secret(KEY, slot.salt)]).opened(
            stranger.LANE_BODY, 0, slot.message, slot.body
        )

    return parse


@pytest.mark.parametrize("suite", SUITES.values())
def test_commitment_is_compared(suite: Suite) -> None:
    """A message that opens, behind a header whose commitment is another key's, is not believed."""
    header = Header(Kind.DATA_PACK, suite, bytes(16), b"p" * 16, b"s" * 16, epoch=1)
    secrets = stranger.Secrets(bytes(16), bytes(32), suite, bytes(32), {1: [bytes(31) + b"0", KEY[:32]]})
    base = epoch_key(KEY[:32], Kind.DATA_PACK, suite)
    honest = make_seal(base, header)
    message = b"".join(honest.seal(Lane.ENTRY, 0, b"", b"plain"))
    sealed = secrets.sealed(honest.header_bytes, stranger.DATA_PACK, b"p" * 16)
    assert sealed.opened(0, 0, message) == b"plain"
    wrong = bytearray(honest.header_bytes)
    wrong[80] ^= 1
    wrong_head = bytes(wrong[:120]) + blake3(wrong[:120]).digest()[:8]
    lying = AeadSeal(honest.header, wrong_head, file_key(base, bytes(16), b"p" * 16, b"s" * 16).key)
    message = b"".join(lying.seal(Lane.ENTRY, 0, b"", b"plain"))
    cipher = sealed.cipher
    assert stranger.Sealed(wrong_head, cipher).opened(0, 0, message) == b"plain"
    with pytest.raises(CorruptError, match="commitment"):
        secrets.sealed(wrong_head, stranger.DATA_PACK, b"p" * 16)


def test_ids_are_keyed_and_compared(made: Made) -> None:
    """What opens under its tag, but is not what its id says under the bank's dedup secret, is not believed."""
    bank = opened(made)
    bank.secrets = replace(bank.secrets, dedup=bytes(32))
    for name in SHAPES:
        _, packed = bank.state.names[name]
        bank.state.names = {name: (1, packed)}
        with pytest.raises(CorruptError, match=r"descriptor: inline|another id"):
            list(bank.objects())
        bank.state.names = opened(made).state.names


def test_bank_file_of_another_making(made: Made) -> None:
    """No downgrade: a BANK that anybody could have written is not believed."""
    path = made.folder / "BANK"
    data = bytearray(path.read_bytes())
    for at, value, error, what in (
        (11, 0, RefusedError, "not encrypted"),
        (11, 3 - made.suite, WrongKeyError, "^$"),  # no slot is of the other suite
        (70, data[70] ^ 1, CorruptError, "BANK is another one"),  # only the hash differs
    ):
        changed = bytearray(data)
        changed[at] = value
        path.chmod(0o644)
        path.write_bytes(rehashed(bytes(changed)))
        with pytest.raises(error, match=what):
            opened(made)


def test_pack_of_another_suite_is_refused(made: Made) -> None:
    path = next(path for path in sorted((made.folder / "packs").rglob("*")) if path.is_file())
    data = bytearray(path.read_bytes())
    data[11] = 0
    head = bytes(data[:120])
    with pytest.raises(RefusedError, match="suite"):
        opened(made).secrets.sealed(head + blake3(head).digest()[:8], data[10], bytes(data[32:48]))


def _frames(segment: Path) -> tuple[list[bytes], int]:
    """The records of a segment, and where its last frame ends."""
    data, at, records = segment.read_bytes(), 0, []
    while data[at : at + 4] == stranger.FRAME_MAGIC:
        length = struct.unpack_from("<I", data, at + 4)[0]
        records.append(data[at + 24 : at + 24 + length])
        at += 24 + length
    return records, at


def _last_record(folder: Path) -> tuple[int, bytes]:
    (segment,) = (folder / "journal").glob("*.log")
    records, _ = _frames(segment)
    return len(records), records[-1]


def append(made: Made, epoch: int, ops: list[Op]) -> None:
    """Forge a record: with the secret of an epoch, but against the rules."""
    secrets = opened(made).secrets
    (segment,) = (made.folder / "journal").glob("*.log")
    records, end = _frames(segment)
    seq = len(records) + 1
    record = Record(seq, records[-1][-32:], b"t" * 16, b"w" * 16, 0, ops)
    header = Header(Kind.RECORD, made.suite, secrets.bank_id, stranger.numbered(seq), b"fresh salt 16 by", epoch=epoch)
    data = encode_record(record, make_seal(epoch_key(secrets.epochs[epoch][0], Kind.RECORD, made.suite), header))
    head = stranger.FRAME_MAGIC + struct.pack("<IQ", len(data), seq)
    segment.write_bytes(segment.read_bytes()[:end] + head + blake3(head).digest()[:8] + data)


FORGED: dict[str, tuple[int, list[Op], str | None]] = {
    "allowed": (3, [Noop()], None),
    "an older epoch": (2, [Noop()], "key epoch"),
    "the next keyring": (3, [Keyring(4, "keys/keyring-4-00", bytes(32))], None),
    "an epoch is left out": (3, [Keyring(5, "keys/keyring-5-00", bytes(32))], "KEYRING: number"),
    "the same epoch again": (3, [Keyring(3, "keys/keyring-3-00", bytes(32))], "KEYRING: number"),
    "a reserved key": (3, [Config("keyring", b"\x93\x04\xa0\xc4\x00")], "reserved key"),
    "another reserved key": (3, [Config("first", bytes(32))], "reserved key"),
}


@pytest.mark.parametrize("case", FORGED)
def test_rules_of_epochs(made: Made, key_file: Path, case: str) -> None:
    """The stranger follows the journal where the document allows it, and casbank agrees."""
    epoch, ops, what = FORGED[case]
    append(made, epoch, ops)
    if what is None:
        for from_checkpoint in (False, True):
            assert by_stranger(opened(made, from_checkpoint=from_checkpoint)) == made.contents
        with Bank.open(made.folder, key_file=key_file) as bank:
            assert by_casbank(bank) == made.contents
    else:
        for from_checkpoint in (False, True):
            with pytest.raises(CorruptError, match=what):
                opened(made, from_checkpoint=from_checkpoint)
        with pytest.raises(Exception, match=r"epoch|belong"):
            Bank.open(made.folder, key_file=key_file)


# --- the vectors of the document -------------------------------------------------------------------------------------

SECRET, BANK_ID, FILE_ID, SALT = bytes(range(32)), bytes(range(32, 48)), bytes(range(48, 64)), bytes(range(64, 80))
ROW = EntryRow(EntryType.CHUNKS, Codec.STORED, 19, 3, 1)
ROW_BYTES = struct.pack("<BBHIII", 1, 0, 0, 19, 3, 1)
Vectors = dict[str, bytes]


def vectors_of_the_document() -> Vectors:
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text[text.index("**Keys and encryption.**") :].partition("\n\n**BANK**")[0]
    rows = re.findall(r"^\| (.+?) \| `([0-9a-f]+)` \|$", section, re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return {name: bytes.fromhex(value) for name, value in rows}


def vectors_of_casbank() -> Vectors:
    keys, ids, table = file_key(SECRET, BANK_ID, FILE_ID, SALT), keyed_ids(SECRET), gear_table(SECRET)
    leaf = ids.chunk(b"abc") + struct.pack("<II", 3, 0)
    parameters = SlotParameters(SlotSource.PASSPHRASE, memory_kib=64, iterations=2, lanes=3)
    vectors = {
        "secret": SECRET,
        "bank id": BANK_ID,
        "file id": FILE_ID,
        "salt": SALT,
        "file key, base = secret": keys.key,
        "commitment, base = secret": keys.commitment,
        "chunk id of `abc`, dedup secret = secret": ids.chunk(b"abc"),
        "node id of the leaf that names it": ids.node(leaf),
        "first 16 bytes of the gear table, dedup secret = secret": table[:16],
        "BLAKE3 of that gear table": blake3(table).digest(),
        "dedup secret of a domain, file = secret": domain_secret(SECRET),
        "slot secret of a key file, file = secret": key_file_secret(SECRET, SALT),
        "slot secret of the passphrase `Gr\u00fc\u00dfe`": passphrase_secret("Gru\u0308\u00dfe", parameters, SALT),
    }
    for kind in (Kind.DATA_PACK, Kind.META_PACK, Kind.RECORD, Kind.CHECKPOINT):
        for suite in SUITES.values():
            vectors[f"epoch key, kind {kind}, suite {suite}"] = epoch_key(SECRET, kind, suite)
    for suite in SUITES.values():
        base = epoch_key(SECRET, Kind.DATA_PACK, suite)
        header = Header(Kind.DATA_PACK, suite, BANK_ID, FILE_ID, SALT, epoch=1)
        seal = make_seal(base, header)
        vectors[f"file key of the pack, suite {suite}"] = file_key(base, BANK_ID, FILE_ID, SALT).key
        vectors[f"its commitment, suite {suite}"] = seal.header.commitment
        vectors[f"BLAKE3 of its header, suite {suite}"] = blake3(seal.header_bytes).digest()
        vectors[f"its entry 5, suite {suite}"] = b"".join(seal_entry(seal, 5, ROW, b"abc"))
    return vectors


def vectors_of_the_stranger() -> Vectors:
    key, commitment = stranger.file_keys(SECRET, BANK_ID, FILE_ID, SALT)
    chunk, table = stranger.chunk_id(b"abc", SECRET), stranger.gear_table(SECRET)
    vectors = {
        "secret": SECRET,
        "bank id": BANK_ID,
        "file id": FILE_ID,
        "salt": SALT,
        "file key, base = secret": key,
        "commitment, base = secret": commitment,
        "chunk id of `abc`, dedup secret = secret": chunk,
        "node id of the leaf that names it": stranger.node_id(chunk + struct.pack("<II", 3, 0), SECRET),
        "first 16 bytes of the gear table, dedup secret = secret": table[:16],
        "BLAKE3 of that gear table": blake3(table).digest(),
        "dedup secret of a domain, file = secret": stranger.dedup_domain(SECRET),
        "slot secret of a key file, file = secret": stranger.key_file_secret(SECRET, SALT),
        "slot secret of the passphrase `Gr\u00fc\u00dfe`": stranger.passphrase_secret(
            "Gr\u00fc\u00dfe", SALT, 64, 2, 3
        ),
    }
    for kind in range(1, 5):
        for suite in (1, 2):
            vectors[f"epoch key, kind {kind}, suite {suite}"] = stranger.epoch_key(SECRET, kind, suite)
    for suite in (1, 2):
        key, commitment = stranger.file_keys(stranger.epoch_key(SECRET, 1, suite), BANK_ID, FILE_ID, SALT)
        head = b"\x89CAS\r\n\x1a\n" + bytes([1, 0, 1, suite]) + bytes(4) + BANK_ID + FILE_ID + b"\1" + bytes(15)
        head += SALT + commitment + bytes(8)
        head += blake3(head).digest()[:8]
        place = struct.pack("<IQ", 0, 5)
        message = stranger.CIPHERS[suite](key).encrypt(place, b"abc", blake3(head).digest() + place + ROW_BYTES)
        vectors[f"file key of the pack, suite {suite}"] = key
        vectors[f"its commitment, suite {suite}"] = commitment
        vectors[f"BLAKE3 of its header, suite {suite}"] = blake3(head).digest()
        vectors[f"its entry 5, suite {suite}"] = message
    return vectors


@pytest.mark.parametrize("computed", [vectors_of_casbank, vectors_of_the_stranger])
def test_vectors_of_keys_and_encryption(computed: Callable[[], Vectors]) -> None:
    """Section 15 has every one of them, and no other."""
    assert vectors_of_the_document() == computed()
