"""Banks of today with leases and collections, read by the stranger, who knows nothing but docs/format.md.

The invariant: at rest, whatever was done, the stranger finds the objects, live packs, swept packs, leases, pins,
tombstones and configuration that casbank finds, from record 1 as well as from a checkpoint.
"""

import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import stranger
from stranger import CorruptError, Credential, Record, RefusedError, StrangerBank

from casbank import Bank, limits
from casbank.engine.engine import Engine
from casbank.format import messages
from casbank.format.record import Lease, Op, Packs
from casbank.index.apply import COLLECTED_KEY
from casbank.index.transaction import Snapshot
from casbank.model import CollectReport

KEY = bytes(range(64))
DAY_S = 86_400
LEASE_ID, PACK_ID = b"lease id, 16 by.", b"pack id, 16 byte"
NOISE = random.Random(5).randbytes


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that are not kept in memory, and packs that are worth rewriting, are small here."""
    monkeypatch.setenv("CASBANK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(limits, "STREAM_KEPT_BYTES_MAX", 1000)
    monkeypatch.setattr(limits, "SWEEP_PACKS_MAX", 3)


class Scene(NamedTuple):
    """An open bank, how the stranger opens it, and the undelete window that it is collected with."""

    bank: Bank
    folder: Path
    credential: Credential
    window_s: int

    @property
    def engine(self) -> Engine:
        return self.bank._writable()

    def collect(self, **options: Any) -> CollectReport:
        return self.bank.collect(self.bank.plan_collection(self.window_s, reader_grace_s=0, **options))

    def commit(self, *ops: Op, backing: Any = None) -> int:
        return self.engine.commit(lambda _: ops, None, backing)

    def stranger(self, *, from_checkpoint: bool = False) -> StrangerBank:
        return StrangerBank(self.folder, self.credential, from_checkpoint=from_checkpoint)


@pytest.fixture(params=["plain", "aes-256-gcm", "chacha20-poly1305"])
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[0, DAY_S], ids=["no window", "window"])
def scene(request: pytest.FixtureRequest, suite: str, tmp_path: Path) -> Iterator[Scene]:
    key_file = tmp_path / "key"
    key_file.write_bytes(KEY)
    keys: dict[str, Any] = {} if suite == "plain" else {"key_file": key_file, "suite": suite}
    credential = Credential() if suite == "plain" else Credential(key_file=KEY)
    folder = tmp_path / "bank"
    with Bank.create(folder, chunking="gear:64/256/1024", keep_deleted_s=request.param, **keys) as bank:
        yield Scene(bank, folder, credential, request.param)


# --- what both find ----------------------------------------------------------------------------------------------


def rows_by_casbank(bank: Bank) -> dict[str, Any]:
    with bank._current().follower.read() as now:
        rows = _rows(now)
    return rows | {"objects": [(info.name, info.version, info.etag, bank.get(info.name)) for info in bank.list()]}


def _rows(now: Snapshot) -> dict[str, Any]:
    state = now.state()
    assert state is not None
    return {
        "packs": [[number, *row.info] for number, row in now.packs()],
        "swept": [[*row] for row in now.swept_packs()],
        "leases": [[*row] for row in now.leases()],
        "pins": sorted((row.lease_id, str(row.target), row.seq) for row in now.pins()),
        "tombstones": [[*stone] for stone in now.tombstones(None, 10**6)],
        "config": {key: now.config(key) for key in now.config_keys("")},
        "state": [*state],
    }


def rows_by_stranger(bank: StrangerBank) -> dict[str, Any]:
    state = bank.state
    packs = sorted(state.packs.values())
    config = dict(state.config)
    if "keyring" in config:
        config["keyring"] = messages.encode(config["keyring"])
    counts = [len(state.names), sum(item.size for item in bank.objects()), sum(r[6] for r in packs)]
    return {
        "packs": packs,
        "swept": [state.swept[pack_id] for pack_id in sorted(state.swept)],
        "leases": [state.leases[lease_id] for lease_id in sorted(state.leases)],
        "pins": sorted((lease, str(target), seq) for lease, held in state.pins.items() for target, seq in held.items()),
        "tombstones": [
            [*key, name.encode(), version, descriptor, removed_ns]
            for key, (name, version, descriptor, removed_ns) in sorted(state.tombstones.items())
        ],
        "config": config,
        "state": [state.seq, state.hash, state.next_pack, *counts, sum(r[3] for r in packs), state.journal_bytes],
        "objects": [(item.name, item.version, item.etag, item.content) for item in bank.objects()],
    }


def assert_same(scene: Scene) -> None:
    """Both find the same, the stranger in two ways."""
    expected = rows_by_casbank(scene.bank)
    assert rows_by_stranger(scene.stranger()) == expected
    if scene.engine.files.store.list("checkpoints/") and any((scene.folder / "checkpoints").glob("*")):
        from_checkpoint = scene.stranger(from_checkpoint=True)
        assert from_checkpoint.started_at > 0
        assert rows_by_stranger(from_checkpoint) == expected


def operations(bank: StrangerBank, number: int) -> list[list[Any]]:
    return [op[1:] for record in bank.records for op in record.operations if op[0] == number]


def checkpoint(scene: Scene) -> None:
    assert scene.engine.checkpoints.write() is not None


# --- work --------------------------------------------------------------------------------------------------------


def fill(bank: Bank, prefix: str) -> None:
    """Objects of all shapes that share a data pack and a meta pack."""
    with bank.batch() as batch:
        for number in range(6):
            batch.put(f"{prefix}/{number}", NOISE(3_000 * number), digest=bool(number % 2))
        batch.put(f"{prefix}/inline", b"x" * 50)


def thin(bank: Bank, prefix: str) -> None:
    """Leave little alive of what :func:`fill` put."""
    with bank.batch() as batch:
        for number in range(2, 6):
            batch.delete(f"{prefix}/{number}")
        batch.put(f"{prefix}/0", NOISE(500))


def leave_orphans(scene: Scene, ids: list[bytes]) -> None:
    """Packs of a writer that died two days ago."""
    for pack_id in ids:
        path = scene.folder / "packs" / pack_id[:1].hex() / pack_id.hex()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"never published")
        old_s = path.stat().st_mtime - 2 * DAY_S
        os.utime(path, (old_s, old_s))


def stream(parts: list[bytes]) -> Iterator[bytes]:
    yield from parts


def step_fill(scene: Scene) -> None:
    fill(scene.bank, "a")
    fill(scene.bank, "b")
    scene.bank.put("pinned", NOISE(5_000))


def step_leases(scene: Scene) -> None:
    scene.bank.acquire_lease("somebody", note="älter", ttl_s=60)
    scene.bank.acquire_lease("reader", kind="read").release()
    held = scene.bank.acquire_lease("keeper", kind="pin", pins=["pinned", "a/3", "b/inline"])
    held.renew()


def step_deletes(scene: Scene) -> None:
    thin(scene.bank, "a")
    scene.bank.put("pinned", NOISE(5_000))
    scene.bank.put("pinned", NOISE(100))
    scene.bank.delete("b/inline")
    scene.bank.copy("b/5", "copied")


def step_pack_pins(scene: Scene) -> None:
    """A lease that holds packs: those of others, and what PACKS names."""
    with scene.engine.follower.read() as now:
        infos = [row.info for _, row in now.packs()]
    scene.commit(Lease(LEASE_ID, "not json", "write", time.time_ns(), 10**18 * 9, (infos[0].id,), "note"))
    scene.commit(Lease(LEASE_ID, "ignored", "ignored", 6, 10**18 * 9 + 1, (infos[0].id, "no such name"), "newer"))
    scene.commit(Packs((infos[0], infos[1]), LEASE_ID))
    scene.commit(Packs((infos[2],), b"no such lease 16"))


def step_stream(scene: Scene) -> None:
    """A put under a lease, which pins what it finds there and is released by the record that publishes it."""
    known = scene.bank.get("b/5")
    scene.bank.put("stream", stream([known, NOISE(2_000)]))
    batch = scene.bank.batch()
    batch.put("abandoned", stream([known, NOISE(20_000)]))
    assert_same(scene)
    batch.abandon()


def step_orphans(scene: Scene) -> None:
    leave_orphans(scene, [bytes([number]) * 16 for number in range(1, 5)])
    scene.collect()
    # Collected once more: their files are gone, and swept as orphans again.
    leave_orphans(scene, [bytes([1]) * 16])
    scene.bank.put("changes", b"the bank")
    scene.collect()


def step_release(scene: Scene) -> None:
    for lease in scene.bank.leases():
        scene.bank.release_lease(lease.id)


def step_undelete(scene: Scene) -> None:
    found = [info for info in scene.bank.list(deleted=True) if info.name == "b/0"]
    if found:
        scene.bank.undelete("b/0", found[-1].version)


STEPS: list[Callable[[Scene], None]] = [
    step_fill,
    step_leases,
    step_pack_pins,
    step_deletes,
    checkpoint,
    lambda scene: (scene.collect(), None)[1],
    step_stream,
    step_orphans,
    lambda scene: thin(scene.bank, "b"),
    step_undelete,
    lambda scene: (scene.collect(), None)[1],
    step_release,
    checkpoint,
    lambda scene: (scene.collect(), None)[1],
    lambda scene: fill(scene.bank, "a"),
    lambda scene: (scene.bank.collect(scene.bank.plan_collection(0, 10**6)), None)[1],
    checkpoint,
]


def test_stranger_reads_collected_banks(scene: Scene) -> None:
    """After every step of a bank's life both find the same, from record 1 and from a checkpoint."""
    for step in STEPS:
        step(scene)
        assert_same(scene)
    found = scene.stranger()
    # The story has all of it: so many of each operation, or nothing was tested.
    counts = {number: len(operations(found, number)) for number in range(1, 14)}
    assert counts[2] > 5
    assert min(counts[5], counts[6], counts[7]) > 1, counts
    assert counts[8], counts
    assert counts[10] == 3
    keys = {key for key, _ in operations(found, 12)}
    assert {"forgotten", "collected"} <= keys
    assert found.state.config["orphans"] in {record.seq for record in found.records}
    # Rewriting moved what is alive: packs were swept that held it, and others took their place.
    live = {info[1] for info in found.state.packs.values()}
    named = {row[0] for rows, _ in operations(found, 2) for row in rows}
    assert live < named
    swept = {pack_id for (ids,) in operations(found, 7) for pack_id in ids}
    assert swept >= named - live
    assert found.state.swept, "the last collection lets packs wait for their readers"


def test_swept_packs_may_be_missing(scene: Scene) -> None:
    """A journal names packs that are swept and gone; who replays it from record 1 does not miss them."""
    fill(scene.bank, "a")
    thin(scene.bank, "a")
    scene.bank.collect(scene.bank.plan_collection(0, 0))
    found = scene.stranger()
    assert found.started_at == 0
    gone = {row[0] for rows, _ in operations(found, 2) for row in rows} - found.state.packs.keys()
    assert gone
    stored = {path.name for path in (scene.folder / "packs").rglob("*") if path.is_file()}
    assert not stored & {pack_id.hex() for pack_id in gone}
    assert_same(scene)


def test_live_pack_must_be_there(scene: Scene) -> None:
    """A SWEEP is what makes the difference: a live pack that is missing is noticed."""
    fill(scene.bank, "a")
    path = next(path for path in (scene.folder / "packs").rglob("*") if path.is_file())
    path.unlink()
    with pytest.raises(CorruptError, match="pack: missing"):
        scene.stranger()


def test_removed_versions_are_whole_within_the_window(scene: Scene) -> None:
    """What the window or a pin keeps has a tombstone and all its chunks, behind a collection and a checkpoint; the
    rest has none."""
    fill(scene.bank, "a")
    scene.bank.put("pinned", before := NOISE(4_000))
    scene.bank.put("other", before)
    lease = scene.bank.acquire_lease("keeper", kind="pin", pins=["pinned"])
    scene.bank.put("pinned", again := NOISE(4_000))
    scene.bank.put("pinned", NOISE(4_000))
    scene.bank.delete("other")
    contents = {f"a/{number}": scene.bank.get(f"a/{number}") for number in range(6)}
    thin(scene.bank, "a")
    scene.collect()
    checkpoint(scene)
    for from_checkpoint in (False, True):
        found = {
            (item.name, item.version): item.content
            for item in scene.stranger(from_checkpoint=from_checkpoint).removed()
        }
        if scene.window_s:
            assert {name: content for (name, _), content in found.items() if name.startswith("a/")} == {
                f"a/{number}": contents[f"a/{number}"] for number in (0, 2, 3, 4, 5)
            }
            assert sorted(found.values()) == sorted(
                [before, before, again, *(contents[f"a/{n}"] for n in (0, 2, 3, 4, 5))]
            )
        else:
            assert list(found.values()) == [before]
    lease.release()
    assert_same(scene)


def test_leases_that_hold_much(scene: Scene) -> None:
    """A lease may take several rows of a checkpoint; which pins were there first is kept."""
    names = tuple(f"name {number}" for number in range(2_500))
    scene.commit(Lease(LEASE_ID, "owner", "pin", 1, 2, names[:1_500], ""))
    scene.commit(Lease(LEASE_ID, "owner", "pin", 1, 2, names[1_000:], ""))
    scene.commit(Lease(PACK_ID, "owner", "client", 1, 2, (), ""))
    checkpoint(scene)
    found = scene.stranger(from_checkpoint=True)
    assert [found.state.pins[LEASE_ID][names[number]] for number in (0, 1_200, 1_500)] == [
        found.state.seq - 3,
        found.state.seq - 3,
        found.state.seq - 2,
    ]
    (made,) = operations(found, 10)
    sections = stranger.checkpoint_rows((scene.folder / made[1]).read_bytes()[:-32], made[0], found.secrets)
    assert [len(row[-1]) for row in sections[3]] == [1_024, 1_024, 452, 0]
    assert_same(scene)


def test_note_of_a_collection(scene: Scene) -> None:
    """CONFIG "collected" is msgpack of what section 6 says."""
    fill(scene.bank, "a")
    scene.collect()
    value = scene.stranger().state.config[COLLECTED_KEY]
    version, time_ns, seq, freed, live, dead, complete, *window, marked_ns = stranger.unpack(value, "collected")
    assert (window, marked_ns) == ([0, 0], time_ns)
    stats = scene.bank.stats()
    assert (version, seq, freed, live + dead, complete) == (1, stats.version - 1, 0, stats.stored_bytes, 1)
    assert abs(time_ns - stats.created_ns) < 600 * 10**9


def test_owner_is_an_array(scene: Scene) -> None:
    """A lease's owner is JSON of six fields."""
    scene.bank.acquire_lease('somebody "quoted"', note="note")
    (row,) = scene.stranger().state.leases.values()
    text, host, boot, namespace, pid, started = json.loads(row[4])
    assert (text, pid) == ('somebody "quoted"', os.getpid())
    assert all(type(field) is str for field in (host, boot, namespace))
    assert type(started) is int


# --- what a reader refuses ---------------------------------------------------------------------------------------


def state_with_a_pack() -> stranger.State:
    return stranger.State(seq=4, packs={PACK_ID: [1, PACK_ID, 1, 300, bytes(32), 0, 0]}, next_pack=2)


def applied(state: stranger.State, *ops: list[Any]) -> stranger.State:
    secrets = stranger.Secrets(bytes(16), bytes(32), 0)
    state.apply(Record(state.seq + 1, state.hash, bytes(32), 100, 0, 1_000, list(ops)), secrets)
    return state


PACK = [PACK_ID, 1, 300, bytes(32), 0, 0]


@pytest.mark.parametrize("key", ["first", "keyring", "swept", "orphans"])
def test_reserved_rows_cannot_be_set(key: str) -> None:
    with pytest.raises(CorruptError, match="reserved"):
        applied(state_with_a_pack(), [12, key, 5])


def test_swept_pack_cannot_be_published() -> None:
    """Not while it is known to have been swept: PACKS may name it neither in a later record nor in the same one."""
    swept, publish = [7, [PACK_ID]], [2, [PACK], None]
    with pytest.raises(CorruptError, match="swept"):
        applied(state_with_a_pack(), swept, publish)
    state = applied(state_with_a_pack(), swept)
    with pytest.raises(CorruptError, match="swept"):
        applied(state, publish)
    assert applied(state_with_a_pack(), [2, [PACK], None]).packs[PACK_ID][0] == 1


def test_lost_is_refused() -> None:
    with pytest.raises(RefusedError, match="operation 9"):
        applied(state_with_a_pack(), [9, PACK_ID, [0]])


def test_sweep_of_what_is_swept_changes_nothing() -> None:
    """The first SWEEP of a pack counts; of a pack that nobody published, it makes an orphan."""
    state = applied(state_with_a_pack(), [7, [PACK_ID, LEASE_ID]])
    assert (state.packs, state.next_pack) == ({}, 2)
    assert state.swept == {PACK_ID: [PACK_ID, 5, 1_000, 300, 0], LEASE_ID: [LEASE_ID, 5, 1_000, 0, 1]}
    applied(state, [7, [PACK_ID]])
    assert (state.swept[PACK_ID][1], state.config) == (5, {"swept": 5})
    applied(state, [8, [PACK_ID, bytes(16)]])
    assert (list(state.swept), state.config) == ([LEASE_ID], {"swept": 5})
    applied(state, [8, [LEASE_ID]])
    assert (state.swept, state.config) == ({}, {"swept": 5, "orphans": 5})


def test_pins_hold_an_interval_of_versions() -> None:
    """A name's pin holds the version that it had then, whatever happens before and after; the last value counts."""
    state = stranger.State(seq=9, leases={LEASE_ID: [LEASE_ID, 5, 0, 0, "", "pin", ""]}, pins={LEASE_ID: {"name": 5}})
    for removed, version in ((4, 1), (5, 4), (6, 5), (9, 6)):
        state.tombstones[removed, 0] = ("name", version, b"", 0)
    applied(state, [12, "forgotten", None])
    applied(state, [12, "forgotten", "9"])
    assert len(state.tombstones) == 4
    applied(state, [12, "forgotten", 8])
    assert sorted(state.tombstones) == [(6, 0), (9, 0)]
    applied(state, [6, LEASE_ID, "released"], [12, "forgotten", 9])
    assert state.tombstones == {}


# --- the document ------------------------------------------------------------------------------------------------


def test_document_names_what_is_reserved() -> None:
    """The reserved rows, and the sections in their order, are those of docs/format.md."""
    text = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    reserved = set(re.findall(r"^\| `(\w+)` \| [^|]+ \| reserved:", text, re.MULTILINE))
    assert reserved == stranger.RESERVED
    rows = re.findall(r"^\| (\d) ([A-Z]+) \| `\[", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(stranger.SECTIONS)
