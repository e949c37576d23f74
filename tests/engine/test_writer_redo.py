"""Writers whose packs are swept under their hands: they store again what is gone, or say that they cannot."""

import io
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bank_scene import MIB, content, contents_of, memory_place, packs_of
from collect_scene import DAY_S, LEASE_GONE_S, Clock, Servant, collect_now
from collect_scene import SERVANT as SERVANT_PROGRAM

import casbank
from casbank import (
    AlreadyExistsError,
    Bank,
    CasbankError,
    ConflictError,
    ErrorKind,
    LeaseError,
    NotFoundError,
    StoreError,
    limits,
)
from casbank.engine.batch import Batch
from casbank.engine.writer import Session

SIZE = 2 * MIB
CHUNKING = "fixed:4096"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small buffers, so that a put of two mebibytes is a long way."""
    monkeypatch.setattr(limits, "BATCH_BYTES", 65_536)


@pytest.fixture
def bank(place: Path) -> Iterator[Bank]:
    with Bank.create(place, chunking=CHUNKING) as made:
        yield made


@pytest.fixture(scope="module")
def servant() -> Iterator[Servant]:
    """Another process, which sweeps."""
    folders = [Path(casbank.__path__[0]).parent, Path(__file__).parent.parent]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    pipe, command = subprocess.PIPE, [sys.executable, "-c", SERVANT_PROGRAM]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as child:
        yield Servant(child)
        assert child.stdin is not None
        child.stdin.close()


def once(monkeypatch: pytest.MonkeyPatch, where: str, act: Callable[[], object]) -> list[str]:
    """Let ``act`` happen at the first commit: before what was read is sealed, or behind that. Tells that it did."""
    happened: list[str] = []

    def first() -> None:
        if not happened:
            happened.append(where)
            act()

    finish, commit = Session.finish, Batch._commit

    def finished(self: Session) -> Any:
        packs = finish(self)
        first()
        return packs

    def committed(self: Batch) -> int:
        first()
        return commit(self)

    if where == "sealed":
        monkeypatch.setattr(Session, "finish", finished)
    else:
        monkeypatch.setattr(Batch, "_commit", committed)
    return happened


def source_of(kind: str, folder: Path, data: bytes) -> Any:
    path = folder / "source"
    path.write_bytes(data)
    match kind:
        case "path":
            return path
        case "file":
            return path.open("rb")
        case "file from the middle":
            file = io.BytesIO(b"not this" + data)
            file.seek(8)
            return file
        case "short stream":
            return iter([data[:100_000], data[100_000:]])
        case _:
            return {"bytes": bytes, "bytearray": bytearray, "memoryview": memoryview}[kind](data)


def check(bank: Bank, there: dict[str, bytes]) -> None:
    assert bank.leases() == []
    assert contents_of(bank) == there
    assert bank.verify_index() == []
    bank.rebuild_index()
    assert contents_of(bank) == there


# --- what can be read twice ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["read", "sealed"])
@pytest.mark.parametrize(
    "kind", ["bytes", "bytearray", "memoryview", "path", "file", "file from the middle", "short stream"]
)
def test_swept_before_the_commit(
    bank: Bank,
    place: Path,
    tmp_path: Path,
    *,
    servant: Servant,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    where: str,
) -> None:
    """What a put found in the bank, and a collector of another process took before it committed, is stored again."""
    data = content("x", SIZE)
    bank.put("old", data)
    old = set(packs_of(place))
    source = source_of(kind, tmp_path, data)
    happened = once(monkeypatch, where, lambda: servant.sweep(place, "old"))
    info = bank.put("new", source, metadata={"k": "v"}, digest=True)
    assert happened == [where]
    assert not old & set(packs_of(place))
    assert bank.head("new") == info
    check(bank, {"new": data})
    if hasattr(source, "close"):
        source.close()


@pytest.mark.parametrize("grace_s", [0, DAY_S])
@pytest.mark.parametrize("later_s", [0, 2 * DAY_S])
def test_own_packs_swept_before_the_commit(
    bank: Bank, place: Path, servant: Servant, *, monkeypatch: pytest.MonkeyPatch, later_s: float, grace_s: float
) -> None:
    """What a slow put has stored and not published may be taken for an orphan by a clock that is ahead: it is stored
    again, under another id, whether what was swept is deleted already or not."""
    data = content("x", SIZE)
    swept: list[int] = []
    once(monkeypatch, "sealed", lambda: swept.append(servant.sweep(place, later_s=later_s, grace_s=grace_s)))
    bank.put("new", data)
    assert [number > 0 for number in swept] == [later_s > 0]
    check(bank, {"new": data})


def test_copy_and_inline_need_nothing(
    bank: Bank, place: Path, servant: Servant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An inline put, and a copy of what is there, go through a sweep."""
    bank.put("old", content("x", SIZE))
    bank.put("b", content("b", SIZE))
    once(monkeypatch, "read", lambda: servant.sweep(place, "old"))
    bank.put("a", b"inline")
    bank.copy("b", "c")
    check(bank, {"a": b"inline", "b": content("b", SIZE), "c": content("b", SIZE)})
    with pytest.raises(NotFoundError):
        bank.copy("old", "d")


@pytest.mark.parametrize("change", ["same length", "longer", "shorter", "inline", "gone"])
def test_source_that_changed_between_two_readings(
    bank: Bank,
    place: Path,
    tmp_path: Path,
    *,
    servant: Servant,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    """A file that is another one when it is read again is refused, and nothing of it is visible."""
    data = content("x", SIZE)
    bank.put("old", data)
    path = tmp_path / "source"
    path.write_bytes(data)

    def act() -> None:
        servant.sweep(place, "old")
        if change == "gone":
            path.unlink()
        else:
            new = {"same length": data[:-1] + b"?", "longer": data + b"?", "shorter": data[:-1], "inline": b"?"}
            path.write_bytes(new[change])

    happened = once(monkeypatch, "sealed", act)
    if change == "gone":
        with pytest.raises(StoreError):
            bank.put("new", path)
    else:
        with pytest.raises(ConflictError) as refused:
            bank.put("new", path)
        assert refused.value.kind is ErrorKind.SOURCE_CHANGED
    assert happened
    check(bank, {})


def test_buffer_that_changed_between_two_readings(
    bank: Bank, place: Path, servant: Servant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for a buffer of the caller's."""
    data = bytearray(content("x", SIZE))
    bank.put("old", data)

    def act() -> None:
        servant.sweep(place, "old")
        data[1000] ^= 1

    once(monkeypatch, "sealed", act)
    with pytest.raises(ConflictError) as refused:
        bank.put("new", data)
    assert refused.value.kind is ErrorKind.SOURCE_CHANGED
    check(bank, {})


@pytest.mark.parametrize("where", ["read", "sealed"])
def test_batch_is_stored_again(
    bank: Bank,
    place: Path,
    tmp_path: Path,
    *,
    servant: Servant,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """Everything in a batch is there behind a sweep of what some of it relied on."""
    shared, fresh = content("x", SIZE), content("y", SIZE)
    bank.put("old", shared)
    bank.put("gone", b"")
    path = tmp_path / "source"
    path.write_bytes(shared[: SIZE // 2] + fresh)
    once(monkeypatch, where, lambda: servant.sweep(place, "old"))
    with bank.batch() as batch:
        batch.put("bytes", shared)
        batch.put("path", path)
        batch.put("short stream", (shared[start : start + 5000] for start in range(0, SIZE, 5000)))
        batch.put("inline", b"1")
        batch.put("fresh", fresh)
        batch.delete("gone")
    check(
        bank,
        {"bytes": shared, "path": path.read_bytes(), "short stream": shared, "inline": b"1", "fresh": fresh},
    )


def test_conditions_hold_behind_a_sweep(
    bank: Bank, place: Path, servant: Servant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A condition that no longer holds when the put tries again is told, and no lease is left."""
    data = content("x", SIZE)
    bank.put("old", data)

    def act() -> None:
        servant.sweep(place, "old")
        # Not by the patched way.
        bank.copy("taken", "new")

    bank.put("taken", b"taken")
    once(monkeypatch, "sealed", act)
    with pytest.raises(AlreadyExistsError):
        bank.put("new", data, if_absent=True)
    check(bank, {"taken": b"taken", "new": b"taken"})


@pytest.mark.parametrize("is_hashed", [False, True])
def test_batch_goes_on_behind_a_source_that_is_gone(
    bank: Bank, place: Path, tmp_path: Path, servant: Servant, is_hashed: bool
) -> None:
    """A batch that had to begin anew, and could not read one of its sources again, never commits an object that is not
    whole, even if its user goes on."""
    expected = {"a": content("x", SIZE), "b": content("y", SIZE)}
    bank.put("old", expected["a"])
    batch = bank.batch()
    for name, data in expected.items():
        (tmp_path / name).write_bytes(data)
        batch.put(name, tmp_path / name)
    if is_hashed:
        # Pushes everything that came before through the workers, and is replaced.
        batch.put("c", content("z", MIB))
        batch.put("c", expected.setdefault("c", b"1"))
    servant.sweep(place, "old")
    (tmp_path / "a").unlink()
    with pytest.raises(CasbankError):
        batch.put("stream", (content(number, MIB) for number in range(10)))
    try:
        batch.commit()
    except CasbankError:
        batch.abandon()
    check(bank, {name: expected[name] for name in bank})


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is longer than 64 KiB is a stream that cannot be kept."""
    monkeypatch.setattr(limits, "STREAM_KEPT_BYTES_MAX", 65_536)


def stream(data: bytes, at: dict[int, Callable[[], object]], step: int = 32_768) -> Iterator[bytes]:
    """Parts of ``data``; before the part of a number, something happens."""
    for number, start in enumerate(range(0, len(data), step)):
        at.get(number, lambda: None)()
        yield data[start : start + step]
    at.get(-1, lambda: None)()


@pytest.mark.usefixtures("kept_little")
def test_stream_holds_a_lease(bank: Bank, place: Path, servant: Servant) -> None:
    """A stream that is too long to be kept holds a write lease, with pins, which others see; it ends with the put."""
    data = content("x", SIZE)
    bank.put("old", data)
    seen: list[Any] = []
    info = bank.put(
        "new", stream(data, {0: lambda: seen.append(bank.leases()), -1: lambda: seen.append(bank.leases())})
    )
    assert info.size == SIZE
    assert seen[0] == []
    ((lease,),) = (seen[1],)
    assert (lease.kind, lease.owner) == ("write", "casbank")
    assert lease.pins > 0
    assert servant.leases(place) == []
    # As long as that fits, it is kept.
    bank.put("short", stream(data[:60_000], {-1: lambda: seen.append(bank.leases())}))
    assert seen[2] == []
    check(bank, {"old": data, "new": data, "short": data[:60_000]})


@pytest.mark.usefixtures("kept_little")
@pytest.mark.parametrize("at", [0, 3, 20, 63, -1])
@pytest.mark.parametrize("publishes", [False, True])
def test_stream_under_collections(
    bank: Bank,
    place: Path,
    servant: Servant,
    *,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    publishes: bool,
) -> None:
    """A stream whose lease was not fenced never fails, whenever what it has in common with others is deleted and
    collected; what it relied on is kept for it, or stored again."""
    if publishes:
        monkeypatch.setattr(limits, "SESSION_PACKS_MAX", 1)
        monkeypatch.setattr(limits, "PACK_BYTES_TARGET", 131_072)
    data = content("x", SIZE)
    mixed = b"".join(data[start : start + 65_536] + content(start, 8192) for start in range(0, SIZE, 65_536))
    bank.put("old", data)
    acts = {number: lambda: servant.sweep(place) for number in (2, 10, 30, 50)}
    bank.put("new", stream(mixed, acts | {at: lambda: servant.sweep(place, "old")}))
    servant.sweep(place)
    check(bank, {"new": mixed})


@pytest.mark.usefixtures("kept_little")
@pytest.mark.parametrize("publishes", [False, True])
@pytest.mark.parametrize("times", [1, 3])
def test_fenced_stream_goes_on(
    bank: Bank,
    place: Path,
    servant: Servant,
    *,
    monkeypatch: pytest.MonkeyPatch,
    publishes: bool,
    times: int,
) -> None:
    """A stream whose lease was ended while everything that it relies on is still there goes on."""
    if publishes:
        monkeypatch.setattr(limits, "SESSION_PACKS_MAX", 1)
        monkeypatch.setattr(limits, "PACK_BYTES_TARGET", 131_072)
    data = content("x", SIZE)
    bank.put("old", data[: SIZE // 2])
    released: list[int] = []
    acts = {number: lambda: released.append(servant.release_all(place)) for number in (50, 20, -1)[:times]}
    bank.put("new", stream(data, acts))
    # Who needs no more pins notices nothing, and takes no other lease.
    assert released[0] == 1
    check(bank, {"old": data[: SIZE // 2], "new": data})


@pytest.mark.usefixtures("kept_little")
@pytest.mark.parametrize("where", ["in others' packs", "in its own", "in its own, as orphans"])
def test_fenced_stream_that_lost_something_fails(
    bank: Bank, place: Path, servant: Servant, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A stream that was fenced, and what it relied on swept, fails; nothing of it is visible, and no lease is left."""
    data = content("x", SIZE)
    if where == "in others' packs":
        bank.put("old", data)
    elif where == "in its own":
        monkeypatch.setattr(limits, "SESSION_PACKS_MAX", 1)
    monkeypatch.setattr(limits, "PACK_BYTES_TARGET", 131_072)
    names = ["old"] if where == "in others' packs" else []
    later_s = 2 * DAY_S if "orphans" in where else LEASE_GONE_S
    swept: list[int] = []

    def act() -> None:
        servant.release_all(place)
        swept.append(servant.sweep(place, *names, later_s=later_s))

    with pytest.raises(LeaseError) as lost:
        bank.put("new", stream(data, {50: act}))
    assert lost.value.kind is ErrorKind.LEASE_LOST
    assert swept[0] > 0
    check(bank, {})
    bank.put("new", data)
    check(bank, {"new": data})


# --- long puts -------------------------------------------------------------------------------------------------------


class Watching(io.BytesIO):
    """A source that looks at the bank's leases now and then."""

    def __init__(self, data: bytes, look: Callable[[], object], fail_at: int | None = None) -> None:
        super().__init__(data)
        self.seen: list[Any] = []
        self._look = look
        self._fail_at = fail_at

    def readinto(self, target: Any) -> int:
        if self._fail_at is not None and self.tell() >= self._fail_at:
            raise ZeroDivisionError
        self.seen.append(self._look())
        return super().readinto(target)


def put_and_fail(batch: Batch, data: bytes) -> None:
    batch.put("x", data)
    raise ZeroDivisionError


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads more than 256 KiB is a long put."""
    monkeypatch.setattr(limits, "UNPINNED_BYTES_MAX", 2**18)


@pytest.mark.usefixtures("short_patience")
def test_long_put_holds_a_lease(bank: Bank) -> None:
    """A put that reads much holds a lease from then on, and lets go of it with the record that makes it visible."""
    data = content("x", SIZE)
    source = Watching(data, lambda: [lease.kind for lease in bank.leases()])
    bank.put("x", source)
    assert source.seen[0] == source.seen[1] == []
    assert source.seen[-1] == ["write"]
    version = bank.stats().version
    assert bank.head("x").version == version
    check(bank, {"x": data})


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize(
    "how",
    [
        "source fails",
        "condition fails",
        "batch fails",
        "abandoned",
        "dropped",
        "condition of a batch",
    ],
)
def test_no_lease_is_left(bank: Bank, how: str) -> None:
    """A long put or batch that ends without a commit holds nothing any more."""
    data = content("x", SIZE)
    bank.put("there", b"")
    match how:
        case "source fails":
            with pytest.raises(ZeroDivisionError):
                bank.put("x", Watching(data, lambda: None, SIZE // 2))
        case "condition fails":
            with pytest.raises(AlreadyExistsError):
                bank.put("there", data, if_absent=True)
        case "batch fails":
            with pytest.raises(ZeroDivisionError), bank.batch() as batch:
                put_and_fail(batch, data)
        case "abandoned":
            batch = bank.batch()
            batch.put("x", data)
            assert len(bank.leases()) == 1
            batch.abandon()
        case "dropped":
            batch = bank.batch()
            batch.put("x", data)
            batch.put("there", b"2")
            batch.commit()
            bank.delete("x")
            bank.put("there", b"")
        case _:
            with pytest.raises(AlreadyExistsError), bank.batch() as batch:
                batch.put("there", data, if_absent=True)
    check(bank, {"there": b""})


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize("fenced", ["not fenced", "released", "swept", "orphaned"])
@pytest.mark.parametrize("publishes", [False, True])
def test_long_batch_of_files_survives_everything(
    bank: Bank,
    place: Path,
    tmp_path: Path,
    *,
    servant: Servant,
    monkeypatch: pytest.MonkeyPatch,
    fenced: str,
    publishes: bool,
) -> None:
    """A long batch of files is whole whatever becomes of its lease, and of what it had stored: it reads again."""
    if publishes:
        monkeypatch.setattr(limits, "SESSION_PACKS_MAX", 2)
        monkeypatch.setattr(limits, "SESSION_CHUNKS_MAX", 64)
        monkeypatch.setattr(limits, "PACK_BYTES_TARGET", 131_072)
    data = {f"{number}": content("x", SIZE // 2) + content(number, 300_000) for number in range(4)}
    bank.put("old", content("x", SIZE // 2))
    for name, each in data.items():
        (tmp_path / name).write_bytes(each)
    with bank.batch() as batch:
        for name in data:
            batch.put(name, tmp_path / name)
            if name == "1":
                if fenced == "released":
                    assert servant.release_all(place) == 1
                names = ["old"] if fenced != "released" else []
                servant.sweep(place, *names, later_s={"swept": LEASE_GONE_S, "orphaned": 2 * DAY_S}.get(fenced, 0))
    expected = data | ({"old": content("x", SIZE // 2)} if fenced == "released" else {})
    check(bank, expected)


@pytest.mark.usefixtures("short_patience")
def test_publishing_in_between(bank: Bank, place: Path, servant: Servant, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long put that publishes as it goes loses nothing to the collections between, and shows nothing before its
    end; what a failed one has published is free at once."""
    monkeypatch.setattr(limits, "SESSION_PACKS_MAX", 1)
    monkeypatch.setattr(limits, "SESSION_CHUNKS_MAX", 32)
    monkeypatch.setattr(limits, "PACK_BYTES_TARGET", 65_536)
    data = content("x", SIZE)

    def look() -> int:
        servant.sweep(place)
        assert list(bank) == []
        return bank.stats().packs

    with pytest.raises(ZeroDivisionError):
        bank.put("x", Watching(data, look, SIZE // 2))
    bank.put("change", b"")
    servant.sweep(place, "change")
    assert packs_of(place) == []
    source = Watching(data, look)
    bank.put("x", source, digest=True)
    assert max(source.seen) > 10
    check(bank, {"x": data})


# --- everything at random --------------------------------------------------------------------------------------------


class Adversary:
    """Deletes, collects and fences at random moments of a put, by a clock that jumps."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.bank = Bank.create(memory_place(), chunking="gear:512/2048/8192", world=self.clock.world)
        self.there: dict[str, bytes] = {}
        self.busy: set[str] = set()
        self.blocks = [self.chance.randbytes(30_000) for _ in range(12)]

    def disturb(self) -> None:
        if self.chance.random() < 0.6:
            return
        for name in self.chance.sample(sorted(self.there), len(self.there) // 3):
            if name not in self.busy:
                self.bank.delete(name)
                del self.there[name]
        self.clock.go(self.chance.choice([0, 0, 0, LEASE_GONE_S, 2 * DAY_S]))
        collect_now(self.bank, force=True)

    def stream(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), 40_000):
            self.disturb()
            yield data[start : start + 40_000]
        self.disturb()

    def source(self, data: bytes) -> Any:
        match self.chance.randrange(3):
            case 0:
                return data
            case 1:
                return self.stream(data)
            case _:
                return Watching(data, self.disturb)

    def make(self) -> bytes:
        number = self.chance.choice([0, 1, 3, 9])
        return b"".join(self.chance.choice(self.blocks) for _ in range(number)) + self.chance.randbytes(100)

    def put(self, number: int) -> None:
        made = {f"{number}": self.make()}
        if self.chance.random() < 0.4:
            made |= {f"{number}/{each}": self.make() for each in range(3)}
        before = dict(self.there)
        try:
            with self.bank.batch() as batch:
                for name, data in made.items():
                    if len(made) == 1:
                        self.bank.put(name, self.source(data))
                    else:
                        batch.put(name, self.source(data) if self.chance.random() < 0.5 else data)
                        self.disturb()
        except LeaseError:
            pass
            assert not any(name in self.bank for name in made)
            assert self.there.items() <= before.items()
        else:
            self.there |= made
        assert self.bank.leases() == []
        assert contents_of(self.bank) == self.there


@pytest.mark.parametrize("seed", range(8))
def test_puts_under_an_adversary(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Whatever is deleted, collected, fenced or taken for an orphan at any moment of a put: what it returned from is
    there, and it fails only with LeaseError, and then with nothing visible."""
    for name, value in {
        "STREAM_KEPT_BYTES_MAX": 50_000,
        "UNPINNED_BYTES_MAX": 200_000,
        "SESSION_PACKS_MAX": 2,
        "SESSION_CHUNKS_MAX": 50,
        "PACK_BYTES_TARGET": 60_000,
    }.items():
        monkeypatch.setattr(limits, name, value)
    adversary = Adversary(seed)
    with adversary.bank as bank:
        deadline = time.monotonic() + 20
        for number in range(15):
            adversary.put(number)
            assert time.monotonic() < deadline
        assert bank.verify_index() == []
        before = contents_of(bank)
        bank.rebuild_index()
        assert contents_of(bank) == before == adversary.there
