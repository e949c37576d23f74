"""What encryption costs: the same work on an unencrypted bank and on encrypted ones, in turn, in one process.

    python benchmarks/encryption.py --work DIR [--rounds 8] [--steps image,random] [--corpus DIR]

DIR is on the disk to be measured. Four banks take every step, one after the other, in an order that rotates from
round to round: "none" and, once more, "none again", then one of either suite. A ratio is formed within a round, the
figure of a bank to that of "none", and its median over the rounds is shown with the lower and the upper quartile.
"none again" is a bank like "none", so what its ratios are away from 1 is what the machine did. A first round warms the
process up and does not count; rounds in multiples of four give every bank every place.

Through the Python API. One bank is open at a time, newly opened for every step, so that all have to touch fresh memory
alike; opening is a step of its own, so that no derivation of a key is in the others. Each step begins with dirty pages
written out; what is fetched is read into one reused buffer, from files in the page cache. All indexes lie in one kind
of place, a cache folder beside the banks.

    image           one file like a disk image: text, executables, one eighth incompressible (corpus.py)
    tree            the files of a tree, text and executables, in one batch
    random          one incompressible file: nothing but cutting, hashing and sealing is left to do
    small           1,000 single puts of 1 KiB, each with its fdatasync; inline in the journal
    batch           100,000 objects of 100 bytes of text, and as many of 1 KiB, in batches of 10,000
    open            opening and closing ten times, with a key file, and with a passphrase
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from child import busy_s
from content import regular_files, warm
from corpus import CorpusSizes, ensure_corpus
from machine import describe
from table import markdown_table

from casbank import Bank

MB = 10**6
MIB = 2**20
# Of the corpus that is made if there is none: small enough for many rounds.
SIZES = CorpusSizes(text_mb=60, elf_mb=60, image_mib=128, small_count=1)
RANDOM_BYTES = 128 * MIB
SINGLES = 1000
SINGLE_BYTES = 1024
BATCHED = 100_000
BATCHED_BYTES = (100, 1024)
BATCH_OBJECTS = 10_000
RANDOM_GETS = 5000
READ_BYTES = 4 * MIB
OPENINGS = 10
KEY_BYTES = 32
PASSPHRASE = "benchmark"
BASELINE = "none"
SUITES = {BASELINE: None, "none again": None, "AES-256-GCM": "aes-256-gcm", "ChaCha20-Poly1305": "chacha20-poly1305"}


@dataclass(frozen=True, slots=True)
class Row:
    """One step on one bank in one round. ``amount`` is what was done, in ``unit``: MB or objects."""

    round: int
    step: str
    bank: str
    amount: float
    unit: str
    wall_s: float
    cpu_s: float


class Contender:
    """One bank at work, closed between two steps."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.key: dict[str, Any] = {}
        self._place = folder / "bank"
        self._cache = folder / "cache"
        self._bank: Bank | None = None
        self._create(SUITES[name], folder / "key")

    def _create(self, suite: str | None, key_file: Path) -> None:
        if suite is None:
            Bank.create(self._place, cache_dir=self._cache).close()
            return
        key_file.write_bytes(os.urandom(KEY_BYTES))
        self.key = {"key_file": key_file}
        with Bank.create(self._place, suite=suite, cache_dir=self._cache, **self.key) as bank:
            bank.keys.add(passphrase=PASSPHRASE)

    @property
    def bank(self) -> Bank:
        assert self._bank is not None
        return self._bank

    def open(self) -> None:
        self._bank = Bank.open(self._place, cache_dir=self._cache, **self.key)

    def close(self) -> None:
        self.bank.close()

    def open_and_close(self, key: dict[str, Any]) -> None:
        Bank.open(self._place, cache_dir=self._cache, **key).close()


class Bench:
    """Takes steps with all banks in turn, and keeps what they cost."""

    def __init__(self, work: Path, corpus: Path) -> None:
        self.rows: list[Row] = []
        self.work = work
        self.corpus = corpus
        self.round = 0
        self._buffer = memoryview(bytearray(READ_BYTES))

    def contenders(self, folder: Path) -> list[Contender]:
        names = list(SUITES)
        first = self.round % len(names)
        places = [folder / name for name in names]
        for place in places:
            place.mkdir()
        banks = [Contender(name, place) for name, place in zip(names, places, strict=True)]
        return banks[first:] + banks[:first]

    def take(
        self, banks: list[Contender], step: str, amount: float, unit: str, work: Callable[[Contender], object]
    ) -> None:
        for it in banks:
            it.open()
            os.sync()
            cpu, wall = time.process_time(), time.perf_counter()
            work(it)
            wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
            it.close()
            if self.round:
                self.rows.append(Row(self.round, step, it.name, amount, unit, wall_s, cpu_s))

    def get_all(self, bank: Bank) -> None:
        """Every object, each read in order into the same memory."""
        for name in bank:
            with bank.open_object(name) as file:
                while file.readinto(self._buffer):
                    pass


def image(bench: Bench, banks: list[Contender]) -> None:
    one_file(bench, banks, "image", bench.corpus / "image.img")


def incompressible(bench: Bench, banks: list[Contender]) -> None:
    path = bench.work / "random"
    if not path.exists():
        path.write_bytes(random.Random("casbank random").randbytes(RANDOM_BYTES))
    one_file(bench, banks, "random", path)


def one_file(bench: Bench, banks: list[Contender], what: str, source: Path) -> None:
    warm(source)
    size = source.stat().st_size / MB
    bench.take(banks, f"{what}: put", size, "MB", lambda it: it.bank.put("one", source))
    # Under the same name, so that there is one object to get.
    bench.take(banks, f"{what}: put again", size, "MB", lambda it: it.bank.put("one", source))
    bench.take(banks, f"{what}: get", size, "MB", lambda it: bench.get_all(it.bank))


def tree(bench: Bench, banks: list[Contender]) -> None:
    source = bench.corpus / "tree"
    warm(source)
    files = list(regular_files(source))
    size = sum(file.stat().st_size for file in files) / MB

    def put(it: Contender) -> None:
        with it.bank.batch() as changes:
            for file in files:
                changes.put(str(file.relative_to(source)), file)

    bench.take(banks, "tree: put", size, "MB", put)
    bench.take(banks, "tree: get", size, "MB", lambda it: bench.get_all(it.bank))


def small(bench: Bench, banks: list[Contender]) -> None:
    contents = [line(number, SINGLE_BYTES) for number in range(SINGLES)]

    def put(it: Contender) -> None:
        for number, data in enumerate(contents):
            it.bank.put(f"single/{number}", data)

    bench.take(banks, "small: put, one by one", SINGLES, "objects", put)
    bench.take(banks, "small: get", SINGLES, "objects", lambda it: bench.get_all(it.bank))


def batches(bench: Bench, banks: list[Contender]) -> None:
    for size in BATCHED_BYTES:
        contents = [(f"{size}/{number:06d}", line(number, size)) for number in range(BATCHED)]
        picked = [name for name, _ in random.Random(size).sample(contents, RANDOM_GETS)]
        bench.take(banks, f"batch: put, {size} bytes", BATCHED, "objects", partial(put_batches, contents))
        bench.take(banks, f"batch: get, {size} bytes", RANDOM_GETS, "objects", partial(get_each, picked))


def put_batches(contents: list[tuple[str, bytes]], it: Contender) -> None:
    for first in range(0, len(contents), BATCH_OBJECTS):
        with it.bank.batch() as changes:
            for name, data in contents[first : first + BATCH_OBJECTS]:
                changes.put(name, data)


def get_each(names: list[str], it: Contender) -> None:
    for name in names:
        it.bank.get(name)


def opening(bench: Bench, banks: list[Contender]) -> None:
    def with_key_file(it: Contender) -> None:
        it.close()
        for _ in range(OPENINGS):
            it.open_and_close(it.key)

    def with_passphrase(it: Contender) -> None:
        it.close()
        for _ in range(OPENINGS):
            it.open_and_close({"passphrase": PASSPHRASE} if it.key else {})

    bench.take(banks, "open, key file", OPENINGS, "times", with_key_file)
    bench.take(banks, "open, passphrase", OPENINGS, "times", with_passphrase)


def line(number: int, size: int) -> bytes:
    """Differs from every other number's, and compresses as the lines of a log do."""
    tag = f"{number * 2_654_435_761 % 2**32:08x}"
    text = f"{number} 2026-11-22T12:00:{number % 60:02d} host-{number % 97} accepted {tag}; "
    return (text * (size // len(text) + 1)).encode()[:size]


SCENARIOS: dict[str, Callable[[Bench, list[Contender]], None]] = {
    "image": image,
    "tree": tree,
    "random": incompressible,
    "small": small,
    "batch": batches,
    "open": opening,
}


def run_round(bench: Bench, names: list[str]) -> None:
    for name in names:
        with tempfile.TemporaryDirectory(dir=bench.work, prefix="round-") as folder:
            SCENARIOS[name](bench, bench.contenders(Path(folder)))


def tables(rows: list[Row]) -> Iterator[str]:
    others = [name for name in SUITES if name != BASELINE]
    steps = list(dict.fromkeys(row.step for row in rows))
    for title, value in (("Wall time", lambda row: row.wall_s), ("CPU time", lambda row: row.cpu_s)):
        lines = []
        for step in steps:
            here = [row for row in rows if row.step == step]
            lines.append([step, baseline_cell(here, value), *(ratio_cell(here, other, value) for other in others)])
        headings = ("step", "none, s (a second)", *(f"{other} : none" for other in others))
        yield f"**{title}**\n\n{markdown_table(headings, lines)}\n"


def baseline_cell(rows: list[Row], value: Callable[[Row], float]) -> str:
    row = next(row for row in rows if row.bank == BASELINE)
    seconds = median(value(row) for row in rows if row.bank == BASELINE)
    rate = row.amount / seconds
    return f"{seconds:.3f} ({rate:,.0f} {row.unit})"


def ratio_cell(rows: list[Row], bank: str, value: Callable[[Row], float]) -> str:
    """Median and quartiles of the ratios within each round."""
    ratios = [
        value(row) / value(base)
        for row, base in product(rows, rows)
        if row.bank == bank and base.bank == BASELINE and row.round == base.round
    ]
    low, middle, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return f"**{middle:.2f}** ({low:.2f}-{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, help="default: WORK/corpus, made if it is not there")
    parser.add_argument("--steps", type=lambda text: text.split(","), default=list(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    corpus = options.corpus or options.work / "corpus"
    ensure_corpus(corpus, SIZES)
    print(*(f"- {name}: {fact}" for name, fact in describe(options.work).items()), sep="\n", end="\n\n")
    bench = Bench(options.work, corpus)
    busy, cpu, wall = busy_s(), time.process_time(), time.perf_counter()
    # Round 0 only warms up.
    for bench.round in range(options.rounds + 1):
        run_round(bench, options.steps)
    busy_of_others = max(0.0, busy_s() - busy - (time.process_time() - cpu))
    print(*tables(bench.rows), sep="\n")
    print(f"Other processes worked {busy_of_others / (time.perf_counter() - wall):.2f} CPU seconds a second.")


if __name__ == "__main__":
    main()
