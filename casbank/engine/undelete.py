"""Bringing back a version that was removed or replaced.

Rule (C): what re-uses a descriptor without its content checks the whole tree against live packs, in the state that its
record follows.
"""

from collections.abc import Iterator
from dataclasses import replace

from casbank.engine.engine import Engine
from casbank.engine.rules import Reliance, Stale
from casbank.engine.sorting import ExternalSorter
from casbank.errors import ConflictError, CorruptionError, ErrorKind, NotFoundError
from casbank.format.descriptor import Descriptor, decode_descriptor, encode_descriptor
from casbank.format.manifest import decode_inner, decode_leaf
from casbank.format.record import Op, Put
from casbank.index.tables import Tombstone
from casbank.index.transaction import Snapshot

_PAGE = 1000
# Each one lost means that a collection swept between two records.
_ATTEMPTS = 20


def undelete(engine: Engine, name: str, version: int | None) -> tuple[int, Descriptor]:
    """Put a removed version's content under its name again; the new version, and what it is.

    Raises NotFoundError: NO_OBJECT if no such version can be brought back, GONE if its content was collected.
    """
    engine.follower.catch_up()
    stone = _find(engine, name, version)
    item = replace(decode_descriptor(stone.descriptor), created_ns=engine.world.now_ns())
    put = Put(name, encode_descriptor(item))
    for _ in range(_ATTEMPTS):
        reliance = _packs_of(engine, item, name)

        def decide(_: Snapshot) -> list[Op]:
            return [put]

        try:
            return engine.commit(decide, None, reliance), item
        except Stale:
            continue
    raise ConflictError("collections sweep faster than this version can be checked; try again", name=name)


def removed_versions(engine: Engine, prefix: str) -> Iterator[Tombstone]:
    """Every version that can be brought back, by name, the newest of each first."""
    sorter = ExternalSorter(engine.files.scratch)
    try:
        for stone in _tombstones(engine):
            if stone.name.startswith(prefix.encode()):
                row = [stone.name, -stone.removed_seq, *stone]
                sorter.add(row, len(stone.name) + len(stone.descriptor))
        for _, _, *fields in sorter:
            yield Tombstone(*fields)
    finally:
        sorter.close()


def _find(engine: Engine, name: str, version: int | None) -> Tombstone:
    wanted = name.encode()
    found = [stone for stone in _tombstones(engine) if stone.name == wanted and version in (None, stone.version)]
    if not found:
        raise NotFoundError("no removed version of this name can be brought back", kind=ErrorKind.NO_OBJECT, name=name)
    return found[-1]


def _tombstones(engine: Engine) -> Iterator[Tombstone]:
    after: tuple[int, int] | None = None
    while True:
        with engine.follower.read() as snapshot:
            page = snapshot.tombstones(after, _PAGE)
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].removed_seq, page[-1].ordinal


def _packs_of(engine: Engine, item: Descriptor, name: str) -> Reliance:
    """Every pack that a tree needs, as they were live in one state."""
    since = engine.follower.catch_up().seq
    packs: set[int] = set()
    if item.inline is None:
        try:
            _collect(engine, item.root, item.depth, packs)
        except CorruptionError as error:
            if error.kind is not ErrorKind.CHUNK_ID:
                raise
            raise NotFoundError("this version's content has been collected", kind=ErrorKind.GONE, name=name) from error
    return Reliance(packs, since)


def _collect(engine: Engine, node_id: bytes, depth: int, packs: set[int]) -> None:
    _rely(engine, [node_id], packs)
    if depth == 0:
        return
    data = engine.reader.node(node_id, depth)
    if depth == 1:
        _rely(engine, [row.id for row in decode_leaf(data)], packs)
    else:
        for row in decode_inner(data):
            _collect(engine, row.id, depth - 1, packs)


def _rely(engine: Engine, ids: list[bytes], packs: set[int]) -> None:
    with engine.follower.read() as snapshot:
        for chunk_id in ids:
            number = snapshot.pack_with(chunk_id)
            if number is None:
                raise CorruptionError("a chunk is in no live pack", kind=ErrorKind.CHUNK_ID, chunk=chunk_id)
            packs.add(number)
