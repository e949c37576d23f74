"""An index made of what is proved, in a temporary folder: what a check asks where chunks, packs and names are.

Rule: it is made of the store for this one check, and thrown away; the bank's own index is only compared with it.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from casbank.engine.checkpoint import CheckpointFiles, load_checkpoint
from casbank.engine.fsck.history import History
from casbank.engine.packs import PackReader
from casbank.errors import CorruptionError, StoreError, UnsupportedFormatError
from casbank.index.apply import EMPTY, NO_CONTENTS, Applied, Contents, apply_records
from casbank.index.tables import State
from casbank.index.view import View, remove_folder
from casbank.journal.base import Journal
from casbank.model import PackInfo

_RECORDS = 256


class Replayed:
    """The index of one check. To be closed."""

    def __init__(self, folder: Path, packs: PackReader) -> None:
        self._packs = packs
        # Live packs whose tables cannot be read, so that nobody knows what is in them.
        self.unlisted: set[bytes] = set()
        # The record that the checkpoint stands on, if it began with one.
        self.base = EMPTY
        self.view = View(folder)

    def run(self, history: History, files: CheckpointFiles, journal: Journal) -> str | None:
        """Apply what is proved; why it ended before the proved end, if it did, with ``history.reach`` set to there."""
        try:
            if history.base is not None:
                load_checkpoint(files, history.base, self.view, self._contents_of)
                self.base = self.state()
            records = history.records_of(files.sealing, journal)
            while batch := list(islice(records, _RECORDS)):
                self._apply(batch)
        except (CorruptionError, UnsupportedFormatError) as error:
            history.reach = self.state().seq
            return error.message
        return None

    def state(self) -> State:
        """Where it stands."""
        with self.view.read() as snapshot:
            return snapshot.state() or EMPTY

    def live_packs(self) -> Iterator[PackInfo]:
        """The packs that are live, by number. Read in short transactions."""
        start = 0
        while True:
            with self.view.read() as snapshot:
                page = list(islice(snapshot.packs(start), _RECORDS))
            yield from (row.info for _, row in page)
            if len(page) < _RECORDS:
                return
            start = page[-1][0] + 1

    def close(self) -> None:
        """Remove the index."""
        self.view.abandon()
        remove_folder(self.view.folder)

    def _apply(self, batch: list[Applied]) -> None:
        try:
            self._update(batch)
        except (CorruptionError, UnsupportedFormatError):
            # One by one, up to the one that fails.
            for applied in batch:
                self._update([applied])
            raise

    def _update(self, batch: list[Applied]) -> None:
        self.view.update(lambda edit: _discard(apply_records(edit, batch, self._contents_of)))

    def _contents_of(self, info: PackInfo) -> Contents:
        try:
            return self._packs.contents(info)
        except (CorruptionError, UnsupportedFormatError, StoreError):
            # What is wrong with it is found when packs are looked at.
            self.unlisted.add(info.id)
            return NO_CONTENTS


def _discard(_: State) -> None:
    return None
