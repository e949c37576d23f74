"""Exit codes and messages: what a script, and its author, learn from a failure."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from casbank import Bank
from casbank.cli.console import Console
from casbank.cli.failure import explain
from cli.shell import failed, files_below, flip_every_pack, script, start

HEADER_BYTES = 128
MAJOR_AT = 8


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("get", "BANK"), "NAME"),
        (("get", "BANK", "x", "--json"), "-o FILE"),
        (("get", "BANK", "--recursive", "x"), "-o DIR"),
        (("put", "BANK"), "NAME"),
        (("put", "BANK", "x", "NOWHERE/file"), "no file"),
        (("put", "BANK", "x", "BANK"), "--recursive"),
        (("put", "BANK", "x", "FILE", "--meta", "novalue"), "KEY=VALUE"),
        (("put", "BANK", "x", "FILE", "--prefix", "p"), "--recursive"),
        (("put", "BANK", "x", "--recursive", "BANK"), "--recursive"),
        (("put", "BANK", "--recursive", "FILE"), "no folder"),
        (("put", "BANK", "n" * 1025, "FILE"), "1024"),
        (("put", "BANK", "", "FILE"), "1 to 1024"),
        (("stat", "BANK", "not\udcffutf8"), "UTF-8"),
        (("rm", "BANK"), "--recursive"),
        (("ls", "BANK", "--limit", "-1"), "--limit"),
        (("ls", "BANK", "--nope"), "--nope"),
        (("ls",), "BANK"),
        (("nope",), "nope"),
        (("ls", "s3://bucket"), "s3://"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_wrong(
    bank: Path, tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    """One line on standard error names the mistake."""
    (tmp_path / "file").write_bytes(b"x")
    places = {"BANK": str(bank), "FILE": str(tmp_path / "file"), "NOWHERE/file": str(tmp_path / "nowhere")}
    code, message = failed(*(places.get(argument, argument) for argument in arguments))
    assert code == 2
    assert word in message


@pytest.mark.parametrize("verb", [("ls",), ("info",), ("get", "x"), ("rm", "x"), ("index", "drop")])
def test_no_bank_is_3_and_names_the_place(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """A bank that is not there is told by its path, with what makes one."""
    place = tmp_path / "nowhere"
    arguments = (*verb, place) if verb[0] == "index" else (verb[0], place, *verb[1:])
    code, message = failed(*arguments)
    assert code == 3
    assert str(place) in message
    assert "casbank init" in message
    assert not place.exists()


@pytest.mark.parametrize(
    "verb", [("get", "x"), ("stat", "x"), ("cp", "x", "y"), ("get", "--recursive", "x", "-o", "d")]
)
def test_no_object_is_3(bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]) -> None:
    """An absent object is told by its name, or by the prefix that nothing has."""
    monkeypatch.chdir(tmp_path)
    code, message = failed(verb[0], bank, *verb[1:])
    assert code == 3
    assert "x" in message


def test_damage_is_4_and_leaves_no_file(bank: Path, tmp_path: Path) -> None:
    """A damaged object is never handed out as a whole file, and what was there before stays."""
    with Bank.open(bank) as opened:
        opened.put("x", os.urandom(3_000_000))
    flip_every_pack(bank)
    target = tmp_path / "target"
    for before in (None, b"before"):
        if before is not None:
            target.write_bytes(before)
        code, message = failed("get", bank, "x", "-o", target)
        assert code == 4
        assert "x" in message
        assert files_below(tmp_path).get("target") == before
    assert not list(tmp_path.glob(".casbank*"))


def test_another_banks_journal_is_4(bank: Path) -> None:
    """Another bank's journal is not taken for this one's."""
    other = bank.with_name("other")
    Bank.create(other).close()
    for log in (bank / "journal").glob("*.log"):
        log.write_bytes((other / "journal" / log.name).read_bytes())
    assert failed("index", "rebuild", bank)[0] == 4


def test_a_newer_format_is_8(bank: Path) -> None:
    """A bank of a later major version is refused, whole and undamaged as it is."""
    place = bank / "BANK"
    data = bytearray(place.read_bytes())
    data[MAJOR_AT] += 1
    data[HEADER_BYTES - 8 : HEADER_BYTES] = blake3(data[: HEADER_BYTES - 8]).digest(8)
    data[-32:] = blake3(data[:-32]).digest()
    place.chmod(0o644)
    place.write_bytes(data)
    assert failed("ls", bank)[0] == 8


def test_what_exists_already_is_10(bank: Path) -> None:
    """A bank is not made over another one."""
    code, message = failed("init", bank)
    assert code == 10
    assert str(bank) in message


def test_a_folder_with_files_is_no_place_for_a_bank(tmp_path: Path) -> None:
    """init does not mix a bank with what is there."""
    (tmp_path / "file").write_bytes(b"x")
    assert failed("init", tmp_path)[0] == 2


def test_a_target_that_cannot_be_written_is_6(bank: Path, tmp_path: Path) -> None:
    """A missing folder of -o, or a folder in its place, is told with its path."""
    with Bank.open(bank) as opened:
        opened.put("x", b"x")
    for target in (tmp_path / "missing" / "x", tmp_path):
        code, message = failed("get", bank, "x", "-o", target)
        assert code == 6
        assert str(target.parent) in message


def test_a_full_standard_output_is_6(bank: Path) -> None:
    """What could not be written is not taken for success."""
    with Bank.open(bank) as opened:
        opened.put("x", b"x" * 100)
    for verb in (("get", bank, "x"), ("ls", bank), ("info", bank)):
        with Path("/dev/full").open("wb") as full, start(*verb, stdout=full) as process:
            _, said = process.communicate()
        assert process.returncode == 6
        assert said.count(b"\n") == 1
        assert b"No space left" in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB; only root can mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    try:
        mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_bank_that_fills_its_disk_is_6_and_works_on(small_disk: Path, tmp_path: Path) -> None:
    """Nothing of an object that did not fit is visible; what fits can be stored afterwards."""
    bank, cache = small_disk / "bank", ("--cache-dir", tmp_path / "cache")
    content = os.urandom(48 * 2**20)
    assert script("init", bank, *cache).returncode == 0
    stored = script("put", bank, "big", *cache, data=content)
    assert (stored.returncode, stored.stderr.count(b"\n")) == (6, 1)
    assert b"No space left" in stored.stderr
    # A bank that fails is not a file that fails: the rest is not tried.
    for number in range(3):
        (tmp_path / "tree").mkdir(exist_ok=True)
        (tmp_path / "tree" / str(number)).write_bytes(os.urandom(30 * 2**20))
    stored = script("put", bank, "--recursive", tmp_path / "tree", *cache)
    assert (stored.returncode, stored.stderr.count(b"\n")) == (6, 1)
    assert script("put", bank, "small", *cache, data=content[:100_000]).returncode == 0
    assert script("ls", bank, *cache).stdout == b"small\n"


def test_a_target_that_fills_its_disk_is_6_and_leaves_no_file(bank: Path, small_disk: Path) -> None:
    """Neither get nor a recursive get shows a part of a file that did not fit."""
    assert script("put", bank, "big", data=os.urandom(48 * 2**20)).returncode == 0
    assert script("get", bank, "big", "-o", small_disk / "target").returncode == 6
    assert script("get", bank, "--recursive", "", "-o", small_disk / "tree").returncode == 6
    assert [path.name for path in small_disk.rglob("*")] == ["tree"]


def test_a_bug_is_1_and_shows_its_traceback_when_asked(capfd: pytest.CaptureFixture[str]) -> None:
    """What nobody foresaw is one line, and a traceback with --verbose."""
    for verbose in (False, True):
        console = Console(json=False, quiet=True, verbose=verbose, cache_dir=None)
        assert explain(ZeroDivisionError("surprise"), console) == 1
        said = capfd.readouterr().err
        assert "surprise" in said
        assert ("ZeroDivisionError: surprise\n" in said) is verbose
