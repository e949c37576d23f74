"""BANK and what lies in ``keys/``: the few files without which nothing opens.

Rule 1: what a repair would put back is proved by its hash before anything is replaced.
Rule 2: a hash proves that a file is whole, not that it is this bank's: somebody may have put another bank's BANK here.
Where BANK and its copy are whole and differ, the journal's first record says which is right (:func:`settle`).
Rule 3: what cannot be read may pass, and what a newer casbank wrote is not for us to judge: both stay where they are.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from casbank import limits
from casbank.engine.fsck.log import Findings
from casbank.engine.fsck.mending import Mender, is_whole
from casbank.errors import CorruptionError, NotFoundError, StoreError, UnsupportedFormatError
from casbank.findings import FindingKind
from casbank.format.bank import BANK_BYTES_MAX, BANK_COPY_NAME, BANK_NAME, bank_hash, decode_bank
from casbank.format.header import Kind, decode_header, parse_id
from casbank.format.keyslot import decode_key_slot
from casbank.storage.base import Store

_KEYS = "keys/"
_KEYRING = "keys/keyring-"
_BANKS = (BANK_NAME, BANK_COPY_NAME)
_MAY_PASS = "nothing: it could not be read, which may pass"


@dataclass(frozen=True, slots=True)
class Restoration:
    """A file to put back: the bytes that it had.

    ``is_unreadable``: what is there now could not be read; it stays if it cannot even be set aside.
    """

    name: str
    data: bytes
    is_unreadable: bool = False


@dataclass(slots=True)
class KeyFiles:
    """What was found: ``bank`` are the bytes of BANK to go by, or None; what can be restored; what is of no use any
    more.

    ``candidates`` are all whole versions of BANK: with more than one, neither is believed before :func:`settle`.
    ``stored`` is what lies under the two names, None for what cannot be read. ``foreign`` are key files of no use if
    BANK is this bank's.
    """

    bank: bytes | None = None
    restorations: list[Restoration] = field(default_factory=list)
    useless: list[str] = field(default_factory=list)
    candidates: list[bytes] = field(default_factory=list)
    stored: dict[str, bytes | None] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)

    @property
    def bank_id(self) -> bytes | None:
        """Whose bank it is, as long as nothing contradicts BANK."""
        return decode_bank(self.bank).bank_id if self.bank is not None and len(self.candidates) == 1 else None


class _Sort(NamedTuple):
    """Slots or keyrings: what they are, their bounds, and how one is checked."""

    finding: FindingKind
    kind: Kind
    bytes_max: int
    files_max: int
    check: Callable[[bytes], None]
    lost: str


def check_key_files(store: Store, findings: Findings) -> KeyFiles:
    """Look at BANK, its copy, slots and keyrings.

    Raises UnsupportedFormatError for a bank of a newer format, StoreError if the store cannot be listed.
    """
    mender = Mender()
    files = _BankCheck(store, findings, mender).run()
    _KeyCheck(store, findings, mender, files).run()
    return files


def go_by(files: KeyFiles, bank_id: bytes) -> None:
    """Let ``bank`` be a candidate of this id, if there is one: the journal's records say whose they are."""
    for data in files.candidates:
        try:
            if decode_bank(data).bank_id == bank_id:
                files.bank = data
                return
        except UnsupportedFormatError:
            continue


def settle(files: KeyFiles, first_hash: bytes | None) -> str | None:
    """Decide, before anything is repaired, which BANK is right, and with it which key files are another bank's.

    ``first_hash`` is what the journal's first record says, None if nobody knows. Returns why neither file of the two is
    touched, for people; None if all is decided.
    """
    right = next((data for data in files.candidates if bank_hash(data) == first_hash), None)
    if right is not None:
        files.bank, files.candidates = right, [right]
        files.restorations = [*_bank_restorations(files, right), *_without_banks(files)]
        files.useless += files.foreign
    files.foreign = []
    if right is not None or not files.candidates:
        return None
    if first_hash is None and len(files.candidates) == 1:
        return None
    files.restorations = _without_banks(files)
    reason = "no first record says which is right" if first_hash is None else "the journal's first record names neither"
    return f"left BANK and BANK.copy as they are: {reason}"


def _without_banks(files: KeyFiles) -> list[Restoration]:
    return [each for each in files.restorations if each.name not in _BANKS]


def _bank_restorations(files: KeyFiles, right: bytes) -> list[Restoration]:
    stored = ((name, data) for name, data in files.stored.items() if data != right)
    return [Restoration(name, right, is_unreadable=data is None) for name, data in stored]


def _read(store: Store, name: str, bytes_max: int) -> bytes | StoreError | None:
    """A file's bytes, None if it is missing; or why it cannot be read."""
    try:
        return store.get(name, 0, bytes_max + 1)
    except NotFoundError:
        return None
    except StoreError as error:
        return error


# --- BANK --------------------------------------------------------------------------------------------------------


class _BankCheck:
    """One look at BANK and its copy."""

    def __init__(self, store: Store, findings: Findings, mender: Mender) -> None:
        self._store = store
        self._findings = findings
        self._mender = mender
        self._files = KeyFiles()
        self._problems: dict[str, str] = {}
        self._newer: dict[str, UnsupportedFormatError] = {}

    def run(self) -> KeyFiles:
        """What was found of them. Raises UnsupportedFormatError."""
        files = self._files
        good = [self._good(name) for name in _BANKS]
        if self._newer and (good[0] is None or BANK_NAME in self._newer):
            raise next(iter(self._newer.values()))
        files.candidates = list(dict.fromkeys(data for data in good if data is not None))
        files.bank = next(iter(files.candidates), None)
        self._tell()
        if len(files.candidates) == 1:
            restorations = _bank_restorations(files, files.candidates[0])
            # What is there and cannot be read gives way only to what the journal names.
            files.restorations = [each for each in restorations if not each.is_unreadable]
        return files

    def _good(self, name: str) -> bytes | None:
        """The file as it was, if its hash says so; notes what is wrong with it."""
        data = _read(self._store, name, BANK_BYTES_MAX)
        if isinstance(data, StoreError):
            self._files.stored[name] = None
            self._problems[name] = f"cannot be read: {data.message}"
            return None
        self._files.stored[name] = data or b""
        if not data:
            self._problems[name] = "the file is missing, or empty"
            return None
        whole = data if is_whole(data) else self._mender.mended(data, Kind.BANK)
        try:
            decode_bank(data if whole is None else whole)
        except UnsupportedFormatError as error:
            # Of a later format, perhaps with its hash elsewhere.
            self._newer[name] = error
        except CorruptionError as error:
            self._problems[name] = error.message
            return None
        if whole != data:
            self._problems[name] = "BANK fails its hash"
        return whole

    def _tell(self) -> None:
        files, bank_problem = self._files, self._problems.get(BANK_NAME)
        if len(files.candidates) > 1:
            what = "it is not what BANK.copy is, and the hashes of both are right"
            repair = "takes the one that the journal's first record names; neither is touched if it names none"
            self._findings.add(FindingKind.BANK_FILE, BANK_NAME, what, repair)
        elif bank_problem is not None:
            repair = "puts it back, proved by its hash" if files.candidates else "nothing: there is no other copy"
            self._findings.add(FindingKind.BANK_FILE, BANK_NAME, bank_problem, repair)
        copy_problem = self._problems.get(BANK_COPY_NAME)
        if files.stored[BANK_COPY_NAME] == b"":
            self._findings.add(FindingKind.LEFTOVER, BANK_COPY_NAME, "there is no second copy of BANK", "writes it")
        elif copy_problem is not None:
            self._findings.add(FindingKind.BANK_FILE, BANK_COPY_NAME, copy_problem, "writes it anew")


# --- slots and keyrings ------------------------------------------------------------------------------------------


class _KeyCheck:
    """One look at the files of ``keys/``; ``files`` has what was found of BANK."""

    def __init__(self, store: Store, findings: Findings, mender: Mender, files: KeyFiles) -> None:
        self._store = store
        self._findings = findings
        self._mender = mender
        self._files = files
        self._owner = files.bank_id

    def run(self) -> None:
        """Check each file, as many as an opening looks at."""
        seen = dict.fromkeys(_SORTS, 0)
        for name in (blob.name for blob in self._store.list(_KEYS)):
            sort = _sort_of(name)
            if sort is not None:
                seen[sort] += 1
                if seen[sort] <= sort.files_max:
                    self._check(sort, name)
        self._tell_of_more(seen.items())

    def _tell_of_more(self, seen: Iterable[tuple[_Sort, int]]) -> None:
        for sort, number in seen:
            if number > sort.files_max:
                what = f"{number} such files, of which only {sort.files_max} were looked at"
                self._findings.add(sort.finding, _KEYS, what, "nothing for the others: repair again")

    def _check(self, sort: _Sort, name: str) -> None:
        data = _read(self._store, name, sort.bytes_max)
        if isinstance(data, StoreError):
            self._findings.add(sort.finding, name, f"cannot be read: {data.message}", _MAY_PASS)
        elif data is not None:
            self._judge(sort, name, data)

    def _judge(self, sort: _Sort, name: str, data: bytes) -> None:
        try:
            sort.check(data)
        except CorruptionError as error:
            if not self._mend(sort, name, data, error.message):
                self._files.useless.append(name)
                self._findings.add(sort.finding, name, error.message, f"moves it to quarantine/; {sort.lost}")
            return
        except UnsupportedFormatError as error:
            self._judge_newer(sort, name, data, error)
            return
        if self._owner is not None and decode_header(data).bank_id != self._owner:
            self._files.foreign.append(name)
            repair = "moves it to quarantine/, if the journal proves that BANK is this bank's"
            self._findings.add(sort.finding, name, "it is another bank's", repair)

    def _judge_newer(self, sort: _Sort, name: str, data: bytes, error: UnsupportedFormatError) -> None:
        if is_whole(data):
            what = f"written by a newer casbank: not checked ({error.message})"
            self._findings.add(FindingKind.LEFTOVER, name, what, "nothing")
        elif not self._mend(sort, name, data, error.message):
            what = f"its hash is wrong, or it is where only a newer casbank finds it ({error.message})"
            self._findings.add(sort.finding, name, what, "nothing: check it with the casbank that wrote it")

    def _mend(self, sort: _Sort, name: str, data: bytes, problem: str) -> bool:
        """Whether the file can be put back."""
        before = None if is_whole(data) else self._mender.mended(data, sort.kind)
        if before is None:
            return False
        self._files.restorations.append(Restoration(name, before))
        repair = "puts it back: one bit was flipped, and its hash says which"
        self._findings.add(sort.finding, name, problem, repair)
        return True


def _check_slot(data: bytes) -> None:
    decode_key_slot(data)


def _check_keyring(data: bytes) -> None:
    header = decode_header(data)
    if not is_whole(data):
        raise CorruptionError("keyring fails its hash")
    if header.kind is not Kind.KEYRING:
        raise CorruptionError("a keyring is another kind of file")


_SLOTS = _Sort(
    FindingKind.KEY_SLOT,
    Kind.KEY_SLOT,
    limits.KEY_SLOT_BYTES_MAX,
    limits.KEY_FILES_MAX,
    _check_slot,
    "what it opened must be added again",
)
_KEYRINGS = _Sort(
    FindingKind.KEYRING,
    Kind.KEYRING,
    limits.KEYRING_BYTES_MAX,
    limits.KEYRINGS_MAX,
    _check_keyring,
    "files of its epoch may be lost",
)
_SORTS = (_SLOTS, _KEYRINGS)


def _sort_of(name: str) -> _Sort | None:
    if name.startswith(_KEYRING):
        return _KEYRINGS
    return None if parse_id(name.removeprefix(_KEYS)) is None else _SLOTS
