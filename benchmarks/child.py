"""Run one command as a child and measure it: run(command, environment, log) gives its Figures.

Wall time, user and system CPU time, and peak memory come from wait4, so they are those of this child and of what it
waited for itself. Two limits of that: peak memory is never below that of this process when it started the child
(exec inherits the mark), so the harness must stay small; and it counts mapped file pages as well as its own memory.
"""

import os
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

LOG_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: no shell, so no quoting. `fed_from` is a file whose bytes come through a pipe as standard input."""

    argv: tuple[str, ...]
    cwd: Path
    fed_from: Path | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run cost. `other_cpu_s` is what the rest of the machine used meanwhile: a busy machine shows there."""

    exit_code: int
    wall_s: float
    cpu_s: float
    peak_mib: float
    other_cpu_s: float


def run(command: Command, environment: dict[str, str], log: Path, *, limit_s: float = 3600) -> Figures:
    """Run to the end, or kill after `limit_s`; what the command says goes to the end of `log`."""
    with ExitStack() as stack:
        out = stack.enter_context(log.open("ab"))
        out.write(f"\n$ {' '.join(command.argv)}\n".encode())
        out.flush()
        source = feed(command.fed_from, stack)
        busy_before, start = busy_s(), time.perf_counter()
        child = subprocess.Popen(
            command.argv, cwd=command.cwd, env=environment, stdin=source, stdout=out, stderr=out, start_new_session=True
        )
        killer = threading.Timer(limit_s, os.killpg, (child.pid, signal.SIGKILL))
        killer.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - start
        killer.cancel()
    # Popen must learn that its child was waited for, or it waits again.
    child.returncode = os.waitstatus_to_exitcode(status)
    cpu_s = usage.ru_utime + usage.ru_stime
    return Figures(child.returncode, wall_s, cpu_s, usage.ru_maxrss / 1024, max(0.0, busy_s() - busy_before - cpu_s))


def feed(path: Path | None, stack: ExitStack) -> int:
    """A descriptor to read standard input from: a pipe, as a regular file could be measured and mapped."""
    if path is None:
        return subprocess.DEVNULL
    feeder = stack.enter_context(subprocess.Popen(("cat", str(path)), stdout=subprocess.PIPE))
    assert feeder.stdout is not None
    return feeder.stdout.fileno()


def busy_s() -> float:
    """CPU seconds that all processors have worked since the machine started; 0 where nobody counts them."""
    try:
        with Path("/proc/stat").open() as file:
            user, nice, system, _, _, interrupt, soft = map(int, file.readline().split()[1:8])
    except OSError:
        return 0.0
    return (user + nice + system + interrupt + soft) / os.sysconf("SC_CLK_TCK")


def last_words(log: Path) -> str:
    """The end of what the last command said."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").rpartition("\n$ ")[2].strip()
