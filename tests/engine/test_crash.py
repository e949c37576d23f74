"""kill -9 at random moments: what was acknowledged is there, and nothing is there by half."""

import random
import signal
import time
from pathlib import Path

import pytest
from bank_scene import content, contents_of, rows_of
from conftest import Start

from casbank import Bank

# Puts, overwrites, batches and deletes until it is killed. A line, synced, tells of each change once it has returned;
# another one announces it, so that what was under way at the kill is known too.
WRITE = """
import os, random, sys
from bank_scene import content
from casbank import Bank, NotFoundError
place, log, own, seed = sys.argv[1:]
chance = random.Random(seed)
file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(what, names):
    os.write(file, (what + " " + " ".join(f"{name}={seed}" for name, seed in names) + "\\n").encode())
    os.fdatasync(file)
with Bank.open(place) as bank:
    for number in range(10**6):
        act = chance.randrange(6)
        names = [(f"{own}{chance.randrange(30)}", f"{own}-{number}-{part}") for part in range(3)]
        if act == 0:
            names = list(dict(names).items())
            note("begin", names)
            with bank.batch() as batch:
                for name, seed in names:
                    batch.put(name, content(seed, int(seed.split("-")[1]) * 7919 % 60_000))
        elif act == 1:
            names = [(names[0][0], "")]
            note("begin", names)
            bank.delete(names[0][0], missing_ok=True)
        else:
            size = number * 7919 % (60_000 if act < 5 else 3_000_000)
            names = [(names[0][0], f"{own}-{number}-{size}-size")]
            note("begin", names)
            bank.put(names[0][0], content(names[0][1], size), digest=True)
        note("done", names)
"""


def size_of(seed: str) -> int:
    fields = seed.split("-")
    return int(fields[2]) if fields[-1] == "size" else int(fields[1]) * 7919 % 60_000


def meant_by(seed: str) -> bytes | None:
    return content(seed, size_of(seed)) if seed else None


def expectations(log: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What each name must hold (the seed of its content, empty if deleted), and what was under way at the kill."""
    certain: dict[str, str] = {}
    under_way: dict[str, str] = {}
    for line in log.read_text().splitlines() if log.exists() else []:
        what, *pairs = line.split(" ")
        names = dict(pair.split("=", 1) for pair in pairs)
        if what == "begin":
            under_way = names
        else:
            certain |= names
            under_way = {}
    return certain, under_way


def check(place: Path, logs: dict[str, Path]) -> None:
    """Open the bank as anybody would, and compare every object with what its writer was told."""
    with Bank.open(place) as bank:
        found = contents_of(bank)
        assert sorted(found) == list(bank)
        for own, log in logs.items():
            certain, under_way = expectations(log)
            states = []
            for name in certain.keys() | under_way.keys() | {name for name in found if name.startswith(own)}:
                allowed = {certain.get(name, "")}
                if name in under_way:
                    allowed.add(under_way[name])
                holds = [seed for seed in allowed if meant_by(seed) == found.get(name)]
                assert holds, (name, allowed, len(found.get(name, b"")))
                if name in under_way and certain.get(name, "") != under_way[name]:
                    states.append(holds == [under_way[name]])
            # A batch is there as a whole or not at all.
            assert len(set(states)) <= 1, (under_way, states)
        before = rows_of(bank)
        bank.rebuild_index()
        assert rows_of(bank) == before


def run_rounds(program: Start, folder: Path, rounds: int, seed: object) -> None:
    chance = random.Random(str(seed))
    place = folder / "bank"
    Bank.create(place).close()
    for number in range(rounds):
        logs = {own: folder / f"log {own} {number}" for own in (f"{letter}{number}." for letter in "abc")}
        writers = [program(WRITE, place, log, own, chance.random()) for own, log in logs.items()]
        deadline = time.monotonic() + 10
        while not all(log.exists() for log in logs.values()) and time.monotonic() < deadline:
            time.sleep(0.01)
        for writer in writers:
            time.sleep(chance.random() * 0.25)
            writer.send_signal(signal.SIGKILL)
        for writer in writers:
            assert writer.wait() == -signal.SIGKILL
        assert sum(len(expectations(log)[0]) for log in logs.values()) > 0
        check(place, logs)


def test_killed_writers_lose_nothing(program: Start, tmp_path: Path) -> None:
    """Of three processes that are killed while they write, each acknowledged change is there, and the next open needs
    nobody's help."""
    run_rounds(program, tmp_path, 4, "few")


@pytest.mark.slow
def test_killed_writers_lose_nothing_in_many_rounds(program: Start, tmp_path: Path) -> None:
    """The same, many times over."""
    run_rounds(program, tmp_path, 60, "many")


def test_temporary_files_of_the_dead_are_removed(program: Start, tmp_path: Path) -> None:
    """What a killed writer had half written is gone after the next opening."""
    place = tmp_path / "bank"
    Bank.create(place).close()
    writer = program(
        "import sys\nfrom bank_scene import content\nfrom casbank import Bank\nbank = Bank.open(sys.argv[1])\n"
        "print('open', flush=True)\nwhile True: bank.put('x', content(bank.stats().version, 30_000_000))",
        place,
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    deadline = time.monotonic() + 20
    while not any((place / "tmp").glob("*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    writer.kill()
    writer.wait()
    with Bank.open(place) as bank:
        assert list((place / "tmp").iterdir()) == []
        assert all(len(data) == 30_000_000 for data in contents_of(bank).values())
