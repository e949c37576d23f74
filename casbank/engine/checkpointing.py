"""When checkpoints are written, and what may go once one is official.

Rule 1: the work stays in proportion to what was written: a checkpoint is due when the journal behind the last one
exceeds 64 MiB and half of that checkpoint.
Rule 2: never on the path of a put: a thread of its own writes it, one at a time.
Rule 3: the two newest are kept, and the journal from the older of them on.
"""

import logging
import threading
from collections.abc import Callable

from casbank import limits
from casbank.engine.checkpoint import CHECKPOINTS, CheckpointFiles, Written, checkpoint_seq
from casbank.engine.commit import Committer
from casbank.engine.follow import Follower
from casbank.engine.salt import fresh_salt
from casbank.errors import CasbankError, CorruptionError, NotFoundError
from casbank.format.record import Checkpointed, Op
from casbank.index.tables import State
from casbank.index.transaction import Snapshot
from casbank.journal.base import Journal, Superseded
from casbank.world import World

_log = logging.getLogger(__name__)


class CheckpointKeeper:
    """Writes the checkpoints of one open bank."""

    def __init__(
        self,
        *,
        journal: Journal,
        follower: Follower,
        committer: Committer,
        files: CheckpointFiles,
        world: World,
        check_writable: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._follower = follower
        self._committer = committer
        self._files = files
        self._world = world
        self._check_writable = check_writable
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None
        # Journal bytes below which looking is not worth a thread.
        self._look_at = 0

    def consider(self, state: State) -> None:
        """To be called after a commit: begins a checkpoint if one is due, and returns at once."""
        if state.journal_bytes < self._look_at + limits.CHECKPOINT_JOURNAL_BYTES_MIN:
            return
        with self._mutex:
            if self._thread is None or not self._thread.is_alive():
                self._look_at = state.journal_bytes
                self._thread = threading.Thread(target=self._run_if_due, name="casbank-checkpoint", daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Until no checkpoint is being written."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def write(self) -> Written | None:
        """Write a checkpoint of the newest record now; None if a newer one became official meanwhile.

        Raises StoreError, CorruptionError, ReadOnlyError.
        """
        self._check_writable()
        before = self._follower.checkpoint()
        try:
            written = self._merge(before)
        except (CorruptionError, Superseded):
            self._follower.catch_up()
            if self._follower.checkpoint() == before:
                raise
            # What this one began with was let go of, because two newer ones are official.
            return None
        return self._publish(before, written)

    def write_upon(self, base: Checkpointed | None) -> Written | None:
        """For a repair: the same upon an older checkpoint (None: the beginning), because a newer one is damaged."""
        self._check_writable()
        return self._publish(base, self._merge(base))

    def _publish(self, before: Checkpointed | None, written: Written) -> Written | None:
        if not self._committer.commit(lambda now: _make_official(now, written)):
            self._files.store.delete(written.name)
            return None
        if before is not None:
            self._forget(before)
        return written

    def _merge(self, before: Checkpointed | None) -> Written:
        records = (self._follower.decoded(entry) for entry in self._journal.read(0 if before is None else before.seq))
        return self._files.write(before, records, fresh_salt(self._world), self._world.entropy(8))

    def _run_if_due(self) -> None:
        try:
            if self._is_due():
                self.write()
        except (CasbankError, Superseded) as error:
            # The journal is whole without it; the next one is tried when as much again has been written.
            _log.warning("no checkpoint was written: %s", error)

    def _is_due(self) -> bool:
        state = self._follower.catch_up()
        with self._follower.read() as snapshot:
            row = snapshot.checkpoint()
        if row is None:
            return state.journal_bytes > limits.CHECKPOINT_JOURNAL_BYTES_MIN
        try:
            size = self._files.store.size(row.name)
        except NotFoundError:
            size = 0
        return state.journal_bytes - row.mark > max(limits.CHECKPOINT_JOURNAL_BYTES_MIN, size // 2)

    def _forget(self, older: Checkpointed) -> None:
        """Two are official now: what only served still older ones may go."""
        self._journal.forget(older.seq)
        for blob in self._files.store.list(CHECKPOINTS):
            seq = checkpoint_seq(blob.name)
            if seq is not None and seq < older.seq:
                self._files.store.delete(blob.name)


def _make_official(now: Snapshot, written: Written) -> list[Op]:
    newest = now.checkpoint()
    if newest is not None and newest.seq >= written.seq:
        return []
    return [Checkpointed(written.seq, written.name, written.hash)]
