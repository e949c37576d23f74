"""kill -9 at random moments: what was acknowledged is there, and nothing is there by half."""

import random
import signal
import time
from pathlib import Path

import pytest
from bank_scene import contents_of, rows_of
from collect_scene import wait_until
from conftest import Start
from counters import count
from crash_scene import Job, acknowledged, argument_of, check_bank
from nursery import NURSERY, Nursery

from casbank import Bank


def run_rounds(program: Start, folder: Path, rounds: int) -> None:
    chance = random.Random(rounds)
    place = folder / "bank"
    Bank.create(place).close()
    nurseries = [Nursery(program(NURSERY)) for _ in range(3)]
    settled: dict[str, str] = {}
    told = 0
    for number in range(rounds):
        jobs = [Job(str(place), str(folder / f"log {own} {number}"), own, f"{own} {number}") for own in "abc"]
        for nursery, job in zip(nurseries, jobs, strict=True):
            nursery.start("write_until_killed", argument_of(job))
        logs = [Path(job.log) for job in jobs]
        wait_until(lambda logs=logs: all(log.exists() for log in logs))
        for nursery in nurseries:
            time.sleep(chance.random() * 0.25)
            assert nursery.kill() == signal.SIGKILL
        told += acknowledged(logs)
        with Bank.open(place) as bank:
            check_bank(bank, settled, logs)
    assert told > 2 * rounds
    with Bank.open(place) as bank:
        before = rows_of(bank)
        bank.rebuild_index()
        assert rows_of(bank) == before
    count("kills", 3 * rounds)


def test_killed_writers_lose_nothing(program: Start, tmp_path: Path) -> None:
    """Of three processes that are killed while they write, each acknowledged change is there, and the next open needs
    nobody's help."""
    run_rounds(program, tmp_path, 4)


@pytest.mark.slow
def test_killed_writers_lose_nothing_in_many_rounds(program: Start, tmp_path: Path) -> None:
    """The same, many times over."""
    run_rounds(program, tmp_path, 40)


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
