"""The ways to give a key, and which of them counts."""

import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from casbank import Bank
from casbank.cli.main import VERBS
from casbank.cli.main import command as casbank_command
from cli.shell import casbank, document, done, failed, files_below, new_key_file, script

PASSPHRASE = "Grüße, Welt"
# Wraps and unwraps by turning the highest bit of each byte. The blank in its argument needs quotes.
KEY_COMMAND = """#!/bin/sh
test "$1" = "two words" || exit 9
case $2 in wrap|unwrap) LC_ALL=C exec tr '\\000-\\177\\200-\\377' '\\200-\\377\\000-\\177';; esac
exit 8
"""


@pytest.fixture
def key_command(tmp_path: Path) -> str:
    """A command line that wraps and unwraps."""
    path = tmp_path / "wrap.sh"
    path.write_text(KEY_COMMAND)
    path.chmod(0o755)
    return f"{path} 'two words'"


# Each verb's arguments; words in capitals stand for places.
WITH_A_KEY = [
    ("put", "BANK", "y", "FILE"),
    ("put", "BANK", "--recursive", "TREE"),
    ("get", "BANK", "x"),
    ("get", "BANK", "--recursive", "x", "-o", "OUT"),
    ("ls", "BANK"),
    ("stat", "BANK", "x"),
    ("cp", "BANK", "x", "z"),
    ("rm", "BANK", "x"),
    ("undelete", "BANK", "old"),
    ("info", "BANK"),
    ("gc", "BANK"),
    ("fsck", "BANK"),
    ("lease", "ls", "BANK"),
    ("lease", "acquire", "BANK", "me"),
    ("lease", "renew", "BANK", "LEASE"),
    ("lease", "release", "BANK", "LEASE"),
    ("index", "rebuild", "BANK"),
    ("index", "verify", "BANK"),
    ("key", "ls", "BANK"),
    ("key", "add", "BANK", "--new-key-file", "FILE"),
    ("key", "rm", "BANK", "SLOT"),
    ("key", "rotate", "BANK"),
    ("key", "retire", "BANK", "1"),
    ("key", "export", "BANK"),
]
WITHOUT_A_KEY = [("index", "drop", "BANK"), ("version",)]


@pytest.mark.parametrize("verb", WITH_A_KEY, ids=" ".join)
def test_every_verb_opens_an_encrypted_bank(locked: Path, key: Path, tmp_path: Path, verb: tuple[str, ...]) -> None:
    """With its key a bank is used like any other; without, the verb ends with 7, says how, and changes nothing."""
    (tmp_path / "tree").mkdir()
    file = new_key_file(tmp_path / "tree" / "file")
    with Bank.open(locked, key_file=key) as bank:
        slot = bank.keys.add(key_file=file).id
        bank.keys.rotate()
        bank.put("old", b"content")
        bank.delete("old")
        lease = bank.acquire_lease("me").id
    folders = {"TREE": tmp_path / "tree", "OUT": tmp_path / "out"}
    places = {"BANK": locked, "FILE": file, "SLOT": slot, "LEASE": lease, **folders}
    arguments = [places.get(word, word) for word in verb]
    before = files_below(locked)
    code, message = failed(*arguments)
    assert code == 7
    assert "--key-file" in message
    assert files_below(locked) == before
    done(*arguments, "--key-file", key)


@pytest.mark.parametrize("verb", WITHOUT_A_KEY, ids=" ".join)
def test_a_verb_that_opens_nothing_needs_no_key(locked: Path, verb: tuple[str, ...]) -> None:
    """An index can be dropped by who has no key; such a verb offers no options for one."""
    done(*(str(locked) if word == "BANK" else word for word in verb))
    assert failed(*verb, "--key-file", "x")[0] == 2


def test_no_verb_was_forgotten() -> None:
    """What is tested here is every verb, and every verb of a group."""
    known = {path for path, _ in commands()}
    groups = {path[0] for path in known if len(path) > 1}
    tested = [*WITH_A_KEY, *WITHOUT_A_KEY, ("init",)]
    assert {verb[: 2 if verb[0] in groups else 1] for verb in tested} == known


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every verb with the words that lead to it."""
    context = click.Context(casbank_command)
    for name in VERBS:
        found = casbank_command.get_command(context, name)
        if isinstance(found, click.Group):
            yield from (((name, inner), found.commands[inner]) for inner in found.commands)
        else:
            yield (name,), found


def test_no_option_is_a_passphrase() -> None:
    """ps shows arguments to everybody: what takes a passphrase takes the name of a file."""
    options = {name for _, verb in commands() for option in verb.params for name in option.opts if name[:2] == "--"}
    secret = {name for name in options if "pass" in name or "secret" in name or "key" in name}
    # It says that there is none.
    secret.remove("--keyless")
    assert secret == {
        f"--{word}{kind}" for word in ("", "new-") for kind in ("key-file", "passphrase-file", "key-command")
    }


def test_every_way_gives_the_same_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with any end of its last line, a variable and the library agree on what a passphrase is."""
    place, file = tmp_path / "bank", tmp_path / "passphrase"
    Bank.create(place, passphrase=PASSPHRASE).close()
    for end in ("", "\n", "\r\n"):
        file.write_bytes((PASSPHRASE + end).encode())
        done("ls", place, "--passphrase-file", file)
    monkeypatch.setenv("CASBANK_PASSPHRASE_FILE", str(file))
    done("ls", place)
    monkeypatch.delenv("CASBANK_PASSPHRASE_FILE")
    monkeypatch.setenv("CASBANK_PASSPHRASE", PASSPHRASE)
    done("ls", place)
    # Whatever the locale makes of its bytes.
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
    monkeypatch.setenv("PYTHONUTF8", "0")
    assert script("ls", place).returncode == 0


def test_one_newline_at_the_end_is_no_part_of_a_passphrase(tmp_path: Path) -> None:
    """Only one is taken off: a second one belongs to the passphrase."""
    file = tmp_path / "passphrase"
    file.write_bytes(b"secret\n\n")
    done("init", tmp_path / "bank", "--passphrase-file", file)
    Bank.open(tmp_path / "bank", passphrase="secret\n").close()


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * 4097], ids=["nothing", "newline", "bytes", "long"])
def test_what_can_be_no_passphrase_is_2(tmp_path: Path, content: bytes) -> None:
    """A file that is empty, no text or too long is refused, by its name and without its content."""
    file = tmp_path / "passphrase"
    file.write_bytes(content)
    code, message = failed("init", tmp_path / "bank", "--passphrase-file", file)
    assert code == 2
    assert str(file) in message
    assert "xxx" not in message
    assert not (tmp_path / "bank").exists()


def test_an_endless_passphrase_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    """A device that never ends is refused like a long file."""
    assert failed("init", tmp_path / "bank", "--passphrase-file", "/dev/zero")[0] == 2


@pytest.mark.parametrize("option", ["--key-file", "--passphrase-file"])
def test_a_missing_file_is_6(locked: Path, tmp_path: Path, option: str) -> None:
    """A key that cannot be read is told with its path, and is no wrong key."""
    code, message = failed("ls", locked, option, tmp_path / "nowhere")
    assert code == 6
    assert "nowhere" in message


def test_a_wrong_key_is_7_and_changes_nothing(locked: Path, key: Path, tmp_path: Path) -> None:
    """Neither a wrong passphrase nor a wrong key file leaves a trace in the bank."""
    with Bank.open(locked, key_file=key) as bank:
        bank.keys.add(passphrase=PASSPHRASE)
    before = files_below(locked)
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"w" * 32)
    for option in ("--passphrase-file", "--key-file"):
        assert failed("put", locked, "y", wrong, option, wrong)[0] == 7
    assert files_below(locked) == before


def test_a_key_for_a_plain_bank_is_7(bank: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bank that lost its encryption is noticed; who set a variable long ago is told which."""
    assert failed("ls", bank, "--key-file", key)[0] == 7
    monkeypatch.setenv("CASBANK_PASSPHRASE", "secret")
    code, message = failed("ls", bank)
    assert code == 7
    assert "CASBANK_PASSPHRASE is set" in message
    assert "secret" not in message


def test_an_option_wins_over_a_variable(
    locked: Path, key: Path, tmp_path: Path, key_command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands on the command line counts, whatever variables of its own or another kind say."""
    monkeypatch.setenv("CASBANK_KEY_FILE", str(new_key_file(tmp_path / "other")))
    assert failed("ls", locked)[0] == 7
    done("ls", locked, "--key-file", key)
    monkeypatch.setenv("CASBANK_PASSPHRASE", "wrong")
    monkeypatch.setenv("CASBANK_KEY_COMMAND", "'")
    done("ls", locked, "--key-file", key)


def test_two_options_or_two_variables_are_2(locked: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of two keys was meant is not guessed; both are named."""
    code, message = failed("ls", locked, "--key-file", key, "--key-command", "x")
    assert code == 2
    assert "--key-file and --key-command" in message
    monkeypatch.setenv("CASBANK_KEY_FILE", str(key))
    done("ls", locked)
    monkeypatch.setenv("CASBANK_PASSPHRASE", "secret")
    code, message = failed("ls", locked)
    assert code == 2
    assert "CASBANK_KEY_FILE and CASBANK_PASSPHRASE" in message


@pytest.mark.parametrize("kind", ["KEY_FILE", "PASSPHRASE_FILE", "KEY_COMMAND", "PASSPHRASE"])
def test_an_empty_variable_makes_no_plain_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A variable that a failed command should have filled is a mistake, not the wish for a bank without a key."""
    monkeypatch.setenv(f"CASBANK_{kind}", "")
    assert failed("init", tmp_path / "bank")[0] == 2
    assert not (tmp_path / "bank").exists()


def test_a_variable_makes_an_encrypted_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """init encrypts where a later verb would give a key."""
    monkeypatch.setenv("CASBANK_PASSPHRASE", PASSPHRASE)
    assert document("init", tmp_path / "bank")["suite"] == "aes-256-gcm"
    done("ls", tmp_path / "bank")


def test_encrypt_without_a_key_is_2_and_names_the_ways(tmp_path: Path) -> None:
    """Nobody is asked where no terminal is, and no bank is made."""
    code, message = failed("init", tmp_path / "bank", "--encrypt")
    assert code == 2
    assert all(way in message for way in ("--key-file", "--passphrase-file", "--key-command", "CASBANK_PASSPHRASE"))
    assert not (tmp_path / "bank").exists()


def test_init_says_once_what_a_lost_key_means(tmp_path: Path, key: Path) -> None:
    """Only who makes an encrypted bank is warned, on standard error, and not at each use."""
    made = done("init", tmp_path / "bank", "--key-file", key, "--json")
    assert made.stderr.count("casbank key export") == 1
    assert "casbank key export" not in done("ls", tmp_path / "bank", "--key-file", key).output
    assert "casbank key export" not in done("init", tmp_path / "plain").output


def test_suites_and_dedup_domains_reach_the_bank(tmp_path: Path, key: Path) -> None:
    """The suite is the one that was asked for, and two banks of one domain give one content one etag."""
    domain = new_key_file(tmp_path / "domain")
    (tmp_path / "file").write_bytes(os.urandom(100_000))
    etags = []
    for name in ("one", "two"):
        made = document(
            *("init", tmp_path / name, "--key-file", key, "--dedup-domain", domain, "--suite", "chacha20-poly1305")
        )
        assert made["suite"] == "chacha20-poly1305"
        etags.append(document("put", tmp_path / name, "x", tmp_path / "file", "--key-file", key)["etag"])
    assert etags[0] == etags[1]


@pytest.mark.parametrize("option", [("--suite", "aes-256-gcm"), ("--dedup-domain", "KEY")], ids=lambda pair: pair[0])
def test_settings_of_encrypted_banks_alone_are_2(tmp_path: Path, key: Path, option: tuple[str, str]) -> None:
    """Who names a suite does not get a bank without encryption."""
    words = [str(key) if word == "KEY" else word for word in option]
    assert failed("init", tmp_path / "bank", *words)[0] == 2
    assert not (tmp_path / "bank").exists()


def test_a_key_command_makes_and_opens_a_bank(
    tmp_path: Path, key_command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command line with quotes serves for init, as an option and as a variable."""
    done("init", tmp_path / "bank", "--key-command", key_command)
    done("ls", tmp_path / "bank", "--key-command", key_command)
    monkeypatch.setenv("CASBANK_KEY_COMMAND", key_command)
    done("ls", tmp_path / "bank")
    assert [slot["source"] for slot in document("key", "ls", tmp_path / "bank")["slots"]] == ["command"]


def test_a_failing_key_command_is_7(tmp_path: Path, key_command: str) -> None:
    """A command that cannot wrap or unwrap is told with what it was asked for; the bank stays closed."""
    assert failed("init", tmp_path / "bank", "--key-command", "false")[0] == 7
    done("init", tmp_path / "bank", "--key-command", key_command)
    # Not one line: that a slot was passed over is warned of.
    result = casbank("ls", tmp_path / "bank", "--key-command", "false")
    assert result.exit_code == 7
    assert "unwrap" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("line", ["'unclosed", "", "  "])
def test_what_is_no_command_line_is_2(locked: Path, line: str) -> None:
    """A mistake in the quotes, or no word at all, is told by the option's name."""
    code, message = failed("ls", locked, "--key-command", line)
    assert code == 2
    assert "--key-command" in message


def test_a_command_that_is_not_there_is_6(tmp_path: Path, key_command: str) -> None:
    """It is told by its path."""
    done("init", tmp_path / "bank", "--key-command", key_command)
    result = casbank("ls", tmp_path / "bank", "--key-command", tmp_path / "nowhere")
    assert result.exit_code == 6
    assert "nowhere" in result.stderr.splitlines()[-1]
