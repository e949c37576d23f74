"""How casbank bears many small objects: rates and latencies while one bank grows to a million.

    python benchmarks/many_objects.py --work DIR [--objects 1000000] [--bytes 100]

Through the Python API, on the disk that DIR is on: every commit waits for its fdatasync, as it does for a user.
Objects go in by batches of 10,000; after every 100,000 some single operations on random names are timed, and the bank
is closed and opened again. All but the batches' rate are medians.
"""

import argparse
import itertools
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

from content import stored_bytes
from machine import describe
from table import print_table

from casbank import Bank

MB = 10**6
BATCH_OBJECTS = 10_000
SAMPLES = 200
LIST_OBJECTS = 50_000
HEADINGS = (
    "objects",
    "batch put /s",
    "put µs",
    "get µs",
    "head µs",
    "delete µs",
    "list /s",
    "open ms",
    "stored MB",
    "index MB",
)


def name_of(number: int) -> str:
    # Spread, so that names do not arrive in the order they are listed in; an odd multiplier gives no name twice.
    return f"objects/{number * 2_654_435_761 % 2**32:08x}"


def fill(bank: Bank, numbers: range, rng: random.Random, size: int) -> float:
    """Put the objects; the seconds it took."""
    start = time.perf_counter()
    for first in range(numbers.start, numbers.stop, BATCH_OBJECTS):
        with bank.batch() as batch:
            for number in range(first, min(first + BATCH_OBJECTS, numbers.stop)):
                batch.put(name_of(number), rng.randbytes(size))
    return time.perf_counter() - start


def median_us(call: Callable[[str], object], names: Iterable[str]) -> float:
    times = []
    for name in names:
        start = time.perf_counter()
        call(name)
        times.append(time.perf_counter() - start)
    return median(times) * 1e6


def list_rate(bank: Bank) -> float:
    """Objects a second, in order, from the first name on."""
    start = time.perf_counter()
    names = [info.name for info in itertools.islice(bank.list(), LIST_OBJECTS)]
    rate = len(names) / (time.perf_counter() - start)
    if names != sorted(names):
        raise SystemExit("the list is not in order")
    return rate


def sample(bank: Bank, count: int, rng: random.Random, size: int) -> list[str]:
    known = [name_of(rng.randrange(count)) for _ in range(SAMPLES)]
    fresh = [f"single/{number:06d}" for number in range(SAMPLES)]
    data = rng.randbytes(size)
    latencies = (
        median_us(lambda name: bank.put(name, data), fresh),
        median_us(bank.get, known),
        median_us(bank.head, known),
        # The bank is left as it was found.
        median_us(bank.delete, fresh),
    )
    return [*(f"{latency:.0f}" for latency in latencies), f"{list_rate(bank):.0f}"]


def rows_of(path: Path, objects: int, step: int, size: int) -> Iterable[list[str]]:
    rng = random.Random("casbank objects")
    bank = Bank.create(path)
    for first in range(0, objects, step):
        count = min(first + step, objects)
        fill_s = fill(bank, range(first, count), rng, size)
        figures = sample(bank, count, rng, size)
        bank.close()
        start = time.perf_counter()
        bank = Bank.open(path)
        open_ms = (time.perf_counter() - start) * 1e3
        index = stored_bytes(path / "index")
        sizes = (f"{(stored_bytes(path) - index) / MB:.1f}", f"{index / MB:.1f}")
        yield [f"{count:,}", f"{(count - first) / fill_s:.0f}", *figures, f"{open_ms:.1f}", *sizes]
    bank.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--step", type=int, default=100_000, help="objects between two rows of the table")
    parser.add_argument("--bytes", type=int, default=100, help="of one object")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    os.sync()
    print(*(f"- {name}: {text}" for name, text in describe(options.work).items()), sep="\n", end="\n\n")
    with tempfile.TemporaryDirectory(dir=options.work, prefix="objects-") as folder:
        rows = rows_of(Path(folder, "bank"), options.objects, options.step, options.bytes)
        print_table(HEADINGS, rows)


if __name__ == "__main__":
    main()
