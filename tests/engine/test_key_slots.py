"""Key slots: who may open a bank, also when two remove slots at once, somebody dies, or puts old files back."""

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bank_scene import content, contents_of, engine_of, flip, memory_place
from conftest import Start

from casbank import Bank, CasbankError, ErrorKind, InvalidInputError, KeyMismatchError, NotFoundError, limits
from casbank.engine import credential
from casbank.engine.keys import removed_key
from casbank.format.keyslot import SlotParameters, SlotSource
from casbank.format.record import Config, Op

CHEAP = SlotParameters(SlotSource.PASSPHRASE, memory_kib=32, iterations=1, lanes=4)

# A command that keeps the wrapped key as it is, behind its own mark; it refuses what has another one.
COMMAND = """
import sys
mark, mode = sys.argv[1].encode(), sys.argv[2]
data = sys.stdin.buffer.read()
if mode == "wrap":
    sys.stdout.buffer.write(mark + bytes(byte ^ 0x5A for byte in data))
elif data.startswith(mark):
    sys.stdout.buffer.write(bytes(byte ^ 0x5A for byte in data[len(mark):]))
else:
    sys.exit(3)
"""

REMOVE = """
import sys
from casbank import Bank, InvalidInputError
place, key, slot = sys.argv[1:]
with Bank.open(place, key_file=key) as bank:
    print("open", flush=True)
    sys.stdin.readline()
    try:
        bank.keys.remove(slot)
        print("removed", flush=True)
    except InvalidInputError:
        print("refused", flush=True)
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CASBANK_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def keys(tmp_path: Path) -> list[Path]:
    """Four key files."""
    paths = [tmp_path / f"key{number}" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(content(f"key {number}", 32))
    return paths


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passphrases that cost nothing to derive."""
    monkeypatch.setattr(credential, "PASSPHRASE_PARAMETERS", CHEAP)


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passphrases that were derived from, one for each derivation."""
    seen: list[str] = []
    derive = credential.passphrase_secret

    def counted(text: str, parameters: SlotParameters, salt: bytes) -> bytes:
        seen.append(text)
        return derive(text, parameters, salt)

    monkeypatch.setattr(credential, "passphrase_secret", counted)
    return seen


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str]]:
    """A key command with a mark of its own, or another program of Python."""
    count = iter(range(100))

    def make(mark: str = "device", text: str = COMMAND) -> list[str]:
        path = tmp_path / f"command{next(count)}.py"
        path.write_text(text)
        return [sys.executable, str(path), mark]

    return make


@pytest.fixture
def bank(place: Path, keys: list[Path]) -> Iterator[Bank]:
    """A new encrypted bank on disk."""
    with Bank.create(place, key_file=keys[0]) as made:
        yield made


def slot_files(place: Path) -> dict[str, bytes]:
    """The slot files, by the id in their names."""
    return {path.name: path.read_bytes() for path in (place / "keys").iterdir() if len(path.name) == 32}


def ids_of(bank: Bank) -> list[str]:
    return [slot.id for slot in bank.keys.slots()]


def opens(place: Path, **key: object) -> bool:
    """Whether a key opens the bank; any error but KEY_WRONG passes through."""
    try:
        Bank.open(place, **key).close()  # type: ignore[arg-type]
    except KeyMismatchError as error:
        if error.kind is not ErrorKind.KEY_WRONG:
            raise
        return False
    return True


def everything_in(place: Path) -> dict[Path, tuple[bytes, int, int]]:
    """Content, time of change and mode of each file."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode)
        for path in place.rglob("*")
        if path.is_file()
    }


# --- adding, listing, removing ---------------------------------------------------------------------------------------


def test_slots_are_listed_as_they_were_added(bank: Bank, keys: list[Path], cheap: None, command: object) -> None:
    """Each slot is listed with its source and label, the oldest first, and opens the bank."""
    (first,) = bank.keys.slots()
    added = [
        bank.keys.add(passphrase="words", label="head"),
        bank.keys.add(key_file=keys[1], label="\N{CRAB} desk"),
        bank.keys.add(key_command=command(), label="device"),  # type: ignore[operator]
    ]
    assert bank.keys.slots() == [first, *added]
    assert [slot.source for slot in bank.keys.slots()] == ["key-file", "passphrase", "key-file", "command"]
    assert [slot.label for slot in added] == ["head", "\N{CRAB} desk", "device"]


def test_every_slot_opens_the_same_bank(
    place: Path, keys: list[Path], cheap: None, command: Callable[..., list[str]]
) -> None:
    """What was put through one key is read through any other; what was never added opens nothing."""
    device = command()
    with Bank.create(place, passphrase="words") as bank:
        bank.put("x", b"content")
        bank.keys.add(key_file=keys[1])
        bank.keys.add(key_command=device)
    for key in ({"passphrase": "words"}, {"key_file": keys[1]}, {"key_command": device}):
        with Bank.open(place, **key) as bank:  # type: ignore[arg-type]
            assert bank.get("x") == b"content"
    assert not opens(place, passphrase="Words")
    assert not opens(place, key_file=keys[2])


def test_removed_slot_opens_no_longer(bank: Bank, place: Path, keys: list[Path]) -> None:
    """A removed slot is not listed, its file is gone, and its key opens nothing; the others do."""
    first, second = ids_of(bank)[0], bank.keys.add(key_file=keys[1]).id
    bank.keys.remove(first)
    assert ids_of(bank) == [second] == [*slot_files(place)]
    with pytest.raises(NotFoundError) as caught:
        bank.keys.remove(first)
    assert caught.value.kind is ErrorKind.NO_KEY
    bank.close()
    assert not opens(place, key_file=keys[0])
    assert opens(place, key_file=keys[1])


def test_last_slot_stays(bank: Bank, place: Path, keys: list[Path]) -> None:
    """The last slot is not removed, however it came to be the last."""
    for number in (1, 2):
        bank.keys.add(key_file=keys[number])
    *others, last = ids_of(bank)
    for slot in others:
        bank.keys.remove(slot)
    before = bank.stats().version
    for _ in range(2):
        with pytest.raises(InvalidInputError):
            bank.keys.remove(last)
    assert bank.stats().version == before
    assert ids_of(bank) == [last]
    bank.close()
    assert opens(place, key_file=keys[2])


@pytest.mark.parametrize("slot", ["", "00", "g" * 32, "A" * 32, "0" * 33, "0" * 31 + "\n", None, 5, b"0" * 32])
def test_what_is_no_slot_id_is_invalid_input(bank: Bank, slot: object) -> None:
    """An id is 32 hexadecimal digits."""
    with pytest.raises(InvalidInputError):
        bank.keys.remove(slot)  # type: ignore[arg-type]


def test_unknown_slot_is_not_found(bank: Bank) -> None:
    """An id that no slot has is told as that, even of a bank with one slot."""
    with pytest.raises(NotFoundError) as caught:
        bank.keys.remove("0" * 32)
    assert caught.value.kind is ErrorKind.NO_KEY


@pytest.mark.parametrize("label", ["x" * 256, "\N{CRAB}" * 64, "two\nlines", "\x1b[31m", "\ud800"])
def test_label_is_printable_and_short(bank: Bank, keys: list[Path], label: str) -> None:
    """A label that would mangle a list is refused, and no slot is made."""
    with pytest.raises(InvalidInputError):
        bank.keys.add(key_file=keys[1], label=label)
    assert len(ids_of(bank)) == 1
    assert bank.keys.add(key_file=keys[1], label="x" * 255).label == "x" * 255


def test_bank_has_32_slots_at_most(bank: Bank, place: Path, keys: list[Path]) -> None:
    """A 33rd slot is refused; all 32 open; with one removed there is room for another."""
    for _ in range(limits.KEY_SLOTS_MAX - 1):
        bank.keys.add(key_file=keys[1])
    with pytest.raises(InvalidInputError):
        bank.keys.add(key_file=keys[2])
    assert len(ids_of(bank)) == len(slot_files(place)) == limits.KEY_SLOTS_MAX
    bank.keys.remove(ids_of(bank)[5])
    bank.keys.add(key_file=keys[2])
    bank.close()
    assert all(opens(place, key_file=key) for key in keys[:3])


def test_slots_of_others_are_seen(bank: Bank, place: Path, keys: list[Path], program: Start) -> None:
    """What another process adds and removes is seen by one that has the bank open."""
    first = ids_of(bank)
    text = "import sys\nfrom casbank import Bank\nplace, one, two = sys.argv[1:]\n"
    text += "with Bank.open(place, key_file=one) as bank:\n    print(bank.keys.add(key_file=two).id)\n"
    added = program(text, place, keys[0], keys[1]).communicate()[0].strip()
    assert ids_of(bank) == [*first, added]
    child = program(REMOVE, place, keys[1], first[0])
    assert child.communicate("\n")[0].split() == ["open", "removed"]
    assert ids_of(bank) == [added]
    with pytest.raises(InvalidInputError):
        bank.keys.remove(added)


# --- two at once -----------------------------------------------------------------------------------------------------


def test_two_processes_cannot_remove_both_slots(place: Path, keys: list[Path], program: Start) -> None:
    """Of two processes that each remove one of two slots at the same time exactly one succeeds."""
    for number in range(4):
        at = place.with_name(f"bank{number}")
        with Bank.create(at, key_file=keys[0]) as bank:
            bank.keys.add(key_file=keys[1])
            slots = ids_of(bank)
        children = [program(REMOVE, at, keys[each], slots[each]) for each in range(2)]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        told = sorted(child.communicate()[0].strip() for child in children)
        assert told == ["refused", "removed"]
        assert [opens(at, key_file=key) for key in keys[:2]].count(True) == 1


def test_two_threads_cannot_remove_both_slots(bank: Bank, place: Path, keys: list[Path]) -> None:
    """Of two threads that each remove one of two slots, and whose changes meet in one record, exactly one succeeds."""
    bank.keys.add(key_file=keys[1])
    slots = ids_of(bank)
    outcomes: list[str] = []

    def remove(slot: str) -> None:
        try:
            bank.keys.remove(slot)
            outcomes.append("removed")
        except InvalidInputError:
            outcomes.append("refused")

    meet_in_one_record(bank, [lambda slot=slot: remove(slot) for slot in slots])  # type: ignore[misc]
    assert sorted(outcomes) == ["refused", "removed"]
    assert len(ids_of(bank)) == 1
    bank.close()
    assert [opens(place, key_file=key) for key in keys[:2]].count(True) == 1


def meet_in_one_record(bank: Bank, changes: list[Callable[[], None]]) -> None:
    """Run the changes in threads of their own; all wait for the leader of a group commit, who then takes them in."""
    engine = engine_of(bank)
    waiting = engine._committer._waiting
    threads = [threading.Thread(target=change) for change in changes]

    def hold(_: object) -> list[Op]:
        deadline = time.monotonic() + 10
        while len(waiting) < len(changes) and time.monotonic() < deadline:
            time.sleep(0.001)
        return []

    leader = threading.Thread(target=lambda: engine.commit(hold))
    leader.start()
    for thread in threads:
        thread.start()
    for thread in (leader, *threads):
        thread.join()


# --- files that were put back, left behind or damaged ----------------------------------------------------------------


def put_back(place: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = place / "keys" / name
        if not path.exists():
            path.write_bytes(data)


def test_slot_that_is_put_back_opens_nothing(bank: Bank, place: Path, keys: list[Path]) -> None:
    """The file of a removed slot that somebody puts back does not open the bank, with an index or without one, nor
    through an engine that is open already."""
    first, files = ids_of(bank)[0], slot_files(place)
    bank.put("x", b"content")
    bank.keys.add(key_file=keys[1])
    bank.keys.remove(first)
    put_back(place, files)
    assert first in slot_files(place)
    assert first not in ids_of(bank)
    assert not opens(place, key_file=keys[0])
    with pytest.raises(NotFoundError):
        bank.keys.remove(first)
    with pytest.raises(InvalidInputError):
        bank.keys.remove(ids_of(bank)[0])
    bank.close()
    assert not opens(place, key_file=keys[0])
    Bank.drop_index(place)
    assert not opens(place, key_file=keys[0])
    with Bank.open(place, key_file=keys[1]) as again:
        assert again.get("x") == b"content"


@pytest.mark.parametrize("where", ["journal", "checkpoint"])
def test_removal_outlives_the_journal(bank: Bank, place: Path, keys: list[Path], where: str) -> None:
    """That a slot was removed is known after a checkpoint took the place of its record, too."""
    engine_of(bank).journal._segment_bytes_max = 2000  # type: ignore[attr-defined]
    first, files = ids_of(bank)[0], slot_files(place)
    bank.keys.add(key_file=keys[1])
    bank.keys.remove(first)
    for number in range(20):
        bank.put(f"n{number}", content(number, 1000))
        if where == "checkpoint" and number % 9 == 8:
            assert engine_of(bank).checkpoints.write() is not None
    assert (engine_of(bank).journal.first() > 1) == (where == "checkpoint")
    bank.close()
    put_back(place, files)
    Bank.drop_index(place)
    assert not opens(place, key_file=keys[0])
    assert opens(place, key_file=keys[1])


def test_same_key_in_another_slot_opens(bank: Bank, place: Path, keys: list[Path]) -> None:
    """Who has another slot with the same key is not kept out by a removed one that was put back, whatever the order."""
    files = slot_files(place)
    first, later = ids_of(bank)[0], bank.keys.add(key_file=keys[0]).id
    bank.keys.remove(first)
    bank.close()
    put_back(place, files)
    with Bank.open(place, key_file=keys[0]) as again:
        assert ids_of(again) == [later]
        files |= slot_files(place)
        again.keys.add(key_file=keys[1])
        again.keys.remove(later)
    put_back(place, files)
    assert not opens(place, key_file=keys[0])


def test_kill_between_record_and_deletion(bank: Bank, place: Path, keys: list[Path]) -> None:
    """A process that dies once the record says that a slot is removed leaves a file that opens nothing, and that is in
    nobody's way."""
    first, second = ids_of(bank)[0], bank.keys.add(key_file=keys[1]).id
    engine_of(bank).commit(lambda now: [Config(removed_key(bytes.fromhex(first)), 1)])
    bank.close()
    assert sorted(slot_files(place)) == sorted([first, second])
    assert not opens(place, key_file=keys[0])
    with Bank.open(place, key_file=keys[1]) as again:
        assert ids_of(again) == [second]
        with pytest.raises(InvalidInputError):
            again.keys.remove(second)


def test_leftovers_do_not_take_the_place_of_slots(bank: Bank, place: Path, keys: list[Path]) -> None:
    """Files of removed slots that were left behind or put back, and damaged ones, do not count against the 32 slots
    that a bank may have, and keep out nobody who has one of these."""
    for number in range(limits.KEY_SLOTS_MAX):
        # Of names that stand before those of the slots.
        (place / "keys" / f"{number:032x}").write_bytes(b"damaged")
    added = bank.keys.add(key_file=keys[1])
    assert added in bank.keys.slots()
    bank.close()
    assert opens(place, key_file=keys[0])
    assert opens(place, key_file=keys[1])


def test_removed_slots_do_not_count(bank: Bank, place: Path, keys: list[Path]) -> None:
    """Where every removed slot's file is still there, or was put back, slots can be added up to the 32 that a bank may
    have, and each opens it."""
    files: dict[str, bytes] = {}
    for _ in range(limits.KEY_SLOTS_MAX - 1):
        bank.keys.add(key_file=keys[1])
    for slot in ids_of(bank)[1:]:
        files |= slot_files(place)
        bank.keys.remove(slot)
    put_back(place, files)
    bank.keys.add(key_file=keys[2])
    bank.close()
    assert opens(place, key_file=keys[2])


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "garbage", "another bank's", "another's name", "version"])
def test_damaged_slot_is_passed_over(
    bank: Bank, place: Path, *, keys: list[Path], damage: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A slot that cannot be read keeps nobody out who has another one, and is told of in the log."""
    bank.put("x", b"content")
    spoilt, good = ids_of(bank)[0], bank.keys.add(key_file=keys[1]).id
    bank.close()
    path = place / "keys" / spoilt
    match damage:
        case "flip":
            flip(path, path.stat().st_size // 2)
        case "cut":
            path.chmod(0o600)
            os.truncate(path, 150)
        case "empty" | "garbage":
            path.unlink()
            path.write_bytes(content(1, 300) if damage == "garbage" else b"")
        case "another bank's":
            with Bank.create(tmp_path / "other", key_file=keys[0]) as other:
                (name,) = ids_of(other)
            shutil.copy(tmp_path / "other" / "keys" / name, place / "keys" / name)
            path.unlink()
        case "another's name":
            path.rename(path.with_name("0" * 32))
        case "version":
            path.unlink()
            path.write_bytes(b"\x89CAS\r\n\x1a\n\x09" + bytes(300))
    with caplog.at_level(logging.WARNING), Bank.open(place, key_file=keys[1]) as again:
        assert again.get("x") == b"content"
        assert ids_of(again) == [good]
        # What cannot be read is no slot: the good one is the last.
        with pytest.raises(InvalidInputError):
            again.keys.remove(good)
    assert "key slot" in caplog.text
    assert not opens(place, key_file=keys[0])


def test_slot_whose_body_was_changed_keeps_out_no_other(bank: Bank, place: Path, keys: list[Path]) -> None:
    """A slot whose label somebody changed, mending the hash, opens nothing; another slot of the same key does."""
    from blake3 import blake3

    first, second = ids_of(bank)[0], bank.keys.add(key_file=keys[0]).id
    bank.close()
    path = place / "keys" / first
    data = bytearray(path.read_bytes()[:-32])
    # The last byte of the time, which stands before an empty label.
    data[-48 - 2] ^= 1
    path.unlink()
    path.write_bytes(bytes(data) + blake3(bytes(data)).digest())
    with Bank.open(place, key_file=keys[0]) as again:
        assert second in ids_of(again)


def test_no_readable_slot_is_a_wrong_key(bank: Bank, place: Path, keys: list[Path]) -> None:
    """Of a bank all of whose slots are gone no key is right."""
    bank.close()
    for name in slot_files(place):
        (place / "keys" / name).unlink()
    assert not opens(place, key_file=keys[0])


# --- the wrong key, none, one too many -------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["key_file", "passphrase", "key_command"])
def test_wrong_key_changes_nothing(
    bank: Bank,
    *,
    place: Path,
    keys: list[Path],
    cheap: None,
    wrong: str,
    command: Callable[..., list[str]],
    program: Start,
) -> None:
    """A wrong key is told as that, and no file of the bank is changed, made or removed by trying it."""
    bank.keys.add(passphrase="words")
    bank.put("x", content(1, 10_000))
    bank.close()
    before, cached = everything_in(place), everything_in(place.with_name("cache"))
    given: dict[str, object] = {"key_file": keys[1], "passphrase": "other", "key_command": command()}
    assert not opens(place, **{wrong: given[wrong]})
    assert everything_in(place) == before
    assert everything_in(place.with_name("cache")) == cached


def test_missing_key_is_told(bank: Bank, place: Path) -> None:
    """An encrypted bank does not open without a key, whether it is open already or not."""
    for _ in range(2):
        with pytest.raises(KeyMismatchError) as caught:
            Bank.open(place)
        assert caught.value.kind is ErrorKind.KEY_MISSING
        bank.close()


def test_key_for_a_plain_bank_is_told(place: Path, keys: list[Path], cheap: None) -> None:
    """A bank that is not encrypted does not open with a key: who gives one relies on it."""
    for at in (place, memory_place()):
        with Bank.create(at) as bank:
            bank.put("x", b"")
            for _ in range(2):
                for key in ({"key_file": keys[0]}, {"passphrase": "words"}):
                    with pytest.raises(KeyMismatchError) as caught:
                        Bank.open(at, **key)  # type: ignore[arg-type]
                    assert caught.value.kind is ErrorKind.NOT_ENCRYPTED


def test_plain_bank_has_no_keys(place: Path, keys: list[Path]) -> None:
    """Every question about keys to a bank without any is told so."""
    with Bank.create(place) as bank:
        calls: list[Callable[[], object]] = [
            bank.keys.slots,
            bank.keys.rotate,
            bank.keys.epochs,
            bank.keys.export,
            lambda: bank.keys.add(key_file=keys[0]),
            lambda: bank.keys.remove("0" * 32),
            lambda: bank.keys.retire(1),
        ]
        for call in calls:
            with pytest.raises(KeyMismatchError) as caught:
                call()
            assert caught.value.kind is ErrorKind.NOT_ENCRYPTED


@pytest.mark.parametrize("in_memory", [False, True])
def test_open_engine_helps_no_wrong_key(place: Path, keys: list[Path], in_memory: bool) -> None:
    """A second opening in the process that has the bank open needs a right key all the same, its own or another."""
    at = memory_place() if in_memory else place
    with Bank.create(at, key_file=keys[0]) as bank:
        bank.put("x", b"content")
        for key in ({"key_file": keys[1]}, {"passphrase": "words"}):
            with pytest.raises(KeyMismatchError) as caught:
                Bank.open(at, **key)  # type: ignore[arg-type]
            assert caught.value.kind is ErrorKind.KEY_WRONG
        bank.keys.add(key_file=keys[1])
        with Bank.open(at, key_file=keys[1]) as other:
            assert engine_of(other) is engine_of(bank)
            assert other.get("x") == b"content"
        assert bank.get("x") == b"content"


def test_opening_leaves_no_file_open(bank: Bank, place: Path, keys: list[Path]) -> None:
    """An opening, right or wrong, and a closing leave no descriptor behind."""
    bank.close()
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("no list of descriptors here")
    Bank.open(place, key_file=keys[0]).close()
    before = len(list(folder.iterdir()))
    for _ in range(5):
        assert opens(place, key_file=keys[0])
        assert not opens(place, key_file=keys[1])
    assert len(list(folder.iterdir())) == before


# --- derivations -----------------------------------------------------------------------------------------------------


def test_wrong_passphrase_costs_a_derivation_for_each_slot(
    bank: Bank, place: Path, *, keys: list[Path], cheap: None, derivations: list[str], command: Callable[..., list[str]]
) -> None:
    """A wrong passphrase is derived from once for each passphrase slot; a key file, a command and a removed slot cost
    none."""
    for words in ("one", "two", "three", "four"):
        bank.keys.add(passphrase=words)
    bank.keys.add(key_file=keys[1])
    bank.keys.add(key_command=command())
    bank.keys.remove(bank.keys.slots()[2].id)
    bank.close()
    derivations.clear()
    assert not opens(place, passphrase="wrong")
    assert derivations == ["wrong"] * 3
    derivations.clear()
    assert opens(place, key_file=keys[1])
    assert not opens(place, key_file=keys[2])
    assert derivations == []
    assert opens(place, passphrase="one")
    assert derivations == ["one"]


def test_passphrase_opens_as_it_was_normalised(place: Path) -> None:
    """A bank that was made with a composed letter opens with the decomposed one, at the cost that is the default."""
    with Bank.create(place, passphrase="caf\N{LATIN SMALL LETTER E WITH ACUTE}") as bank:
        bank.put("x", b"content")
    with Bank.open(place, passphrase="cafe\N{COMBINING ACUTE ACCENT}") as bank:
        assert bank.get("x") == b"content"
    assert not opens(place, passphrase="cafe")


# --- key commands ----------------------------------------------------------------------------------------------------


def test_two_commands_each_open_the_bank(place: Path, command: Callable[..., list[str]]) -> None:
    """Each of two devices opens the bank, though it cannot unwrap what the other one wrapped."""
    one, two = command("one"), command("two")
    with Bank.create(place, key_command=one) as bank:
        bank.keys.add(key_command=two)
    assert opens(place, key_command=one)
    assert opens(place, key_command=two)


def test_command_is_given_its_own_token_alone(place: Path, tmp_path: Path, command: Callable[..., list[str]]) -> None:
    """The secret reaches a command on its standard input, and nothing of it in arguments or environment."""
    log = tmp_path / "log"
    spy = f"import os, sys\nopen({str(log)!r}, 'a').write(repr((sys.argv, dict(os.environ))))\n" + COMMAND
    own = command("own", spy)
    with Bank.create(place, key_command=own) as bank:
        secret = bytes(byte ^ 0x5A for byte in engine_of(bank).keys.slots.all()[0].parameters.token[3:])  # type: ignore[union-attr]
    assert opens(place, key_command=own)
    assert len(secret) == 32
    text = log.read_text()
    assert "'wrap'" in text
    assert "'unwrap'" in text
    assert secret.hex() not in text
    assert repr(secret) not in text


@pytest.mark.parametrize(
    "text",
    [
        "import sys\nsys.exit(1)",
        "import os\nos.kill(os.getpid(), 9)",
        "print('garbage')",
        "",
        "import sys\nsys.stdout.buffer.write(bytes(31))",
        "import sys\nsys.stdout.buffer.write(bytes(33))",
        "import sys\nsys.stdout.buffer.write(bytes(32))",
        "import sys\nsys.stdout.buffer.write(bytes(10**6))",
        "import sys\nsys.stdin.close()\nsys.exit(2)",
    ],
)
def test_failing_command_opens_nothing(place: Path, text: str, command: Callable[..., list[str]]) -> None:
    """A command that fails, dies or answers garbage opens nothing, and that is told as a key that does not fit."""
    Bank.create(place, key_command=command()).close()
    with pytest.raises(KeyMismatchError):
        Bank.open(place, key_command=command("device", text))


@pytest.mark.parametrize(
    "text",
    [
        "import sys\nsys.exit(1)",
        "",
        "import sys\nsys.stdout.buffer.write(bytes(65537))",
        # What wraps and cannot unwrap.
        "import sys\nif sys.argv[2] == 'unwrap': sys.exit(1)\nsys.stdout.buffer.write(b'token')",
        "import sys\nsys.stdout.buffer.write(bytes(31))",
        "import sys\nsys.stdout.buffer.write(bytes(32))",
    ],
    ids=["fails", "nothing", "too much", "no unwrap", "short", "wrong"],
)
@pytest.mark.parametrize("in_memory", [False, True])
def test_command_that_does_not_work_makes_no_slot(
    place: Path, keys: list[Path], text: str, in_memory: bool, command: Callable[..., list[str]]
) -> None:
    """A command that cannot wrap, or not unwrap what it wrapped, becomes no slot: nobody could remove the others in
    the belief that it works. Nor does it make a bank, or keep one from being made there."""
    at = memory_place() if in_memory else place
    broken = command("broken", text)
    with pytest.raises(CasbankError):
        Bank.create(at, key_command=broken)
    with Bank.create(at, key_file=keys[0]) as bank:
        before = bank.keys.slots()
        with pytest.raises(CasbankError):
            bank.keys.add(key_command=broken)
        assert bank.keys.slots() == before
        with pytest.raises(InvalidInputError):
            bank.keys.remove(before[0].id)


def test_hanging_command_is_given_up(
    place: Path, keys: list[Path], command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that does not come back, or whose child holds its output, is given up after a while."""
    monkeypatch.setattr(limits, "KEY_COMMAND_S_MAX", 0.3)
    Bank.create(place, key_file=keys[0]).close()
    monkeypatch.setattr(limits, "KEY_COMMAND_S_MAX", 60)
    with Bank.open(place, key_file=keys[0]) as bank:
        bank.keys.add(key_command=command())
        monkeypatch.setattr(limits, "KEY_COMMAND_S_MAX", 0.3)
        slow = command("slow", "import time\ntime.sleep(5)")
        parent = command("parent", "import subprocess, sys\nsubprocess.Popen(['sleep', '5'])\n")
        for hanging in (slow, parent):
            start = time.monotonic()
            with pytest.raises(CasbankError):
                bank.keys.add(key_command=hanging)
            with pytest.raises(CasbankError):
                Bank.open(place, key_command=hanging)
            assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    "words", [[], "command", b"command", ["no such program anywhere"], ["/"], ["nul\0nul"], [1], [""], [None]]
)
def test_what_is_no_command_is_told(place: Path, keys: list[Path], words: object) -> None:
    """A command that cannot be run is an error of the library's own, for creating and opening."""
    with pytest.raises(CasbankError):
        Bank.create(place, key_command=words)  # type: ignore[arg-type]
    with Bank.create(place, key_file=keys[0]), pytest.raises(CasbankError):
        Bank.open(place, key_command=words)  # type: ignore[arg-type]


# --- recovery --------------------------------------------------------------------------------------------------------


def test_failed_recovery_leaves_the_bank_as_it_was(
    bank: Bank, place: Path, keys: list[Path], command: Callable[..., list[str]]
) -> None:
    """A recovery whose new key does not work fails, and the bank can be opened and recovered after it, in the same
    process."""
    bank.put("x", b"content")
    text = bank.keys.export()
    bank.close()
    with pytest.raises(CasbankError):
        Bank.recover(place, text, key_command=command("broken", "import sys\nsys.exit(1)"))
    with Bank.open(place, key_file=keys[0]) as again:
        assert again.get("x") == b"content"
    with Bank.recover(place, text, key_file=keys[1]) as again:
        assert again.get("x") == b"content"
        assert len(ids_of(again)) == 2


def test_recovery_text_of_another_bank_is_a_wrong_key(bank: Bank, place: Path, keys: list[Path]) -> None:
    """The text of another bank opens nothing, also where the bank is open; its own does."""
    with Bank.create(memory_place(), key_file=keys[0]) as other:
        text = other.keys.export()
    own = bank.keys.export()
    for _ in range(2):
        with pytest.raises(KeyMismatchError) as caught:
            Bank.open(place, recovery=text)
        assert caught.value.kind is ErrorKind.KEY_WRONG
        with Bank.open(place, recovery=own) as opened:
            assert contents_of(opened) == {}
        bank.close()
