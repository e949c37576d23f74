"""What can be asked of the tables, and done to them, within one LMDB transaction.

Rule 1: a transaction is short; a list takes a page at a time, so that old pages can be used again.
Rule 2: absence here proves nothing for deletion (collector, rule T).
"""

from collections.abc import Collection, Iterable, Iterator
from itertools import islice, takewhile
from typing import NamedTuple

import lmdb

from casbank.errors import ErrorKind
from casbank.format import messages
from casbank.format.record import ConfigValue
from casbank.index import tables
from casbank.index.tables import LeaseRow, NameRow, PackRow, PinRow, State, SweptRow, Tombstone
from casbank.model import Location

TABLES = ("chunk", "pack", "pack_number", "name", "tombstone", "lease", "pin", "swept", "meta")
# A chunk that lies in several packs has a value for each.
DUPLICATE_TABLES = frozenset({"chunk"})

_STATE = b"state"
_CHECKPOINT = b"checkpoint"
_CONFIG = b"config/"
_AFTER_ALL_NAMES = b"\xff"
# Rows that are found before they are removed.
_ROWS = 2**16


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

    def pack_with(self, chunk_id: bytes) -> int | None:
        """The number of the oldest live pack with a chunk or node; None if there is none.

        The row's checksum counts here too: a wrong answer would lose data.
        """
        value = self._transaction.get(chunk_id, db=self._chunks)
        return None if value is None else tables.pack_number_of(chunk_id, value)

    def all_copies(self, ids: Iterable[bytes]) -> Iterator[tuple[bytes, list[Location]]]:
        """Where each chunk or node is, in every live pack that has it, the oldest first; none if it is unknown."""
        cursor = self._transaction.cursor(self._chunks)
        for chunk_id in ids:
            values = cursor.iternext_dup() if cursor.set_key(chunk_id) else ()
            yield chunk_id, [tables.decode_location(chunk_id, value) for value in values]

    def chunks_of(self, number: int) -> Iterator[tuple[bytes, Location]]:
        """Where each chunk of one pack is, by id: looks at every row."""
        prefix = tables.number_key(number)
        for key, value in self._transaction.cursor(self._chunks).iternext():
            if value.startswith(prefix):
                yield key, tables.decode_location(key, value)

    def pack(self, number: int) -> PackRow | None:
        """A pack by the number that locations name it with."""
        value = self._get("pack", tables.number_key(number))
        return None if value is None else tables.decode_pack(number, value)

    def has_pack(self, number: int) -> bool:
        """Whether a pack is live. The row's checksum counts here too."""
        key = tables.number_key(number)
        value = self._get("pack", key)
        if value is None:
            return False
        tables.unsealed(key, value)
        return True

    def packs(self, first: int = 0) -> Iterator[tuple[int, PackRow]]:
        """All live packs by number, from number ``first`` on."""
        cursor = self._transaction.cursor(self._databases["pack"])
        if not cursor.set_range(tables.number_key(first)):
            return
        for key, value in cursor.iternext():
            number = int.from_bytes(key, "big")
            yield number, tables.decode_pack(number, value)

    def pack_number(self, pack_id: bytes) -> int | None:
        """The number of a live pack."""
        value = self._get("pack_number", pack_id)
        return None if value is None else int.from_bytes(tables.unsealed(pack_id, value), "big")

    def lease(self, lease_id: bytes) -> LeaseRow | None:
        """A living lease."""
        value = self._get("lease", lease_id)
        return None if value is None else tables.decode_lease(lease_id, value)

    def leases(self) -> Iterator[LeaseRow]:
        """All living leases, by id."""
        for key, value in self._transaction.cursor(self._databases["lease"]).iternext():
            yield tables.decode_lease(key, value)

    def pins(self, lease_id: bytes = b"") -> Iterator[PinRow]:
        """What a lease holds; without an id, what all do."""
        cursor = self._transaction.cursor(self._databases["pin"])
        if cursor.set_range(lease_id or b"\x00"):
            for key, value in cursor.iternext():
                if not key.startswith(lease_id):
                    return
                yield tables.decode_pin(key, value)

    def swept_pack(self, pack_id: bytes) -> SweptRow | None:
        """A pack that is dead and may still lie in the store."""
        value = self._get("swept", pack_id)
        return None if value is None else tables.decode_swept(pack_id, value)

    def swept_packs(self) -> Iterator[SweptRow]:
        """All of those, by id."""
        for key, value in self._transaction.cursor(self._databases["swept"]).iternext():
            yield tables.decode_swept(key, value)

    def tombstones(self, after: tuple[int, int] | None, limit: int) -> list[Tombstone]:
        """Up to ``limit`` versions that were removed or replaced, the oldest first, behind ``after`` (removed seq,
        ordinal)."""
        cursor = self._transaction.cursor(self._databases["tombstone"])
        start = b"\x00" if after is None else tables.tombstone_key(after[0], after[1] + 1)
        if not cursor.set_range(start):
            return []
        return [tables.decode_tombstone(key, value) for key, value in islice(cursor.iternext(), limit)]

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

    def config_keys(self, prefix: str) -> list[str]:
        """The names of properties that begin with ``prefix``."""
        start = _CONFIG + prefix.encode()
        cursor = self._transaction.cursor(self._databases["meta"])
        if not cursor.set_range(start):
            return []
        keys = takewhile(lambda key: key.startswith(start), cursor.iternext(values=False))
        return [key.removeprefix(_CONFIG).decode() for key in keys]

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

    def remove_pack(self, number: int, pack_id: bytes) -> None:
        self._delete("pack", tables.number_key(number))
        self._delete("pack_number", pack_id)

    def remove_chunks(self, rows: Iterable[tuple[bytes, Location]]) -> None:
        """Remove the locations of one pack, exactly as they were put."""
        for chunk_id, value in sorted((chunk_id, tables.encode_location(chunk_id, place)) for chunk_id, place in rows):
            self._transaction.delete(chunk_id, value, db=self._chunks)

    def remove_chunks_of(self, numbers: Collection[int]) -> None:
        """Remove every location in packs whose tables cannot be read: looks at every row."""
        prefixes = tuple(map(tables.number_key, numbers))
        start = b"\x00"
        while True:
            cursor = self._transaction.cursor(self._chunks)
            rows = cursor.iternext() if cursor.set_range(start) else iter(())
            # Found first and deleted then: a cursor that deletes may stop short behind the last of several copies.
            found = list(islice(((key, value) for key, value in rows if value.startswith(prefixes)), _ROWS))
            for key, value in found:
                self._transaction.delete(key, value, db=self._chunks)
            if len(found) < _ROWS:
                return
            start = found[-1][0]

    def put_lease(self, row: LeaseRow) -> None:
        self._put("lease", row.id, tables.encode_lease(row))

    def put_pin(self, row: PinRow) -> None:
        """Hold something for a lease; what it holds already stays as it was pinned first."""
        self._transaction.put(tables.pin_key(row), tables.encode_pin(row), overwrite=False, db=self._databases["pin"])

    def remove_lease(self, lease_id: bytes) -> None:
        """A lease and all it holds."""
        self._delete("lease", lease_id)
        for row in list(self.pins(lease_id)):
            self._delete("pin", tables.pin_key(row))

    def put_swept(self, row: SweptRow) -> None:
        self._put("swept", row.id, tables.encode_swept(row))

    def remove_swept(self, pack_id: bytes) -> None:
        self._delete("swept", pack_id)

    def remove_tombstone(self, stone: Tombstone) -> None:
        self._delete("tombstone", tables.tombstone_key(stone.removed_seq, stone.ordinal))

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

    def remove_config(self, key: str) -> None:
        self._delete("meta", _CONFIG + key.encode())

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
            self._delete("name", key)
        return next((other for other in before if other.name == name), None)

    def _delete(self, table: str, key: bytes) -> None:
        self._transaction.delete(key, db=self._databases[table])

    def _put(self, table: str, key: bytes, value: bytes) -> None:
        self._transaction.put(key, value, db=self._databases[table])


def _bucket_item(rows: list[NameRow]) -> tuple[bytes, bytes]:
    key = tables.name_key(rows[0].name)
    return key, tables.encode_bucket(key, rows)
