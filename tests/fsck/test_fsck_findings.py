"""Every kind of finding, made for real: where, what, who is hit, and what a repair would do; and that it does it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from bank_scene import content, contents_of, engine_of, flip, frames_of, packs_of
from check_scene import (
    CHUNK,
    HEADER,
    cut,
    damage,
    data_packs,
    make_bank,
    overwrite,
    own_cache,  # noqa: F401 - a fixture for every test here
    packs_of_object,
    small_entries,
    some,
    the_finding,
)
from collect_scene import collect_now, edit_index

from casbank import Bank
from casbank.findings import FindingKind, FsckReport
from casbank.index.transaction import Edit

CONTENTS = some("a", "b")


class Case(NamedTuple):
    """What is done to a bank, and what is found: kind, a part of the place, of the words, and of the remedy."""

    spoil: Callable[[Path], None]
    kind: FindingKind
    where: str
    what: str
    repair: str
    encrypted: bool = False


def _keyring(place: Path) -> Path:
    (path,) = (place / "keys").glob("keyring-*")
    return path


def _newest_slot(place: Path) -> Path:
    slots = [path for path in (place / "keys").iterdir() if path != _keyring(place)]
    return max(slots, key=lambda path: path.stat().st_mtime_ns)


def _checkpoint(place: Path) -> None:
    with Bank.open(place) as bank:
        engine_of(bank).checkpoints.write()
        bank.put("later", b"x")
        engine_of(bank).checkpoints.write()
    newest = max((place / "checkpoints").iterdir())
    flip(newest, newest.stat().st_size // 2)


def _journal(place: Path) -> None:
    (segment,) = (place / "journal").glob("*.log")
    second = frames_of(segment)[1]
    flip(segment, second.end - 10)


def _index(place: Path) -> None:
    def lose_a_row(edit: Edit) -> None:
        edit._delete("chunk", next(iter(edit.rows("chunk")))[0])

    with Bank.open(place) as bank:
        edit_index(bank, lose_a_row)


def _toc(place: Path) -> None:
    pack = data_packs(place)[0]
    # The first copy follows the entries.
    flip(pack, HEADER + 3 * (2 * CHUNK + 16) + 5)


CASES = {
    "BANK": Case(lambda place: flip(place / "BANK", 40), FindingKind.BANK_FILE, "BANK", "", "puts it back"),
    "no BANK": Case(lambda place: (place / "BANK").unlink(), FindingKind.BANK_FILE, "BANK", "missing", "puts it back"),
    "copy": Case(
        lambda place: flip(place / "BANK.copy", 40), FindingKind.BANK_FILE, "BANK.copy", "fails its hash", "writes it"
    ),
    "slot, one bit": Case(
        lambda place: flip(_newest_slot(place), 150), FindingKind.KEY_SLOT, "keys/", "", "one bit was flipped", True
    ),
    "slot": Case(
        lambda place: overwrite(_newest_slot(place), 130, bytes(9)),
        FindingKind.KEY_SLOT,
        "keys/",
        "",
        "quarantine/; what it opened must be added again",
        True,
    ),
    "keyring": Case(
        lambda place: flip(_keyring(place), 150), FindingKind.KEYRING, "keys/keyring-", "hash", "puts it", True
    ),
    "journal": Case(_journal, FindingKind.JOURNAL, ".log, from byte", "record 2 cannot be read", "begins it anew"),
    "checkpoint": Case(_checkpoint, FindingKind.CHECKPOINT, "checkpoints/", "", "writes a new checkpoint"),
    "pack missing": Case(
        lambda place: data_packs(place)[0].unlink(), FindingKind.PACK_MISSING, "packs/", "missing", "other copies"
    ),
    "entry": Case(
        lambda place: flip(data_packs(place)[0], HEADER + 9), FindingKind.PACK, "packs/", "0 (at 128)", "seals what is"
    ),
    "pack cut": Case(
        lambda place: cut(data_packs(place)[0], 5000), FindingKind.PACK, "packs/", "has 5000 bytes", "seals"
    ),
    "header": Case(lambda place: flip(data_packs(place)[0], 20), FindingKind.PACK, "packs/", "", "seals"),
    "trailer": Case(lambda place: flip_end(data_packs(place)[0], -60), FindingKind.PACK, "packs/", "", "seals"),
    "one table": Case(_toc, FindingKind.PACK, "packs/", "copy 1 of its table of contents", "seals"),
    "index differs": Case(_index, FindingKind.INDEX, "index", "differs in chunk", "makes it anew"),
    "index garbage": Case(
        lambda place: (place / "index" / "data.mdb").write_bytes(b"g" * 50_000) and None,
        FindingKind.INDEX,
        "index",
        "cannot be read",
        "makes it anew",
    ),
}


def flip_end(path: Path, offset: int) -> None:
    flip(path, offset if offset >= 0 else path.stat().st_size + offset)


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(b"k" * 32)
    return path


@pytest.fixture
def spoilt(place: Path, key: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Path]]:
    """A bank to which the case happened, and what opens it."""
    small_entries(monkeypatch)
    options = {"key_file": key} if case.encrypted else {}
    make_bank(place, CONTENTS, **options)
    if case.encrypted:
        with Bank.open(place, key_file=key) as bank:
            bank.keys.add(passphrase="spare")
    case.spoil(place)
    return place, options


def test_a_finding(spoilt: tuple[Path, dict[str, Path]], case: Case) -> None:
    """A finding says of which kind it is, where, what is wrong, and what a repair would do; none other is made."""
    place, options = spoilt
    told = []
    report = Bank.check(place, read_data=True, on_finding=told.append, **options)
    assert not report.clean
    found = the_finding(report, case.kind)
    assert case.where in found.where
    assert case.what in found.what
    assert case.repair in found.repair
    assert {kind for kind, _ in damage(report)} <= {case.kind, FindingKind.OBJECT}
    assert [(one.kind, one.where) for one in told] == [(one.kind, one.where) for one in report.findings]


def test_its_repair(spoilt: tuple[Path, dict[str, Path]], case: Case) -> None:
    """After a repair the bank is clean, opens, takes puts, its index is a function of the journal; a second repair has
    nothing to do."""
    place, options = spoilt
    report = Bank.check(place, read_data=True, repair=True, **options)
    assert (damage(report), report.clean) == ([], True)
    assert report.repaired
    assert Bank.check(place, read_data=True, **options).clean
    with Bank.open(place, **options) as bank:
        assert bank.verify_index() == []
        # What lost bytes is whole when it is put again.
        for name, data in CONTENTS.items():
            bank.put(name, data)
        assert {name: bank.get(name) for name in CONTENTS} == CONTENTS
    again = Bank.check(place, read_data=True, repair=True, **options)
    assert again.clean
    assert not any(finding.kind is FindingKind.KNOWN_LOSS for finding in again.findings)
    assert Bank.check(place, repair=True, **options).repaired == ()


def test_who_is_hit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged pack names the objects, and the removed versions, that it hits, and no others."""
    small_entries(monkeypatch)
    make_bank(place, some("a", "b", "c"))
    with Bank.open(place) as bank:
        bank.copy("a", "twin")
        bank.put("b", b"another")
    for name in ("a", "c"):
        flip(packs_of_object(place, name)[0], HEADER + 9)
    report = Bank.check(place, read_data=True)
    hit = sorted(finding.objects for finding in report.findings if finding.kind is FindingKind.PACK)
    assert hit == [("a", "twin"), ("c",)]
    assert {where for kind, where in damage(report) if kind is FindingKind.OBJECT} == {"a", "twin", "c"}
    assert all(finding.objects_hit == len(finding.objects) for finding in report.findings)
    assert "8192 of 24576 bytes are lost, in 2 places" in {finding.what for finding in report.findings}


def test_a_removed_version_is_hit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could still be brought back is followed too, and told apart from what is there."""
    small_entries(monkeypatch)
    make_bank(place, some("a", "b"))
    pack = packs_of_object(place, "a")[0]
    with Bank.open(place) as bank:
        bank.delete("a")
    flip(pack, HEADER + 9)
    report = Bank.check(place, read_data=True)
    assert the_finding(report, FindingKind.PACK).objects == ("a (removed)",)
    assert (report.objects, damage(report)[-1]) == (1, (FindingKind.OBJECT, "a (removed)"))


def test_the_only_slot(place: Path, key: Path) -> None:
    """A bank whose only key slot has one flipped bit is repaired with its key: what is told to be mended is mended."""
    make_bank(place, CONTENTS, key_file=key)
    flip(_newest_slot(place), 150)
    assert Bank.check(place, repair=True, key_file=key).clean
    with Bank.open(place, key_file=key) as bank:
        assert contents_of(bank) == CONTENTS


def test_several_damages_at_once(place: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No damage hides another: all that were made are found in one run, and one repair mends them."""
    small_entries(monkeypatch)
    make_bank(place, some("a", "b", "c"), key_file=key)
    flip(place / "BANK", 40)
    flip(_keyring(place), 150)
    first, second, third = data_packs(place)
    flip(first, HEADER + 9)
    second.unlink()
    cut(third, third.stat().st_size - 1)
    (segment,) = (place / "journal").glob("*.log")
    flip(segment, frames_of(segment)[2].end - 10)
    report = Bank.check(place, read_data=True, key_file=key)
    kinds = [kind for kind, _ in damage(report)]
    assert {FindingKind.BANK_FILE, FindingKind.KEYRING, FindingKind.JOURNAL} <= set(kinds)
    assert Bank.check(place, read_data=True, repair=True, key_file=key).clean
    assert Bank.check(place, read_data=True, key_file=key).clean


def test_leftovers_are_no_damage(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs that no record names are told of, and the bank is clean."""
    small_entries(monkeypatch)
    make_bank(place, some("a"))
    orphan = place / "packs" / "ab" / ("ab" * 16)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(packs_of(place)[0].read_bytes())
    report = Bank.check(place, read_data=True)
    assert report.clean
    assert the_finding(report, FindingKind.LEFTOVER).where == "packs/"


def test_known_losses_are_no_damage(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a repair has written down is told of by name, the bank is clean, and putting the content again ends it."""
    small_entries(monkeypatch)
    make_bank(place, some("a", "b"))
    flip(packs_of_object(place, "a")[0], HEADER + 9)
    repaired = Bank.check(place, read_data=True, repair=True)
    report = Bank.check(place, read_data=True)
    for one in (repaired, report):
        assert (one.clean, one.known_losses) == (True, 1)
        assert the_finding(one, FindingKind.KNOWN_LOSS).objects == ("a",)
    with Bank.open(place) as bank:
        bank.put("other", some("a")["a"])
        assert contents_of(bank) == some("a", "b") | {"other": content("a", 6 * CHUNK)}
    assert Bank.check(place, read_data=True).known_losses == 0


def test_a_pack_that_cannot_be_opened_is_not_given_up(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack that cannot be read for a passing reason is damage, and a repair leaves it alone."""
    small_entries(monkeypatch)
    make_bank(place, CONTENTS)
    pack = packs_of_object(place, "a")[0]
    aside = pack.rename(place.parent / "aside")
    pack.symlink_to(pack.name)
    report = Bank.check(place, read_data=True, repair=True)
    assert the_finding(report, FindingKind.PACK).repair.startswith("nothing")
    pack.unlink()
    aside.rename(pack)
    with Bank.open(place) as bank:
        assert contents_of(bank) == CONTENTS
        assert collect_now(bank, force=True).deleted_packs == 0


def test_clean(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an undamaged bank the report counts what there is."""
    small_entries(monkeypatch)
    make_bank(place, CONTENTS)
    report: FsckReport = Bank.check(place, read_data=True)
    assert (report.findings, report.damage, report.omitted, report.repaired) == ((), 0, 0, ())
    # The first record, and one for each.
    assert (report.records, report.objects, report.checkpoints) == (3, 2, 0)
    assert report.packs == report.packs_read == len(packs_of(place))
    assert report.bytes_read == sum(pack.stat().st_size for pack in packs_of(place))
    assert not report.keyless
