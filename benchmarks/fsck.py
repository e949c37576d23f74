"""What it costs to read a whole bank and check it: casbank fsck --read-data against restic check --read-data.

    python benchmarks/fsck.py --work DIR [--corpus DIR] [--rounds 3] [--parts tree,image.img]

Both take in the same parts of the corpus (corpus.py makes it), once. Then each checks what it has, whole processes in
turns whose order alternates, with every stored file in the page cache: what is compared is the work, not the disk. A
third column is casbank's check of what needs no key and of the structure alone. A Markdown table goes to standard
output. Exit code 1: a check failed, or said that something is damaged.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

from child import Command, Figures, last_words, run
from content import logical_bytes, warm
from corpus import CorpusSizes, ensure_corpus
from machine import describe
from peers import Casbank, Restic, Store
from table import print_table

MB = 10**6
RESTIC_MISSING = "restic is not in PATH: 'apt install restic', or https://restic.net"
# By column: whose bank is checked, and how.
CHECKS = {
    "casbank --read-data": ("casbank", ("fsck", "--quiet", "--read-data")),
    "restic --read-data": ("restic", ("check", "--quiet", "--read-data")),
    "casbank --keyless --read-data": ("casbank", ("fsck", "--quiet", "--keyless", "--read-data")),
    "casbank, structure alone": ("casbank", ("fsck", "--quiet")),
}


class Race:
    """One part of the corpus in a bank of each kind."""

    def __init__(self, folder: Path, source: Path, log: Path) -> None:
        self._log = log
        self._source = source
        self.stores: dict[str, Store] = {kind.name: kind(folder / kind.name) for kind in (Casbank, Restic)}
        for store in self.stores.values():
            self._run(store, store.init())
            self._run(store, store.put_folder("all", source) if source.is_dir() else store.put_file("all", source))

    def turn(self, number: int) -> dict[str, Figures]:
        """Every check once; the order alternates."""
        figures = {}
        for column in sorted(CHECKS, reverse=bool(number % 2)):
            name, arguments = CHECKS[column]
            store = self.stores[name]
            warm(store.bank)
            bank = (str(store.bank),) if name == "casbank" else ()
            figures[column] = self._run(store, store.command(*arguments, *bank))
        return figures

    def _run(self, store: Store, command: Command) -> Figures:
        figures = run(command, store.environment(), self._log)
        if figures.exit_code:
            raise SystemExit(f"{' '.join(command.argv)} ended with {figures.exit_code}:\n{last_words(self._log)}")
        return figures


def measure(work: Path, corpus: Path, part: str, rounds: int) -> list[list[str]]:
    """The rows of one part: medians over the rounds, and the median of the rounds' ratios to restic."""
    source = corpus / part
    warm(source)
    with tempfile.TemporaryDirectory(dir=work, prefix="fsck-") as folder:
        race = Race(Path(folder), source, work / "fsck.log")
        turns = [race.turn(number) for number in range(rounds)]
        rows = []
        for column, (name, _) in CHECKS.items():
            mine = [turn[column] for turn in turns]
            ratios = [turn["restic --read-data"].wall_s / turn[column].wall_s for turn in turns]
            stored = race.stores[name].stored_bytes()
            wall_s = median(figures.wall_s for figures in mine)
            rows.append(
                [
                    f"{part}: {column}",
                    f"{logical_bytes(source) / MB:.0f}",
                    f"{stored / MB:.0f}",
                    f"{wall_s:.2f}",
                    f"{stored / MB / wall_s:.0f}",
                    f"{median(figures.cpu_s for figures in mine):.2f}",
                    f"{median(figures.peak_mib for figures in mine):.0f}",
                    f"{median(ratios):.2f}",
                    f"{median(figures.other_cpu_s / figures.wall_s for figures in mine):.2f}",
                ]
            )
        return rows


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, help="default: WORK/corpus")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=["tree", "image.img"])
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    if not Restic.version():
        raise SystemExit(RESTIC_MISSING)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    corpus = (options.corpus or work / "corpus").resolve()
    ensure_corpus(corpus, CorpusSizes())
    for name, text in (describe(work) | {"restic": Restic.version() or ""}).items():
        print(f"- {name}: {text}", flush=True)
    rows = [row for part in options.parts for row in measure(work, corpus, part, options.rounds)]
    headings = ["check", "content, MB", "stored, MB", "wall, s", "stored MB/s", "CPU, s", "peak, MiB", "speed : restic"]
    print_table([*headings, "others' CPU"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
