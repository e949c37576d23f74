"""No (key, nonce) pair is ever used twice, whatever is written, fails, races, forks or dies.

Each cipher is wrapped by one that notes the hash of its key, the nonce and the process before it encrypts, in a file
that several processes append to. What follows is work on real banks, and a look at that file.
"""

import inspect
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bank_scene import content, contents_of, engine_of
from conftest import Start

from casbank import Bank, ErrorKind, InvalidInputError, StoreError
from casbank.engine import commit, packing
from casbank.engine.packing import PACK_BUFFER_BYTES, PackBuilder, make_group
from casbank.engine.salt import fresh_salt
from casbank.errors import AlreadyExistsError
from casbank.format.header import Kind
from casbank.journal.base import SeqTaken
from casbank.model import EntryType
from casbank.sealing.aead import CIPHERS
from casbank.world import World


def note_encryptions(path: object) -> None:
    """Let every cipher note what it encrypts with: 16 bytes of its key's hash, the nonce, the process."""
    import os
    import struct

    from blake3 import blake3

    from casbank.sealing.aead import CIPHERS

    file = os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def noting(real):  # type: ignore[no-untyped-def]
        class Noting:
            def __init__(self, key: bytes) -> None:
                self._cipher, self._key = real(key), blake3(key).digest(16)
                self.decrypt = self._cipher.decrypt

            def encrypt(self, nonce: bytes, plain: bytes, covered: bytes) -> bytes:
                # Before, so that no kill comes between.
                os.write(file, self._key + nonce + struct.pack("<I", os.getpid()))
                sealed: bytes = self._cipher.encrypt(nonce, plain, covered)
                return sealed

        return Noting

    CIPHERS.update({suite: noting(real) for suite, real in CIPHERS.items()})


def work(bank, seed, steps, key):  # type: ignore[no-untyped-def]  # noqa: C901, PLR0912 - a list of things to do
    """Everything that seals, and much that fails in the middle of it."""
    import random

    from casbank import CasbankError, CorruptionError, ReadOnlyError, StoreError

    chance = random.Random(str(seed))

    def stubbornly(task):  # type: ignore[no-untyped-def]
        for _ in range(4):
            try:
                task()
            except StoreError:
                continue
            return

    def broken_source():  # type: ignore[no-untyped-def]
        yield chance.randbytes(chance.choice([10, 3000, 5_000_000]))
        raise RuntimeError("the source broke")

    for _ in range(steps):
        name, other = (f"n{number}" for number in chance.sample(range(12), 2))
        data = chance.randbytes(chance.choice([0, 100, 100, 3000, 3000, 70_000, 70_000, 300_000]))
        try:
            match chance.randrange(12):
                case 0:
                    bank.delete(name, missing_ok=True)
                case 1 if name in bank:
                    bank.copy(name, other)
                case 2:
                    with bank.batch() as batch:
                        batch.put(name, data)
                        batch.put(other, data[::-1])
                case 3:
                    batch = bank.batch()
                    batch.put(name, chance.randbytes(5_000_000) if chance.randrange(4) == 0 else data)
                    batch.abandon()
                case 4:
                    bank.put(name, broken_source())
                case 5:
                    with bank.batch() as batch:
                        batch.put(name, data)
                        batch.put(other, broken_source())
                case 6:
                    # Again at the same record, if it failed; and an epoch of the same number, below.
                    stubbornly(bank._engine.checkpoints.write)
                case 7:
                    stubbornly(bank.keys.rotate)
                case 8:
                    bank.keys.remove(bank.keys.add(key_file=key).id)
                case 9 if chance.randrange(4) == 0:
                    bank.put(name, chance.randbytes(5_000_000))
                case _:
                    bank.put(name, data)
        except (CorruptionError, ReadOnlyError):
            raise
        except (CasbankError, RuntimeError):
            # What was made to fail, or lost a race.
            continue


CHILD = f"""
import sys
{inspect.getsource(note_encryptions)}
{inspect.getsource(work)}
place, key, notes, seed, steps = sys.argv[1:]
note_encryptions(notes)
from casbank import Bank
with Bank.open(place, key_file=key) as bank:
    print("open", flush=True)
    work(bank, seed, int(steps), key)
print("done", flush=True)
"""


class Notes(NamedTuple):
    """The file with what was encrypted."""

    path: Path

    def rows(self) -> list[tuple[bytes, bytes, int]]:
        data = self.path.read_bytes()
        assert len(data) % 32 == 0
        rows = (data[at : at + 32] for at in range(0, len(data), 32))
        return [(row[:16], row[16:28], int.from_bytes(row[28:], "little")) for row in rows]

    def repeated(self) -> list[tuple[bytes, bytes]]:
        """The pairs of key and nonce that were used more than once."""
        return [pair for pair, times in Counter(row[:2] for row in self.rows()).items() if times > 1]

    def check(self, at_least: int) -> None:
        """What all this is about; and that there was something to see."""
        assert self.repeated() == []
        assert len(self.rows()) >= at_least


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CASBANK_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(content("key", 32))
    return path


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Notes]:
    """Everything that is encrypted while the test runs."""
    before = dict(CIPHERS)
    note_encryptions(tmp_path / "notes")
    yield Notes(tmp_path / "notes")
    CIPHERS.update(before)


class FaultyStore:
    """A store on whose disk there is no room, now and then, and whose answers get lost."""

    def __init__(self, store: Any, seed: object) -> None:
        self._store = store
        self._chance = random.Random(str(seed))

    def put_new(self, name: str, parts: Any) -> None:
        fault = self._chance.randrange(4)
        if fault == 0:
            raise injected(ErrorKind.DISK_FULL)
        self._store.put_new(name, parts)
        if fault == 1:
            raise injected(ErrorKind.OUTCOME_UNKNOWN)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class FaultyJournal:
    """A journal whose numbers others win, whose disk fills up, and whose answers get lost, now and then."""

    def __init__(self, journal: Any, seed: object) -> None:
        self._journal = journal
        self._chance = random.Random(str(seed))

    def append(self, seq: int, record: bytes) -> None:
        fault = self._chance.randrange(5)
        if fault == 0:
            raise SeqTaken(seq)
        if fault == 1:
            raise injected(ErrorKind.DISK_FULL)
        self._journal.append(seq, record)
        if fault == 2:
            raise injected(ErrorKind.OUTCOME_UNKNOWN)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)


def injected(kind: ErrorKind) -> StoreError:
    return StoreError("injected", kind=kind)


def make_faulty(bank: Bank, seed: object) -> None:
    engine = engine_of(bank)
    object.__setattr__(engine.resources, "store", FaultyStore(engine.resources.store, seed))
    keys = engine.keys
    assert keys is not None
    keys.keyrings._store = FaultyStore(keys.keyrings._store, f"keyrings {seed}")
    object.__setattr__(keys.slots, "store", FaultyStore(keys.slots.store, f"slots {seed}"))
    checkpoints: Any = engine.checkpoints
    object.__setattr__(checkpoints._files, "store", FaultyStore(checkpoints._files.store, f"checkpoints {seed}"))
    engine._committer._journal = FaultyJournal(engine._committer._journal, seed)  # type: ignore[assignment]


def salts_that_fail(size: int) -> bytes:
    """A source of randomness that is constant for who draws salts; names and secrets it draws as ever."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return bytes(size) if frame.f_back.f_code.co_name == "fresh_salt" else os.urandom(size)


NO_SALT = World(entropy=salts_that_fail)
LENGTHS = [1, pytest.param(100, marks=pytest.mark.slow)]


# --- the work --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", LENGTHS)
@pytest.mark.parametrize("suite", ["aes-256-gcm", "chacha20-poly1305"])
def test_failing_store_and_journal(place: Path, key: Path, notes: Notes, suite: str, times: int) -> None:
    """Puts, batches, rotations and checkpoints that fail, are tried again or whose answers get lost."""
    with Bank.create(place, key_file=key, suite=suite, world=NO_SALT) as bank:
        make_faulty(bank, suite)
        work(bank, suite, 40 * times, key)
        faulty: Any = engine_of(bank)._committer._journal
        engine_of(bank)._committer._journal = faulty._journal
        bank.put("last", b"")
        contents_of(bank)
    notes.check(60 * times)


@pytest.mark.parametrize("times", LENGTHS)
def test_threads_share_a_bank(place: Path, key: Path, notes: Notes, times: int) -> None:
    """Four threads at once, of which each rotates, writes checkpoints and fails too."""
    with Bank.create(place, key_file=key, world=NO_SALT) as bank:
        threads = [threading.Thread(target=work, args=(bank, seed, 15 * times, key)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        contents_of(bank)
    notes.check(100 * times)


@pytest.mark.parametrize("times", LENGTHS)
def test_processes_and_kills(place: Path, key: Path, notes: Notes, program: Start, times: int) -> None:
    """Two processes on one bank, of which one is killed again and again, and a third that lives through it."""
    chance = random.Random("kills")
    with Bank.create(place, key_file=key) as bank:
        survivor = program(CHILD, place, key, notes.path, "survivor", 20 * times)
        for number in range(3 * times):
            child = program(CHILD, place, key, notes.path, f"dies {number}", 10**6)
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            work(bank, f"parent {number}", 5, key)
            while all(process != child.pid for *_, process in notes.rows()):
                time.sleep(0.001)
            time.sleep(chance.random() * 0.1)
            child.send_signal(signal.SIGKILL)
            child.wait()
        assert survivor.communicate()[0].split() == ["open", "done"]
        contents_of(bank)
    notes.check(60 * times)
    assert len({process for *_, process in notes.rows()}) == 3 * times + 2


# --- forks -----------------------------------------------------------------------------------------------------------


def in_a_child(task: Callable[[], bool]) -> int:
    """Run it in a forked child, which must return True; the child's process id."""
    process = os.fork()
    if process == 0:
        try:
            # Whoever waits for a thread that is not there is ended.
            signal.alarm(10)
            os._exit(0 if task() else 1)
        except BaseException:
            os._exit(2)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return process


@pytest.mark.parametrize("times", LENGTHS)
def test_forked_child_seals_nothing(place: Path, key: Path, notes: Notes, times: int) -> None:
    """A child that goes on with its parent's bank, batch or session is refused, wherever the parent was, and seals
    nothing; the parent goes on; a bank that the child opens for itself seals with keys of its own."""
    children, owners = [], []
    with Bank.create(place, key_file=key, world=NO_SALT) as bank:
        for number in range(3 * times):
            with bank.batch() as batch:
                batch.put("small", content(number, 3000))
                if number % 3 == 1:
                    batch.put("large", content(number, 9_000_000))
                elif number % 3 == 2:
                    batch.put("inline", b"1")
                keys = bank.keys

                def go_on(batch: Any = batch, number: int = number, keys: Any = keys) -> bool:
                    calls: list[Callable[[], object]] = [
                        lambda: batch.put("more", content("more", 50_000)),
                        lambda: batch.put("more", b"1"),
                        batch.commit,
                        lambda: bank.put("child's", content("child", 50_000)),
                        lambda: bank.put("child's", b"1"),
                        lambda: bank.delete("small"),
                        lambda: bank.copy("small", "copy"),
                        bank.batch,
                        keys.rotate,
                        lambda: keys.add(key_file=key),
                        lambda: keys.retire(1),
                        lambda: batch.__exit__(None, None, None),
                    ]
                    if number % 3 != 1:
                        calls.append(batch._session.finish)
                    refused = 0
                    for call in calls:
                        try:
                            call()
                        except InvalidInputError as error:
                            refused += error.kind is ErrorKind.FORKED
                    return refused == len(calls)

                children.append(in_a_child(go_on))
                batch.put("after", content((number, "after"), 100_000))
            bank.put("between", content(number, 1000))

            def begin_anew(number: int = number) -> bool:
                with Bank.open(place, key_file=key, world=NO_SALT) as own:
                    own.put(f"own {number}", content(number, 50_000))
                    return own.get("small") == content(number, 3000)

            owners.append(in_a_child(begin_anew))
        assert bank.get("after") == content((3 * times - 1, "after"), 100_000)
        assert all(bank.get(f"own {number}") == content(number, 50_000) for number in range(3 * times))
    notes.check(50 * times)
    seen = {process for *_, process in notes.rows()}
    assert not seen & set(children)
    assert set(owners) <= seen


def test_source_that_forks(place: Path, key: Path, notes: Notes) -> None:
    """A child that comes to be while a source is read, and that returns into the put, is refused there."""
    with Bank.create(place, key_file=key) as bank:
        parent, children = os.getpid(), []

        def source(size: int) -> Iterator[bytes]:
            yield content(size, size)
            children.append(os.fork())
            if children[-1] == 0:
                signal.alarm(10)
            yield content((size, "end"), size)

        for size in (100, 50_000, 5_000_000):
            try:
                bank.put(f"n{size}", source(size))
            except InvalidInputError as error:
                # Only where nothing comes up to pytest.
                os._exit(0 if os.getpid() != parent and error.kind is ErrorKind.FORKED else 1)
            finally:
                if os.getpid() != parent:
                    os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(children[-1], 0)[1]) == 0
            assert bank.get(f"n{size}") == content(size, size) + content((size, "end"), size)
    notes.check(10)
    assert {process for *_, process in notes.rows()} == {parent}


# --- salts -----------------------------------------------------------------------------------------------------------


def test_salts_differ_without_randomness(tmp_path: Path) -> None:
    """Where the source of randomness is constant no salt comes twice: not in a loop, not in threads that draw at once,
    not in children that were forked at one moment, nor in their children."""
    file = os.open(tmp_path / "salts", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    world = World(entropy=bytes)

    def draw() -> bool:
        for _ in range(500):
            os.write(file, fresh_salt(world))
        return True

    def draw_and_fork() -> bool:
        process = os.fork()
        draw()
        if process == 0:
            os._exit(0)
        os.waitpid(process, 0)
        return True

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # All at one moment: none draws before the last one is there.
    gate_read, gate_write = os.pipe()
    processes = []
    for _ in range(4):
        processes.append(os.fork())
        if processes[-1] == 0:
            os.close(gate_write)
            os.read(gate_read, 1)
            draw_and_fork()
            os._exit(0)
    os.close(gate_write)
    draw()
    for process in processes:
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    os.close(gate_read)
    os.close(file)
    data = (tmp_path / "salts").read_bytes()
    salts = [data[at : at + 16] for at in range(0, len(data), 16)]
    assert len(salts) == 500 * (4 + 8 + 1)
    assert len(set(salts)) == len(salts)


def test_salt_does_not_depend_on_the_moment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that stands still and constant randomness salts differ all the same; and with real randomness they
    cannot be guessed from anything else."""
    from casbank.engine import salt

    monkeypatch.setattr(salt.time, "monotonic_ns", lambda: 5)
    assert len({fresh_salt(World(entropy=bytes)) for _ in range(100)}) == 100
    drawn = []
    for randomness in (bytes(16), bytes([1]) * 16):
        monkeypatch.setattr(salt, "_calls", iter([7]))
        drawn.append(fresh_salt(World(entropy=lambda _, randomness=randomness: randomness)))
    assert drawn[0] != drawn[1]


# --- that this can fail ----------------------------------------------------------------------------------------------


def test_repeated_salt_of_a_record_is_seen(
    place: Path, key: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were salts constant, a record that is sealed again for the same number would repeat a nonce, and be noticed."""
    with Bank.create(place, key_file=key) as bank:
        journal: Any = FaultyJournal(engine_of(bank).journal, 0)
        # The number is lost once, then won; twice over.
        journal._chance.randrange = _Faults([0, 4, 0, 4])
        engine_of(bank)._committer._journal = journal
        bank.put("x", b"")
        assert notes.repeated() == []
        monkeypatch.setattr(commit, "fresh_salt", lambda _: bytes(16))
        bank.put("y", b"")
    assert len(notes.repeated()) == 1


def test_repeated_salt_of_a_pack_is_seen(place: Path, key: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were salts and the ids of packs constant, two packs would share all their nonces, and be noticed."""

    def entropy(size: int) -> bytes:
        frame = inspect.currentframe()
        assert frame is not None
        assert frame.f_back is not None
        return bytes(size) if frame.f_back.f_code.co_qualname == "PackBuilder.__init__" else os.urandom(size)

    def put_two() -> None:
        for number in range(2):
            bank.put(f"n{number}", content((number, "two"), 3000))

    with Bank.create(place, key_file=key, world=World(entropy=entropy)) as bank:
        # The same name twice: refused by the store, and sealed before with another salt.
        with pytest.raises(AlreadyExistsError):
            put_two()
        assert notes.repeated() == []
        monkeypatch.setattr(packing, "fresh_salt", lambda _: bytes(16))
        for number in range(2):
            with pytest.raises(AlreadyExistsError):
                bank.put("more", content((number, "more"), 3000))
    # One entry, two tables, one trailer.
    assert len(notes.repeated()) == 4


def test_builder_is_not_finished_twice(place: Path, key: Path, notes: Notes) -> None:
    """A pack that is finished a second time is refused before it seals anything."""
    with Bank.create(place, key_file=key) as bank:
        resources = engine_of(bank).resources
        builder = PackBuilder(Kind.DATA_PACK, resources.sealing, resources.world, bytearray(PACK_BUFFER_BYTES))
        builder.add(make_group(EntryType.CHUNKS, b"plain" * 100, [(bytes(32), 500)], None))
        builder.finish()
        before = len(notes.rows())
        with pytest.raises(ValueError, match="sealed already"):
            builder.finish()
    assert len(notes.rows()) == before
    notes.check(before)


class _Faults:
    """Faults in a given order."""

    def __init__(self, order: list[int]) -> None:
        self._order = iter(order)

    def __call__(self, _: int) -> int:
        return next(self._order)
