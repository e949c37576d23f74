"""Which packs a check reads whole, and where one that was interrupted goes on.

Rule 1: packs have random ids, so the ids of one residue are a fair share of all; who reads a share takes the next
residue each time, so that as many runs as there are shares read every pack.
Rule 2: the notes are this client's own, in its cache folder: lost, they cost a pack that is read twice.
Rule 3: only what was found whole is noted: what was damaged is read, and told, again.
"""

import os
from pathlib import Path

from casbank import limits
from casbank.format.header import ID_BYTES
from casbank.world import World

_NS = 10**9
_HEAD_BYTES = 8


class Scrub:
    """The choice of one run. To be closed; :meth:`finish` when everything was read."""

    def __init__(self, folder: Path | None, percent: int, world: World, *, keyless: bool = False) -> None:
        """``folder`` None: nothing is noted. ``percent`` of the packs are to be read, 1 to 100.

        Each percentage, and who checks without a key, has turns of its own.
        """
        self._folder = folder
        kind = f"{'keyless-' if keyless else ''}{percent}"
        self._round_name, self._whole_name = f"fsck-round-{kind}", f"fsck-whole-{kind}"
        self._shares = -(-100 // percent)
        self._world = world
        self._round = self._read_round()
        self.whole = self._read_whole()
        self._file: int | None = None

    def takes(self, pack_id: bytes) -> bool:
        """Whether this run is to have read that pack when it ends."""
        return int.from_bytes(pack_id, "big") % self._shares == self._round % self._shares

    def note(self, pack_id: bytes) -> None:
        """That pack was read, and is whole."""
        if self._folder is None:
            return
        try:
            if self._file is None:
                self._file = self._open()
            os.write(self._file, pack_id)
        except OSError:
            # Rule 2.
            self.close()
            self._folder = None

    def finish(self) -> None:
        """All that this run was to read has been read: the next one takes the next share."""
        self.close()
        if self._folder is None:
            return
        try:
            (self._folder / self._whole_name).unlink(missing_ok=True)
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / self._round_name).write_text(str(self._round + 1))
        except OSError:
            pass

    def close(self) -> None:
        """Let go of the notes. Idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / self._whole_name
        if not self.whole:
            path.unlink(missing_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if not os.fstat(file).st_size:
            os.write(file, self._head() + self._world.now_ns().to_bytes(_HEAD_BYTES, "big"))
        return file

    def _head(self) -> bytes:
        return self._shares.to_bytes(_HEAD_BYTES, "big")

    def _read_round(self) -> int:
        try:
            digits = "" if self._folder is None else (self._folder / self._round_name).read_text()
            return int(digits)
        except (OSError, ValueError):
            # Nobody knows which share was the last one: over the days each has its turn.
            return self._world.now_ns() // (86_400 * _NS)

    def _read_whole(self) -> set[bytes]:
        """What an interrupted run of the same kind has read, unless that was long ago."""
        try:
            data = b"" if self._folder is None else (self._folder / self._whole_name).read_bytes()
        except OSError:
            return set()
        started_ns = int.from_bytes(data[_HEAD_BYTES : 2 * _HEAD_BYTES], "big")
        is_old = not 0 <= self._world.now_ns() - started_ns < limits.FSCK_RESUME_S_MAX * _NS
        if data[:_HEAD_BYTES] != self._head() or is_old:
            return set()
        ids = data[2 * _HEAD_BYTES :]
        return {ids[at : at + ID_BYTES] for at in range(0, len(ids) - ID_BYTES + 1, ID_BYTES)}
