"""Passphrases that a person types at a terminal."""

import shutil
from pathlib import Path

import pytest

from casbank import Bank
from cli.shell import files_below
from cli.terminal import talk

SECRET = b"correct horse"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank with one object that a passphrase opens; not to be changed."""
    folder = tmp_path_factory.mktemp("original")
    with Bank.create(folder / "bank", passphrase=SECRET.decode(), cache_dir=folder / "cache") as bank:
        bank.put("x", b"content")
    return folder / "bank"


@pytest.fixture
def locked(original: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(original, tmp_path / "bank", ignore=shutil.ignore_patterns("synced")))


def test_a_passphrase_is_asked_for_and_not_shown(locked: Path) -> None:
    """What is typed opens the bank; neither the terminal nor standard output ever has it."""
    done = talk("get", locked, "x", answers=[(b"Passphrase of ", SECRET + b"\n")])
    assert (done.code, done.stdout) == (0, b"content")
    assert str(locked).encode() in done.shown
    assert SECRET not in done.shown


def test_a_wrong_answer_is_7_and_changes_nothing(locked: Path) -> None:
    """A mistyped passphrase opens nothing, and leaves no trace in the bank."""
    before = files_below(locked)
    done = talk("put", locked, "y", locked / "BANK", answers=[(b"Passphrase", b"wrong\n")])
    assert done.code == 7
    assert b"no key slot" in done.shown
    assert files_below(locked) == before


@pytest.mark.parametrize("answer", [b"\n", b"\x04"], ids=["empty line", "end of file"])
def test_no_answer_is_7_and_names_other_ways(locked: Path, answer: bytes) -> None:
    """Who types nothing is told how else a key can be given."""
    done = talk("ls", locked, answers=[(b"Passphrase", answer)])
    assert done.code == 7
    assert b"--key-file" in done.shown


def test_an_interrupted_question_is_130(locked: Path) -> None:
    """Ctrl-C at the prompt ends it, like everywhere."""
    assert talk("ls", locked, answers=[(b"Passphrase", b"\x03")]).code == 130


def test_a_piped_object_is_not_taken_for_the_passphrase(locked: Path) -> None:
    """put asks at the terminal while standard input carries the object, all of which is stored."""
    data = SECRET + b"\nand more"
    done = talk("put", locked, "y", "-", answers=[(b"Passphrase", SECRET + b"\n")], data=data)
    assert done.code == 0, done.shown
    with Bank.open(locked, passphrase=SECRET.decode()) as bank:
        assert bank.get("y") == data


def test_without_a_terminal_on_standard_input_nobody_is_asked(locked: Path) -> None:
    """A verb whose standard input is no terminal, and no object either, does not wait for a person."""
    done = talk("ls", locked, data=SECRET + b"\n")
    assert done.code == 7
    assert b"Passphrase of" not in done.shown


def test_a_plain_bank_asks_nothing(bank: Path) -> None:
    """No prompt for a bank that needs no key."""
    assert talk("ls", bank) == (0, b"", b"")


def test_init_asks_twice(tmp_path: Path) -> None:
    """--encrypt without a key makes a bank of the passphrase that was typed twice alike, and says what that means."""
    place = tmp_path / "bank"
    done = talk(
        "init", place, "--encrypt", answers=[(b"New passphrase: ", SECRET + b"\n"), (b"again: ", SECRET + b"\n")]
    )
    assert done.code == 0
    assert SECRET not in done.shown
    assert b"casbank key export" in done.shown
    Bank.open(place, passphrase=SECRET.decode()).close()


def test_answers_that_differ_are_2_and_make_no_bank(tmp_path: Path) -> None:
    """A typing error is noticed before anything is created."""
    place = tmp_path / "bank"
    done = talk("init", place, "--encrypt", answers=[(b"New passphrase: ", SECRET + b"\n"), (b"again: ", b"corect\n")])
    assert done.code == 2
    assert b"differ" in done.shown
    assert not place.exists()


def test_a_changed_passphrase_is_asked_for_after_the_old_one(locked: Path) -> None:
    """key add asks for what opens the bank first, then twice for the new one."""
    answers = [
        (b"Passphrase of ", SECRET + b"\n"),
        (b"New passphrase: ", b"new one\n"),
        (b"again: ", b"new one\n"),
    ]
    done = talk("key", "add", locked, answers=answers)
    assert done.code == 0, done.shown
    Bank.open(locked, passphrase="new one").close()
