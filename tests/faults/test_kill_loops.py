"""kill -9 at random moments, in each of the long things that a bank does: what was acknowledged is there."""

import json
import random
import signal
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from bank_scene import content, contents_of
from collect_scene import wait_until
from conftest import Start
from counters import count
from crash_scene import CHUNKING, RECURSIVE_BATCH, Job, acknowledged, argument_of, check_bank, open_bank, take_over
from nursery import NURSERY, Nursery

from casbank import AlreadyExistsError, Bank

# What is done besides puts, so often that most kills meet it.
ACTS = {
    "rebuild": "put rebuild rebuild",
    "checkpoint": "put delete checkpoint checkpoint",
    "rotation": "put rotate rotate",
    "collection": "put batch delete collect collect",
    "undelete": "put delete undelete undelete copy copy",
}
# A little more than each takes by itself.
CREATION_S = 0.03
TREE_S = 0.4

# Creates a bank, and dies where the first segment of the journal gets its space, its first record, or the sync of it.
DIE_CREATING = """
import os, signal, sys
from casbank import Bank
from casbank.journal.segment import SegmentFile
from casbank.storage import files
place, step = sys.argv[1:]
setattr(files if step == "fdatasync" else SegmentFile, step, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
Bank.create(place)
"""


def run_kills(program: Start, folder: Path, what: str, rounds: int) -> None:
    chance = random.Random(f"{what} {rounds}")
    nursery = Nursery(program(NURSERY))
    key = folder / "key"
    key.write_bytes(b"k" * 32)
    is_sealed = what == "rotation"
    job = Job(str(folder / "bank"), key_file=str(key) if is_sealed else None, cache_dir=str(folder / "cache"))
    Bank.create(job.place, chunking=CHUNKING, key_file=job.key_file, cache_dir=job.cache_dir).close()
    settled: dict[str, str] = {}
    logs: list[Path] = []
    told = 0
    for number in range(rounds):
        writer = replace(
            job, acts=ACTS[what], log=str(folder / f"log {number}"), own="ab"[number // 2 % 2], seed=f"{what} {number}"
        )
        logs.append(Path(writer.log))
        # Of two that die one after the other, the second takes over from the first, while we have the bank open.
        with open_bank(job) if number % 2 else nullcontext() as bank:
            nursery.start("write_until_killed", argument_of(writer))
            wait_until(logs[-1].exists)
            time.sleep(chance.random() * 0.15)
            assert nursery.kill() == signal.SIGKILL
            if bank is not None:
                told += acknowledged(logs)
                check_bank(bank, settled, logs)
                logs.clear()
    assert told > 0
    Bank.drop_index(job.place, cache_dir=job.cache_dir)
    with open_bank(job) as bank:
        check_bank(bank, settled, logs)
    count("kills", rounds)


@pytest.mark.parametrize("rounds", [4])
@pytest.mark.parametrize("what", ACTS)
def test_killed_while_it_works(program: Start, tmp_path: Path, what: str, rounds: int) -> None:
    """A process that is killed while it puts, and makes the index anew, writes checkpoints, rotates keys, collects, or
    copies and undeletes, leaves every acknowledged change, nothing by half, and an index that is right."""
    run_kills(program, tmp_path, what, rounds)


@pytest.mark.parametrize("rounds", [6])
def test_killed_creation(program: Start, tmp_path: Path, rounds: int) -> None:
    """After the creation of a bank was cut off, either there is the bank, or there is none and it can be created."""
    chance = random.Random(rounds)
    nursery = Nursery(program(NURSERY))
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    created = 0
    for number in range(rounds):
        place = tmp_path / f"bank {number}"
        options = {"key_file": str(key), "cache_dir": str(tmp_path / "cache")} if number % 2 else {}
        nursery.start("create_bank", place, json.dumps(options))
        time.sleep(chance.random() * CREATION_S)
        nursery.kill()
        # A first record that was written and not synced makes it a bank.
        with suppress(AlreadyExistsError):
            Bank.create(place, **options).close()
            created += 1
        with Bank.open(place, **options) as bank:
            bank.put("x", b"content")
            assert contents_of(bank) == {"x": b"content"}
    assert created > 0
    count("kills", rounds)


@pytest.mark.parametrize("step", ["grow", "write", "fdatasync"])
def test_creation_killed_at_its_first_record(program: Start, place: Path, step: str) -> None:
    """A creation that dies while the journal begins leaves a bank, or a folder in which one can be created."""
    assert program(DIE_CREATING, place, step).wait() == -signal.SIGKILL
    with suppress(AlreadyExistsError):
        Bank.create(place).close()
    with Bank.open(place) as bank:
        bank.put("x", b"content")


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


# In so many rounds some kill comes before the end.
_ROUNDS_THAT_TELL = 20


@pytest.mark.parametrize("rounds", [3])
def test_killed_recursive_put(program: Start, tmp_path: Path, rounds: int) -> None:
    """When ``casbank put --recursive`` is killed, whole batches of whole files are there, and the same command stores
    the rest."""
    chance = random.Random(rounds)
    nursery = Nursery(program(NURSERY))
    tree, place = tmp_path / "tree", tmp_path / "bank"
    Bank.create(place).close()
    there: dict[str, bytes] = {}
    cut_off = 0
    for number in range(rounds):
        put = ["put", place, "--recursive", tree, "--prefix", f"{number}/"]
        files = {f"{each % 7}/{each}": content((number, each), each * 7919 % 10_000) for each in range(150)}
        whole = {f"{number}/{path}": data for path, data in files.items()}
        write_files(tree, files)
        nursery.start("run_command", *put)
        time.sleep(chance.random() * TREE_S)
        nursery.kill()
        with Bank.open(place) as bank:
            take_over(bank)
            found = contents_of(bank)
        new = found.items() - there.items()
        assert found.items() >= there.items()
        assert new <= whole.items()
        assert len(new) % RECURSIVE_BATCH == 0
        cut_off += len(new) < len(whole)
        there = found
        if number % 5 == 0:
            nursery.start("run_command", *put)
            assert nursery.wait() == 0
            there |= whole
    with Bank.open(place) as bank:
        assert contents_of(bank) == there
        assert bank.verify_index() == []
    # A kill may come too late once, but not always.
    assert cut_off > 0 or rounds < _ROUNDS_THAT_TELL
    count("kills", rounds)
