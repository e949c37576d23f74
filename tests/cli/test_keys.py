"""``casbank key``, recovery, and what is said of a bank that is not as it should be."""

import logging
import os
import shutil
from pathlib import Path

import pytest

from casbank import Bank, World
from casbank.cli.console import Console
from casbank.cli.logged import logged
from cli.shell import casbank, document, done, failed, files_below, script

PASSPHRASE = "correct horse"


@pytest.fixture(autouse=True)
def _key_of_the_environment(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verbs without an option use the key file."""
    monkeypatch.setenv("CASBANK_KEY_FILE", str(key))


def fetched(bank: Path, name: str, *options: str | Path) -> bytes:
    done = script("get", bank, name, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def slots(bank: Path) -> list[dict[str, str]]:
    return document("key", "ls", bank)["slots"]


def test_ls_shows_slots_and_epochs(locked: Path, other: Path) -> None:
    """People see what the document has: id, source, label and time of each slot, number and state of each epoch."""
    done("key", "add", locked, "--new-key-file", other, "--label", "the spare one")
    done("key", "rotate", locked)
    done("key", "retire", locked, "1")
    shown = document("key", "ls", locked)
    assert [(slot["source"], slot["label"]) for slot in shown["slots"]] == [
        ("key-file", ""),
        ("key-file", "the spare one"),
    ]
    assert [(epoch["number"], epoch["current"], epoch["retired"]) for epoch in shown["epochs"]] == [
        (1, False, True),
        (2, True, False),
    ]
    lines = [line.split() for line in done("key", "ls", locked).stdout.splitlines()]
    assert [line[:3] for line in lines[:2]] == [["slot", slot["id"], "key-file"] for slot in shown["slots"]]
    assert lines[1][5:] == ["the", "spare", "one"]
    assert [(line[0], line[1], line[-1]) for line in lines[2:]] == [
        ("epoch", "1", "retired"),
        ("epoch", "2", "current"),
    ]


def test_an_added_key_opens_and_a_removed_one_does_not(locked: Path, key: Path, other: Path) -> None:
    """A key is changed by adding one and removing the other, which four digits of its id name."""
    first = slots(locked)[0]["id"]
    added = document("key", "add", locked, "--new-key-file", other)
    done("ls", locked, "--key-file", other)
    assert document("key", "rm", locked, first[:4].upper()) == {"removed": first}
    assert failed("ls", locked, "--key-file", key)[0] == 7
    assert document("key", "ls", locked, "--key-file", other)["slots"] == [added]


def test_a_new_passphrase_comes_from_a_file_or_a_variable(
    locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both open the bank afterwards; the variable of the new key is not taken for the bank's own."""
    (tmp_path / "passphrase").write_text("from a file\n")
    done("key", "add", locked, "--new-passphrase-file", tmp_path / "passphrase")
    monkeypatch.setenv("CASBANK_NEW_PASSPHRASE", PASSPHRASE)
    done("key", "add", locked)
    for passphrase in ("from a file", PASSPHRASE):
        Bank.open(locked, passphrase=passphrase).close()


def test_a_new_key_command_opens(locked: Path) -> None:
    """A command can be added beside a key file."""
    done("key", "add", locked, "--new-key-command", "sh -c cat")
    done("ls", locked)
    done("ls", locked, "--key-command", "sh -c cat")
    assert failed("key", "add", locked, "--new-key-command", "sh -c 'exit 3'")[0] == 7
    assert failed("ls", locked, "--key-command", "sh -c 'head -c 32 /dev/zero'")[0] == 7
    assert len(slots(locked)) == 2


def test_add_needs_one_new_key(locked: Path, other: Path) -> None:
    """None, where nobody can be asked, and two are wrong usage; nothing is added."""
    code, message = failed("key", "add", locked)
    assert code == 2
    assert "--new-key-file" in message
    assert failed("key", "add", locked, "--new-key-file", other, "--new-key-command", "cat")[0] == 2
    assert failed("key", "add", locked, "--new-key-file", other, "--label", "two\nlines")[0] == 2
    assert len(slots(locked)) == 1


def test_rm_wants_a_slot_that_is_there_and_not_the_last(locked: Path) -> None:
    """Too few digits, no digits and the last slot are 2, an unknown one is 3; all change nothing."""
    before = files_below(locked)
    only = slots(locked)[0]["id"]
    code, message = failed("key", "rm", locked, only[:3])
    assert code == 2
    assert "4 or more digits" in message
    assert failed("key", "rm", locked, "slot1")[0] == 2
    assert failed("key", "rm", locked, f"{int(only[:4], 16) ^ 1:04x}")[0] == 3
    assert failed("key", "rm", locked, only + "0")[0] == 3
    code, message = failed("key", "rm", locked, only)
    assert code == 2
    assert "last" in message
    assert files_below(locked) == before


def test_an_ambiguous_slot_is_2_and_removes_none(locked: Path, key: Path, other: Path) -> None:
    """Digits that begin several ids name none of them, and the ids are shown."""
    only = slots(locked)[0]["id"]
    draws: list[bytes] = []
    world = World(entropy=lambda count: draws.pop() if draws else os.urandom(count))
    with Bank.open(locked, key_file=key, world=world) as bank:
        draws.append(bytes.fromhex(only[:8]) + bytes(12))
        similar = bank.keys.add(key_file=other).id
    code, message = failed("key", "rm", locked, only[:8])
    assert code == 2
    assert only in message
    assert similar in message
    assert len(slots(locked)) == 2


def test_rotate_names_the_epoch_and_the_old_recovery_text(locked: Path) -> None:
    """Who rotates is told to export anew; the bank works on with what was stored before and after."""
    rotated = done("key", "rotate", locked)
    assert "epoch 2" in rotated.stderr
    assert "export" in rotated.stderr
    assert rotated.stdout == ""
    assert document("key", "rotate", locked) == {"epoch": 3}
    assert script("put", locked, "y", data=b"later").returncode == 0
    assert [fetched(locked, name) for name in "xy"] == [b"content", b"later"]


def test_retire_takes_an_epoch_that_is_over(locked: Path) -> None:
    """The current epoch is 2, an unknown one 3, a retired one is retired again without harm."""
    assert failed("key", "retire", locked, "1")[0] == 2
    done("key", "rotate", locked)
    assert document("key", "retire", locked, "1") == {"retired": 1}
    done("key", "retire", locked, "1")
    assert failed("key", "retire", locked, "7")[0] == 3
    assert failed("key", "retire", locked, "0")[0] == 2


def test_a_recovery_text_says_what_it_is_for(locked: Path) -> None:
    """The lines before it name the bank and how to use it; the document has the bare text, and both are good."""
    text = document("key", "export", locked)["recovery"]
    shown = done("key", "export", locked).stdout
    assert text.startswith("-----BEGIN CASBANK RECOVERY KEY-----\n")
    assert document("info", locked)["bank_id"] in shown
    assert "casbank init BANK --recover FILE" in shown
    for whole in (text, shown):
        Bank.open(locked, recovery=whole).close()


def test_an_exported_file_is_private_and_takes_no_ones_place(locked: Path, tmp_path: Path) -> None:
    """-o writes a file that only its owner can read, and refuses one that is there, or a link, with 10."""
    target = tmp_path / "recovery"
    usual = os.umask(0)
    try:
        assert document("key", "export", locked, "-o", target) == {"file": str(target)}
    finally:
        os.umask(usual)
    assert target.stat().st_mode & 0o777 == 0o600
    before = target.read_bytes()
    code, message = failed("key", "export", locked, "-o", target)
    assert code == 10
    assert str(target) in message
    assert target.read_bytes() == before
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert failed("key", "export", locked, "-o", tmp_path / "link")[0] == 10
    assert not (tmp_path / "elsewhere").exists()
    Bank.open(locked, recovery=before.decode()).close()


def test_a_full_disk_leaves_no_half_recovery_text(
    locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be written whole is not there, and the verb fails."""
    from casbank.cli import private_file

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(private_file, "fsync_file", full)
    assert failed("key", "export", locked, "-o", tmp_path / "recovery")[0] == 6
    assert not (tmp_path / "recovery").exists()


@pytest.mark.parametrize("lost", ["BANK", "keys", "both"])
@pytest.mark.parametrize("by", ["file", "stdin"])
def test_a_bank_is_recovered_by_its_text(locked: Path, tmp_path: Path, other: Path, lost: str, by: str) -> None:
    """init --recover puts back what is missing, and the new key opens what was stored."""
    text = tmp_path / "recovery"
    done("key", "export", locked, "-o", text)
    if lost != "keys":
        (locked / "BANK").unlink()
    if lost != "BANK":
        shutil.rmtree(locked / "keys")
    if by == "file":
        done("init", locked, "--recover", text, "--key-file", other)
    else:
        recovered = script("init", locked, "--recover", "-", "--key-file", other, data=text.read_bytes())
        assert recovered.returncode == 0, recovered.stderr
    assert fetched(locked, "x", "--key-file", other) == b"content"
    assert len(document("key", "ls", locked, "--key-file", other)["slots"]) == (2 if lost == "BANK" else 1)


def test_recover_wants_a_key_and_no_settings(locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recovered bank has the settings it had, and needs a key; a text with a mistake in it changes nothing."""
    text = tmp_path / "recovery"
    done("key", "export", locked, "-o", text)
    (locked / "BANK").unlink()
    before = files_below(locked)
    code, message = failed("init", locked, "--recover", text, "--keep-deleted", "0")
    assert code == 2
    assert "--keep-deleted" in message
    spoilt = tmp_path / "spoilt"
    spoilt.write_bytes(text.read_bytes().replace(b"\nlQ", b"\nlR"))
    assert failed("init", locked, "--recover", spoilt)[0] == 2
    code, message = failed("init", locked, "--recover", "/dev/zero")
    assert code == 2
    assert "larger" in message
    assert failed("init", locked, "--recover", tmp_path / "nowhere")[0] == 6
    monkeypatch.delenv("CASBANK_KEY_FILE")
    code, message = failed("init", locked, "--recover", text)
    assert code == 2
    assert "--key-file" in message
    assert files_below(locked) == before


def test_a_recovery_text_opens_a_bank_for_a_new_key(locked: Path, tmp_path: Path, other: Path, key: Path) -> None:
    """key add takes the text in place of a lost key, even where the environment names one."""
    text = tmp_path / "recovery"
    done("key", "export", locked, "-o", text)
    key.write_bytes(os.urandom(32))
    assert failed("ls", locked)[0] == 7
    assert failed("key", "add", locked, "--recovery-file", text, "--key-file", key, "--new-key-file", other)[0] == 2
    done("key", "add", locked, "--recovery-file", text, "--new-key-file", other)
    assert fetched(locked, "x", "--key-file", other) == b"content"


@pytest.mark.parametrize("verb", [("ls",), ("add", "--new-key-command", "cat"), ("rotate",), ("export",)])
def test_a_plain_bank_has_no_keys(bank: Path, verb: tuple[str, ...]) -> None:
    """The verbs of keys end with 7 where there are none."""
    code, message = failed("key", verb[0], bank, *verb[1:])
    assert code == 7
    assert "not encrypted" in message


def test_a_bank_that_went_back_is_read_with_a_warning_and_written_once_that_is_forgotten(
    locked: Path, tmp_path: Path
) -> None:
    """An older copy is noticed: ls warns, put is 9; after index drop --forget-head both are as ever."""
    copy = tmp_path / "copy"
    shutil.copytree(locked, copy)
    (tmp_path / "file").write_bytes(b"new")
    done("put", locked, "y", tmp_path / "file")
    shutil.rmtree(locked)
    copy.rename(locked)
    (locked / "journal" / "synced").unlink(missing_ok=True)
    listed = done("ls", locked, "--quiet")
    assert listed.stdout == "x\n"
    assert listed.stderr.startswith("casbank: warning: ")
    assert listed.stderr.count("\n") == 1
    assert casbank("put", locked, "z", tmp_path / "file").exit_code == 9
    # The index alone is not what remembers.
    done("index", "drop", locked)
    assert casbank("put", locked, "z", tmp_path / "file").exit_code == 9
    done("index", "drop", locked, "--forget-head")
    assert done("put", locked, "z", tmp_path / "file").stderr == ""
    assert done("ls", locked).output == "x\nz\n"


def test_a_damaged_key_slot_is_warned_of_once(locked: Path, other: Path) -> None:
    """A slot that cannot be read is told in one line, and keeps nobody out who has another key."""
    damaged = locked / "keys" / slots(locked)[0]["id"]
    done("key", "add", locked, "--new-key-file", other)
    damaged.chmod(0o600)
    damaged.write_bytes(b"damaged")
    listed = done("key", "ls", locked, "--key-file", other)
    assert listed.stderr.startswith("casbank: warning: ")
    assert damaged.name in listed.stderr
    assert listed.stderr.count("\n") == 1
    assert script("key", "ls", locked, "--key-file", other).stderr.decode() == listed.stderr


def test_what_is_logged_is_one_line_without_control_characters(capfd: pytest.CaptureFixture[str]) -> None:
    """A message with a name of the store in it can move no cursor, and is said once; details are not shown; a verb that
    is over shows nothing more."""
    log = logging.getLogger("casbank.engine.test")
    with logged(Console(json=False, quiet=True, verbose=False, cache_dir=None)):
        for _ in range(2):
            log.warning("name %s", "a\nb\x1b[2J")
        log.info("detail")
        log.error("worse")
    assert not logging.getLogger("casbank").handlers
    assert capfd.readouterr().err == "casbank: warning: name a\\nb\\x1b[2J\ncasbank: error: worse\n"
