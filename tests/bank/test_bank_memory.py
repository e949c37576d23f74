"""Memory is the same whatever the size; a small put is one sync."""

import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from casbank import Bank

MIB = 2**20
SIZE_MIB = 384
# The promise is 256 MiB for 10 GiB; docs/performance.md has the curve, which is flat from here on.
ANONYMOUS_MIB_MAX = 256

SMALL_PUTS = """
import os, sys
from casbank import Bank
with Bank.open(sys.argv[1]) as bank:
    bank.put("first", b"the index is marked as being written to")
    os.write(2, b"begin")
    for number in range(20):
        bank.put(f"small {number}", b"content %d" % number)
    os.write(2, b"end")
"""


def anonymous_mib_max(process: subprocess.Popen[bytes]) -> float:
    """The most anonymous memory that a process had, looked at every 10 ms until it ended."""
    most = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        most = max(most, int(found[1]) if found else 0)
        time.sleep(0.01)
    return most / 1024


def feed(target: IO[bytes]) -> None:
    """Every other block is new, one in four compresses, one in four was there before."""
    noise, text = random.Random(1).randbytes(MIB), b"".join(b"line %d of a text\n" % n for n in range(60_000))[:MIB]
    with target:
        for number in range(SIZE_MIB):
            block = bytearray(text if number % 4 == 1 else noise)
            if number % 4 != 3:
                for at in range(0, MIB, 16_384):
                    block[at : at + 8] = (number * MIB + at).to_bytes(8, "little")
            target.write(block)


def drain(source: IO[bytes]) -> None:
    while source.read(MIB):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is read from /proc")
def test_streams_of_any_length_take_bounded_memory(tmp_path: Path) -> None:
    """A put from a pipe and a get into one stay below 256 MiB of anonymous memory."""
    place = str(tmp_path / "bank")
    Bank.create(place).close()
    steps: list[tuple[str, str, Callable[[subprocess.Popen[bytes]], None]]] = [
        ("put", "-", lambda child: feed(child.stdin)),  # type: ignore[arg-type]  # both are pipes
        ("get", "-o-", lambda child: drain(child.stdout)),  # type: ignore[arg-type]
    ]
    for verb, where, other_end in steps:
        command = [sys.executable, "-m", "casbank", verb, place, "stream", where]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            thread = threading.Thread(target=other_end, args=(child,))
            thread.start()
            most = anonymous_mib_max(child)
            thread.join()
        assert child.returncode == 0
        assert 10 < most <= ANONYMOUS_MIB_MAX, verb


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_small_put_is_one_fdatasync(tmp_path: Path) -> None:
    """A durable put of a small object syncs the journal once, and nothing else."""
    place, trace = tmp_path / "bank", tmp_path / "trace"
    Bank.create(place).close()
    calls = "trace=write,fsync,fdatasync,sync,syncfs,msync,sync_file_range"
    command = ["strace", "-f", "-o", str(trace), "-e", calls, sys.executable, "-c", SMALL_PUTS, str(place)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    lines = trace.read_text().splitlines()
    marks = [number for number, line in enumerate(lines) if re.search(r'write\(2, "(begin|end)"', line)]
    syncs = [line for line in lines[marks[0] : marks[1]] if "sync" in line]
    assert len(syncs) == 20
    assert all("fdatasync(" in line for line in syncs)
