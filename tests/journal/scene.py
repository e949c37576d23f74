"""A journal's folder as the tests of this folder handle it: records, reboots, the bytes of a writer that died."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from casbank.journal.base import Journal
from casbank.journal.frame import encode_frame_head
from casbank.journal.local import LocalJournal
from casbank.journal.synced import SLOT_BYTES, Mark, decode_mark, encode_mark, newest_mark
from casbank.world import World

Start = Callable[..., "subprocess.Popen[str]"]
"""``start(program, *arguments, under=())``: a running Python process, its output in a pipe."""
Tracer = Callable[..., list[str]]
"""``tracer(output, *options)``: what to run a process under to trace its system calls into a file."""

# Small, so that every size of interest is a few bytes away; the real ones are bounds of the same code.
SEGMENT_BYTES = 2000
GROW_BYTES = 4096


def make_record(body: object, size: int = 0) -> bytes:
    """A record that is opaque but for its hash: the text of ``body``, padded to ``size`` bytes before the hash."""
    content = str(body).encode().ljust(size, b".")
    return content + blake3(content).digest()


def make_frame(seq: int, record: bytes) -> bytes:
    return encode_frame_head(seq, len(record)) + record


def append(journal: Journal, *records: bytes) -> int:
    """Append the records as the engine does, each in a turn of its own; the number of the last one."""
    seq = 0
    for record in records:
        with journal.turn():
            seq = journal.head().seq + 1
            journal.append(seq, record)
    return seq


def records_of(journal: Journal, after: int = 0) -> dict[int, bytes]:
    return dict(journal.read(after))


class Scene:
    """One folder with a local journal, and what happens to it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.folder = folder / "journal"
        self.quarantine = folder / "quarantine"
        self.mark_path = self.folder / "synced"
        self._open: list[LocalJournal] = []

    def journal(
        self, *, read_only: bool = False, segment_bytes_max: int = SEGMENT_BYTES, grow_bytes: int = GROW_BYTES
    ) -> LocalJournal:
        journal = LocalJournal(
            self.folder,
            world=World(),
            read_only=read_only,
            quarantine=self.quarantine,
            segment_bytes_max=segment_bytes_max,
            grow_bytes=grow_bytes,
        )
        self._open.append(journal)
        return journal

    def close(self) -> None:
        while self._open:
            self._open.pop().close()

    def copy(self, folder: Path) -> "Scene":
        """The same bytes in another place: what a backup or another disk would hold."""
        shutil.copytree(self.root, folder)
        return Scene(folder)

    def segments(self) -> list[Path]:
        return sorted(self.folder.glob("*.log"))

    def files(self) -> dict[str, bytes]:
        """The log and the quarantine: everything but the lock and the mark."""
        paths = [path for path in self.root.rglob("*") if path.is_file() and path.name not in ("lock", "synced")]
        return {str(path.relative_to(self.root)): path.read_bytes() for path in paths}

    def mark(self) -> Mark:
        mark = newest_mark(self.mark_path.read_bytes())
        assert mark is not None
        return mark

    def set_mark(self, mark: Mark) -> None:
        self.mark_path.write_bytes(encode_mark(mark).ljust(2 * SLOT_BYTES, b"\0"))

    def reboot(self) -> None:
        """Let the mark be of another boot, as if the machine had lost power and come back."""
        self.close()
        slots = self.mark_path.read_bytes()
        marks = [decode_mark(slots[:SLOT_BYTES]), decode_mark(slots[SLOT_BYTES:])]
        older = [
            bytes(SLOT_BYTES) if mark is None else encode_mark(mark._replace(identity=bytes(16))) for mark in marks
        ]
        # A new file: who has the old one open lives in the old boot.
        self.mark_path.unlink()
        self.mark_path.write_bytes(b"".join(older))

    def forget_mark(self) -> None:
        """Let the mark be gone, as if it had never reached the disk before the power cut."""
        self.close()
        self.mark_path.unlink()

    def leave_behind(self, data: bytes, *, writing: bool = True) -> None:
        """Write bytes behind the mark, as a writer does before it syncs, and die."""
        self.close()
        mark = self.mark()
        if writing:
            self.set_mark(mark._replace(writing=True, counter=mark.counter + 1))
        with self.segments()[-1].open("r+b") as file:
            file.seek(mark.position.length)
            file.write(data)
