"""Compare casbank with other deduplicating stores, interleaved, on one corpus.

    python benchmarks/compare.py --work DIR [--scenarios tree,image] [--stores casbank,restic] [--rounds 3]

DIR is on the disk to be measured and has some 5 GB of room; the corpus is made there once (see corpus.py for other
sizes). A Markdown report goes to standard output, raw rows to DIR/rows.jsonl (--rows), what the stores said to
DIR/compare.log. Exit code 1: a step failed, or restored bytes differed.

Every step is taken by all stores, one after the other, before the next step, in an order that rotates from round to
round: processors and disks drift by more than the differences that matter. Before a step its source is read into the
page cache and all dirty pages are written out; what is restored is compared outside the timing.
"""

import argparse
import json
import os
import resource
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from child import Command, Figures, last_words, run
from content import fingerprint, logical_bytes, warm
from corpus import CorpusSizes, ensure_corpus
from machine import describe
from peers import DEFAULT_NAMES, KINDS, Store
from report import Row, render
from scenarios import SCENARIOS, Step


class Comparison:
    """Runs scenarios and keeps their rows, in memory and at the end of a file."""

    def __init__(self, work: Path, corpus: Path, restore: Path, kinds: list[type[Store]], rows: Path) -> None:
        self.rows: list[Row] = []
        # What failed before there was a row to say so.
        self.failures: list[str] = []
        self._work = work
        self._corpus = corpus
        self._restore = restore
        self._kinds = kinds
        self._rows_path = rows
        self._log = work / "compare.log"
        # By source: two scenarios restore the same bytes, and every round does.
        self._fingerprints: dict[Path, str] = {}

    def run_round(self, number: int, scenarios: list[str]) -> None:
        for scenario in scenarios:
            with tempfile.TemporaryDirectory(dir=self._work, prefix="round-") as folder:
                self._run_scenario(number, scenario, Path(folder))

    def _run_scenario(self, number: int, scenario: str, folder: Path) -> None:
        first = number % len(self._kinds)
        stores = [kind(folder / kind.name) for kind in self._kinds[first:] + self._kinds[:first]]
        stores = [store for store in stores if self._init(store)]
        for step in SCENARIOS[scenario](self._corpus):
            # A store whose step failed is out: what follows would measure something else.
            stores = [store for store in stores if self._take(number, scenario, step, store)]

    def _init(self, store: Store) -> bool:
        good = self._succeeded(store, "init", self._execute(store, store.init()))
        if not good:
            self.failures.append(f"{store.name}: init failed")
        return good

    def _take(self, number: int, scenario: str, step: Step, store: Store) -> bool:
        """Take one step with one store; True if the store can go on."""
        before = store.stored_bytes()
        if step.source:
            warm(step.source)
        os.sync()
        with tempfile.TemporaryDirectory(dir=self._restore, prefix="restored-") as into:
            figures = self._execute(store, step.command(store, Path(into)))
            equal = self._restored(step, Path(into)) if step.restores and figures.exit_code == 0 else None
        after = store.stored_bytes()
        row = Row(
            round=number,
            scenario=scenario,
            step=step.name,
            store=store.name,
            is_peer=store.is_peer,
            reported=step.reported,
            logical_bytes=logical_bytes(step.source) if step.source else 0,
            stored_bytes=after,
            added_bytes=after - before,
            cache_bytes=store.cache_bytes(),
            restored_equal=equal,
            **asdict(figures),
        )
        self._keep(row)
        return self._succeeded(store, step.name, figures) and row.is_good

    def _execute(self, store: Store, command: Command) -> Figures:
        return run(command, store.environment(), self._log)

    def _restored(self, step: Step, into: Path) -> bool:
        assert step.source
        if step.source not in self._fingerprints:
            self._fingerprints[step.source] = fingerprint(step.source)
        return fingerprint(into) == self._fingerprints[step.source]

    def _keep(self, row: Row) -> None:
        self.rows.append(row)
        with self._rows_path.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        equal = {None: "", True: ", restored equal", False: ", RESTORED BYTES DIFFER"}[row.restored_equal]
        say(
            f"round {row.round} {row.store:12} {row.step:28} {row.wall_s:7.2f} s wall {row.cpu_s:7.2f} s CPU "
            f"{row.peak_mib:6.0f} MiB {row.stored_bytes / 1e6:8.1f} MB stored{equal}"
        )

    def _succeeded(self, store: Store, what: str, figures: Figures) -> bool:
        if figures.exit_code:
            say(f"{store.name}: {what} ended with {figures.exit_code}:\n{last_words(self._log)}")
        return figures.exit_code == 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def find_kinds(names: list[str]) -> tuple[list[type[Store]], list[str]]:
    """The stores that are here, and a note for each that is not."""
    wanted = [kind for kind in KINDS if kind.name in names]
    unknown = set(names) - {kind.name for kind in wanted}
    if unknown:
        raise SystemExit(f"no such store: {', '.join(sorted(unknown))}; choose of {', '.join(k.name for k in KINDS)}")
    notes = [
        f"{kind.name}: skipped, its program was not found or does not run" for kind in wanted if not kind.version()
    ]
    return [kind for kind in wanted if kind.version()], notes


def facts_of(work: Path, corpus: dict[str, Any], kinds: list[type[Store]], notes: list[str]) -> dict[str, Any]:
    return {
        "machine": describe(work),
        "stores": {kind.name: {"version": kind.version(), "settings": kind.settings} for kind in kinds},
        "notes": notes,
        "corpus": corpus,
        "command": shlex.join(("python", *sys.argv)),
    }


def own_peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def comma_list(text: str) -> list[str]:
    return text.split(",")


def restore_default() -> Path:
    """Memory where there is some: after the deletes of the round before, ext4 takes up to ten times as long to make a
    file, whichever store comes first then."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, help="default: WORK/corpus")
    parser.add_argument("--restore", type=Path, default=restore_default(), help="for what is fetched (%(default)s)")
    parser.add_argument("--rows", type=Path, help="default: WORK/rows.jsonl")
    parser.add_argument("--scenarios", type=comma_list, default=list(SCENARIOS), help=",".join(SCENARIOS))
    parser.add_argument("--stores", type=comma_list, default=list(DEFAULT_NAMES), help=",".join(k.name for k in KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    return options


def main() -> int:
    options = parse_options()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    corpus = (options.corpus or work / "corpus").resolve()
    rows = options.rows or work / "rows.jsonl"
    kinds, notes = find_kinds(options.stores)
    for note in notes:
        say(note)
    if not kinds:
        raise SystemExit("none of the stores is on this machine")
    facts = facts_of(work, ensure_corpus(corpus, CorpusSizes()), kinds, notes)
    rows.write_text(json.dumps(facts) + "\n")
    comparison = Comparison(work, corpus, options.restore, kinds, rows)
    for number in range(options.rounds):
        comparison.run_round(number, options.scenarios)
    facts["notes"] += [
        *comparison.failures,
        f"peak memory below {own_peak_mib():.0f} MiB cannot be told (see child.py)",
    ]
    print(render(facts, comparison.rows), end="")
    return 0 if not comparison.failures and all(row.is_good for row in comparison.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
