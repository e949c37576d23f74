"""Peak memory of putting and getting one object through pipes, by its size.

    python benchmarks/memory_curve.py --work DIR [--sizes 64M,1G,10G]

casbank must hold no more for 10 GiB than for 64 MiB. What is reported is the largest RssAnon of its process, sampled
every 20 ms: the kernel's own peak (VmHWM) counts mapped pages of files too, which the kernel takes back when it wants
them. The bytes come from stream.py and go to it, which compares them; rates of small sizes are mostly the start of
Python on both sides. Linux only.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from content import stored_bytes
from machine import describe
from peers import Casbank
from table import print_table

MB = 10**6
MIB = 2**20
SAMPLE_S = 0.02
STREAM = Path(__file__).with_name("stream.py")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, slots=True)
class Sample:
    """What one command held at most, and how long it took."""

    anonymous_bytes: int
    wall_s: float


def watch(child: subprocess.Popen[bytes]) -> Sample:
    """Sample a child until it ends. Raises SystemExit if it fails."""
    start, largest = time.perf_counter(), 0
    while child.poll() is None:
        largest = max(largest, anonymous_bytes(child.pid))
        time.sleep(SAMPLE_S)
    if child.returncode:
        raise SystemExit(f"{child.args!r} ended with {child.returncode}")
    return Sample(largest, time.perf_counter() - start)


def anonymous_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        # It ended between the poll and the look.
        pass
    return 0


def put(store: Casbank, name: str, size: int) -> Sample:
    with subprocess.Popen((sys.executable, STREAM, "feed", str(size)), stdout=subprocess.PIPE) as feeder:
        argv = store.command("put", store.bank, name, "-").argv
        child = subprocess.Popen(argv, env=store.environment(), stdin=feeder.stdout, stdout=subprocess.DEVNULL)
        return watch(child)


def get(store: Casbank, name: str, size: int) -> Sample:
    with subprocess.Popen((sys.executable, STREAM, "check", str(size)), stdin=subprocess.PIPE) as checker:
        argv = store.command("get", store.bank, name, "-o", "-").argv
        sample = watch(subprocess.Popen(argv, env=store.environment(), stdout=checker.stdin))
    if checker.returncode:
        raise SystemExit(f"the {size} bytes that came back differ")
    return sample


def measure(size: int, work: Path) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory(dir=work, prefix="memory-") as folder:
        store = Casbank(Path(folder, "store"))
        subprocess.run(store.init().argv, env=store.environment(), check=True, stdout=subprocess.DEVNULL)
        os.sync()
        written = put(store, "stream", size)
        stored = stored_bytes(store.bank)
        read = get(store, "stream", size)
    return (
        f"{size / MIB:.0f} MiB",
        f"{written.anonymous_bytes / MIB:.1f}",
        f"{read.anonymous_bytes / MIB:.1f}",
        f"{size / MB / written.wall_s:.0f}",
        f"{size / MB / read.wall_s:.0f}",
        f"{stored / MB:.0f}",
    )


def size_list(text: str) -> list[int]:
    """'64M,1G' in bytes."""
    return [int(part.rstrip("KMG")) * UNITS.get(part[-1], 1) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="on the disk to be measured; needs the largest size")
    parser.add_argument("--sizes", type=size_list, default=size_list("64M,256M,1G,4G,10G"))
    options = parser.parse_args()
    if not Casbank.version():
        raise SystemExit("casbank is not installed beside this interpreter, or does not run")
    options.work.mkdir(parents=True, exist_ok=True)
    print(*(f"- {name}: {text}" for name, text in describe(options.work).items()), sep="\n", end="\n\n")
    headings = ("size", "put, RssAnon MiB", "get, RssAnon MiB", "put MB/s", "get MB/s", "stored MB")
    print_table(headings, (measure(size, options.work) for size in options.sizes))


if __name__ == "__main__":
    main()
