"""Sort more rows than memory should hold: sorted runs in temporary files, then one merge."""

import heapq
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import msgpack

from casbank import limits
from casbank.engine.scratch import ScratchFile
from casbank.format.messages import encode

Row: TypeAlias = list[Any]
# What a row costs beyond its bytes while it waits to be sorted: the list, its elements' objects.
_ROW_OVERHEAD_BYTES = 400
_READ_BYTES = 256 * limits.KIB


class ExternalSorter:
    """Rows in, rows out in order; rows are lists that msgpack can hold and that compare by their first elements."""

    def __init__(self, folder: Path, run_bytes: int = limits.CHECKPOINT_RUN_BYTES) -> None:
        self._folder = folder
        self._run_bytes = run_bytes
        self._rows: list[Row] = []
        self._bytes = 0
        self._files = ExitStack()
        self._runs: list[ScratchFile] = []

    def add(self, row: Row, size: int) -> None:
        """Take a row of about ``size`` bytes."""
        self._rows.append(row)
        self._bytes += size + _ROW_OVERHEAD_BYTES
        if self._bytes >= self._run_bytes:
            self._spill()

    def __iter__(self) -> Iterator[Row]:
        """All rows in order; once."""
        self._rows.sort()
        return heapq.merge(*(_read(run) for run in self._runs), iter(self._rows))

    def close(self) -> None:
        """Remove the temporary files."""
        self._files.close()

    def _spill(self) -> None:
        self._rows.sort()
        run = self._files.enter_context(ScratchFile(self._folder))
        for row in self._rows:
            run.write(encode(row))
        run.seek(0)
        self._runs.append(run)
        self._rows, self._bytes = [], 0


def _read(run: ScratchFile) -> Iterator[Row]:
    return iter(msgpack.Unpacker(run, raw=False, read_size=_READ_BYTES))
