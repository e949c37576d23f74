"""One open bank: its parts put together, once a process.

Rule: an engine is of no use in a forked child, and does nothing there. ``opening.py`` makes them.
"""

import logging
import os

from casbank.chunking import gear_table, make_chunker, parse_profile
from casbank.engine.checkpoint import CheckpointFiles
from casbank.engine.checkpointing import CheckpointKeeper
from casbank.engine.commit import Committer, Decide
from casbank.engine.follow import Follower, IndexPlace
from casbank.engine.keys import BankKeys, is_removed
from casbank.engine.leases import LeaseKeeper
from casbank.engine.packs import PackReader
from casbank.engine.place import Place, scratch_folder
from casbank.engine.reader import ObjectReader
from casbank.engine.remembered import RememberedHead
from casbank.engine.resources import BufferPool, Resources, buffer_bytes
from casbank.engine.rules import Backing
from casbank.errors import (
    CorruptionError,
    ErrorKind,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    UnsupportedFormatError,
)
from casbank.format.bank import BankDescriptor
from casbank.format.seal import Sealing
from casbank.index.apply import FIRST_KEY, KEYRING_KEY, Contents
from casbank.journal.base import Head
from casbank.sealing.checksum import ChecksumSealing
from casbank.sealing.ids import PLAIN_IDS, keyed_ids
from casbank.world import World

_log = logging.getLogger(__name__)
_ROLLED_BACK = (
    "this client has seen a newer state of this bank, or another one: the bank went back in time or was forked. It can "
    "be read. If it was restored on purpose, 'casbank index drop --forget-head' makes it writable; what was stored "
    "since the copy is gone"
)


class Engine:
    """Store, journal, index and threads of one bank, shared by every :class:`casbank.Bank` of this process."""

    def __init__(self, place: Place, descriptor: BankDescriptor, world: World, keys: BankKeys | None) -> None:
        profile = parse_profile(descriptor.chunking)
        sealing: Sealing
        if keys is None:
            sealing, ids, chunker = ChecksumSealing(descriptor.bank_id), PLAIN_IDS, make_chunker(profile)
        else:
            secret = keys.keyrings.dedup_secret
            sealing, ids, chunker = keys.sealing, keyed_ids(secret), make_chunker(profile, gear_table(secret))
        packs = PackReader(place.store, sealing)
        self._place = place
        self.key = place.key
        self.descriptor = descriptor
        self.world = world
        self.keys = keys
        self.journal = place.journal
        self.notes = place.notes
        self._pid = os.getpid()
        self._closed = False
        self._rolled_back = False
        scratch = scratch_folder(place, private=keys is not None)
        self._remembered = None if place.head is None else RememberedHead(place.head)
        self.files = CheckpointFiles(place.store, sealing, scratch)
        index = IndexPlace(place.index)
        self.follower = Follower(
            journal=place.journal,
            sealing=sealing,
            packs=packs,
            checkpoints=self.files,
            index=index,
            world=world,
            on_keyring=None if keys is None else keys.keyrings.use,
        )
        self._committer = Committer(place.journal, self.follower, sealing, world)
        self.checkpoints = CheckpointKeeper(
            journal=place.journal,
            follower=self.follower,
            committer=self._committer,
            files=self.files,
            world=world,
            check_writable=self.check_writable,
        )
        self.leases = LeaseKeeper()
        self.resources = Resources(
            store=place.store,
            sealing=sealing,
            ids=ids,
            chunker=chunker,
            compression=descriptor.compression,
            packs=packs,
            follower=self.follower,
            commit=self.commit,
            leases=self.leases,
            check_usable=self.check_usable,
            world=world,
            buffers=BufferPool(buffer_bytes(chunker)),
        )
        self.reader = ObjectReader(self.resources)

    def commit(self, decide: Decide, contents: dict[bytes, Contents] | None = None, backing: Backing = None) -> int:
        """Append one record (see :class:`Committer`), and begin a checkpoint if one is due."""
        self.check_usable()
        self.check_writable()
        version = self._committer.commit(decide, contents, backing)
        self._remember()
        self.checkpoints.consider(self.follower.seen)
        return version

    def check_writable(self) -> None:
        """Raise UnsupportedFormatError or ReadOnlyError for a bank that can be read only."""
        if self.descriptor.read_only_compatible:
            raise UnsupportedFormatError("the bank has a feature that this casbank cannot write; it can be read")
        if self._rolled_back:
            raise ReadOnlyError(_ROLLED_BACK, kind=ErrorKind.ROLLED_BACK)

    def check_history(self) -> None:
        """Compare the journal with what this client has seen of it. One that went back in time, or that another history
        took the place of, is read and not written."""
        if self._remembered is not None and not self._remembered.agrees(self.journal):
            self._rolled_back = True
            _log.warning("the bank went back in time or was forked since this client saw it last; it can only be read")
            # The index stands on what is no longer there.
            self.follower.rebuild()

    def check_first(self, expected: bytes) -> None:
        """Compare the journal's first record with BANK: a wrong or restored journal must not pass for this bank's."""
        self.follower.catch_up()
        with self.follower.read() as snapshot:
            found, keyring = snapshot.config(FIRST_KEY), snapshot.config(KEYRING_KEY)
        if found is None:
            raise NotFoundError("creating this bank was interrupted; run 'casbank init' again", kind=ErrorKind.NO_BANK)
        if found != expected:
            raise CorruptionError("the journal is another bank's", kind=ErrorKind.JOURNAL)
        if (keyring is None) is not (self.keys is None):
            raise CorruptionError("the journal names no keyring, or one in a plain bank", kind=ErrorKind.JOURNAL)
        self._remember()

    def _remember(self) -> None:
        seen = self.follower.seen
        if self._remembered is not None and not self._rolled_back:
            self._remembered.advance(Head(seen.seq, seen.hash))

    def has_removed(self, slot_id: bytes) -> bool:
        """Whether the bank lets a key slot open it no longer."""
        self.follower.catch_up()
        with self.follower.read() as snapshot:
            return is_removed(snapshot, slot_id)

    def check_usable(self) -> None:
        """Raise InvalidInputError in a forked child of the process that opened the bank (kind FORKED), and once it is
        closed (kind CLOSED)."""
        if self.in_child():
            raise InvalidInputError(
                "this bank was opened by the parent process; open it again in the child", kind=ErrorKind.FORKED
            )
        if self._closed:
            raise InvalidInputError("the bank is closed", kind=ErrorKind.CLOSED)

    def in_child(self) -> bool:
        """Whether this is a forked child of the process that opened the bank."""
        return os.getpid() != self._pid

    def close(self) -> None:
        if self.in_child():
            return
        self.leases.close()
        self.checkpoints.wait()
        self._closed = True
        self.resources.close()
        if self._remembered is not None:
            self._remember()
            self._remembered.close()
        self.follower.close()
        self._place.close()
