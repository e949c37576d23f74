"""BANK, its copy, key slots and keyrings: what a check says of them, and which of them a repair may touch."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from bank_scene import engine_of
from blake3 import blake3

from casbank import Bank, UnsupportedFormatError, limits
from casbank.engine.fsck.keyfiles import KeyFiles, check_key_files, go_by, settle
from casbank.engine.fsck.log import Findings
from casbank.engine.fsck.mending import Mender, is_whole
from casbank.engine.losses import incomplete_roots
from casbank.findings import Finding, FindingKind
from casbank.format.bank import bank_hash, decode_bank
from casbank.format.header import HEADER_BYTES, Kind
from casbank.format.loss import incomplete_key, incomplete_root
from casbank.format.record import Config
from casbank.storage.files import translate
from casbank.storage.local import LocalStore
from casbank.world import World

NEW_NAME = "keys/" + "ab" * 16


class BadSectors(LocalStore):
    """A store on a disk that cannot read some of its files."""

    def __init__(self, root: Path, *unreadable: str) -> None:
        super().__init__(root, world=World())
        self._unreadable = unreadable

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        if name in self._unreadable:
            raise translate(OSError(errno.EIO, "Input/output error"), "cannot read a blob", blob=name)
        return super().get(name, start, length)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    Bank.create(tmp_path / "plain").close()
    return tmp_path / "plain"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    Bank.create(tmp_path / "other").close()
    return tmp_path / "other"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encrypted bank, which costs a derivation."""
    place = tmp_path_factory.mktemp("made") / "bank"
    Bank.create(place, passphrase="secret").close()
    return place


@pytest.fixture
def encrypted(made: Path, tmp_path: Path) -> Path:
    place = tmp_path / "encrypted"
    for path in [made / "BANK", made / "BANK.copy", *(made / "keys").iterdir()]:
        target = place / path.relative_to(made)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return place


def look(place: Path, *unreadable: str) -> tuple[KeyFiles, tuple[Finding, ...]]:
    store, findings = BadSectors(place, *unreadable), Findings()
    try:
        return check_key_files(store, findings), findings.all()
    finally:
        store.close()


def kinds(said: tuple[Finding, ...]) -> dict[str, FindingKind]:
    return {finding.where: finding.kind for finding in said}


def overwrite(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def newer(data: bytes) -> bytes:
    """The same file as a casbank of the next major version would write it."""
    fields = data[:8] + bytes([data[8] + 1]) + data[9 : HEADER_BYTES - 8]
    body = fields + blake3(fields).digest(8) + data[HEADER_BYTES:-32]
    return body + blake3(body).digest()


def slot_of(place: Path) -> Path:
    return next(path for path in (place / "keys").iterdir() if len(path.name) == 32)


def keyring_of(place: Path) -> Path:
    return next((place / "keys").glob("keyring-*"))


def restored(files: KeyFiles) -> dict[str, bytes]:
    return {each.name: each.data for each in files.restorations}


def test_whole_files_are_not_told_of(encrypted: Path) -> None:
    """Of a bank whose small files are right nothing is said, and nothing is to be done."""
    files, said = look(encrypted)
    assert (said, files.restorations, files.useless) == ((), [], [])
    assert settle(files, bank_hash((encrypted / "BANK").read_bytes())) is None
    assert (files.restorations, files.useless) == ([], [])


# --- a newer format ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [slot_of, keyring_of])
def test_key_file_of_a_newer_format_stays(encrypted: Path, which: object) -> None:
    """A slot or keyring that a newer casbank wrote is no damage, and no repair touches it."""
    assert callable(which)
    path = which(encrypted)
    new = path.with_name("ab" * 16 if which is slot_of else "keyring-2-" + "ab" * 16)
    new.write_bytes(newer(path.read_bytes()))
    files, said = look(encrypted)
    assert kinds(said) == {f"keys/{new.name}": FindingKind.LEFTOVER}
    settle(files, bank_hash((encrypted / "BANK").read_bytes()))
    assert (files.useless, files.restorations) == ([], [])


def test_damaged_key_file_of_a_newer_format_is_told_of_and_stays(encrypted: Path) -> None:
    """A file that says that it is newer, and lacks the hash that we know, is neither called clean nor moved."""
    (encrypted / NEW_NAME).write_bytes(newer(slot_of(encrypted).read_bytes())[:-40])
    files, said = look(encrypted)
    assert kinds(said) == {NEW_NAME: FindingKind.KEY_SLOT}
    assert (files.useless, files.restorations) == ([], [])


@pytest.mark.parametrize("copy", ["missing", "older", "newer"])
def test_bank_of_a_newer_format_is_no_damage(plain: Path, copy: str) -> None:
    """A BANK of a newer format leaves a check as UnsupportedFormatError, whatever its copy is."""
    data = (plain / "BANK").read_bytes()
    overwrite(plain / "BANK", newer(data))
    overwrite(plain / "BANK.copy", {"missing": b"", "older": data, "newer": newer(data)}[copy])
    with pytest.raises(UnsupportedFormatError):
        look(plain)


def test_copy_of_a_newer_format_counts_where_bank_is_gone(plain: Path) -> None:
    """Where only the copy is left and is of a newer format, that is said, and the bank is not called damaged."""
    overwrite(plain / "BANK.copy", newer((plain / "BANK").read_bytes()))
    (plain / "BANK").unlink()
    with pytest.raises(UnsupportedFormatError):
        look(plain)


# --- two whole BANKs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["BANK", "BANK.copy"])
def test_of_two_whole_banks_the_one_of_the_first_record_wins(plain: Path, other: Path, wrong: str) -> None:
    """Where BANK and its copy are whole and differ, nothing is restored before the first record has chosen."""
    right = (plain / "BANK").read_bytes()
    overwrite(plain / wrong, (other / "BANK").read_bytes())
    files, said = look(plain)
    assert kinds(said) == {"BANK": FindingKind.BANK_FILE}
    assert (files.restorations, len(files.candidates)) == ([], 2)
    assert settle(files, bank_hash(right)) is None
    assert (files.bank, restored(files)) == (right, {wrong: right})


@pytest.mark.parametrize("first_hash", [None, bytes(32)])
def test_two_whole_banks_stay_if_nobody_can_tell(plain: Path, other: Path, first_hash: bytes | None) -> None:
    """Where the first record is lost, or names neither of two whole BANKs, both stay, and that is said."""
    overwrite(plain / "BANK", (other / "BANK").read_bytes())
    files, _ = look(plain)
    assert settle(files, first_hash) is not None
    assert files.restorations == []


def test_only_copy_left_is_not_put_in_place_of_what_the_first_record_names(plain: Path, other: Path) -> None:
    """Another bank's BANK is not restored even if it is the only whole one."""
    right = (plain / "BANK").read_bytes()
    overwrite(plain / "BANK", right[:-40])
    overwrite(plain / "BANK.copy", (other / "BANK").read_bytes())
    files, _ = look(plain)
    assert settle(files, bank_hash(right)) is not None
    assert files.restorations == []


def test_mended_bank_is_weighed_against_a_whole_copy(plain: Path, other: Path) -> None:
    """A BANK with one bit flipped is a candidate beside another bank's whole copy."""
    right = (plain / "BANK").read_bytes()
    overwrite(plain / "BANK", flipped(right, 150))
    overwrite(plain / "BANK.copy", (other / "BANK").read_bytes())
    files, _ = look(plain)
    assert settle(files, bank_hash(right)) is None
    assert restored(files) == {"BANK": right, "BANK.copy": right}


def test_check_goes_by_the_bank_that_the_records_name(plain: Path, other: Path) -> None:
    """Of two whole BANKs the one with the bank id of the journal's records is gone by."""
    right = (plain / "BANK").read_bytes()
    overwrite(plain / "BANK", (other / "BANK").read_bytes())
    files, _ = look(plain)
    go_by(files, decode_bank(right).bank_id)
    assert files.bank == right


@pytest.mark.parametrize("with_copy", [True, False])
def test_good_slots_are_not_moved_for_a_wrong_bank(encrypted: Path, other: Path, *, with_copy: bool) -> None:
    """Slots and keyrings that another bank's BANK makes look foreign are not moved away."""
    right = (encrypted / "BANK").read_bytes()
    for name in ("BANK", "BANK.copy") if with_copy else ("BANK",):
        overwrite(encrypted / name, (other / "BANK").read_bytes())
    files, _ = look(encrypted)
    settle(files, bank_hash(right))
    assert files.useless == []


def test_foreign_slot_is_moved_once_bank_is_proved(encrypted: Path, tmp_path: Path) -> None:
    """Another bank's slot is of no use, and moved, when the first record names this BANK."""
    Bank.create(tmp_path / "second", passphrase="other").close()
    foreign = slot_of(tmp_path / "second")
    (encrypted / "keys" / foreign.name).write_bytes(foreign.read_bytes())
    files, said = look(encrypted)
    assert (kinds(said), files.useless) == ({f"keys/{foreign.name}": FindingKind.KEY_SLOT}, [])
    settle(files, bank_hash((encrypted / "BANK").read_bytes()))
    assert files.useless == [f"keys/{foreign.name}"]


# --- what cannot be read -----------------------------------------------------------------------------------------


def test_unreadable_key_files_do_not_end_the_check(encrypted: Path) -> None:
    """Slots and keyrings that the disk cannot read are told of one by one, and stay."""
    names = [f"keys/{path.name}" for path in (slot_of(encrypted), keyring_of(encrypted))]
    files, said = look(encrypted, *names)
    assert {finding.where for finding in said} == set(names)
    assert all(finding.what.startswith("cannot be read: ") and finding.is_damage for finding in said)
    settle(files, bank_hash((encrypted / "BANK").read_bytes()))
    assert (files.useless, files.restorations) == ([], [])


@pytest.mark.parametrize("name", ["BANK", "BANK.copy"])
def test_unreadable_bank_gives_way_only_to_what_the_journal_names(plain: Path, name: str) -> None:
    """Of BANK and its copy the one that cannot be read is replaced by the other if the first record names that one."""
    right = (plain / "BANK").read_bytes()
    files, said = look(plain, name)
    assert [(finding.where, finding.what.split(":")[0]) for finding in said] == [(name, "cannot be read")]
    assert (files.bank, files.restorations) == (right, [])
    settle(files, bank_hash(right))
    assert [(each.name, each.data, each.is_unreadable) for each in files.restorations] == [(name, right, True)]


def test_nothing_is_done_if_neither_bank_can_be_read(plain: Path) -> None:
    """Where neither BANK nor its copy can be read both are told of, and stay."""
    files, said = look(plain, "BANK", "BANK.copy")
    assert (len(said), files.bank) == (2, None)
    settle(files, None)
    assert files.restorations == []


# --- flipped bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 7, 10, 60, 127, 140, -40, -1])
def test_flipped_bit_is_mended(encrypted: Path, at: int) -> None:
    """A slot, a keyring and BANK get back one flipped bit, wherever it is: each may have no second copy."""
    paths = [slot_of(encrypted), keyring_of(encrypted), encrypted / "BANK"]
    right = {str(path.relative_to(encrypted)): path.read_bytes() for path in paths}
    for path in paths:
        data = path.read_bytes()
        overwrite(path, flipped(data, at % len(data)))
    (encrypted / "BANK.copy").unlink()
    files, _ = look(encrypted)
    assert restored(files) == right | {"BANK.copy": right["BANK"]}
    assert files.useless == []


def garbage() -> Iterator[bytes]:
    for number in range(1_000_000):
        yield blake3(b"%d" % number).digest(limits.MEND_BYTES_MAX)


def test_garbage_is_not_worth_a_try(encrypted: Path) -> None:
    """Bytes that do not look like a key file cost one hash each, and are moved away."""
    mender = Mender(hashed_bytes_max=1)
    right = slot_of(encrypted).read_bytes()
    assert all(mender.mended(data, Kind.KEY_SLOT) is None for data, _ in zip(garbage(), range(100), strict=False))
    assert Mender().mended(flipped(flipped(right, 0), 1), Kind.KEY_SLOT) is None
    assert Mender().mended(flipped(right, 60), Kind.KEYRING) is None
    assert Mender().mended(flipped(right, 60), Kind.KEY_SLOT) == right


def test_tries_are_bounded_for_all_files_together(encrypted: Path) -> None:
    """When the tries of a run are used up nothing more is tried; a flipped bit of a hash costs none."""
    right = slot_of(encrypted).read_bytes()
    once = 8 * len(right) * (len(right) + 1024)
    mender = Mender(hashed_bytes_max=once)
    found = [mender.mended(flipped(right, at), Kind.KEY_SLOT) for at in (60, 61, len(right) - 1)]
    assert found == [right, None, right]


def test_large_file_is_not_tried(encrypted: Path) -> None:
    """A file beyond the bound is not tried bit by bit: the work grows with the square of its length."""
    body = slot_of(encrypted).read_bytes().ljust(limits.MEND_BYTES_MAX, b"x")
    whole = body + blake3(body).digest()
    assert is_whole(whole)
    assert Mender().mended(flipped(whole, 60), Kind.KEY_SLOT) is None


def test_no_more_slots_are_looked_at_than_an_opening_does(plain: Path) -> None:
    """Of any number of files in keys/ only so many are read, and it is said that there are more."""
    (plain / "keys").mkdir(exist_ok=True)
    for number in range(limits.KEY_FILES_MAX + 5):
        (plain / "keys" / f"{number:032x}").write_bytes(b"garbage")
    files, said = look(plain)
    assert len(files.useless) == limits.KEY_FILES_MAX
    assert [finding.where for finding in said if not finding.where.removeprefix("keys/")] == ["keys/"]


# --- rows of losses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["incomplete/zz", "incomplete/", "incomplete/" + "AB" * 32, "incomplete/" + "0" * 63, "ab" * 32, "x"]
)
def test_other_rows_name_no_root(key: str) -> None:
    """A row that no repair wrote names no root, whatever stands in it."""
    assert incomplete_root(key) is None


def test_row_of_an_incomplete_root_names_it() -> None:
    """The row of a root and the root of a row are each other's inverse."""
    root = blake3(b"root").digest()
    assert incomplete_root(incomplete_key(root)) == root


def test_strange_row_stops_nobody(tmp_path: Path) -> None:
    """A row of the configuration that nobody understands is passed over by who reads what is incomplete."""
    root = blake3(b"root").digest()
    with Bank.create(tmp_path / "bank") as bank:
        engine = engine_of(bank)
        engine.commit(lambda now: [Config("incomplete/zz", 1), Config(incomplete_key(root), 1)])
        assert incomplete_roots(engine.follower) == {root}
