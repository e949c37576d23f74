"""A person at a terminal, who answers what the command asks."""

import os
import pty
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cli.shell import SCRIPT, environment

# The terminal becomes that of the new session, so that /dev/tty is it.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
_PATIENCE_S = 30


class Talk(NamedTuple):
    """What came of it; ``shown`` is all that the terminal had on it, ``stdout`` is not there."""

    code: int
    shown: bytes
    stdout: bytes


def talk(*arguments: str | Path, answers: Sequence[tuple[bytes, bytes]] = (), data: bytes | None = None) -> Talk:
    """Run the console script with a terminal of its own, and type an answer at each prompt.

    Standard input is the terminal, or a pipe with ``data``; standard output a pipe.
    """
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", _TAKE_TERMINAL, SCRIPT, *arguments]
    streams: dict[str, Any] = {"stdin": follower if data is None else subprocess.PIPE, "stderr": follower}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=environment(), start_new_session=True, **streams
    ) as process:
        os.close(follower)
        if process.stdin:
            process.stdin.write(data)
            process.stdin.close()
        try:
            shown = _converse(leader, answers)
        except BaseException:
            # Or it would wait for an answer, and we for its end.
            process.kill()
            raise
        stdout = process.stdout.read()
    os.close(leader)
    return Talk(process.returncode, shown, stdout)


def _converse(leader: int, answers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """What was shown from the first prompt to the end."""
    shown = b""
    for prompt, answer in answers:
        asked = _read_until(leader, prompt)
        shown += asked
        assert prompt in asked, shown
        os.write(leader, answer)
    return shown + _read_until(leader, None)


def _read_until(leader: int, expected: bytes | None) -> bytes:
    """What comes until ``expected`` does, or until nobody has the terminal open."""
    seen = b""
    while expected is None or expected not in seen:
        assert select.select([leader], [], [], _PATIENCE_S)[0], f"nothing comes after {seen!r}"
        try:
            seen += os.read(leader, 65_536)
        except OSError:
            break  # EIO: the last one has closed the terminal
    return seen
