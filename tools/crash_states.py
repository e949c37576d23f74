"""Replay crashes of small workloads, and check that the bank comes back from each.

Run as ``python tools/crash_states.py [--states N] [--seed S]`` for so many states of all workloads, drawn at random, or
with ``--workload put-small,collect`` for those of one; with ``--state LABEL --index absent`` for one state again, as a
failure prints it. With ``--fault EIO --call N`` the N-th call of a workload fails instead. The fault model is in
``docs/reliability.md``.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / folder) for folder in ("", "tests/faults")]

from crash_check import (  # noqa: E402 - the path comes first
    INDEXES,
    Bases,
    CrashError,
    Report,
    Steps,
    check_one,
    check_workloads,
    run,
    scratch,
)
from nth_fault import WAYS, FaultError, check_steps  # noqa: E402
from workloads import STEPS, small_scene  # noqa: E402


def main() -> int:
    """The exit status: 1 if a bank did not come back."""
    options = _parser().parse_args()
    began = time.monotonic()
    steps: Steps = tuple(options.workload.split(",")) if options.workload else ()
    if not set(steps) <= set(STEPS):
        raise SystemExit(f"a workload is some of: {', '.join(STEPS)}")
    if options.fault:
        report = _failing(steps, options.fault, options.call)
    elif options.state:
        report = _one(steps, options.state, options.index)
    elif steps:
        report = check_workloads([steps], options.states, options.seed)
    else:
        report = run(options.states, options.seed, options.processes)
    for failure in report.failures:
        print(failure)
    print(f"{report.states} states in {time.monotonic() - began:.0f} s, {len(report.failures)} failures")
    return 1 if report.failures else 0


def _one(steps: Steps, label: str, index: str) -> Report:
    with scratch() as folder, small_scene():
        try:
            check_one(Bases(folder), steps, label, index)
        except CrashError as error:
            return Report(1, [str(error)])
    return Report(1)


def _failing(steps: Steps, fault: str, call: int) -> Report:
    with scratch() as folder, small_scene():
        try:
            failed = check_steps(Bases(folder), steps, next(way for way in WAYS if str(way) == fault), call).failed
        except FaultError as error:
            return Report(1, [str(error)])
    print(f"failed: {failed}")
    return Report(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=20_000, metavar="N", help="how many (20000)")
    parser.add_argument("--seed", default="1", metavar="S", help="of what is drawn (1)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="that check them (2)")
    parser.add_argument("--workload", default="", metavar="A,B,C", help="one workload: its steps")
    parser.add_argument("--state", default="", metavar="LABEL", help="one state of it")
    parser.add_argument("--index", default=INDEXES[0], choices=INDEXES, help="what is left of the index then")
    parser.add_argument("--fault", default="", choices=[str(way) for way in WAYS], help="let a call fail so")
    parser.add_argument("--call", type=int, default=1, metavar="N", help="which one, of those that can fail so")
    return parser


if __name__ == "__main__":
    sys.exit(main())
