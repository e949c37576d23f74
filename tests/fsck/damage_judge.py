"""What must hold of a damaged bank, whatever the damage.

Rule 1: nothing but a CasbankError comes of it.
Rule 2: a bank that is called clean is right, to the last byte and name.
Rule 3: whoever reads gets the right bytes or an error.
Rule 4: a repaired bank is clean, opens, is written to, collected and healed, and lost nothing that was not damaged.
"""

import shutil
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from casbank import Bank, CasbankError, World
from casbank.findings import FindingKind, FsckReport
from casbank.model import Hole, ObjectInfo
from fsck.damage_scene import Made, Scene, scene_world, small_limits

_Result = TypeVar("_Result")


class Expected(NamedTuple):
    """``found`` and ``found_keyless``: a check must say so; ``repairs``: a repair must be able to mend it. ``objects``
    may lose bytes, ``changes`` may be absent, or be what they were before; None: any."""

    found: bool = False
    found_keyless: bool = False
    repairs: bool = True
    objects: frozenset[str] | None = None
    changes: frozenset[str] | None = None
    # What a check may raise in the place of saying it.
    refusals: frozenset[str] = frozenset()
    # A finding that is no damage will do.
    may_be_leftover: bool = False


class BrokenRuleError(AssertionError):
    """One of the rules does not hold."""


@dataclass
class Judge:
    """Judges one damage after the other. ``place`` is the damaged bank, which is left as it is; ``scratch`` is free."""

    scene: Scene
    place: Path
    scratch: Path
    _error: str = ""
    # One for all: it must not give the same ids twice.
    world: World = field(default_factory=lambda: scene_world("judge"))
    outcomes: Counter[str] = field(default_factory=Counter)

    def judge(self, expected: Expected, *, reads: bool = True, repairs: bool = True) -> None:
        """Check, read and repair. Raises BrokenRuleError."""
        report = self.check(expected)
        if reads:
            self.read(report)
        if repairs and report is not None:
            self.repair(expected, report)

    # --- checking ----------------------------------------------------------------------------------------------------

    def check(self, expected: Expected) -> FsckReport | None:
        """Both checks: what is damaged is found."""
        report = self._only_ours(lambda: self._checked(self.place))
        keyless = self._only_ours(lambda: self._checked(self.place, keyless=True))
        for one, wanted in ((report, expected.found), (keyless, expected.found_keyless)):
            refusal = self._error.partition(":")[0]
            _expect(one is not None or not wanted or refusal in expected.refusals, "a check raises", self._error)
            if one is not None and wanted:
                found = not one.clean or (expected.may_be_leftover and one.findings)
                _expect(bool(found), f"a damaged bank is called clean (keyless: {one.keyless})")
            self.outcomes["refused" if one is None else "clean" if one.clean else "damage found"] += 1
        return report

    def _checked(self, place: Path, **options: Any) -> FsckReport:
        """As somebody does who has never seen this bank."""
        cache = self.scratch / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        key = {} if options.get("keyless") else self.scene.key
        own_cache = {} if (place / "index").is_dir() and not self.scene.key else {"cache_dir": cache}
        return Bank.check(place, read_data=True, world=self.world, **own_cache, **key, **options)

    def _only_ours(self, call: Callable[[], _Result]) -> _Result | None:
        try:
            return call()
        except CasbankError as error:
            self._error = f"{type(error).__name__}: {error}"
            self.outcomes[type(error).__name__] += 1
            return None
        except BrokenRuleError:
            raise
        except Exception:
            raise BrokenRuleError(f"a foreign exception: {_where()}") from None

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, report: FsckReport | None) -> None:
        """Open a copy of the bank, unrepaired, and read everything."""
        with _Copy(self) as copy:
            self._only_ours(lambda: self._read_all(copy, report))

    def _read_all(self, copy: Path, report: FsckReport | None) -> None:
        is_clean = report is not None and report.clean
        try:
            with self._open(copy) as bank:
                infos = {info.name: info for info in bank.list()}
                missing = self.scene.names.keys() - infos.keys()
                _expect(not is_clean or not missing, "names vanished from a bank that is called clean", missing)
                for info in infos.values():
                    self._read_one(bank, info, is_clean=is_clean)
        except CasbankError:
            _expect(not is_clean, "a bank that is called clean cannot be read", _where())
            raise

    def _read_one(self, bank: Bank, info: ObjectInfo, *, is_clean: bool) -> None:
        version = self._version(info)
        _expect(version is not None, "an object that was never put", info)
        is_current = version == self.scene.names.get(info.name)
        _expect(is_current or not is_clean, "an older version in a bank that is called clean", info)
        try:
            data = bank.get(info.name)
        except CasbankError:
            _expect(not is_clean, "an object of a bank that is called clean cannot be read", _where())
            self.outcomes["object refused"] += 1
            return
        _expect(version is not None and data == version.content, "wrong bytes", info)

    def _version(self, info: ObjectInfo) -> Made | None:
        now = [self.scene.names[info.name]] if info.name in self.scene.names else []
        versions = now + self.scene.earlier.get(info.name, [])
        return next((version for version in versions if version.etag == info.etag), None)

    # --- repairing ---------------------------------------------------------------------------------------------------

    def repair(self, expected: Expected, report: FsckReport) -> None:
        """Repair a copy, and see what it is worth."""
        with _Copy(self) as copy:
            repaired = self._only_ours(lambda: self._checked(copy, repair=True))
            if repaired is None or not repaired.clean:
                _expect(not expected.repairs, "a repair does not mend it", repaired)
                self.outcomes["not repaired"] += 1
                return
            self.outcomes["repaired"] += not report.clean
            again = self._checked(copy)
            _expect(again.clean, "a repaired bank is not clean", again, repaired)
            try:
                self._try_out(copy, expected, again)
                self._heal(copy)
            except CasbankError:
                raise BrokenRuleError(f"a repaired bank refuses: {_where()}") from None

    def _try_out(self, copy: Path, expected: Expected, report: FsckReport) -> None:
        """Read everything of a repaired bank, and compare what is lost with what may be."""
        told = {finding.where for finding in report.findings if finding.kind is FindingKind.KNOWN_LOSS}
        lost: set[str] = set()
        with self._open(copy) as bank:
            infos = {info.name: info for info in bank.list()}
            changed = {name for name in infos.keys() | self.scene.names.keys() if not self._is_current(infos, name)}
            for info in infos.values():
                if self._is_lost(bank, info):
                    lost.add(info.name)
        named = {name for name in told if not name.endswith("(removed)")}
        _expect(named == lost, "the losses that a check knows are not those that are met", named, lost)
        if expected.objects is not None:
            _expect(told <= expected.objects, "objects lost bytes that were not damaged", told - expected.objects)
        if expected.changes is not None:
            _expect(changed <= expected.changes, "names changed that were not damaged", changed - expected.changes)
        self.outcomes["repaired with losses"] += bool(told)
        self.outcomes["repaired with changed names"] += bool(changed)

    def _is_current(self, infos: dict[str, ObjectInfo], name: str) -> bool:
        return name in infos and self._version(infos[name]) == self.scene.names.get(name)

    def _is_lost(self, bank: Bank, info: ObjectInfo) -> bool:
        version = self._version(info)
        _expect(version is not None, "an object that was never put", info)
        assert version is not None
        try:
            _expect(bank.get(info.name) == version.content, "wrong bytes after a repair", info)
        except CasbankError:
            with bank.open_object(info.name, allow_holes=True) as file:
                data, holes = file.read(), file.holes
            _expect(len(data) == len(version.content) and bool(holes), "holes do not stand for what is lost", info)
            _expect(_outside(data, holes) == _outside(version.content, holes), "wrong bytes beside a hole", info)
            return True
        return False

    def _heal(self, copy: Path) -> None:
        """A repaired bank takes puts and collections, and the contents that it lost make it whole."""
        # Or the nodes of trees would be cut in other places, and be others.
        with self._open(copy) as bank, small_limits():
            bank.put("new", b"new" * 100)
            _expect(bank.get("new") == b"new" * 100, "wrong bytes of a new object")
            for name, made in self.scene.names.items():
                bank.put(name, made.content)
            for made in [each for versions in self.scene.earlier.values() for each in versions]:
                bank.put("healing", made.content)
            for name, made in self.scene.names.items():
                _expect(bank.get(name) == made.content, "wrong bytes of what was put again", name)
        healed = self._checked(copy, repair=True)
        _expect(healed.clean and not self._unhealed(healed), "known losses remain once all was put again", healed)
        with self._open(copy) as bank:
            bank.collect(bank.plan_collection(0, 0, force=True))
            for name, made in self.scene.names.items():
                _expect(bank.get(name) == made.content, "wrong bytes after a collection", name)
        last = self._checked(copy)
        _expect(last.clean and not last.known_losses, "a collected bank is not clean", last)

    def _unhealed(self, report: FsckReport) -> list[str]:
        """Whom a loss still hits. The trees of some banks were cut as nobody cuts them now: what has a name has a whole
        one by now, but those of removed versions do not come back."""
        names = [finding.where for finding in report.findings if finding.kind is FindingKind.KNOWN_LOSS]
        return [name for name in names if self.scene.cuts_as_before or not name.endswith("(removed)")]

    def _open(self, copy: Path) -> Bank:
        own_cache = {} if (copy / "index").is_dir() and not self.scene.key else {"cache_dir": self.scratch / "opened"}
        return Bank.open(copy, world=self.world, **own_cache, **self.scene.key)


class _Copy:
    """A copy of the damaged bank, gone when it is left. What was remembered of another copy is forgotten."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._path = judge.scratch / "copy"

    def __enter__(self) -> Path:
        self.__exit__()
        shutil.copytree(self._judge.place, self._path)
        return self._path

    def __exit__(self, *_: object) -> None:
        for folder in (self._path, self._judge.scratch / "opened"):
            shutil.rmtree(folder, ignore_errors=True)


def _outside(data: bytes, holes: list[Hole]) -> bytes:
    kept = bytearray(data)
    for hole in holes:
        kept[hole.start : hole.start + hole.length] = bytes(hole.length)
    return bytes(kept)


def _where() -> str:
    """The exception that is being handled, and the last calls that led to it."""
    return "".join(traceback.format_exc(limit=-4))


def _expect(holds: bool, rule: str, *about: object) -> None:
    if not holds:
        raise BrokenRuleError(": ".join([rule, *map(str, about)]))
