"""What a run of the tests did to the bank, for who wants to know: kills, power cuts, and what was lost by them.

If the environment variable CASBANK_COUNTERS names a file, each count is a line of JSON at its end:
``{"counter": "kills", "n": 60, "lost": 0}``. Counts of one name are meant to be added up.
"""

import json
import os


def count(counter: str, n: int, *, lost: int = 0) -> None:
    """Say that something was done ``n`` times, and how many acknowledged objects that cost."""
    path = os.environ.get("CASBANK_COUNTERS")
    if not path:
        return
    line = json.dumps({"counter": counter, "n": n, "lost": lost}) + "\n"
    # One write at the end of the file: tests may run side by side.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
