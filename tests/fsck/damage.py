"""Damage every file of small banks, and judge what becomes of them: what the tests here run, and a command.

    PYTHONPATH=.:tests python -m fsck.damage --bank plain --flips 20000 --seed 1
    PYTHONPATH=.:tests python -m fsck.damage --bank aes --files 1000 --seed 1
    PYTHONPATH=.:tests python -m fsck.damage --bank plain --case pack3@133.2

A case is named by what is damaged, not by file names and bytes, which are others in each bank that is made. It prints
what came of all as JSON, and, for each rule that was broken, the command that does it again.
"""

import argparse
import json
import logging
import os
import random
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree, rmtree

from bank_scene import flip
from counters import count

from casbank.config import CACHE_VARIABLE
from fsck.damage_files import FileDamage, damages_of
from fsck.damage_judge import BrokenRuleError, Expected, Judge
from fsck.damage_regions import HARMLESS, NOT_FOUND_KEYLESS, Region, Regions, regions_of
from fsck.damage_scene import Scene, make_scene

# Reading takes as long as a check, a repair and all that follows it as twenty.
_READ_EACH = 10
_REPAIR_EACH = 40
_FAILURES_MAX = 20
# A check makes its own index there; no other disk syncs so fast.
_MEMORY = Path("/dev/shm")


@dataclass
class Run:
    """What one run did. ``failures`` are commands and what they show."""

    bank: str
    cases: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


class Damager:
    """A bank to damage, over and over."""

    def __init__(self, scene: Scene, scratch: Path) -> None:
        self.scene = scene
        self.regions: Regions = regions_of(scene)
        self._place = scratch / "bank"
        self.judge = Judge(scene, self._place, scratch)
        self._restore()
        self.run = Run(scene.label)

    def _restore(self) -> None:
        rmtree(self._place, ignore_errors=True)
        copytree(self.scene.place, self._place)

    # --- bits --------------------------------------------------------------------------------------------------------

    def flips(self, number: int, seed: int) -> None:
        """Flip so many bits, one at a time, of all places in turn with equal chance."""
        places = [(role, len(self.scene.read(file))) for role, file in self.regions.roles.items()]
        total = 8 * sum(size for _, size in places)
        # Each bit once, before any comes again.
        sample = random.Random(seed).sample(range(total), min(number, total))
        for turn, at in enumerate(sample):
            role, offset = _place(places, at // 8)
            self.flip(role, offset, at % 8, reads=not turn % _READ_EACH, repairs=not turn % _REPAIR_EACH)

    def every_kind(self) -> None:
        """One bit of each kind of place, and of each that may cost something else, with all that can be judged."""
        met: set[tuple[object, ...]] = set()
        for role, file in self.regions.roles.items():
            for region in self.regions.of[file]:
                kind = region.kind, region.objects, region.changes
                if kind not in met:
                    met.add(kind)
                    self.flip(role, (region.start + region.end) // 2, 3)

    def flip(self, role: str, offset: int, bit: int, *, reads: bool = True, repairs: bool = True) -> None:
        """Flip one bit, judge, and put it back."""
        file = self.regions.roles[role]
        flip(self._place / file, offset, 1 << bit)
        try:
            with self._noted(f"{role}@{offset}.{bit}"):
                expected = _expected_of_flip(self.regions.at(file, offset))
                self.judge.judge(expected, reads=reads, repairs=repairs)
        finally:
            flip(self._place / file, offset, 1 << bit)

    # --- files -------------------------------------------------------------------------------------------------------

    def files(self, number: int, seed: int) -> None:
        """A sample of all that can be done to whole files; all of it if ``number`` is large enough."""
        damages = damages_of(self.scene, self.regions)
        chance = random.Random(seed)
        for damage in chance.sample(damages, min(number, len(damages))):
            self.damage(damage)

    def pairs(self, number: int, seed: int) -> None:
        """Two damages at once."""
        damages = damages_of(self.scene, self.regions)
        chance = random.Random(seed)
        for _ in range(number):
            first, second = chance.sample(damages, 2)
            self.damage(first.joined(second))

    def damage(self, damage: FileDamage) -> None:
        """Do that to the bank, judge, and make it anew."""
        # A damaged map may kill this process: then this is the last line.
        sys.stdout.write(f"{damage.label}\n")
        sys.stdout.flush()
        try:
            with self._noted(damage.label):
                damage.apply(self._place)
                self.judge.judge(damage.expected)
        finally:
            self._restore()

    def case(self, label: str) -> None:
        """One case again, by its label."""
        if "@" in label and ":" not in label:
            role, _, place = label.partition("@")
            offset, _, bit = place.partition(".")
            self.flip(role, int(offset), int(bit))
            return
        known = {damage.label: damage for damage in damages_of(self.scene, self.regions)}
        first, _, second = label.partition("+")
        self.damage(known[first].joined(known[second]) if second else known[first])

    @contextmanager
    def _noted(self, label: str) -> Iterator[None]:
        self.run.cases += 1
        try:
            yield
        except BrokenRuleError as error:
            self._fail(label, str(error))
        except Exception:
            self._fail(label, traceback.format_exc())
        self.run.outcomes = dict(self.judge.outcomes)

    def _fail(self, label: str, what: str) -> None:
        self.run.failures.append(f"{command(self.scene.label, label)}\n{what}")
        sys.stderr.write(f"{self.run.failures[-1]}\n")
        if len(self.run.failures) >= _FAILURES_MAX:
            raise SystemExit(1)


def _place(places: list[tuple[str, int]], offset: int) -> tuple[str, int]:
    """The file, and the offset in it, of a byte of all files behind each other."""
    for role, size in places:
        if offset < size:
            return role, offset
        offset -= size
    raise AssertionError("a place behind the last file")


def command(bank: str, label: str) -> str:
    """What does one case again."""
    return f"PYTHONPATH=.:tests python -m fsck.damage --bank {bank} --case '{label}'"


def _expected_of_flip(region: Region) -> Expected:
    may_be_leftover = region.kind == "free"
    return Expected(
        found=region.kind not in HARMLESS or may_be_leftover,
        found_keyless=region.kind not in NOT_FOUND_KEYLESS,
        objects=region.objects,
        changes=region.changes,
        may_be_leftover=may_be_leftover,
        # With its only slot damaged, a bank's key opens nothing.
        refusals=frozenset({"KeyMismatchError"}) if region.kind == "slot" else frozenset(),
    )


@contextmanager
def damager(label: str) -> Iterator[Damager]:
    """A damager of that bank, in memory if there is such a folder."""
    logging.disable(logging.CRITICAL)
    before, cache = tempfile.tempdir, os.environ.get(CACHE_VARIABLE)
    if os.access(_MEMORY, os.W_OK):
        tempfile.tempdir = str(_MEMORY)
    try:
        with tempfile.TemporaryDirectory(prefix="casbank-damage-") as folder:
            # Notes of checks that are given no folder for them, because an index lies in the bank.
            os.environ[CACHE_VARIABLE] = str(Path(folder) / "notes")
            yield Damager(make_scene(Path(folder) / "scene", label), Path(folder))
    finally:
        tempfile.tempdir = before
        del os.environ[CACHE_VARIABLE]
        os.environ.update({} if cache is None else {CACHE_VARIABLE: cache})
        logging.disable(logging.NOTSET)


def main() -> int:
    """Run what the command line says."""
    asked = _arguments()
    with damager(asked.bank) as ours:
        try:
            _run(ours, asked)
        finally:
            run = ours.run
            said = {"bank": run.bank, "cases": run.cases, "outcomes": run.outcomes, "failures": len(run.failures)}
            sys.stdout.write(json.dumps(said) + "\n")
    return bool(run.failures)


def _run(ours: Damager, asked: argparse.Namespace) -> None:
    if asked.case:
        ours.case(asked.case)
    if asked.kinds:
        ours.every_kind()
    ours.flips(asked.flips, asked.seed)
    flips = ours.run.cases
    ours.files(asked.files, asked.seed)
    ours.pairs(asked.pairs, asked.seed)
    if not asked.case:
        count("bit flips", flips)
        count("damaged files", ours.run.cases - flips)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bank", default="plain")
    parser.add_argument("--kinds", action="store_true", help="one bit of each kind of place")
    parser.add_argument("--flips", type=int, default=0)
    parser.add_argument("--files", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", default="")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
