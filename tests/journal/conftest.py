"""What the tests of this folder share: a scene, other processes, and a tracer that lets system calls fail."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import casbank
from journal.scene import Scene, Start, Tracer


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Runs a Python program with arguments, its output in a pipe; it is killed, and reaped, when the test ends."""
    children: list[subprocess.Popen[str]] = []
    folders = [Path(casbank.__path__[0]).parent, Path(__file__).parents[1]]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}

    def run(program: str, *arguments: object, under: Sequence[str] = ()) -> "subprocess.Popen[str]":
        command = [*under, sys.executable, "-c", program, *map(str, arguments)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        children.append(child)
        return child

    yield run
    for child in children:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


@pytest.fixture
def tracer() -> Tracer:
    """A command prefix that traces a program's system calls into a file, and can make them fail or kill."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    if subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this process may not trace others")

    def command(output: Path, *options: str) -> list[str]:
        return [strace, "-f", "-o", str(output), *options]

    return command
