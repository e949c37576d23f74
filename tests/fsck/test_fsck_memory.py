"""What a check holds in memory does not grow with the bank."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from bank_scene import content
from check_scene import own_cache  # noqa: F401 - a fixture for every test here
from conftest import Start

from casbank import Bank

# Checks, and samples what memory of its own the process has meanwhile.
CHECK = """
import json, sys, threading
from pathlib import Path
from casbank import Bank
status, peak, done = Path("/proc/self/status"), 0, threading.Event()
def sample():
    global peak
    while not done.wait(0.01):
        line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
        peak = max(peak, int(line.split()[1]))
thread = threading.Thread(target=sample)
thread.start()
report = Bank.check(sys.argv[1], read_data=True)
done.set()
thread.join()
print(json.dumps([report.clean, report.bytes_read, peak]), flush=True)
"""

PIECE = 2**20


def make(place: Path, mebibytes: int) -> None:
    """A bank of so many MiB."""

    def pieces() -> Iterator[bytes]:
        for number in range(mebibytes):
            yield content(number, PIECE)

    with Bank.create(place, compression="none", chunking="fixed:65536") as bank:
        bank.put("x", pieces())


def peak_of(program: Start, place: Path) -> tuple[int, int]:
    """Bytes that a check of the bank read, and its peak of memory in KiB."""
    child = program(CHECK, place)
    assert child.stdout is not None
    is_clean, read, peak = json.loads(child.stdout.readline())
    assert is_clean
    return read, peak


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what memory is a process's own")
def test_memory_is_the_same_for_ten_times_as_much(tmp_path: Path, program: Start) -> None:
    """A check of 2 GiB takes about the memory that one of 200 MiB does."""
    make(tmp_path / "small", 200)
    make(tmp_path / "large", 2048)
    small_read, small = peak_of(program, tmp_path / "small")
    large_read, large = peak_of(program, tmp_path / "large")
    assert large_read > 10 * small_read > 10 * 199 * 2**20
    assert large < 1.25 * small + 8 * 1024
