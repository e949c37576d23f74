"""A reader of local banks, written from docs/format.md alone.

Who wrote what reads unencrypted banks had not seen casbank's code; what it read differently from casbank at first (the
tail of a journal, what counts as an item) was settled by correcting the document, and then this. Keys and encryption
were added from the document's text, and so were leases and collections. It shares nothing with casbank, so that what
both find is what the document says. The numbers in the comments are the document's sections. It reads whole files into
memory and is made to be checked, not to be fast.
"""

import base64
import hmac
import re
import struct
import subprocess
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MAXIMUM = (1 << 63) - 1
DATA_PACK, META_PACK, RECORD, CHECKPOINT, KEY_SLOT, KEYRING, BANK = 1, 2, 3, 4, 5, 6, 7
PASSPHRASE, KEY_FILE, COMMAND = 1, 2, 3
CIPHERS: dict[int, type[AESGCM] | type[ChaCha20Poly1305]] = {1: AESGCM, 2: ChaCha20Poly1305}
CHUNKS, LEAVES, INNER = 1, 2, 3
LANE_ENTRY, LANE_TABLE, LANE_LOCATOR, LANE_BODY = 0, 1, 2, 3
FRAME_MAGIC = b"\xcb\x4a\x52\x4c"


class CorruptError(Exception):
    """Stored bytes fail a check."""


class RefusedError(Exception):
    """A newer version or an unknown feature is needed."""


class WrongKeyError(Exception):
    """No key slot opens with what was given, or none that counts."""


def need(holds: bool, what: str) -> None:
    if not holds:
        raise CorruptError(what)


def known(holds: bool, what: str) -> None:
    if not holds:
        raise RefusedError(what)


def hashed(data: bytes, what: str) -> tuple[bytes, bytes]:
    """Split off the hash at the end of a record, a checkpoint or BANK, and check it."""
    need(len(data) >= 160 and blake3(data[:-32]).digest() == data[-32:], f"{what}: hash")
    return data[:-32], data[-32:]


def derive_key(context: str, data: bytes, length: int = 32) -> bytes:
    return blake3(data, derive_key_context=context).digest(length=length)


def chunk_id(content: bytes, dedup: bytes | None = None) -> bytes:
    if dedup is None:
        return blake3(content).digest()
    return blake3(content, key=derive_key("casbank v1 chunk id key", dedup)).digest()


def node_id(node: bytes, dedup: bytes | None = None) -> bytes:
    if dedup is None:
        return derive_key("casbank v1 manifest node id", node)
    return blake3(node, key=derive_key("casbank v1 manifest node id key", dedup)).digest()


def gear_table(dedup: bytes | None = None) -> bytes:
    return derive_key("casbank v1 gear table", b"casbank v1 public gear table" if dedup is None else dedup, 2048)


def cuts(content: bytes, least: int, average: int, most: int, dedup: bytes | None = None) -> Iterator[bytes]:
    """The chunks that gear:least/average/most makes of a content (5); a reader does not need it."""
    table = struct.unpack("<256Q", gear_table(dedup))
    bits = average.bit_length() - 1
    early, late = (((1 << count) - 1) << (64 - count) for count in (bits + 2, bits - 2))
    start = 0
    while start < len(content):
        end, value = min(start + most, len(content)), 0
        for at in range(min(start + least - 64, end), end):
            value = (value * 2 + table[content[at]]) & (1 << 64) - 1
            length = at + 1 - start
            if length >= least and value & (early if length < average else late) == 0:
                end = at + 1
                break
        yield content[start:end]
        start = end


# --- msgpack (13): which types, which ranges -------------------------------------------------------------------------

Check = Callable[[Any], bool]


def integer(least: int = 0, most: int = MAXIMUM) -> Check:
    return lambda value: type(value) is int and least <= value <= most


def binary(least: int, most: int | None = None) -> Check:
    return lambda value: type(value) is bytes and least <= len(value) <= (least if most is None else most)


def maybe(check: Check) -> Check:
    return lambda value: value is None or check(value)


def array(check: Check, most: int = 4096) -> Check:
    return lambda value: type(value) is list and len(value) <= most and all(map(check, value))


def any_integer(value: Any) -> bool:
    return type(value) is int


def string(value: Any) -> bool:
    return type(value) is str


def object_name(value: Any) -> bool:
    return type(value) is str and 1 <= len(value.encode()) <= 1024 and "\0" not in value


def metadata_map(value: Any) -> bool:
    return type(value) is dict and all(type(k) is str and type(v) in {str, bytes} for k, v in value.items())


def unpack(data: bytes, what: str) -> list[Any]:
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise CorruptError(f"{what}: msgpack") from error
    need(type(value) is list and len(value) > 0, f"{what}: not an array")
    return value  # type: ignore[no-any-return]


def fields(value: Any, checks: tuple[Check, ...], what: str) -> list[Any]:
    need(type(value) is list and len(value) == len(checks), f"{what}: number of fields")
    need(all(check(item) for check, item in zip(checks, value, strict=True)), f"{what}: a field out of range")
    return value  # type: ignore[no-any-return]


def items(value: Any) -> int:
    """Each array counts 1 and the number of its elements."""
    return 1 + len(value) + sum(map(items, value)) if type(value) is list else 0


BIN16, BIN32, INT = binary(16), binary(32), integer()
DESCRIPTOR_BYTES = binary(1, 256 * KIB)
VALUE: Check = lambda value: value is None or type(value) in {str, int, bytes}  # noqa: E731
PIN: Check = lambda value: object_name(value) or BIN16(value)  # noqa: E731
HELD: Check = lambda value: type(value) is list and bool(fields(value, (PIN, integer(1)), "a pin"))  # noqa: E731
PACK = (BIN16, integer(1, 2), integer(0, GIB), BIN32, integer(0, 1 << 20), INT)
PACK_ROW: Check = lambda value: type(value) is list and bool(fields(value, PACK, "a pack"))  # noqa: E731
DESCRIPTOR = (integer(1, 1), INT, BIN32, maybe(BIN32), integer(0, 8), integer(0, 255), INT, metadata_map,
              maybe(binary(0, 256 * KIB)))  # fmt: skip
SLOT = (integer(1, 1), any_integer, any_integer, any_integer, any_integer, binary(0, 64 * KIB), INT, string)
EPOCH = (integer(1, (1 << 32) - 1), BIN32, INT)
EPOCH_ROW: Check = lambda value: type(value) is list and bool(fields(value, EPOCH, "an epoch"))  # noqa: E731
KEYRING_FIELDS = (integer(1, 1), EPOCH[0], BIN32, array(any_integer), BIN32, array(EPOCH_ROW))
OPERATIONS: dict[int, tuple[Check, ...]] = {
    1: (BIN16, BIN32),
    2: (array(PACK_ROW), maybe(BIN16)),
    3: (object_name, DESCRIPTOR_BYTES, maybe(INT)),
    4: (object_name, maybe(INT)),
    5: (BIN16, string, string, INT, INT, array(PIN), string),
    6: (BIN16, lambda value: value in {"released", "fenced"}),
    7: (array(BIN16),),
    8: (array(BIN16),),
    9: (BIN16, array(integer(0, (1 << 20) - 1))),
    10: (INT, string, BIN32),
    11: (integer(1, (1 << 32) - 1), string, BIN32),
    12: (string, VALUE),
    13: (),
}
# In the order in which they stand.
SECTIONS: dict[int, tuple[Check, ...]] = {
    1: (string, VALUE),
    2: (integer(1), *PACK),
    3: (BIN16, integer(1), INT, INT, string, string, string, array(HELD)),
    7: (BIN16, integer(1), INT, integer(0, GIB), integer(0, 1)),
    4: (object_name, integer(1), DESCRIPTOR_BYTES),
    5: (integer(1), INT, object_name, integer(1), DESCRIPTOR_BYTES, INT),
    6: (integer(1), BIN32, INT, INT, INT, INT, INT, INT),
}
ORDERS: dict[int, Callable[[list[Any]], Any]] = {
    1: lambda row: row[0].encode(), 2: lambda row: row[0], 3: lambda row: row[0], 7: lambda row: row[0],
    4: lambda row: row[0].encode(), 5: lambda row: row[:2], 6: lambda row: 0,
}  # fmt: skip
RESERVED = {"first", "keyring", "swept", "orphans"}


# --- headers (2), messages (3), payloads (1) -------------------------------------------------------------------------


def header(data: bytes, kind: int, file_id: bytes | None, bank_id: bytes | None, suite: int | None) -> bytes:
    """Check the header that a file begins with, in the document's order; the 128 bytes of it."""
    need(len(data) >= 128 and data[:8] == b"\x89CAS\r\n\x1a\n", "header: magic")
    need(blake3(data[:120]).digest()[:8] == data[120:128], "header: check")
    major, _minor, found, used, incompatible = struct.unpack_from("<4BI", data, 8)
    known(major == 1 and incompatible == 0, "header: version or flag")
    known(1 <= found <= 7 and used <= 2, "header: kind or suite")
    known(suite is None or used == suite, "header: suite")
    need(found == kind and data[16:32] == (bank_id or data[16:32]), "header: kind or bank id")
    need(data[32:48] == (file_id or data[16:32]), "header: file id")
    return data[:128]


def numbered(number: int) -> bytes:
    """The file id of a record, a checkpoint or a keyring."""
    return bytes(8) + number.to_bytes(8, "big")


def epoch_of(head: bytes) -> int:
    return int.from_bytes(head[48:52], "little")


@dataclass(frozen=True)
class Sealed:
    """The messages of one file, behind its header; no cipher in suite 0."""

    header: bytes
    cipher: AESGCM | ChaCha20Poly1305 | None = None

    def opened(self, lane: int, counter: int, message: bytes, extra: bytes = b"") -> bytes:
        need(len(message) >= 16, "message: too short")
        place = struct.pack("<IQ", lane, counter)
        associated = blake3(self.header).digest() + place + extra
        if self.cipher is not None:
            try:
                return self.cipher.decrypt(place, message, associated)
            except InvalidTag:
                raise CorruptError(f"message: tag in lane {lane}") from None
        plain, tag = message[:-16], message[-16:]
        need(blake3(associated + plain).digest()[:16] == tag, f"message: tag in lane {lane}")
        return plain


def epoch_key(secret: bytes, kind: int, suite: int) -> bytes:
    return derive_key("casbank v1 epoch key", secret + bytes([kind, suite]))


def file_keys(base: bytes, bank_id: bytes, file_id: bytes, salt: bytes) -> tuple[bytes, bytes]:
    """File key and commitment."""
    both = derive_key("casbank v1 file", base + bank_id + file_id + salt, 64)
    return both[:32], both[32:]


def sealed_under(head: bytes, bases: Iterable[bytes]) -> Sealed:
    """A file of suite 1 or 2, with the one of these bases that it was sealed under."""
    for base in bases:
        key, commitment = file_keys(base, head[16:32], head[32:48], head[64:80])
        if hmac.compare_digest(commitment, head[80:112]):
            return Sealed(head, CIPHERS[head[11]](key))
    raise CorruptError("header: commitment")


@dataclass(frozen=True)
class Secrets:
    """What must be known before a file can be read: whose it is, and in an encrypted bank what the keyrings say."""

    bank_id: bytes
    bank_hash: bytes
    suite: int
    dedup: bytes | None = None
    epochs: dict[int, list[bytes]] = field(default_factory=dict)

    def sealed(self, data: bytes, kind: int, file_id: bytes) -> Sealed:
        head = header(data, kind, file_id, self.bank_id, self.suite)
        if self.suite == 0:
            return Sealed(head)
        candidates = self.epochs.get(epoch_of(head), [])
        need(len(candidates) > 0, "header: unknown key epoch")
        return sealed_under(head, [epoch_key(secret, kind, self.suite) for secret in candidates])


def expanded(codec: int, raw: int, payload: bytes) -> bytes:
    known(codec in {0, 1}, f"codec {codec}")
    if codec == 0:
        need(len(payload) == raw, "payload: length")
        return payload
    try:
        need(payload[:4] == b"\x28\xb5\x2f\xfd", "payload: not a zstd frame")
        need(zstandard.get_frame_parameters(payload).content_size == raw, "payload: stated size")
        plain = zstandard.ZstdDecompressor().decompress(payload, max_output_size=raw, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptError("payload: zstd") from error
    need(len(plain) == raw, "payload: length")
    return plain


# --- keys (9) --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeySlot:
    header: bytes
    source: int
    memory: int
    iterations: int
    lanes: int
    token: bytes
    body: bytes
    message: bytes

    @property
    def id(self) -> bytes:
        return self.header[32:48]

    @property
    def salt(self) -> bytes:
        return self.header[64:80]


SecretOf = Callable[[KeySlot], bytes]


def parse_slot(data: bytes, slot_id: bytes, bank_id: bytes, suite: int) -> KeySlot:
    head = header(data, KEY_SLOT, slot_id, bank_id, suite)
    need(128 + 48 + 32 < len(data) <= 128 * KIB, "key slot: length")
    whole, _ = hashed(data, "key slot")
    body, message = whole[128:-48], whole[-48:]
    value = unpack(body, "key slot")
    known(value[0] == 1, "key slot: version")
    _, source, memory, iterations, lanes, token, _, _ = fields(value, SLOT, "key slot")
    known(source in {PASSPHRASE, KEY_FILE, COMMAND}, "key slot: source")
    if source == PASSPHRASE:
        need(1 <= lanes <= 64 and 1 <= iterations <= 64 and 8 * lanes <= memory <= 4 * MIB, "key slot: Argon2id")
    return KeySlot(head, source, memory, iterations, lanes, token, body, message)


def passphrase_secret(passphrase: str, salt: bytes, memory: int, iterations: int, lanes: int) -> bytes:
    kdf = Argon2id(salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory)
    return kdf.derive(unicodedata.normalize("NFC", passphrase).encode())


def key_file_secret(content: bytes, salt: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"casbank v1 key file").derive(content)


def command_secret(command: Sequence[str], token: bytes) -> bytes:
    done = subprocess.run([*command, "unwrap"], input=token, stdout=subprocess.PIPE, check=False)
    need(done.returncode == 0 and len(done.stdout) == 32, "key slot: the command")
    return done.stdout


def dedup_domain(content: bytes) -> bytes:
    return derive_key("casbank v1 dedup domain", content)


@dataclass(frozen=True)
class Credential:
    """What was given to open a bank: one of these, or nothing."""

    key_file: bytes | None = None
    passphrase: str | None = None
    command: Sequence[str] | None = None
    recovery: str | None = None

    def is_given(self) -> bool:
        return self != Credential()

    def secret(self, slot: KeySlot) -> bytes:
        if slot.source == PASSPHRASE and self.passphrase is not None:
            return passphrase_secret(self.passphrase, slot.salt, slot.memory, slot.iterations, slot.lanes)
        if slot.source == KEY_FILE and self.key_file is not None:
            return key_file_secret(self.key_file, slot.salt)
        if slot.source == COMMAND and self.command is not None:
            return command_secret(self.command, slot.token)
        raise CorruptError("key slot: of another source")


def opened_slots(folder: Path, bank_id: bytes, suite: int, credential: Credential) -> dict[bytes, bytes]:
    """The bank key that each slot gives which opens, by the slot's id."""
    keys = {}
    for path in sorted((folder / "keys").glob("*")):
        if re.fullmatch("[0-9a-f]{32}", path.name):
            try:
                slot = parse_slot(path.read_bytes(), bytes.fromhex(path.name), bank_id, suite)
                sealed = sealed_under(slot.header, [credential.secret(slot)])
                keys[slot.id] = sealed.opened(LANE_BODY, 0, slot.message, slot.body)
            except (CorruptError, RefusedError):
                continue
    return keys


def parse_keyring(data: bytes, bank_id: bytes, suite: int, bank_key: bytes) -> list[Any]:
    head = header(data, KEYRING, data[32:48], bank_id, suite)
    need(len(data) <= MIB, "keyring: length")
    whole, _ = hashed(data, "keyring")
    value = unpack(sealed_under(head, [bank_key]).opened(LANE_BODY, 0, whole[128:]), "keyring")
    known(value[0] == 1, "keyring: version")
    _, number, _, _, _, epochs = fields(value, KEYRING_FIELDS, "keyring")
    need(head[32:48] == numbered(number), "keyring: another number than its header's")
    need(all(one[0] < two[0] for one, two in pairwise(epochs)), "keyring: order")
    need(len(epochs) > 0 and epochs[-1][0] == number, "keyring: epochs")
    return value


def find_secrets(files: Iterable[bytes], bank: Secrets, bank_key: bytes) -> Secrets:
    """What all keyrings that open say of a bank of which only BANK is known."""
    dedup, epochs = None, dict[int, list[bytes]]()
    for data in files:
        try:
            value = parse_keyring(data, bank.bank_id, bank.suite, bank_key)
        except (CorruptError, RefusedError):
            continue
        need(value[2] == bank.bank_hash and value[3] == [bank.suite], "keyring: BANK is another one")
        need(dedup in {None, value[4]}, "keyring: another dedup secret")
        dedup = value[4]
        for number, secret, _ in value[5]:
            epochs.setdefault(number, []).append(secret)
    need(dedup is not None, "keyring: none opens")
    return Secrets(bank.bank_id, bank.bank_hash, bank.suite, dedup, epochs)


def parse_recovery(text: str) -> list[Any]:
    """BANK, bank key, name of a keyring, and that keyring."""
    found = re.search("-----BEGIN CASBANK RECOVERY KEY-----(.*?)-----END CASBANK RECOVERY KEY-----", text, re.DOTALL)
    need(found is not None, "recovery text: its lines")
    assert found is not None
    try:
        whole = base64.b64decode("".join(found[1].split()), validate=True)
    except ValueError as error:
        raise CorruptError("recovery text: base64") from error
    need(blake3(whole[:-8]).digest()[:8] == whole[-8:], "recovery text: check")
    value = unpack(whole[:-8], "recovery text")
    known(value[0] == 1, "recovery text: version")
    return fields(value, (integer(1, 1), binary(160, 64 * KIB), BIN32, string, binary(160, MIB)), "recovery text")[1:]


# --- packs (4) -------------------------------------------------------------------------------------------------------


class Pack:
    """One pack whose hash, trailer and table were checked against what PACKS said."""

    def __init__(self, path: Path, secrets: Secrets, row: list[Any]) -> None:
        pack_id, kind, length, digest, entries, raw = row
        self.data = data = path.read_bytes()
        need(len(data) == length >= 256, "pack: length")
        self.sealed = secrets.sealed(data, kind, pack_id)
        trailer = data[-128:]
        need(trailer[:8] == b"CASTRLR1" and blake3(trailer[:120]).digest()[:8] == trailer[120:], "trailer: check")
        need(trailer[56:72] == pack_id and trailer[72:104] == digest, "trailer: pack id or hash")
        need(blake3(data[:-128]).digest() == digest, "pack: hash")
        locator = self.sealed.opened(LANE_LOCATOR, 0, trailer[8:56])
        place, size, count, flags, padding = struct.unpack("<QQIIQ", locator)
        known(flags == 0, "locator: flags")
        need(count == entries <= 1 << 20 and place + 2 * size + padding + 128 == length, "locator: lengths")
        need(place >= 128 and 16 + 16 * count <= size <= 16 * count + 44 * MIB + 16, "locator: table")
        copies = [data[place : place + size], data[place + size : place + 2 * size]]
        try:
            table = self.sealed.opened(LANE_TABLE, 0, copies[0])
        except CorruptError:
            table = self.sealed.opened(LANE_TABLE, 1, copies[1])
        self.rows = [table[16 * number : 16 * number + 16] for number in range(count)]
        self.starts = [128]
        for number, entry in enumerate(struct.iter_unpack("<BBHIII", table[: 16 * count])):
            kind_of, _, flags, stored, plain, chunks = entry
            known(kind_of in {CHUNKS, LEAVES, INNER} and flags == 0, f"entry {number}: type or flags")
            need((kind_of == CHUNKS) == (kind == DATA_PACK), f"entry {number}: not of this kind of pack")
            need(17 <= stored <= 8 * MIB + 64 * KIB and 1 <= plain <= 8 * MIB and chunks <= 4096, f"entry {number}")
            self.starts.append(self.starts[-1] + stored)
        need(self.starts[-1] == place, "table: entries do not end where it begins")
        need(sum(struct.unpack_from("<I", entry, 8)[0] for entry in self.rows) == raw, "PACKS: raw bytes")
        need((len(table) - 16 * count) % 44 == 0, "table: part of a chunk row")
        self.chunks = list(struct.iter_unpack("<32sIII", table[16 * count :]))
        self.last_entry: tuple[int, bytes] | None = None
        counts = [struct.unpack_from("<I", entry, 12)[0] for entry in self.rows]
        expected = [number for number, chunks in enumerate(counts) for _ in range(chunks)]
        need([chunk[1] for chunk in self.chunks] == expected, "table: chunk rows out of order")
        for _, number, start, size in self.chunks:
            need(size >= 1 and start + size <= struct.unpack_from("<I", self.rows[number], 8)[0], "table: chunk row")

    def entry(self, number: int) -> bytes:
        # Neighbouring chunks lie in one entry.
        if self.last_entry is None or self.last_entry[0] != number:
            row = self.rows[number]
            _, codec, _, _, raw, _ = struct.unpack("<BBHIII", row)
            message = self.data[self.starts[number] : self.starts[number + 1]]
            plain = expanded(codec, raw, self.sealed.opened(LANE_ENTRY, number, message, row))
            self.last_entry = number, plain
        return self.last_entry[1]


# --- records (6), the journal (7), checkpoints (10) ------------------------------------------------------------------


@dataclass
class Record:
    seq: int
    previous: bytes
    hash: bytes
    length: int
    epoch: int
    time: int
    operations: list[list[Any]]


def parse_record(data: bytes, seq: int, secrets: Secrets) -> Record:
    whole, digest = hashed(data, f"record {seq}")
    sealed = secrets.sealed(whole, RECORD, numbered(seq))
    frame = sealed.opened(LANE_BODY, 0, whole[128:])
    need(len(frame) >= 8, "record: frame")
    raw = int.from_bytes(frame[4:8], "little")
    need(raw <= 64 * MIB, "record: raw length")
    payload = unpack(expanded(frame[0], raw, frame[8:]), f"record {seq}")
    known(payload[0] == 1, f"record {seq}: version")
    checks = (integer(1, 1), integer(seq, seq), BIN32, BIN16, BIN16, INT, lambda v: type(v) is list and len(v) <= MIB)
    *_, time, operations = fields(payload, checks, f"record {seq}")
    for operation in operations:
        need(type(operation) is list and len(operation) > 0, f"record {seq}: operation")
        known(operation[0] in OPERATIONS, f"record {seq}: operation {operation[0]}")
        fields(operation[1:], OPERATIONS[operation[0]], f"record {seq}: operation {operation[0]}")
        need(items(operation) <= 65_536, f"record {seq}: items")
    names = [operation[1] for operation in operations if operation[0] in {3, 4}]
    need(len(names) == len(set(names)), f"record {seq}: a name twice")
    return Record(seq, payload[2], digest, len(data), epoch_of(sealed.header), time, operations)


def frame_head(data: bytes, at: int) -> tuple[int, int] | None:
    """Length and number in the frame head at an offset, if its check holds."""
    head = data[at : at + 24]
    if len(head) < 24 or head[:4] != FRAME_MAGIC or blake3(head[:16]).digest()[:8] != head[16:]:
        return None
    length, seq = struct.unpack_from("<IQ", head, 4)
    return (length, seq) if 32 <= length <= 64 * MIB else None


def frame_at(data: bytes, at: int) -> tuple[int, bytes] | None:
    """Number and record of the whole frame at an offset."""
    length, seq = frame_head(data, at) or (0, 0)
    record = data[at + 24 : at + 24 + length]
    whole = 32 <= length == len(record) and blake3(record[:-32]).digest() == record[-32:]
    return (seq, record) if whole else None


def later_frame(data: bytes, end: int, missing: int) -> bool:
    """Whether a frame with a later number stands behind the place where record `missing` should."""
    length, seq = frame_head(data, end) or (0, 0)
    at = end + 24 + length if seq == missing else end
    while (at := data.find(FRAME_MAGIC, at)) >= 0:
        frame = frame_at(data, at)
        if frame is not None and 0 < frame[0] - missing <= (at - end) // 56 + 1:
            return True
        at += 1
    return False


def journal(folder: Path) -> Iterator[tuple[int, bytes]]:
    """All records that the segments hold, in order."""
    segments = sorted(path for path in folder.iterdir() if re.fullmatch(r"\d{20}\.log", path.name))
    need(len(segments) > 0, "journal: no segment")
    numbers = [int(path.stem) for path in segments]
    for path, first, stop in zip(segments, numbers, [*numbers[1:], None], strict=True):
        data, at, seq = path.read_bytes(), 0, first
        while seq != stop and (frame := frame_at(data, at)) is not None and frame[0] == seq:
            yield frame
            seq, at = seq + 1, at + 24 + len(frame[1])
        need(stop is None or seq == stop, f"journal: records from {seq} are missing")
        need(stop is not None or not later_frame(data, at, seq), f"journal: damaged at record {seq}")


@dataclass
class State:
    """What the bank is after record `seq`."""

    seq: int = 0
    hash: bytes = bytes(32)
    next_pack: int = 1
    journal_bytes: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    packs: dict[bytes, list[Any]] = field(default_factory=dict)  # id -> [number, id, kind, length, hash, entries, raw]
    names: dict[str, tuple[int, bytes]] = field(default_factory=dict)  # name -> version, descriptor
    # (removed seq, position) -> name, version, descriptor, removed time
    tombstones: dict[tuple[int, int], tuple[str, int, bytes, int]] = field(default_factory=dict)
    # id -> [id, seq, acquired, expires, owner, kind, note]
    leases: dict[bytes, list[Any]] = field(default_factory=dict)
    pins: dict[bytes, dict[bytes | str, int]] = field(default_factory=dict)  # lease id -> pack id or name -> since
    swept: dict[bytes, list[Any]] = field(default_factory=dict)  # id -> [id, seq, time, length, orphan]

    @property
    def epoch(self) -> int:
        """The official key epoch; 0 before the first one, and in suite 0."""
        return self.config["keyring"][0] if "keyring" in self.config else 0

    def apply(self, record: Record, secrets: Secrets) -> None:
        need(record.seq == self.seq + 1 and record.previous == self.hash, f"record {record.seq}: chain")
        need(secrets.suite == 0 or record.epoch == max(1, self.epoch), f"record {record.seq}: key epoch")
        for position, (number, *values) in enumerate(record.operations):
            need((number == 1) == (record.seq == 1 and position == 0), "FIRST: not where it belongs")
            known(number != 9, f"record {record.seq}: operation {number}")
            if number in {1, 11, 12}:
                self._change_bank(number, values, record.seq, secrets)
            elif number in {2, 5, 6, 7, 8}:
                self._change_packs(number, values, record)
            elif number in {3, 4}:
                before = self.names.pop(values[0], None)
                if before is not None:
                    self.tombstones[record.seq, position] = (values[0], *before, record.time)
                if number == 3:
                    self.names[values[0]] = (record.seq, values[1])
        need(len(record.operations) > 0 or record.seq > 1, "record 1: no FIRST")
        need(secrets.suite == 0 or self.epoch > 0, "record 1: no KEYRING")
        self.seq, self.hash, self.journal_bytes = record.seq, record.hash, self.journal_bytes + record.length

    def _change_bank(self, number: int, values: list[Any], seq: int, secrets: Secrets) -> None:
        if number == 1:
            need(values == [secrets.bank_id, secrets.bank_hash], "FIRST: another bank")
            self.config["first"] = secrets.bank_hash
        elif number == 11:
            need(secrets.suite != 0, "KEYRING: not of an encrypted bank")
            need(values[0] == self.epoch + 1 and (values[0] == 1) == (seq == 1), "KEYRING: number")
            self.config["keyring"] = values
        else:
            need(values[0] not in RESERVED, "CONFIG: a reserved key")
            self.config[values[0]] = values[1]
            if values[0] == "forgotten" and type(values[1]) is int:
                self._forget_versions(values[1])

    def _change_packs(self, number: int, values: list[Any], record: Record) -> None:
        if number == 2:
            self._publish(record.seq, values[0], values[1])
        elif number == 5:
            lease_id, owner, kind, acquired, expires, pins, note = values
            row = self.leases.setdefault(lease_id, [lease_id, record.seq, acquired, expires, owner, kind, note])
            row[3], row[6] = expires, note
            self._pin(record.seq, lease_id, pins)
        elif number == 6:
            self.leases.pop(values[0], None)
            self.pins.pop(values[0], None)
        elif number == 7:
            self._sweep(record, values[0])
        else:
            self._forget_packs(values[0])

    def _publish(self, seq: int, rows: list[list[Any]], lease_id: bytes | None) -> None:
        for row in rows:
            need(row[0] not in self.swept, "PACKS: a pack that was swept")
            if row[0] not in self.packs:
                self.packs[row[0]] = [self.next_pack, *row]
                self.next_pack += 1
        if lease_id in self.leases:
            self._pin(seq, lease_id, [row[0] for row in rows])

    def _pin(self, seq: int, lease_id: bytes, targets: list[Any]) -> None:
        held = self.pins.setdefault(lease_id, {})
        for target in targets:
            held.setdefault(target, seq)

    def _sweep(self, record: Record, pack_ids: list[bytes]) -> None:
        for pack_id in pack_ids:
            if pack_id not in self.swept:
                row = self.packs.pop(pack_id, None)
                orphan = row is None
                self.swept[pack_id] = [pack_id, record.seq, record.time, 0 if row is None else row[3], int(orphan)]
                self.config["swept"] = record.seq

    def _forget_packs(self, pack_ids: list[bytes]) -> None:
        for pack_id in pack_ids:
            row = self.swept.pop(pack_id, None)
            if row is not None and row[4]:
                self.config["orphans"] = max(row[1], self.config.get("orphans", 0))

    def _forget_versions(self, until: int) -> None:
        since: dict[bytes | str, list[int]] = {}
        for held in self.pins.values():
            for target, seq in held.items():
                since.setdefault(target, []).append(seq)
        for (removed, position), (name, version, _, _) in list(self.tombstones.items()):
            if removed <= until and not any(version <= seq < removed for seq in since.get(name, ())):
                del self.tombstones[removed, position]


def checkpoint_rows(data: bytes, seq: int, secrets: Secrets) -> dict[int, list[list[Any]]]:
    """The rows of a checkpoint's sections."""
    sealed = secrets.sealed(data, CHECKPOINT, numbered(seq))
    sections: dict[int, list[list[Any]]] = {number: [] for number in SECTIONS}
    ranks = {number: rank for rank, number in enumerate(SECTIONS)}
    at, flags, block, latest = 128, 0, 0, 0
    while flags == 0:
        need(len(data) >= at + 12, "checkpoint: ends before its last block")
        extra = data[at : at + 12]
        stored, raw, codec, flags, _ = struct.unpack("<IIBBH", extra)
        known(flags in {0, 1}, "checkpoint: flags")
        need(stored <= 4 * MIB + 16 and raw <= 4 * MIB and at + 12 + stored <= len(data), "checkpoint: lengths")
        plain = expanded(codec, raw, sealed.opened(LANE_BODY, block, data[at + 12 : at + 12 + stored], extra))
        number, *rows = unpack(plain, "checkpoint")
        known(number in SECTIONS, f"checkpoint: section {number}")
        need(ranks[number] >= latest and len(rows) > 0, "checkpoint: sections")
        need(sum(map(items, rows)) <= 1 << 19, "checkpoint: items")
        sections[number] += [fields(row, SECTIONS[number], f"section {number}") for row in rows]
        at, block, latest = at + 12 + stored, block + 1, ranks[number]
    need(at == len(data), "checkpoint: bytes behind its last block")
    for number, rows in sections.items():
        keys = [ORDERS[number](row) for row in rows]
        need(all(one < two or (one == two and number == 3) for one, two in pairwise(keys)), f"section {number}: order")
    return sections


def load_checkpoint(folder: Path, secrets: Secrets, operation: list[Any]) -> State:
    _, seq, name, digest = operation
    need(re.fullmatch(rf"(checkpoints/)?{seq:020d}-[0-9a-f]+", name) is not None, "checkpoint: name")
    path = folder / "checkpoints" / name.removeprefix("checkpoints/")
    need(path.is_file(), "checkpoint: missing")
    data, found = hashed(path.read_bytes(), "checkpoint")
    need(found == digest, "checkpoint: another hash than CHECKPOINT says")
    sections = checkpoint_rows(data, seq, secrets)
    need(len(sections[6]) == 1, "checkpoint: STATE")
    at, hash_at, next_pack, objects, logical, unique, stored, length = sections[6][0]
    state = State(at, hash_at, next_pack, length, dict(sections[1]))
    state.packs = {row[1]: row for row in sections[2]}
    state.names = {name: (version, descriptor) for name, version, descriptor in sections[4]}
    state.tombstones = {(row[0], row[1]): (row[2], row[3], row[4], row[5]) for row in sections[5]}
    for *lease, pins in sections[3]:
        need(state.leases.setdefault(lease[0], lease) == lease, "LEASES: two rows of one lease differ")
        held = state.pins.setdefault(lease[0], {})
        need(not any(target in held for target, _ in pins), "LEASES: a pin twice")
        held.update((target, since) for target, since in pins)
    state.swept = {row[0]: row for row in sections[7]}
    need(not state.swept.keys() & state.packs.keys(), "SWEPT: a pack that is live")
    need(at == seq and state.config.get("first") == secrets.bank_hash, "checkpoint: of another place or bank")
    need(("keyring" in state.config) == (secrets.suite != 0), "checkpoint: keyring")
    if "keyring" in state.config:
        need(type(state.config["keyring"]) is bytes, "checkpoint: keyring")
        state.config["keyring"] = fields(unpack(state.config["keyring"], "keyring"), OPERATIONS[11], "keyring")
    need(objects == len(state.names), "STATE: objects")
    need(logical == sum(parse_descriptor(row[2], secrets)[1] for row in sections[4]), "STATE: logical bytes")
    need((unique, stored) == (sum(r[6] for r in sections[2]), sum(r[3] for r in sections[2])), "STATE: bytes of packs")
    return state


# --- objects (5), the bank (8, 11) -----------------------------------------------------------------------------------


def parse_descriptor(data: bytes, secrets: Secrets) -> list[Any]:
    value = unpack(data, "descriptor")
    known(value[0] == 1, "descriptor: version")
    fields(value, DESCRIPTOR, "descriptor")
    _, size, root, _, depth, _, _, _, inline = value
    if inline is not None:
        need(depth == 0 and len(inline) == size and chunk_id(inline, secrets.dedup) == root, "descriptor: inline")
    return value


@dataclass(frozen=True)
class StoredObject:
    name: str
    size: int
    etag: str
    digest: str | None
    version: int
    created_ns: int
    metadata: dict[str, str | bytes]
    content: bytes


class StrangerBank:
    """A bank at rest, replayed from record 1 or from the newest official checkpoint."""

    def __init__(self, folder: Path, credential: Credential = Credential(), *, from_checkpoint: bool = False) -> None:
        recovery = None if credential.recovery is None else parse_recovery(credential.recovery)
        self._read_bank(folder, None if recovery is None else recovery[0])
        slots: dict[bytes, bytes] = {}
        if self.secrets.suite == 0:
            known(not credential.is_given(), "BANK: a key was given, and it is not encrypted")
        else:
            keyrings = [
                path.read_bytes()
                for path in sorted((folder / "keys").glob("*"))
                if re.fullmatch("keyring-[0-9]+-[0-9a-f]+", path.name)
            ]
            if recovery is None:
                slots = opened_slots(folder, self.secrets.bank_id, self.secrets.suite, credential)
                if not slots:
                    raise WrongKeyError
                bank_key = next(iter(slots.values()))
            else:
                bank_key = recovery[1]
                keyrings.append(recovery[3])
            self.secrets = find_secrets(keyrings, self.secrets, bank_key)
        self._replay(folder, from_checkpoint)
        removed = [slot for slot in slots if self.state.config.get(f"removed-key-slot/{slot.hex()}") is not None]
        if slots and len(removed) == len(slots):
            raise WrongKeyError("the key slot was removed")
        self.packs: dict[bytes, Pack] = {}
        self.places: dict[tuple[int, bytes], tuple[bytes, int, int, int]] = {}
        for pack_id, row in self.state.packs.items():
            path = folder / "packs" / pack_id[:1].hex() / pack_id.hex()
            need(path.is_file(), "pack: missing")
            pack = self.packs[pack_id] = Pack(path, self.secrets, row[1:])
            for found, entry, start, size in pack.chunks:
                self.places[pack.rows[entry][0], found] = (pack_id, entry, start, size)

    def _read_bank(self, folder: Path, recovered: bytes | None) -> None:
        """BANK, or if it is lost the one in the recovery text."""
        path = folder / "BANK"
        data = path.read_bytes() if recovered is None or path.is_file() else recovered
        need(len(data) <= 64 * KIB, "BANK: length")
        head = header(data, BANK, None, None, None)
        need(recovered is None or recovered[16:32] == head[16:32], "recovery text: of another bank")
        body, bank_hash = hashed(data, "BANK")
        self.descriptor = unpack(body[128:], "BANK")
        known(self.descriptor[0] == 1, "BANK: version")
        profiles: Check = lambda value: array(string)(value) and len(value) == 1  # noqa: E731
        checks = (integer(1, 1), INT, profiles, maybe(integer(1, 22)), integer(0, (1 << 40) - 1), maybe(string))
        known(fields(self.descriptor, checks, "BANK")[5] is None, "BANK: a journal elsewhere")
        self.secrets = Secrets(head[16:32], bank_hash, head[11])

    def _replay(self, folder: Path, from_checkpoint: bool) -> None:
        self.records = [parse_record(record, seq, self.secrets) for seq, record in journal(folder / "journal")]
        need(len(self.records) > 0, "journal: no record, the bank was never finished")
        for one, two in pairwise(self.records):
            need(two.previous == one.hash, f"record {two.seq}: chain")
        self.state = self._checkpoint(folder) if from_checkpoint or self.records[0].seq > 1 else State()
        self.started_at = self.state.seq
        for record in self.records:
            if record.seq == self.started_at:
                need(record.hash == self.state.hash, "checkpoint: another record hash")
            elif record.seq > self.started_at:
                self.state.apply(record, self.secrets)

    def _checkpoint(self, folder: Path) -> State:
        operations = [operation for record in self.records for operation in record.operations if operation[0] == 10]
        for operation in reversed(operations):
            try:
                return load_checkpoint(folder, self.secrets, operation)
            except CorruptError:
                continue
        raise CorruptError("no checkpoint can be read")

    def _fetch(self, kind: int, wanted: bytes) -> bytes:
        need((kind, wanted) in self.places, f"{wanted.hex()}: in no live pack")
        pack_id, entry, start, size = self.places[kind, wanted]
        plain = self.packs[pack_id].entry(entry)[start : start + size]
        need(
            (chunk_id if kind == CHUNKS else node_id)(plain, self.secrets.dedup) == wanted,
            f"{wanted.hex()}: another id",
        )
        return plain

    def chunks(self, root: bytes, depth: int) -> Iterator[bytes]:
        """The chunks below a node, from left to right."""
        node = self._fetch(LEAVES if depth == 1 else INNER, root)
        form = "<32sII" if depth == 1 else "<32sQQ"
        need(len(node) % struct.calcsize(form) == 0 and len(node) <= 2048 * struct.calcsize(form), "node: length")
        for child, size, last in struct.iter_unpack(form, node):
            if depth == 1:
                known(last == 0, "leaf row: flags")
                need(1 <= size <= 8 * MIB, "leaf row: length")
                below = [self._fetch(CHUNKS, child)]
            else:
                need(1 <= last <= size <= MAXIMUM, "inner row: range")
                below = list(self.chunks(child, depth - 1))
                need(len(below) == last, "inner row: chunks below")
            need(sum(map(len, below)) == size, "row: bytes below")
            yield from below

    def objects(self) -> Iterator[StoredObject]:
        """Every object, in the order of the names' bytes."""
        for name, (version, packed) in sorted(self.state.names.items(), key=lambda item: item[0].encode()):
            yield self._object(name, version, packed)

    def removed(self) -> Iterator[StoredObject]:
        """Every version that has a tombstone, in the order of their removal; some may have been collected."""
        for _, (name, version, packed, _) in sorted(self.state.tombstones.items()):
            yield self._object(name, version, packed)

    def _object(self, name: str, version: int, packed: bytes) -> StoredObject:
        _, size, root, digest, depth, _, created, metadata, inline = parse_descriptor(packed, self.secrets)
        if inline is not None:
            content = inline
        else:
            content = self._fetch(CHUNKS, root) if depth == 0 else b"".join(self.chunks(root, depth))
        need(len(content) == size, f"{name}: size")
        need(digest is None or blake3(content).digest() == digest, f"{name}: digest")
        text = None if digest is None else digest.hex()
        return StoredObject(name, size, root.hex(), text, version, created, metadata, content)
