"""What can be asked of the tables, and done to them, within one LMDB transaction.

Rule 1: a transaction is short; a list takes a page at a time, so that old pages can be used again.
Rule 2: absence here proves nothing for deletion (collector, rule T).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import lmdb

from casbank.errors import ErrorKind
from casbank.format import messages
from casbank.index import tables
from casbank.index.tables import NameRow, PackRow, State, Tombstone
from casbank.model import Location

TABLES = ("chunk", "pack", "pack_number", "name", "tombstone", "meta")
# A chunk that lies in several packs has a value for each.
DUPLICATE_TABLES = frozenset({"chunk"})

ConfigValue: TypeAlias = str | int | bytes | None

_STATE = b"state"
_CHECKPOINT = b"checkpoint"
_CONFIG = b"config/"
_AFTER_ALL_NAMES = b"\xff"


class CheckpointRow(NamedTuple):
    """The newest official checkpoint: up to which record, its file's name and hash, and how many journal bytes there
    were when it became official."""

    seq: int
    name: str
    hash: bytes
    mark: int


class Snapshot:
    """The tables as one transaction sees them."""

    def __init__(self, transaction: "lmdb.Transaction[bytes]", databases: "dict[str, lmdb._Database]") -> None:
        self._transaction = transaction
        self._databases = databases
        self._chunks = databases["chunk"]

    def state(self) -> State | None:
        """Which record the tables stand on; None if they were never filled."""
        value = self._get("meta", _STATE)
        return None if value is None else tables.decode_state(_STATE, value)

    def chunk(self, chunk_id: bytes) -> Location | None:
        """Where a chunk or node is, in the oldest pack that has it."""
        value = self._transaction.get(chunk_id, db=self._chunks)
        return None if value is None else tables.decode_location(chunk_id, value)

    def has_chunk(self, chunk_id: bytes) -> bool:
        """Whether a chunk or node is known. Its row's checksum counts here too: a wrong yes would lose data."""
        value = self._transaction.get(chunk_id, db=self._chunks)
        if value is None:
            return False
        tables.unsealed(chunk_id, value)
        return True

    def pack(self, number: int) -> PackRow | None:
        """A pack by the number that locations name it with."""
        value = self._get("pack", tables.number_key(number))
        return None if value is None else tables.decode_pack(number, value)

    def packs(self) -> Iterator[tuple[int, PackRow]]:
        """All live packs by number."""
        for key, value in self._transaction.cursor(self._databases["pack"]).iternext():
            number = int.from_bytes(key, "big")
            yield number, tables.decode_pack(number, value)

    def has_pack(self, pack_id: bytes) -> bool:
        return self._get("pack_number", pack_id) is not None

    def name(self, name: bytes) -> NameRow | None:
        """The current version of a name."""
        key = tables.name_key(name)
        value = self._get("name", key)
        rows = [] if value is None else tables.decode_bucket(key, value)
        return next((row for row in rows if row.name == name), None)

    def names(self, prefix: bytes, after: bytes | None, limit: int, *, reverse: bool) -> list[NameRow]:
        """Up to ``limit`` names with the prefix, in byte order or against it, beyond ``after`` in that direction."""
        rows: list[NameRow] = []
        for bucket in self._buckets(prefix, after, reverse=reverse):
            for row in reversed(bucket) if reverse else bucket:
                beyond = after is None or (row.name < after if reverse else row.name > after)
                if beyond and row.name.startswith(prefix):
                    rows.append(row)
                    if len(rows) == limit:
                        return rows
        return rows

    def _buckets(self, prefix: bytes, after: bytes | None, *, reverse: bool) -> Iterator[list[NameRow]]:
        """Buckets from the first that can hold a wanted name to the last."""
        cursor = self._transaction.cursor(self._databases["name"])
        bound = tables.name_key(prefix)
        if reverse:
            highest = prefix + _AFTER_ALL_NAMES
            found = _set_range_down(cursor, tables.name_key(highest if after is None else min(after, highest)))
            rows = cursor.iterprev() if found else iter(())
        else:
            found = cursor.set_range(tables.name_key(prefix if after is None else max(after, prefix)) or b"\x00")
            rows = cursor.iternext() if found else iter(())
        for key, value in rows:
            if not key.startswith(bound):
                if key > bound and reverse:
                    continue
                return
            yield tables.decode_bucket(key, value)

    def count(self, table: str) -> int:
        """Number of values in a table."""
        return self._transaction.stat(self._databases[table])["entries"]

    def checkpoint(self) -> CheckpointRow | None:
        """The newest official checkpoint."""
        value = self._get("meta", _CHECKPOINT)
        if value is None:
            return None
        body = tables.unsealed(_CHECKPOINT, value)
        seq, mark = int.from_bytes(body[:8], "big"), int.from_bytes(body[8:16], "big")
        return CheckpointRow(seq, body[48:].decode(), body[16:48], mark)

    def config(self, key: str) -> ConfigValue:
        """A property of the bank; None if it was never set."""
        full = _CONFIG + key.encode()
        value = self._get("meta", full)
        return None if value is None else messages.decode(tables.unsealed(full, value), key, ErrorKind.INDEX_VALUE)[0]

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """Every row of a table as it is stored: for comparing one index with another."""
        yield from self._transaction.cursor(self._databases[table]).iternext()

    def _get(self, table: str, key: bytes) -> bytes | None:
        return self._transaction.get(key, db=self._databases[table])


def _set_range_down(cursor: "lmdb.Cursor[bytes]", key: bytes) -> bool:
    """Move to the last key that is not above ``key``."""
    if cursor.set_range(key):
        return cursor.key() == key or cursor.prev()
    return cursor.last()


class Edit(Snapshot):
    """A writing transaction: what it changed is there at once or, if it is left by an exception, not at all."""

    def put_state(self, state: State) -> None:
        self._put("meta", _STATE, tables.encode_state(_STATE, state))

    def clear(self) -> None:
        """Empty every table."""
        for database in self._databases.values():
            self._transaction.drop(database, delete=False)

    def put_chunks(self, rows: Iterable[tuple[bytes, Location]]) -> None:
        """Add locations; sorted first, since sorted inserts are several times faster and fill pages better."""
        items = sorted((chunk_id, tables.encode_location(chunk_id, place)) for chunk_id, place in rows)
        self._transaction.cursor(self._chunks).putmulti(items, dupdata=True, overwrite=True)

    def put_pack(self, number: int, row: PackRow) -> None:
        self._put("pack", tables.number_key(number), tables.encode_pack(number, row))
        self._put("pack_number", row.info.id, tables.sealed(row.info.id, tables.number_key(number)))

    def put_name(self, row: NameRow) -> NameRow | None:
        """Set a name; returns the version that it replaced."""
        return self._replace(row.name, row)

    def delete_name(self, name: bytes) -> NameRow | None:
        """Remove a name; returns the version that was there."""
        return self._replace(name, None)

    def append_names(self, rows: list[NameRow]) -> None:
        """Bulk load: rows in byte order, behind every name that is there, buckets whole."""
        items: list[tuple[bytes, bytes]] = []
        bucket: list[NameRow] = []
        for row in rows:
            if bucket and tables.name_key(bucket[0].name) != tables.name_key(row.name):
                items.append(_bucket_item(bucket))
                bucket = []
            bucket.append(row)
        if bucket:
            items.append(_bucket_item(bucket))
        self._transaction.cursor(self._databases["name"]).putmulti(items)

    def put_tombstone(self, stone: Tombstone) -> None:
        key = tables.tombstone_key(stone.removed_seq, stone.ordinal)
        self._put("tombstone", key, tables.encode_tombstone(stone))

    def put_checkpoint(self, row: CheckpointRow) -> None:
        body = row.seq.to_bytes(8, "big") + row.mark.to_bytes(8, "big") + row.hash + row.name.encode()
        self._put("meta", _CHECKPOINT, tables.sealed(_CHECKPOINT, body))

    def put_config(self, key: str, value: ConfigValue) -> None:
        full = _CONFIG + key.encode()
        self._put("meta", full, tables.sealed(full, messages.encode([value])))

    def _replace(self, name: bytes, row: NameRow | None) -> NameRow | None:
        key = tables.name_key(name)
        value = self._get("name", key)
        if value is None:
            if row is not None:
                self._put("name", key, tables.encode_bucket(key, [row]))
            return None
        before = tables.decode_bucket(key, value)
        if row is not None and len(before) == 1 and before[0].name == name:
            # Nearly every overwrite: a short name has its bucket for itself.
            self._put("name", key, tables.encode_bucket(key, [row]))
            return before[0]
        rows = [other for other in before if other.name != name]
        if row is not None:
            rows = sorted([*rows, row])
        if rows:
            self._put("name", key, tables.encode_bucket(key, rows))
        else:
            self._transaction.delete(key, db=self._databases["name"])
        return next((other for other in before if other.name == name), None)

    def _put(self, table: str, key: bytes, value: bytes) -> None:
        self._transaction.put(key, value, db=self._databases[table])


def _bucket_item(rows: list[NameRow]) -> tuple[bytes, bytes]:
    key = tables.name_key(rows[0].name)
    return key, tables.encode_bucket(key, rows)
