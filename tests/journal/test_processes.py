"""Several processes at one local log: rivals, readers, and kill -9."""

import itertools
import signal
import time
from pathlib import Path

from counters import count

from journal.scene import Scene, Start, append, make_frame, make_record, records_of

# Appends until it is killed; prints the number and the body of each record once append has returned.
WRITE = """
import sys
from itertools import count
from pathlib import Path
from journal.scene import Scene, append, make_record
journal = Scene(Path(sys.argv[1])).journal(segment_bytes_max=20_000)
for number in count():
    body = f"{sys.argv[2]}-{number}"
    print(append(journal, make_record(body, number % 7 * 100)), body, flush=True)
"""

# Follows until it has seen as many records as it is told.
FOLLOW = """
import sys
from pathlib import Path
from journal.scene import Scene
journal, seen = Scene(Path(sys.argv[1])).journal(read_only=True), 0
while seen < int(sys.argv[2]):
    for entry in journal.read(seen):
        assert entry.seq == seen + 1
        seen = entry.seq
print("followed")
"""

# Dies between the write of its record and the sync.
DIE = """
import os, signal, sys
from pathlib import Path
from journal.scene import Scene, append, make_record
from casbank.storage import files
files.fdatasync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
append(Scene(Path(sys.argv[1])).journal(), make_record("unsynced"))
"""


def test_killed_writers_lose_nothing_that_was_acknowledged(scene: Scene, start: Start, tmp_path: Path) -> None:
    """Of three rival writers that are killed one after the other, each record whose append returned is there."""
    children = [start(WRITE, tmp_path, name) for name in "abc"]
    # Each has come so far before the first one dies.
    lines = [next(iter(child.stdout or ())) for child in children]
    for child in children:
        time.sleep(0.3)
        child.send_signal(signal.SIGKILL)
    for child in children:
        lines += child.communicate()[0].splitlines(keepends=True)
    # A kill may cut the last line short; then the writer had not said it.
    acknowledged = [line.split() for line in lines if line.endswith("\n")]
    with scene.journal().turn():
        found = records_of(scene.journal())
    assert list(found) == list(range(1, len(found) + 1))
    bodies = {seq: record[:-32].decode().rstrip(".") for seq, record in found.items()}
    assert {int(seq): body for seq, body in acknowledged}.items() <= bodies.items()
    assert len({body[0] for body in bodies.values()}) == 3
    # At most one record of each writer was under way when it died, or written and not told of.
    assert len(acknowledged) <= len(found) <= len(acknowledged) + 3
    count("kills", 3)


def test_reader_follows_rival_writers(scene: Scene, start: Start, tmp_path: Path) -> None:
    """A process that follows without any lock sees every record once and in order, while others write and roll."""
    writers = [start(WRITE, tmp_path, name) for name in "ab"]
    assert start(FOLLOW, tmp_path, 500).communicate()[0] == "followed\n"
    assert [child.poll() for child in writers] == [None, None]


def test_writer_that_remembers_its_own_end_finds_the_tail_of_another(
    scene: Scene, start: Start, tmp_path: Path
) -> None:
    """The last writer, to whom the mark looks as it left it but for *writing*, mends what a later one left."""
    journal = scene.journal()
    append(journal, make_record("mine"))
    assert start(DIE, tmp_path).wait() == -signal.SIGKILL
    assert journal.head().seq == 1
    append(journal, make_record("mine again"))
    assert [entry.record for entry in journal.read(0)] == [make_record(b) for b in ("mine", "unsynced", "mine again")]
    assert scene.segments()[1].read_bytes().startswith(make_frame(2, make_record("unsynced")))


def test_numbers_are_won_once(scene: Scene, start: Start, tmp_path: Path) -> None:
    """No number is acknowledged to two writers."""
    children = [start(WRITE, tmp_path, name) for name in "ab"]
    lines = [list(itertools.islice(child.stdout or (), 100)) for child in children]
    numbers = [int(line.split()[0]) for line in itertools.chain(*lines)]
    assert len(set(numbers)) == len(numbers) == 200
