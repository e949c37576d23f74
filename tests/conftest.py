"""What the tests of the bank share: a place for one, an open one, and other processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import casbank
from casbank import Bank

# Failures inside the shipped suite show their values.
pytest.register_assert_rewrite("casbank.testing.stores")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a bank can be created."""
    return tmp_path / "bank"


@pytest.fixture
def bank(place: Path) -> Iterator[Bank]:
    """A new bank on disk."""
    with Bank.create(place) as made:
        yield made


@pytest.fixture
def program() -> Iterator[Start]:
    """Runs a Python program with arguments, pipes at both ends; it is killed, and reaped, when the test ends."""
    children: list[subprocess.Popen[str]] = []
    folders = [Path(casbank.__path__[0]).parent, Path(__file__).parent]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}

    def run(text: str, *arguments: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", text, *map(str, arguments)]
        pipe = subprocess.PIPE
        # A group of its own: some of these programs have children.
        child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, start_new_session=True)
        children.append(child)
        return child

    yield run
    for child in children:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
