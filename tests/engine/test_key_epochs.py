"""Key epochs: who rotates, dies, races or puts old keyrings back loses nobody's data; old keys write nothing."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from bank_scene import content, contents_of, engine_of, memory_place, packs_of, rows_of
from conftest import Start
from counters import count
from test_key_slots import meet_in_one_record

from casbank import Bank, CasbankError, CorruptionError, ErrorKind, InvalidInputError, NotFoundError
from casbank.engine.salt import fresh_salt
from casbank.format.header import Kind, Suite, decode_header, sequence_id
from casbank.format.keyring import keyring_name
from casbank.format.record import Keyring, Op, Put, Record, encode_record
from casbank.index.apply import KEYRING_KEY, official_keyring
from casbank.journal.local import LocalJournal
from casbank.sealing.aead import AeadSealing
from casbank.world import REAL_WORLD

# Does what it is told on a line of standard input, and tells the result, until that ends.
SERVANT = """
import json, sys
from bank_scene import content
from casbank import Bank
place, key = sys.argv[1:]
with Bank.open(place, key_file=key) as bank:
    print(json.dumps("open"), flush=True)
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        if what == "put":
            result = bank.put(arguments[0], content(*arguments)).version
        elif what == "get":
            result = bank.get(arguments[0]) == content(*arguments)
        elif what == "rotate":
            result = bank.keys.rotate()
        elif what == "leave keyring":
            engine = bank._engine
            from casbank.engine.keychange import _official
            result = engine.keys.keyrings.write_next(_official(engine)).name
        else:
            result = [epoch.number for epoch in bank.keys.epochs()]
        print(json.dumps(result), flush=True)
"""

# Rotations and puts; a line of standard output, and of a synced file if there is one, for each that returned.
ROTATE = """
import os, random, sys
from bank_scene import content
from casbank import Bank, ConflictError, StoreError
place, key, own, rounds, log = sys.argv[1:]
chance = random.Random(own)
file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
with Bank.open(place, key_file=key) as bank:
    print("open", flush=True)
    for number in range(int(rounds)):
        if chance.randrange(3) < 2:
            try:
                told = f"epoch {bank.keys.rotate()}"
            except (ConflictError, StoreError) as error:
                if "faster" not in str(error):
                    raise
                told = "lost"
        else:
            size = chance.choice([10, 5000, 60_000])
            name = f"{own}-{number}"
            bank.put(name, content(name, size))
            told = f"put {name} {size}"
        os.write(file, (told + "\\n").encode())
        os.fdatasync(file)
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CASBANK_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(content("key", 32))
    return path


@pytest.fixture(params=["aes-256-gcm", "chacha20-poly1305"])
def bank(place: Path, key: Path, request: pytest.FixtureRequest) -> Iterator[Bank]:
    """A new encrypted bank on disk, of either suite."""
    with Bank.create(place, key_file=key, suite=request.param) as made:
        yield made


class Servant:
    """Another process that has the bank open."""

    def __init__(self, program: Start, place: Path, key: Path) -> None:
        self._child = program(SERVANT, place, key)
        assert self._answer() == "open"

    def __call__(self, *words: object) -> object:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(words) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def end(self) -> None:
        self._child.communicate()
        assert self._child.returncode == 0

    def _answer(self) -> object:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line, "the other process failed"
        return json.loads(line)


def official_of(bank: Bank) -> Keyring:
    with engine_of(bank).follower.read() as snapshot:
        official = official_keyring(snapshot.config(KEYRING_KEY))
    assert official is not None
    return official


def leave_keyring(place: Path, key: Path) -> str:
    """What a client that dies between keyring and record leaves; its name."""
    with Bank.open(place, key_file=key) as bank:
        keys = engine_of(bank).keys
        assert keys is not None
        return keys.keyrings.write_next(official_of(bank)).name


def keyrings_of(place: Path) -> set[str]:
    return {f"keys/{path.name}" for path in (place / "keys").glob("keyring-*")}


def pack_epochs(place: Path) -> set[int]:
    return {decode_header(path.read_bytes()).epoch for path in packs_of(place)}


def record_epochs(bank: Bank) -> list[int]:
    return [decode_header(entry.record).epoch for entry in engine_of(bank).journal.read(0)]


def numbers_of(bank: Bank) -> list[int]:
    return [epoch.number for epoch in bank.keys.epochs()]


# --- rotating --------------------------------------------------------------------------------------------------------


def test_rotation_begins_an_epoch(bank: Bank, place: Path, key: Path) -> None:
    """Old objects stay readable; packs and records that are written from then on say the new epoch in their headers."""
    there = {"before": content(1, 50_000)}
    bank.put("before", there["before"])
    for number in (2, 3):
        packs = set(packs_of(place))
        assert bank.keys.rotate() == number
        there[f"in {number}"] = content(number, 50_000)
        bank.put(f"in {number}", there[f"in {number}"])
        assert {decode_header(path.read_bytes()).epoch for path in set(packs_of(place)) - packs} == {number}
    # Record 1 begins epoch 1; each KEYRING record is still of the epoch before.
    assert record_epochs(bank) == [bank.stats().suite and 1, 1, 1, 2, 2, 3]
    assert numbers_of(bank) == [1, 2, 3]
    assert [epoch.is_current for epoch in bank.keys.epochs()] == [False, False, True]
    assert [epoch.created_ns for epoch in bank.keys.epochs()] == sorted(e.created_ns for e in bank.keys.epochs())
    assert contents_of(bank) == there
    bank.rebuild_index()
    assert contents_of(bank) == there
    bank.close()
    Bank.drop_index(place)
    with Bank.open(place, key_file=key) as again:
        assert contents_of(again) == there
        assert numbers_of(again) == [1, 2, 3]
        assert again.verify_index() == []


def test_rotation_makes_new_secrets(bank: Bank) -> None:
    """The secrets of epochs have nothing in common; the dedup secret is one for all."""
    keys = engine_of(bank).keys
    assert keys is not None
    before = keys.keyrings.dedup_secret
    bank.keys.rotate()
    secrets = [*keys.keyrings.secrets(1), *keys.keyrings.secrets(2)]
    assert len(set(secrets)) == 2
    assert keys.keyrings.dedup_secret == before
    assert not set(secrets) & {before, keys.keyrings.key}


def test_rotation_of_a_bank_in_memory(key: Path) -> None:
    """What lives in memory rotates too."""
    with Bank.create(memory_place(), key_file=key) as bank:
        bank.put("x", content(1, 50_000))
        assert bank.keys.rotate() == 2
        bank.put("y", content(2, 50_000))
        bank.rebuild_index()
        assert contents_of(bank) == {"x": content(1, 50_000), "y": content(2, 50_000)}


def test_open_process_follows(bank: Bank, place: Path, key: Path, program: Start) -> None:
    """Another process that has the bank open reads what was put after a rotation, and writes in the new epoch; and the
    other way round."""
    other = Servant(program, place, key)
    for number in (2, 4, 6):
        assert bank.keys.rotate() == number
        bank.put("mine", content("mine", 40_000 + number))
        assert other("get", "mine", 40_000 + number)
        known = set(packs_of(place))
        other("put", f"theirs {number}", 50_000)
        assert {decode_header(path.read_bytes()).epoch for path in set(packs_of(place)) - known} == {number}
        assert record_epochs(bank)[-1] == number
        assert other("rotate") == number + 1
        assert bank.get(f"theirs {number}") == content(f"theirs {number}", 50_000)
        bank.put("small", b"inline")
        assert record_epochs(bank)[-1] == number + 1
        assert other("epochs") == numbers_of(bank) == [*range(1, number + 2)]
    other.end()


def test_batch_over_a_rotation(bank: Bank) -> None:
    """A batch that began before a rotation commits after it: its packs are of both epochs, its record of the new."""
    with bank.batch() as batch:
        batch.put("x", content("x", 9_000_000))
        bank.keys.rotate()
        batch.put("y", content("y", 9_000_000))
    bank.rebuild_index()
    assert contents_of(bank) == {"x": content("x", 9_000_000), "y": content("y", 9_000_000)}


def test_two_threads_rotate(bank: Bank, place: Path, key: Path) -> None:
    """Two threads whose rotations meet in one record begin two epochs, one behind the other."""
    made: list[int] = []
    meet_in_one_record(bank, [lambda: made.append(bank.keys.rotate())] * 2)
    assert sorted(made) == [2, 3]
    bank.put("x", b"content")
    bank.close()
    Bank.drop_index(place)
    with Bank.open(place, key_file=key) as again:
        assert numbers_of(again) == [1, 2, 3]
        assert again.get("x") == b"content"


def told_in(log: Path) -> tuple[dict[str, bytes], list[int]]:
    """What a run of ROTATE acknowledged: contents of objects, and epochs."""
    objects, epochs = {}, []
    for line in log.read_text().splitlines() if log.exists() else []:
        what, *rest = line.split()
        if what == "put":
            objects[rest[0]] = content(rest[0], int(rest[1]))
        elif what == "epoch":
            epochs.append(int(rest[0]))
    return objects, epochs


def check_all(place: Path, key: Path, logs: Sequence[Path], *, exact: bool) -> None:
    """Every acknowledged put is there without the index, epochs are consecutive, and none was acknowledged twice."""
    objects: dict[str, bytes] = {}
    epochs: list[int] = []
    for log in logs:
        found = told_in(log)
        objects |= found[0]
        epochs += found[1]
    Bank.drop_index(place)
    with Bank.open(place, key_file=key) as bank:
        there = contents_of(bank)
        assert {name: there.get(name) for name in objects} == objects
        numbers = numbers_of(bank)
        assert numbers == [*range(1, len(numbers) + 1)]
        assert len(epochs) == len(set(epochs))
        assert set(epochs) <= set(numbers)
        if exact:
            assert sorted(epochs) == numbers[1:]
            assert there == objects
            # A lost race leaves no keyring.
            assert len(keyrings_of(place)) == len(numbers)


@pytest.mark.parametrize("rounds", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_rivals_lose_no_secret(place: Path, key: Path, program: Start, tmp_path: Path, rounds: int) -> None:
    """Processes that rotate and put in a loop at once: each rotation has its own number, every object is there."""
    Bank.create(place, key_file=key).close()
    logs = [tmp_path / f"log{number}" for number in range(3)]
    children = [program(ROTATE, place, key, f"own{number}", rounds, log) for number, log in enumerate(logs)]
    for child in children:
        assert child.communicate()[0] == "open\n"
    assert [child.returncode for child in children] == [0, 0, 0]
    check_all(place, key, logs, exact=True)


def wait_for_both(log: Path) -> None:
    """Until a put and a rotation were acknowledged."""
    deadline = time.monotonic() + 60
    while not all(told_in(log)) and time.monotonic() < deadline:
        time.sleep(0.005)


def run_kills(program: Start, place: Path, key: Path, folder: Path, rounds: int) -> None:
    Bank.create(place, key_file=key).close()
    chance = random.Random(f"kills {rounds}")
    logs: list[Path] = []
    # Most of a round is the start of an interpreter: the next one starts before the last is killed.
    children = []
    for number in range(rounds):
        logs.append(folder / f"log{number}")
        children.append(program(ROTATE, place, key, f"r{number}", 10**6, logs[-1]))
        if len(children) < 2:
            continue
        assert children[0].stdout.readline() == "open\n"  # type: ignore[union-attr]
        if number % 3:
            # However slow the machine is, most of them get something done.
            wait_for_both(logs[number - 1])
        time.sleep(chance.random() * 0.15)
        children.pop(0).send_signal(signal.SIGKILL)
        if number % 10 == 9:
            while children:
                children.pop().kill()
            time.sleep(0.05)
            check_all(place, key, logs, exact=False)
    while children:
        children.pop().kill()
    time.sleep(0.05)
    check_all(place, key, logs, exact=False)
    assert sum(len(told_in(log)[0]) for log in logs) > rounds // 2
    assert sum(len(told_in(log)[1]) for log in logs) > rounds // 2
    count("kills", rounds)


def test_killed_rotations_lose_nothing(program: Start, place: Path, key: Path, tmp_path: Path) -> None:
    """Processes that rotate and put, killed at random moments: every acknowledged put is there without the index."""
    run_kills(program, place, key, tmp_path, 12)


@pytest.mark.slow
def test_many_killed_rotations_lose_nothing(program: Start, place: Path, key: Path, tmp_path: Path) -> None:
    """The same, many times over."""
    run_kills(program, place, key, tmp_path, 100)


def test_interrupted_rotation_does_not_mislead_the_next_put(
    bank: Bank, place: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is interrupted (Ctrl-C) as soon as its KEYRING record is in the index leaves a bank whose next
    record is of the new epoch: else it would be acknowledged, and nobody could read the journal beyond it."""
    follower = engine_of(bank).follower
    use, calls = follower._on_keyring, iter([KeyboardInterrupt])
    assert use is not None

    def interrupted(official: Keyring) -> None:
        if official.number == 2:
            for error in calls:
                raise error
        use(official)

    monkeypatch.setattr(follower, "_on_keyring", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bank.keys.rotate()
    bank.put("x", b"content")
    assert record_epochs(bank)[-1] == 2
    bank.close()
    Bank.drop_index(place)
    with Bank.open(place, key_file=key) as again:
        assert again.get("x") == b"content"


# --- leftovers -------------------------------------------------------------------------------------------------------


def test_leftover_keyring_harms_nobody(bank: Bank, place: Path, key: Path) -> None:
    """A keyring that never became official changes nothing, for who has the bank open and for who opens it; the next
    rotation takes its number."""
    bank.put("x", content("x", 30_000))
    bank.close()
    left = leave_keyring(place, key)
    with Bank.open(place, key_file=key) as again:
        assert numbers_of(again) == [1]
        again.put("y", content("y", 30_000))
        assert pack_epochs(place) == {1}
        assert again.keys.rotate() == 2
        again.put("z", content("z", 30_000))
        assert official_of(again).name != left
    Bank.drop_index(place)
    with Bank.open(place, key_file=key) as again:
        assert contents_of(again) == {name: content(name, 30_000) for name in "xyz"}
        assert numbers_of(again) == [1, 2]
        assert left in keyrings_of(place)


@pytest.mark.parametrize("has_own_index", [True, False])
def test_leftover_keyring_does_not_hide_the_official_one(
    bank: Bank, place: Path, *, key: Path, program: Start, tmp_path: Path, has_own_index: bool
) -> None:
    """Who has read a leftover keyring, and then meets files of the official one of the same number that another process
    made, reads them and goes on writing."""
    bank.close()
    leave_keyring(place, key)
    with Bank.open(place, key_file=key, cache_dir=tmp_path / "own" if has_own_index else None) as again:
        other = Servant(program, place, key)
        assert other("rotate") == 2
        other("put", "small", 100)
        other("put", "large", 50_000)
        assert again.get("small") == content("small", 100)
        assert again.get("large") == content("large", 50_000)
        again.put("mine", content("mine", 50_000))
        assert other("get", "mine", 50_000)
        assert numbers_of(again) == other("epochs") == [1, 2]
        assert again.verify_index() == []
        again.rebuild_index()
        assert len(contents_of(again)) == 3
        other.end()


@pytest.mark.parametrize("has_own_index", [True, False])
def test_rotation_that_lost_a_race_reads_the_winner_s(
    bank: Bank, place: Path, *, key: Path, program: Start, tmp_path: Path, has_own_index: bool
) -> None:
    """A client that made a keyring, and finds when it wants to make it official that another one did and wrote on,
    takes the next number, and reads everything."""
    bank.close()
    bank = Bank.open(place, key_file=key, cache_dir=tmp_path / "own" if has_own_index else None)
    other = Servant(program, place, key)
    keyrings = engine_of(bank).keys.keyrings  # type: ignore[union-attr]
    write_next = keyrings.write_next
    raced = iter([True])

    def write_then_lose(base: Keyring) -> Keyring:
        made: Keyring = write_next(base)
        for _ in raced:
            assert other("rotate") == 2
            other("put", "small", 100)
            other("put", "large", 50_000)
        return made

    keyrings.write_next = write_then_lose  # type: ignore[method-assign]
    assert bank.keys.rotate() == 3
    assert bank.get("small") == content("small", 100)
    assert bank.get("large") == content("large", 50_000)
    assert numbers_of(bank) == other("epochs") == [1, 2, 3]
    assert len(keyrings_of(place)) == 3
    assert bank.verify_index() == []
    bank.close()
    other.end()


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "another bank's"])
def test_damaged_leftover_keyring_harms_nobody(
    bank: Bank, place: Path, *, key: Path, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A keyring that cannot be read, and that nothing needs, is told of in the log and passed over."""
    bank.put("x", content("x", 30_000))
    data = (place / official_of(bank).name).read_bytes()
    if damage == "another bank's":
        with Bank.create(tmp_path / "other", key_file=key) as other:
            data = (tmp_path / "other" / official_of(other).name).read_bytes()
    spoilt = {"empty": b"", "garbage": content(1, 500), "cut": data[:-1], "another bank's": data}[damage]
    bank.close()
    # Before and behind the good one, in the order of names.
    for random_part in (bytes(8), b"\xff" * 8):
        (place / keyring_name(1, random_part)).write_bytes(spoilt)
    with Bank.open(place, key_file=key) as again:
        assert again.get("x") == content("x", 30_000)
        assert again.keys.rotate() == 2
        again.put("y", b"")
    assert "is of no use" in caplog.text


# --- keyrings that are gone, or older --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deleted", "older in its place", "garbage", "flipped"])
@pytest.mark.parametrize("has_index", [True, False])
def test_lost_newest_keyring_is_told(bank: Bank, place: Path, key: Path, how: str, has_index: bool) -> None:
    """Without the newest keyring what needs it is an error, and what does not is read: never wrong bytes, and nothing
    is written in an older epoch."""
    bank.put("old", content("old", 30_000))
    first = place / official_of(bank).name
    bank.keys.rotate()
    bank.put("new", content("new", 30_000))
    newest = place / official_of(bank).name
    stored, before = newest.read_bytes(), bank.stats().version
    bank.close()
    newest.unlink()
    match how:
        case "older in its place":
            newest.write_bytes(first.read_bytes())
        case "garbage":
            newest.write_bytes(content(1, 500))
        case "flipped":
            newest.write_bytes(stored[:200] + bytes([stored[200] ^ 1]) + stored[201:])
    if has_index:
        with Bank.open(place, key_file=key) as again:
            assert again.get("old") == content("old", 30_000)
            calls = [
                lambda: again.get("new"),
                lambda: again.put("more", b"small"),
                lambda: again.put("more", content("more", 30_000)),
                lambda: again.delete("old"),
                again.keys.rotate,
                again.keys.epochs,
                again.keys.export,
            ]
            for call in calls:
                with pytest.raises(CorruptionError):
                    call()  # type: ignore[no-untyped-call]
            assert again.stats().version == before
            assert sorted(again) == ["new", "old"]
    else:
        Bank.drop_index(place)
        with pytest.raises(CorruptionError) as caught:
            Bank.open(place, key_file=key)
        assert caught.value.kind is ErrorKind.KEYRING
    newest.unlink(missing_ok=True)
    newest.write_bytes(stored)
    with Bank.open(place, key_file=key) as again:
        assert contents_of(again) == {name: content(name, 30_000) for name in ("old", "new")}
        assert again.stats().version == before


def test_lost_older_keyrings_matter_to_nobody(bank: Bank, place: Path, key: Path) -> None:
    """The newest keyring has every secret: without the older ones all is read, and written."""
    there = {}
    for number in range(3):
        there[f"n{number}"] = content(number, 30_000)
        bank.put(f"n{number}", there[f"n{number}"])
        bank.keys.rotate()
    newest = official_of(bank).name
    bank.close()
    for name in keyrings_of(place) - {newest}:
        (place / name).unlink()
    Bank.drop_index(place)
    with Bank.open(place, key_file=key) as again:
        assert contents_of(again) == there
        assert again.keys.rotate() == 5


def test_no_keyring_at_all_is_told(bank: Bank, place: Path, key: Path) -> None:
    """A bank without a keyring does not open, and says what is missing."""
    bank.close()
    for name in keyrings_of(place):
        (place / name).unlink()
    with pytest.raises(CorruptionError) as caught:
        Bank.open(place, key_file=key)
    assert caught.value.kind is ErrorKind.KEYRING


# --- who has an old epoch's secret -----------------------------------------------------------------------------------


class OneEpoch:
    """The secrets of somebody who got hold of one, and claims a number for it."""

    def __init__(self, number: int, secret: bytes) -> None:
        self._epoch = number, secret

    def current(self) -> tuple[int, bytes]:
        return self._epoch

    def secrets(self, number: int) -> Sequence[bytes]:
        return [self._epoch[1]]


def append_by_hand(place: Path, bank_id: bytes, suite: Suite, claimed: int, secret: bytes) -> None:
    """Append a record that puts an object, sealed as if this secret were that of the claimed epoch."""
    journal = LocalJournal(place / "journal", world=REAL_WORLD, quarantine=place / "quarantine")
    template: Op = Put("forged", _descriptor(), None)
    with journal.turn():
        head = journal.head()
        record = Record(head.seq + 1, head.hash, os.urandom(16), os.urandom(16), time.time_ns(), (template,))
        sealing = AeadSealing(bank_id, suite, OneEpoch(claimed, secret))
        seal = sealing.create(Kind.RECORD, sequence_id(record.seq), fresh_salt(REAL_WORLD))
        journal.append(record.seq, encode_record(record, seal))
    journal.close()


def _descriptor() -> bytes:
    from casbank.format.descriptor import Descriptor, encode_descriptor

    return encode_descriptor(Descriptor(6, bytes(32), None, 0, 0, 1, {}, b"forged"))


@pytest.mark.parametrize(
    ("secret_of", "claimed", "accepted"),
    [(2, 2, True), (1, 1, False), (1, 2, False), (2, 1, False), (2, 3, False), (1, 0, False)],
)
@pytest.mark.parametrize("opened", ["open", "closed", "without index"])
def test_record_of_an_old_epoch_is_refused(
    bank: Bank, place: Path, *, key: Path, secret_of: int, claimed: int, accepted: bool, opened: str
) -> None:
    """After a rotation the old epoch's secret writes no record any more, whatever number it claims; only the current
    one does."""
    bank.put("x", b"content")
    bank.keys.rotate()
    engine = engine_of(bank)
    keyrings = engine.keys.keyrings  # type: ignore[union-attr]
    (secret,) = keyrings.secrets(secret_of)
    if opened != "open":
        bank.close()
    append_by_hand(place, engine.descriptor.bank_id, engine.descriptor.suite, claimed, secret)
    if opened == "without index":
        Bank.drop_index(place)

    def read() -> bool:
        if opened == "open":
            return "forged" in bank
        with Bank.open(place, key_file=key) as again:
            return "forged" in again

    if accepted:
        assert read()
        return
    for _ in range(2):
        with pytest.raises(CorruptionError) as caught:
            read()
        assert caught.value.kind in (ErrorKind.RECORD, ErrorKind.KEYRING)


# --- retiring --------------------------------------------------------------------------------------------------------


def test_retiring_marks_an_epoch(bank: Bank, place: Path, key: Path) -> None:
    """A retired epoch is marked, once; what it sealed stays readable; the mark is there without the index."""
    bank.put("x", content("x", 30_000))
    bank.keys.rotate()
    bank.keys.rotate()
    for _ in range(3):
        bank.keys.retire(1)
        version = bank.stats().version
        assert version == 5
    assert [(epoch.number, epoch.is_retired) for epoch in bank.keys.epochs()] == [(1, True), (2, False), (3, False)]
    bank.close()
    Bank.drop_index(place)
    with Bank.open(place, key_file=key) as again:
        assert [epoch.is_retired for epoch in again.keys.epochs()] == [True, False, False]
        assert again.get("x") == content("x", 30_000)


def test_current_epoch_is_not_retired(bank: Bank) -> None:
    """The epoch in which the bank is sealed is not retired, before a rotation or after one."""
    for number in (1, 2):
        with pytest.raises(InvalidInputError):
            bank.keys.retire(number)
        bank.keys.rotate()
    assert not any(epoch.is_retired for epoch in bank.keys.epochs())


@pytest.mark.parametrize("number", [0, -1, 3, 99, 2**64, True, 1.0, "1", b"1", None])
def test_what_is_no_epoch_is_not_retired(bank: Bank, number: object) -> None:
    """What is not the number of an epoch is refused, and no record is written."""
    bank.keys.rotate()
    before = rows_of(bank)["meta"]
    with pytest.raises((NotFoundError, InvalidInputError)):
        bank.keys.retire(number)  # type: ignore[arg-type]
    assert rows_of(bank)["meta"] == before


def test_epoch_of_a_leftover_keyring_is_not_retired(bank: Bank, place: Path, key: Path) -> None:
    """An epoch that was never begun cannot be retired: when it begins it would be retired already."""
    bank.close()
    leave_keyring(place, key)
    with Bank.open(place, key_file=key) as again:
        with pytest.raises(NotFoundError) as caught:
            again.keys.retire(2)
        assert caught.value.kind is ErrorKind.NO_KEY
        again.keys.rotate()
        assert not again.keys.epochs()[-1].is_retired


# --- checkpoints, recovery -------------------------------------------------------------------------------------------


def test_checkpoint_keeps_the_official_keyring(bank: Bank, place: Path, key: Path) -> None:
    """An index that is made from a checkpoint knows the official keyring, retired epochs, and everything put in any
    epoch."""
    engine_of(bank).journal._segment_bytes_max = 2000  # type: ignore[attr-defined]
    there = {}
    for number in range(6):
        for each in range(4):
            name = f"{number} {each}"
            there[name] = content(name, 4000)
            bank.put(name, there[name])
        assert bank.keys.rotate() == number + 2
        assert engine_of(bank).checkpoints.write() is not None
    bank.keys.retire(2)
    assert engine_of(bank).journal.first() > 1
    official = official_of(bank)
    bank.rebuild_index()
    assert official_of(bank) == official
    bank.close()
    leave_keyring(place, key)
    Bank.drop_index(place)
    with Bank.open(place, key_file=key) as again:
        assert official_of(again) == official
        assert contents_of(again) == there
        assert [epoch.is_retired for epoch in again.keys.epochs()] == [False, True, *[False] * 5]
        assert again.keys.rotate() == 8
        again.put("more", b"")
        assert record_epochs_end(again) == 8
        assert again.verify_index() == []


def record_epochs_end(bank: Bank) -> int:
    journal = engine_of(bank).journal
    *_, last = journal.read(journal.head().seq - 1)
    return decode_header(last.record).epoch


def test_recovery_text_of_an_older_epoch(bank: Bank, place: Path, key: Path) -> None:
    """A text that was exported before a rotation opens the bank, whose keyrings are all there; and after the loss of
    keys/ reads what was sealed before, or tells."""
    bank.put("old", content("old", 30_000))
    text = bank.keys.export()
    bank.keys.rotate()
    bank.put("new", content("new", 30_000))
    bank.close()
    with Bank.open(place, recovery=text) as again:
        assert contents_of(again) == {name: content(name, 30_000) for name in ("old", "new")}
    for path in (place / "keys").iterdir():
        path.unlink()
    with Bank.recover(place, text, key_file=key) as again:
        assert again.get("old") == content("old", 30_000)
        with pytest.raises(CorruptionError):
            again.get("new")
        with pytest.raises(CasbankError):
            again.put("more", b"")


def test_recovery_after_everything_is_lost(bank: Bank, place: Path, key: Path, tmp_path: Path) -> None:
    """The text of the current epoch makes a bank without BANK and keys/ readable and writable again."""
    bank.put("old", content("old", 30_000))
    bank.keys.rotate()
    bank.put("new", content("new", 30_000))
    text = bank.keys.export()
    bank.close()
    for path in [*(place / "keys").iterdir(), place / "BANK"]:
        path.unlink()
    Bank.recover(place, text, key_file=key).close()
    Bank.drop_index(place)
    with Bank.open(place, key_file=key) as again:
        assert contents_of(again) == {name: content(name, 30_000) for name in ("old", "new")}
        assert again.keys.rotate() == 3
