"""One workload, one way to fail, one number: the n-th call fails, and the bank keeps its word all the same.

Rule 1: nothing but CasbankError leaves, whatever call failed. Rule 2: a step that returned is there; one that raised is
not, or, where the error says that the outcome is unknown, is there as a whole or not at all.
"""

import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from crash_check import Bases, Steps, check_contents, examine, scratch
from workloads import STEPS, Base, Contents, open_bank, small_scene

from casbank.errors import CasbankError, ErrorKind
from casbank.testing.faults import Failure, Fault, failing

FAULTED = {
    "puts": ("put-small", "put-large", "overwrite"),
    "batch": ("batch", "copy", "delete"),
    "collection": ("overwrite", "collect", "rewrite"),
    "checkpoints": ("put-small", "checkpoint", "checkpoint"),
    "keys": ("put-small", "rotate", "put-large"),
}
"""Workloads of which every call is to fail."""


class Way(NamedTuple):
    """How a call fails: and, with ``forever``, all that follow it."""

    fault: Fault
    forever: bool

    def __str__(self) -> str:
        return f"{self.fault.name}{'-forever' if self.forever else ''}"


WAYS = [
    Way(Fault.EIO, False),
    Way(Fault.EIO, True),
    Way(Fault.ENOSPC, False),
    Way(Fault.ENOSPC, True),
    Way(Fault.EINTR, False),
    Way(Fault.SHORT_WRITE, False),
    Way(Fault.SHORT_WRITE, True),
]


class FaultError(AssertionError):
    """The bank did not keep its word, and the command that shows it again."""


def command(steps: Steps, way: Way, number: int) -> str:
    return f"python tools/crash_states.py --workload {','.join(steps)} --fault {way} --call {number}"


@dataclass
class FaultReport:
    """How many calls failed, one a run, and what went wrong."""

    calls: int = 0
    failures: list[str] = field(default_factory=list)


def check_faults(workload: str, way: Way) -> FaultReport:
    """Let every call of a workload fail in this way, in this process."""
    report = FaultReport()
    with scratch() as folder, small_scene():
        bases = Bases(folder)
        while True:
            try:
                if check_fault(bases, workload, way, report.calls + 1).failed is None:
                    return report
            except FaultError as error:
                report.failures.append(str(error))
            report.calls += 1


def check_fault(bases: Bases, workload: str, way: Way, number: int) -> Failure:
    """Let one call fail. Raises FaultError unless the bank kept its word."""
    return check_steps(bases, FAULTED[workload], way, number)


def check_steps(bases: Bases, steps: Steps, way: Way, number: int) -> Failure:
    """The same with any steps."""
    try:
        return _run_with_fault(bases, steps, way, number)
    except Exception as error:
        raise FaultError(f"{type(error).__name__}: {error}\n{command(steps, way, number)}") from error


def _run_with_fault(bases: Bases, steps: Steps, way: Way, number: int) -> Failure:
    """Do the steps with a fault, and look at what is left. Raises AssertionError, or what should not have left."""
    base, folder = bases.base_for(steps), bases.folder / "faulted"
    try:
        base.copy(folder)
        with failing(folder, number, way.fault, forever=way.forever) as failure:
            allowed = _attempt(base, folder, steps)
        found = examine(folder, encrypted=base.encrypted, thoroughly=False)
        check_contents(found, allowed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return failure


def _attempt(base: Base, folder: Path, steps: Steps) -> list[Contents]:
    """Do the steps as far as possible; what the bank may hold then."""
    allowed = [dict(base.contents)]
    with suppress(CasbankError), open_bank(folder, encrypted=base.encrypted) as bank:
        for at, step in enumerate(steps):
            behind = [dict(contents) for contents in allowed]
            for contents in behind:
                STEPS[step].model(contents, at)
            try:
                STEPS[step].act(bank, at)
                allowed = behind
            except CasbankError as error:
                if error.kind is ErrorKind.OUTCOME_UNKNOWN:
                    allowed += behind
    return allowed
