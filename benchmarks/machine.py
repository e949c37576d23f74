"""What the figures were taken on: describe(folder) gives lines such as 'processor: AMD EPYC, 2 cores'."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path


def describe(folder: Path) -> dict[str, str]:
    """Facts by their names; `folder` is where the stores work."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{memory_bytes / 2**30:.0f} GiB",
        "file system": file_system(folder),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"


def file_system(folder: Path) -> str:
    """The type of the file system that the folder is on: fsync on tmpfs costs nothing, and proves nothing."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return kind
    for line in mounts:
        _, place, found, *_ = line.split()
        if folder.resolve().is_relative_to(place) and len(place) >= len(best):
            best, kind = place, found
    return kind
