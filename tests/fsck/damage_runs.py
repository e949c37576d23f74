"""Runs of the damage command beside each other: it may be killed by what it does to an index."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import casbank

_FOLDERS = [Path(casbank.__path__[0]).parent, Path(__file__).parent.parent]


def damaged(*runs: Sequence[object]) -> Counter[str]:
    """Start them all, and assert that no rule was broken in any; what came of the cases, and how many they were."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, _FOLDERS))}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "fsck.damage", *map(str, run)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for run in runs
    ]
    outcomes: Counter[str] = Counter()
    for run, child in zip(runs, children, strict=True):
        said, problems = child.communicate()
        last = said.rpartition("\n")[0].rpartition("\n")[2]
        assert child.returncode == 0, f"{' '.join(map(str, run))} ended with {child.returncode} at {last}\n{problems}"
        report = json.loads(last)
        outcomes.update(report["outcomes"], cases=report["cases"])
    return outcomes
