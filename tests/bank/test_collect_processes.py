"""Writers and collectors side by side, killed and stopped: what was acknowledged is there, and the space comes back."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from bank_scene import contents_of, pack_bytes, packs_of
from collect_scene import DAY_S, Clock, collect_now, wait_until
from conftest import Start
from counters import count

from casbank import Bank

# Leases that are over soon, small packs, long puts of a few hundred kilobytes, and checkpoints all the time.
LEASE_OVER_S = 1.2
SMALL = """
from casbank import limits
limits.LEASE_TTL_S_DEFAULT = 0.6
limits.LEASE_MARGIN_S = 0.6
limits.UNPINNED_BYTES_MAX = 2**18
limits.STREAM_KEPT_BYTES_MAX = 2**16
limits.SESSION_PACKS_MAX = 2
limits.SESSION_CHUNKS_MAX = 100
limits.PACK_BYTES_TARGET = 2**18
limits.BATCH_BYTES = 2**16
limits.CHECKPOINT_JOURNAL_BYTES_MIN = 2**16
limits.ORPHAN_AGE_S = 2
"""
CHUNKING = "gear:512/2048/8192"

# An object says in its first line what it must be. Objects share blocks, so that chunks come and go and come again.
CONTENT = """
import random
from functools import cache
from bank_scene import content
@cache
def block(number):
    return content(("block", number), 24_000)
def make(seed):
    chance = random.Random(seed)
    blocks = [block(chance.randrange(30)) for _ in range(chance.choice([0, 1, 2, 4, 25]))]
    return seed.encode() + b"\\n" + b"".join(blocks) + chance.randbytes(chance.choice([0, 5000]))
"""

# Changes its own names until the time is over. A line of its log announces each change, another one tells that it has
# returned, or was refused because a lease had been lost.
WRITE = (
    SMALL
    + CONTENT
    + """
import io, os, sys, time
from pathlib import Path
from casbank import Bank, LeaseError, NotFoundError
place, log, own, seconds = sys.argv[1:]
chance = random.Random(own)
file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
there = {}
def note(what, changes):
    os.write(file, (" ".join([what, *(f"{name}={seed}" for name, seed in changes.items())]) + "\\n").encode())
def source(seed):
    data = make(seed)
    kind = chance.randrange(5)
    if kind == 0:
        return (data[start : start + 10_000] for start in range(0, len(data), 10_000))
    if kind == 1:
        # Left alone until the batch is committed.
        scratch = Path(f"{log} scratch {seed[-1]}")
        scratch.write_bytes(data)
        return scratch
    return [data, bytearray(data), io.BytesIO(data)][kind - 2]
def change(bank, number):
    names = chance.sample([f"{own}{each}" for each in range(12)], 3)
    seeds = [f"{own}-{number}-{part}" for part in range(3)]
    act = chance.randrange(6)
    if act == 0 and names[0] in there:
        return {names[0]: ""}, lambda: bank.delete(names[0])
    if act == 1 and names[0] in there:
        return {names[1]: there[names[0]]}, lambda: bank.copy(names[0], names[1])
    if act == 2:
        changes = dict(zip(names, seeds))
        if names[2] in there:
            changes[names[2]] = ""
        def work():
            with bank.batch() as batch:
                for name, seed in changes.items():
                    if seed:
                        batch.put(name, source(seed))
                    else:
                        batch.delete(name)
        return changes, work
    return {names[0]: seeds[0]}, lambda: bank.put(names[0], source(seeds[0]))
def read(bank, name):
    assert bank.get(name) == make(there[name]), name
    with bank.open_object(name) as opened:
        opened.seek(len(make(there[name])) // 2)
        assert opened.read() == make(there[name])[len(make(there[name])) // 2 :]
until = time.monotonic() + float(seconds)
with Bank.open(place) as bank:
    number = 0
    while time.monotonic() < until:
        number += 1
        changes, work = change(bank, number)
        note("begin", changes)
        try:
            work()
        except LeaseError as error:
            assert error.kind == "lease-lost"
            note("lost", changes)
            continue
        note("done", changes)
        there.update(changes)
        there = {name: seed for name, seed in there.items() if seed}
        if there:
            read(bank, chance.choice(sorted(there)))
        for name in list(bank)[:2]:
            try:
                data = bank.get(name)
            except NotFoundError:
                continue
            assert data == make(data.partition(b"\\n")[0].decode()), name
    assert [lease.id for lease in bank.leases() if lease.pid == os.getpid()] == []
"""
)

COLLECT = (
    SMALL
    + """
import json, os, sys, time
from casbank import Bank, ConflictError
from collect_scene import collect_now
place, seconds = sys.argv[1:]
until = time.monotonic() + float(seconds)
rounds = swept = fenced = conflicts = copied = 0
with Bank.open(place) as bank:
    print("open", flush=True)
    while time.monotonic() < until:
        try:
            report = collect_now(bank, force=True)
        except ConflictError:
            conflicts += 1
            continue
        rounds += 1
        swept += report.swept_packs
        fenced += report.fenced_leases
        copied += report.copied_bytes
print(json.dumps([rounds, swept, fenced, conflicts, copied]), flush=True)
"""
)

# Forks, for each line of standard input, a process that collects until it is killed; tells its id, and when it ended.
NURSERY = (
    SMALL
    + """
import os, sys
from casbank import Bank
from collect_scene import collect_now
for line in sys.stdin:
    begun, begin = os.pipe()
    child = os.fork()
    if child == 0:
        with Bank.open(sys.argv[1]) as bank:
            os.write(begin, b"x")
            while True:
                collect_now(bank, force=True)
                bank.put("inline", line.encode())
    os.close(begin)
    os.read(begun, 1)
    os.close(begun)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
)

_namespace: dict[str, object] = {}
exec(CONTENT, _namespace)  # the same in all processes
make = _namespace["make"]
assert callable(make)


def expectations(log: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What each name must hold (empty if it was deleted), and what was under way when the log ended."""
    certain: dict[str, str] = {}
    under_way: dict[str, str] = {}
    for line in log.read_text().splitlines():
        what, *pairs = line.split(" ")
        names = dict(pair.split("=", 1) for pair in pairs)
        if what == "begin":
            under_way = names
        else:
            certain |= names if what == "done" else {}
            under_way = {}
    return certain, under_way


def check_logs(bank: Bank, logs: list[Path]) -> int:
    """Every name is as its writer was told, and what was under way is there as a whole or not at all; how many."""
    found = contents_of(bank)
    seeds = {name: data.partition(b"\n")[0].decode() for name, data in found.items()}
    for name, data in found.items():
        assert data == make(seeds[name]), name  # type: ignore[operator]
    expected: dict[str, str] = {}
    for log in logs:
        certain, under_way = expectations(log)
        is_done = bool(under_way) and all(seeds.get(name, "") == seed for name, seed in under_way.items())
        expected |= certain | (under_way if is_done else {})
    assert seeds == {name: seed for name, seed in expected.items() if seed}
    return len(seeds)


def stop_for(process: "subprocess.Popen[str]", seconds: float) -> None:
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)


def run_side_by_side(program: Start, folder: Path, seconds: float) -> None:
    place = folder / "bank"
    Bank.create(place, chunking=CHUNKING).close()
    logs = [folder / f"log {own}" for own in "abc"]
    writers = [program(WRITE, place, log, own, seconds) for log, own in zip(logs, "abc", strict=True)]
    collectors = [program(COLLECT, place, seconds) for _ in range(2)]
    end = time.monotonic() + seconds
    wait_until(lambda: all(log.exists() for log in logs))
    chance = random.Random(seconds)
    time.sleep(chance.random())
    writers[0].kill()
    # While the others go on, one at a time loses its lease and does not know it.
    while True:
        stop_for(writers[1], 2 * LEASE_OVER_S)
        time.sleep(0.1 + chance.random() * 0.1)
        stop_for(collectors[1], 2 * LEASE_OVER_S)
        if time.monotonic() + 6 * LEASE_OVER_S > end:
            break
    collectors[0].kill()
    assert [process.wait() for process in (writers[0], collectors[0])] == [-signal.SIGKILL] * 2
    assert [process.wait(timeout=60) for process in (*writers[1:], collectors[1])] == [0] * 3
    assert collectors[1].stdout is not None
    told = json.loads(collectors[1].stdout.read().split("\n")[1])
    assert told[0] > 0
    assert told[1] > 0
    check_what_is_left(place, logs)
    count("kills", 2)


def check_what_is_left(place: Path, logs: list[Path]) -> None:
    with Bank.open(place) as bank:
        assert check_logs(bank, logs) > 3
        assert bank.verify_index() == []
        bank.rebuild_index()
        check_logs(bank, logs)
        collect_now(bank, force=True)
        check_logs(bank, logs)
    Bank.drop_index(place)
    clock = Clock()
    clock.go(2 * DAY_S)
    with Bank.open(place, world=clock.world) as bank:
        check_logs(bank, logs)
        with bank.batch() as batch:
            for name in bank:
                batch.delete(name)
        # The first one ends the leases of the dead.
        for _ in range(2):
            collect_now(bank, force=True)
        assert bank.leases() == []
        assert packs_of(place) == []
        assert bank.verify_index() == []


def test_writers_and_collectors_side_by_side(program: Start, tmp_path: Path) -> None:
    """Of three processes that write and two that collect without graces, some of them killed and some stopped for
    longer than their leases, none fails, nothing that was acknowledged is lost, and all space can be had back."""
    run_side_by_side(program, tmp_path, 8)


@pytest.mark.slow
def test_writers_and_collectors_side_by_side_for_long(program: Start, tmp_path: Path) -> None:
    """The same, for longer."""
    run_side_by_side(program, tmp_path, 60)


def run_killed_collectors(program: Start, place: Path, rounds: int) -> None:
    chance = random.Random(rounds)
    nursery = program(NURSERY, place)
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    there: dict[str, bytes] = {}
    with Bank.create(place, chunking=CHUNKING) as bank:
        for number in range(rounds):
            with bank.batch() as batch:
                for each in range(10):
                    name, data = f"{number}/{each}", chance.randbytes(chance.randrange(60_000))
                    batch.put(name, data)
                    there[name] = data
            gone = chance.sample(sorted(there), len(there) // 2)
            with bank.batch() as batch:
                for name in gone:
                    batch.delete(name)
                    del there[name]
            nursery.stdin.write(f"{number}\n")
            nursery.stdin.flush()
            child = int(nursery.stdout.readline())
            time.sleep(chance.random() * 0.12)
            os.kill(child, signal.SIGKILL)
            assert int(nursery.stdout.readline()) == signal.SIGKILL
            bank.delete("inline", missing_ok=True)
            assert contents_of(bank) == there
        assert bank.verify_index() == []
        bank.rebuild_index()
        assert contents_of(bank) == there
    clock = Clock()
    clock.go(2 * DAY_S)
    with Bank.open(place, world=clock.world) as bank:
        for _ in range(2):
            collect_now(bank, force=True)
            bank.put("inline", b"changed")
        assert bank.leases() == []
        assert {path.name for path in packs_of(place)} == _live(bank)
        assert pack_bytes(place) < 2 * sum(map(len, there.values())) + 100_000
        assert contents_of(bank) == there | {"inline": b"changed"}
    count("kills", rounds)


def _live(bank: Bank) -> set[str]:
    engine = bank._engine
    assert engine is not None
    with engine.follower.read() as snapshot:
        return {row.info.id.hex() for _, row in snapshot.packs()}


def test_killed_collectors(program: Start, place: Path) -> None:
    """After a collector was killed at any moment everything is readable, by whom had the bank open all the time; the
    next ones go on, and at last the space is free."""
    run_killed_collectors(program, place, 20)


@pytest.mark.slow
def test_many_killed_collectors(program: Start, place: Path) -> None:
    """The same, many times over."""
    run_killed_collectors(program, place, 200)
