"""Callers that wait for each other share a record, and nothing else."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from bank_scene import content, contents_of, engine_of

from casbank import AlreadyExistsError, Bank, CasbankError, ConflictError, NotFoundError, StoreError
from casbank.format.record import Op
from casbank.index.transaction import Snapshot


@contextmanager
def held_back(bank: Bank, waiting: int) -> Iterator[None]:
    """Keep the journal's lock until so many commits wait, so that they must share."""
    engine = engine_of(bank)
    ready, go = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.journal.turn():
            ready.set()
            for _ in range(2000):
                # The one who leads waits for the turn; the rest for him.
                if len(engine._committer._waiting) >= waiting or go.wait(0.005):
                    break

    holder = threading.Thread(target=hold)
    holder.start()
    ready.wait()
    try:
        yield
    finally:
        go.set()
        holder.join()


def test_callers_share_records(bank: Bank) -> None:
    """32 threads of small puts make far fewer records than puts, and each put is told the version that it has."""
    before = bank.stats().version
    with held_back(bank, 32), ThreadPoolExecutor(32) as pool:
        infos = list(pool.map(lambda number: bank.put(f"n{number}", b"%d" % number), range(320)))
    versions = Counter(info.version for info in infos)
    assert len(versions) == bank.stats().version - before < 160
    assert max(versions.values()) >= 16
    for info in infos:
        assert bank.head(info.name).version == info.version
        assert bank.get(info.name) == info.name[1:].encode()


def test_failing_conditions_harm_nobody_else(bank: Bank) -> None:
    """Of callers that share a record those whose condition fails are told so, and the others succeed."""
    version = bank.put("there", b"0").version
    with held_back(bank, 40), ThreadPoolExecutor(40) as pool:

        def attempt(number: int) -> object:
            try:
                match number % 5:
                    case 0:
                        bank.put("there", b"", if_absent=True)
                    case 1:
                        bank.put("there", b"", if_version=version + 1000)
                    case 2:
                        bank.delete(f"absent{number}")
                    case _:
                        return bank.put(f"n{number}", content(number, number * 100)).version
            except CasbankError as error:
                return type(error)
            return None

        told = list(pool.map(attempt, range(40)))
    expected = [AlreadyExistsError, ConflictError, NotFoundError]
    for number, answer in enumerate(told):
        if number % 5 < 3:
            assert answer is expected[number % 5]
        else:
            assert isinstance(answer, int)
    assert contents_of(bank) == {"there": b"0"} | {f"n{n}": content(n, n * 100) for n in range(40) if n % 5 > 2}


def test_one_name_twice_takes_two_records(bank: Bank) -> None:
    """Puts of one name that wait together get a version each, and the highest is the one that is there."""
    with held_back(bank, 16), ThreadPoolExecutor(16) as pool:
        infos = list(pool.map(lambda number: (bank.put("x", b"%d" % number).version, number), range(16)))
    assert len({version for version, _ in infos}) == 16
    assert bank.get("x") == b"%d" % max(infos)[1]
    assert bank.stats().deleted_objects == 15


def test_failed_append_is_told_to_all_who_shared_it(bank: Bank, place: Path) -> None:
    """Callers whose record could not be written are all told so, none waits for ever, and later ones succeed."""
    journal = place / "journal"
    (place / "moved").mkdir()
    # The mark's file is replaced by a folder: no turn can begin.
    (journal / "synced").rename(place / "moved" / "synced")
    (journal / "synced").mkdir()
    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(bank.put, f"n{number}", b"") for number in range(16)]
        errors = [future.exception(timeout=20) for future in futures]
    assert {type(error) for error in errors} == {StoreError}
    (journal / "synced").rmdir()
    (place / "moved" / "synced").rename(journal / "synced")
    bank.put("x", b"1")
    assert list(bank) == ["x"]


def test_large_requests_do_not_starve(bank: Bank) -> None:
    """Requests that are too large to share wait for a record of their own, and come through."""
    metadata = {"k": "x" * 60_000}
    with held_back(bank, 8), ThreadPoolExecutor(8) as pool:

        def commit(number: int) -> int:
            with bank.batch() as batch:
                for each in range(60):
                    batch.put(f"{number}-{each}", b"", metadata=metadata)
            assert batch.version is not None
            return batch.version

        versions = list(pool.map(commit, range(8)))
    assert len(set(versions)) > 1
    assert len(bank) == 480
    assert {info.version for info in bank.list()} == set(versions)


def test_interrupted_leader_leaves_the_others(bank: Bank) -> None:
    """An interrupt that strikes the thread that writes for all is its own: the others' puts are made after it."""
    engine = engine_of(bank)

    def interrupted(_: Snapshot) -> list[Op]:
        raise KeyboardInterrupt

    with ThreadPoolExecutor(9) as pool:
        with held_back(bank, 9):
            victim = pool.submit(engine.commit, interrupted)
            while not engine._committer._lead.locked():
                time.sleep(0.001)
            others = [pool.submit(bank.put, f"n{number}", b"x") for number in range(8)]
        assert all(other.result(timeout=30).size == 1 for other in others)
        assert isinstance(victim.exception(timeout=30), KeyboardInterrupt)
    assert len(bank) == 8
