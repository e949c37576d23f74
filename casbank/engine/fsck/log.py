"""The findings of one run, as they are made.

Rule 1: their number and the names in them are bounded; what is left out is counted.
Rule 2: what somebody else's collection could explain is told when the check is sure of it, the rest at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from casbank import limits
from casbank.findings import Finding, FindingKind

OnFinding = Callable[[Finding], None]


@dataclass(slots=True)
class Draft:
    """A finding that may still learn of objects."""

    kind: FindingKind
    where: str
    what: str
    repair: str
    objects: list[str] = field(default_factory=list)
    hit: int = 0

    def finish(self) -> Finding:
        """The value for everybody else."""
        return Finding(self.kind, self.where, self.what, self.repair, tuple(self.objects), self.hit)


# Bytes that are wrong are wrong whatever others do.
_SURE = frozenset({FindingKind.BANK_FILE, FindingKind.KEY_SLOT, FindingKind.KEYRING, FindingKind.PACK})


class Mark(NamedTuple):
    """How far a log was."""

    drafts: int
    names: int
    omitted: int
    damage: int


class Findings:
    """Takes them in order."""

    def __init__(self, on_finding: OnFinding | None = None) -> None:
        """``on_finding`` is told of each once, the sure ones before it is known which objects are hit."""
        self._on_finding = on_finding
        self._told: set[tuple[FindingKind, str]] = set()
        self._drafts: list[Draft] = []
        self._names = 0
        self.omitted = 0
        self.damage = 0

    def mark(self) -> Mark:
        """Where it stands."""
        return Mark(len(self._drafts), self._names, self.omitted, self.damage)

    def rewind(self, mark: Mark) -> None:
        """Forget what was found since: it is looked for anew."""
        del self._drafts[mark.drafts :]
        self._names, self.omitted, self.damage = mark.names, mark.omitted, mark.damage

    def tell(self) -> None:
        """Everything that was found is sure by now."""
        for draft in self._drafts:
            self._tell(draft.finish())

    def _tell(self, finding: Finding) -> None:
        key = finding.kind, finding.where
        if self._on_finding is not None and key not in self._told:
            self._told.add(key)
            self._on_finding(finding)

    def add(self, kind: FindingKind, where: str, what: str, repair: str) -> Draft:
        """Take note of one."""
        draft = Draft(kind, where, what, repair)
        finding = draft.finish()
        self.damage += finding.is_damage
        if len(self._drafts) < limits.FINDINGS_MAX:
            self._drafts.append(draft)
        else:
            self.omitted += 1
        if kind in _SURE:
            self._tell(finding)
        return draft

    def hit(self, draft: Draft, name: str) -> None:
        """An object is hit by it."""
        draft.hit += 1
        if self._names < limits.FINDING_NAMES_MAX:
            self._names += 1
            draft.objects.append(name)

    def all(self) -> tuple[Finding, ...]:
        """Everything so far."""
        return tuple(draft.finish() for draft in self._drafts)
