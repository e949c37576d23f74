"""What an offline check says: findings, each with what is hit and what a repair would do, and the report of a run.

All are frozen values; none does I/O.
"""

from dataclasses import dataclass
from enum import StrEnum


class FindingKind(StrEnum):
    """What a finding is about; stable across releases."""

    BANK_FILE = "bank-file"
    KEY_SLOT = "key-slot"
    KEYRING = "keyring"
    JOURNAL = "journal"
    CHECKPOINT = "checkpoint"
    PACK_MISSING = "pack-missing"
    PACK = "pack"
    OBJECT = "object"
    INDEX = "index"
    # No damage: what crashes leave, and what a repair has written down.
    KNOWN_LOSS = "known-loss"
    LEFTOVER = "leftover"


_HARMLESS = frozenset({FindingKind.KNOWN_LOSS, FindingKind.LEFTOVER})


@dataclass(frozen=True, slots=True)
class Finding:
    """``where`` names a file of the bank (and the place in it) or an object, ``what`` is wrong with it.

    ``objects`` are the names that are hit, up to a bound; ``objects_hit`` how many there are (a removed version that
    can still be brought back counts too, and is listed as "name (removed)"). ``repair`` says what a repair would do.
    """

    kind: FindingKind
    where: str
    what: str
    repair: str
    objects: tuple[str, ...] = ()
    objects_hit: int = 0

    @property
    def is_damage(self) -> bool:
        """Whether the bank is not clean because of it."""
        return self.kind not in _HARMLESS


@dataclass(frozen=True, slots=True)
class FsckProgress:
    """How far a check is: of ``total`` things (``unit`` names them: records, packs, bytes, objects) ``done`` are."""

    step: str
    done: int
    total: int
    unit: str


@dataclass(frozen=True, slots=True)
class FsckReport:
    """The outcome of a check, or of a repair and the check behind it.

    ``keyless``: only what can be checked without a key was. ``records`` of the journal were read, ``packs`` looked at,
    ``packs_read`` of them read whole (``bytes_read`` bytes), and ``packs_resumed`` in an earlier run that this one went
    on with; ``objects`` names were followed to their last chunk. ``damage`` counts the findings that are damage;
    ``omitted`` those of any kind that are not listed.
    ``repaired``: what was done, a line each.
    """

    keyless: bool
    findings: tuple[Finding, ...]
    damage: int
    omitted: int
    records: int
    checkpoints: int
    packs: int
    packs_read: int
    packs_resumed: int
    bytes_read: int
    objects: int
    repaired: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether nothing is damaged; known losses and leftovers of crashes are no damage."""
        return not self.damage

    @property
    def known_losses(self) -> int:
        """How many objects are known to lack bytes."""
        return sum(finding.kind is FindingKind.KNOWN_LOSS for finding in self.findings)
