"""What the tests of this folder share: other processes, which they kill, fork and trace."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import casbank

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Runs a Python program with arguments, pipes at both ends; it is killed, and reaped, when the test ends."""
    children: list[subprocess.Popen[str]] = []
    environment = os.environ | {"PYTHONPATH": str(Path(casbank.__path__[0]).parent)}

    def run(program: str, *arguments: object, under: Sequence[str] = ()) -> "subprocess.Popen[str]":
        command = [*under, sys.executable, "-c", program, *map(str, arguments)]
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        children.append(child)
        return child

    yield run
    for child in children:
        child.kill()
        child.communicate()
