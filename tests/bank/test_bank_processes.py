"""One bank, several threads, processes and forked children."""

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from bank_scene import MIB, content, contents_of, rows_of
from conftest import Start

from casbank import Bank, CasbankError, ErrorKind, NotFoundError

CREATE = """
import sys, time
from casbank import AlreadyExistsError, Bank
name, at, *places = sys.argv[1:]
for number, place in enumerate(places):
    time.sleep(max(0, float(at) + number * 0.1 - time.time()))
    try:
        bank = Bank.create(place)
    except AlreadyExistsError as error:
        print(error.kind)
    else:
        bank.put(name, b"made")
        print("made")
"""

WRITE = """
import sys
from bank_scene import content
from casbank import Bank
place, own = sys.argv[1:]
with Bank.open(place) as bank:
    for number in range(40):
        bank.put(f"{own}{number}", content((own, number), number % 5 * 30_000 + 10))
        bank.put("shared", f"{own}{number}".encode())
        if number % 4 == 3:
            with bank.batch() as batch:
                batch.delete(f"{own}{number - 1}")
                batch.put(f"common{number}", content(number, 50_000))
"""

# Puts a name for each line it reads, and answers when put has returned.
OBEY = """
import sys
from casbank import Bank
bank = Bank.open(sys.argv[1])
for line in sys.stdin:
    bank.put(line.strip(), line.strip().encode() * int(sys.argv[2]))
    print("done", flush=True)
"""

FORK = """
import os, sys, threading, time
from casbank import Bank, InvalidInputError
place = sys.argv[1]
big = os.urandom(9_000_000)
bank = Bank.create(place)
bank.put("a", big)
batch = bank.batch()
batch.put("b", b"batch")
file = bank.open_object("a")
file.read(10)
rows = bank.list()
child = os.fork()
if child == 0:
    calls = [
        lambda: bank.get("a"), lambda: bank.put("c", b""), lambda: list(bank.list()), lambda: len(bank), bank.stats,
        lambda: batch.put("d", big), batch.commit, file.readall, bank.batch, bank.sync, bank.rebuild_index,
        lambda: next(rows),
    ]
    wrong = []
    for number, call in enumerate(calls):
        try:
            call()
            wrong.append((number, "no error"))
        except InvalidInputError as error:
            if error.kind != "forked":
                wrong.append((number, error.kind))
        except BaseException as error:
            wrong.append((number, repr(error)))
    # The child's own bank works, beside the parent's.
    with Bank.open(place) as own:
        own.put("child", b"child")
        if own.get("a") != big:
            wrong.append("content")
    if sys.argv[2] == "close":
        bank.close()
    if wrong:
        print(wrong, flush=True)
    if sys.argv[2] == "stay":
        time.sleep(60)
    # To the end of the interpreter, finalisers and all.
    sys.exit(len(wrong))
if sys.argv[2] != "stay":
    _, status = os.waitpid(child, 0)
    print("child", status, flush=True)
batch.commit()
bank.put("c", b"parent")
print(file.read() == big[10:], bank.get("a") == big, flush=True)
for number in range(20):
    bank.put(f"n{number}", b"x")
bank.close()
start = time.monotonic()
with Bank.open(place) as again:
    names = sorted(set(again) - {f"n{number}" for number in range(20)} - {"child"})
    print(names, time.monotonic() - start < 5, flush=True)
if sys.argv[2] == "stay":
    os.kill(child, 9)
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize("how", ["exit", "close", "stay"])
def test_forked_child(program: Start, place: Path, how: str) -> None:
    """A forked child is refused by all that the parent opened, and its end, its closing or its life hurt the parent not
    at all."""
    child = program(FORK, place, how)
    lines = child.communicate(timeout=60)[0].splitlines()
    assert lines == [*(["child 0"] if how != "stay" else []), "True True", "['a', 'b', 'c'] True"]
    assert child.returncode == 0


def test_rival_creators(program: Start, tmp_path: Path) -> None:
    """Of processes that create one bank at the same moment exactly one does, and what it then puts is there."""
    places = [tmp_path / str(number) for number in range(6)]
    rivals = [program(CREATE, name, time.time() + 0.6, *places) for name in "abc"]
    told = [rival.communicate()[0].split() for rival in rivals]
    for place, answers in zip(places, zip(*told, strict=True), strict=True):
        assert sorted(answers) == ["bank-exists", "bank-exists", "made"]
        with Bank.open(place) as bank:
            assert list(bank) == ["abc"[answers.index("made")]]


def test_processes_write_at_once(program: Start, bank: Bank, place: Path) -> None:
    """Three processes that write different names, and one name, at once lose nothing of each other."""
    writers = [program(WRITE, place, own) for own in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    expected = {
        f"{own}{number}": content((own, number), number % 5 * 30_000 + 10)
        for own in "abc"
        for number in range(40)
        if number % 4 != 2
    }
    expected |= {f"common{number}": content(number, 50_000) for number in range(3, 40, 4)}
    found = contents_of(bank)
    assert found.pop("shared") in {b"a39", b"b39", b"c39"}
    assert found == expected
    before = rows_of(bank)
    bank.rebuild_index()
    assert rows_of(bank) == before


@pytest.mark.parametrize("times", [1, 10_000])
def test_reader_sees_what_was_acknowledged(program: Start, bank: Bank, place: Path, times: int) -> None:
    """What a put of another process has returned from is there for every kind of read, at once."""
    writer = program(OBEY, place, times)
    assert writer.stdin is not None
    assert writer.stdout is not None
    for number in range(100):
        name = f"n{number:03}"
        writer.stdin.write(name + "\n")
        writer.stdin.flush()
        assert writer.stdout.readline() == "done\n"
        match number % 5:
            case 0:
                assert bank.get(name) == name.encode() * times
            case 1:
                assert bank.head(name).size == 4 * times
            case 2:
                assert list(bank)[-1] == name
            case 3:
                assert len(bank) == number + 1
            case _:
                assert name in bank


class Bustle:
    """What threads do to a bank whose names they share. Content says what it must be."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.kept: list[str] = []

    @staticmethod
    def make(owner: str, seed: int) -> bytes:
        return f"{owner} {seed} ".encode() * (seed * 997 % 20_000)

    def check(self, data: bytes) -> None:
        if data:
            owner, seed = data.split(b" ", 2)[:2]
            assert data == self.make(owner.decode(), int(seed))

    def name(self, step: int) -> str:
        return f"n{step * 7 % 10}"

    def put(self, step: int) -> None:
        self.bank.put(self.name(step), self.make("put", step))

    def batch(self, step: int) -> None:
        with self.bank.batch() as batch:
            batch.put(self.name(step), self.make("batch", step))
            batch.put(f"kept{step}", self.make("kept", step))
        self.kept.append(f"kept{step}")

    def get(self, step: int) -> None:
        self.check(self.bank.get(self.name(step)))

    def file(self, step: int) -> None:
        with self.bank.open_object(self.name(step)) as file:
            self.check(file.read())

    def list(self, step: int) -> None:
        names = [info.name for info in self.bank.list()]
        assert names == sorted(names)

    def delete(self, step: int) -> None:
        self.bank.delete(self.name(step))

    def copy(self, step: int) -> None:
        self.bank.copy(self.name(step), self.name(step + 1))


def test_threads_do_everything_at_once(bank: Bank) -> None:
    """Threads that put, get, list, delete, copy and batch at once see whole objects only, and lose none."""
    stop = threading.Event()
    bustle = Bustle(bank)

    def run(act: Callable[[int], None]) -> None:
        for step in itertools.count(1):
            if stop.is_set():
                return
            with suppress(NotFoundError):
                act(step)

    acts = [bustle.put, bustle.put, bustle.batch, bustle.get, bustle.file, bustle.list, bustle.delete, bustle.copy]
    with ThreadPoolExecutor(len(acts)) as pool:
        running = [pool.submit(run, act) for act in acts]
        time.sleep(1.5)
        # A busy machine needs longer until there is something to lose.
        deadline = time.monotonic() + 60
        while len(bustle.kept) <= 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()
    assert [thread.exception() for thread in running] == [None] * len(acts)
    assert len(bustle.kept) > 3
    assert {name for name in bank if name.startswith("kept")} == set(bustle.kept)
    for name in bank:
        bustle.check(bank.get(name))


def test_rebuild_under_readers_and_writers(bank: Bank) -> None:
    """A rebuild of the index is not noticed by threads that read and write meanwhile."""
    bank.put("x", content(1, 3 * MIB))
    stop = threading.Event()
    wrong: list[BaseException] = []

    def use(number: int) -> int:
        done = 0
        while not stop.is_set():
            try:
                assert bank.get("x") == content(1, 3 * MIB)
                bank.put(f"{number}-{done}", b"%d" % done)
                assert f"{number}-{done}" in list(bank)
            except BaseException as error:
                wrong.append(error)
                return done
            done += 1
        return done

    with ThreadPoolExecutor(4) as pool:
        users = [pool.submit(use, number) for number in range(4)]
        for _ in range(15):
            bank.rebuild_index()
            time.sleep(0.05)
        stop.set()
    assert wrong == []
    assert len(bank) == 1 + sum(user.result() for user in users)


def test_unopened_child_of_a_batch(bank: Bank) -> None:
    """Errors that threads share in a group commit are each thread's own kind, and casbank's."""
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(bank.delete, f"absent{number}") for number in range(40)]
    kinds = {error.kind for error in (future.exception() for future in futures) if isinstance(error, CasbankError)}
    assert kinds == {ErrorKind.NO_OBJECT}
    assert len({id(future.exception()) for future in futures}) == 40
