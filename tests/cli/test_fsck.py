"""``casbank fsck``: exit codes, what is said where, and the document."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bank_scene import content, flip, packs_of

from casbank import Bank
from cli.shell import casbank, document, done, environment, failed, script

TOOL = Path(__file__).resolve().parents[2] / "tools" / "fsck.py"
FIELDS = {"kind", "where", "what", "repair", "objects", "objects_hit", "damage"}


@pytest.fixture
def filled(bank: Path) -> Path:
    """A bank with one object of one pack, ``x``."""
    with Bank.open(bank) as opened:
        opened.put("x", content(1, 50_000))
    return bank


@pytest.fixture
def damaged(filled: Path) -> Path:
    """The same with a damaged entry."""
    flip(packs_of(filled)[0], 300)
    return filled


def test_a_clean_bank(filled: Path) -> None:
    """A clean bank is exit code 0 and one line on standard error."""
    result = done("fsck", filled, "--read-data")
    assert result.stdout == ""
    assert result.stderr.startswith("casbank: clean: 2 records, 1 pack, ")
    assert result.stderr.endswith(" in 1 pack read whole, 1 object\n")
    assert result.stderr.count("\n") == 1


def test_a_damaged_bank(damaged: Path) -> None:
    """A damaged bank is exit code 4; each finding is a line on standard error that says what a repair does, and another
    one says which objects are hit."""
    result = casbank("fsck", damaged, "--read-data")
    assert result.exit_code == 4
    pack = packs_of(damaged)[0].relative_to(damaged)
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"casbank: {pack}: entries that fail their checks: 0 (at 128); ")
    assert "a repair seals what is whole anew" in lines[0]
    assert lines[1].startswith("casbank: x: 50000 of 50000 bytes are lost, in 1 places; a repair ")
    assert lines[2] == f"casbank: {pack} hits x"
    assert lines[3].startswith("casbank: NOT clean, 2 findings: 2 records, 1 pack, ")


def test_structure_alone(damaged: Path) -> None:
    """Without --read-data no content is read, so damage within it is not seen."""
    assert done("fsck", damaged).stderr == "casbank: clean: 2 records, 1 pack, 1 object\n"


def test_a_repair(damaged: Path) -> None:
    """Findings come before what was done about them; then the bank is clean, and the exit code 0."""
    result = casbank("fsck", damaged, "--read-data", "--repair")
    assert result.exit_code == 0
    said = result.stderr
    assert 0 < said.index("a repair seals") < said.index("quarantine/pack-") < said.index("repaired: packs/")
    assert "1 object known to lack bytes; --verbose names them" in said
    assert said.splitlines()[-1].startswith("casbank: clean: ")
    assert "x: 50000 of 50000 bytes are lost" in casbank("fsck", damaged, "--verbose").stderr
    done("put", damaged, "x", __file__)
    done("fsck", damaged, "--read-data")


def test_the_document(damaged: Path) -> None:
    """The document has the whole report, with each finding, and standard error what is wrong."""
    result = casbank("fsck", damaged, "--read-data", "--json")
    assert result.exit_code == 4
    shown = json.loads(result.stdout)
    assert (shown["clean"], shown["damage"], shown["keyless"], shown["omitted"]) == (False, 2, False, 0)
    assert (shown["records"], shown["packs"], shown["packs_read"], shown["objects"]) == (2, 1, 1, 1)
    assert shown["bytes_read"] == packs_of(damaged)[0].stat().st_size
    assert [finding["kind"] for finding in shown["findings"]] == ["pack", "object"]
    assert all(set(finding) == FIELDS and finding["damage"] for finding in shown["findings"])
    assert shown["findings"][0]["objects"] == ["x"]


def test_the_document_of_a_repair(damaged: Path) -> None:
    """The document of a repair is that of the check behind it, with what was done, and is all of the output."""
    shown = json.loads(casbank("fsck", damaged, "--read-data", "--repair", "--json").stdout)
    assert shown["clean"]
    assert [(finding["kind"], finding["damage"]) for finding in shown["findings"]] == [("known-loss", False)]
    assert any("lost" in line for line in shown["repaired"])
    assert document("fsck", damaged)["repaired"] == []


def test_quiet(filled: Path) -> None:
    """--quiet says nothing of a clean bank, and of a damaged one what is wrong."""
    assert done("fsck", filled, "--quiet").output == ""
    flip(packs_of(filled)[0], 300)
    result = casbank("fsck", filled, "--quiet", "--read-data")
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--read-data=0%"], ["--read-data=101"], ["--read-data=x"], ["--read-data="], ["--keyless", "--repair"]],
)
def test_usage(filled: Path, arguments: list[str]) -> None:
    """What makes no sense is exit code 2, and nothing is checked."""
    assert casbank("fsck", filled, *arguments).exit_code == 2


@pytest.mark.parametrize("share", ["--read-data", "--read-data=100%", "--read-data=100"])
def test_shares(filled: Path, share: str) -> None:
    """Without a number all packs are read; the option takes nothing that follows it."""
    assert document("fsck", share, filled)["packs_read"] == 1


def test_no_bank(tmp_path: Path) -> None:
    """A path that is none is exit code 3."""
    assert failed("fsck", tmp_path / "nothing")[0] == 3
    assert failed("fsck", tmp_path)[0] == 3


def test_keys(locked: Path, key: Path, other: Path) -> None:
    """No key or a wrong one is exit code 7, and the message says what else there is; --keyless needs none."""
    code, said = failed("fsck", locked)
    assert code == 7
    assert "--keyless" in said
    assert failed("fsck", locked, "--key-file", other)[0] == 7
    done("fsck", locked, "--key-file", key)
    assert document("fsck", locked, "--keyless")["keyless"]


def test_help() -> None:
    """The help names every option and the exit code."""
    said = done("fsck", "--help").stdout
    assert all(word in said for word in ("--read-data", "--keyless", "--repair", "--json", "Exit code 4"))


def test_as_users_run_it(damaged: Path) -> None:
    """The installed command ends with the same code, and its document is whole."""
    result = script("fsck", damaged, "--read-data", "--json")
    assert result.returncode == 4
    assert json.loads(result.stdout)["damage"] == 2


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--read-data"], 4), (["--read-data", "--repair"], 0)])
def test_from_a_checkout(damaged: Path, tmp_path: Path, arguments: list[str], code: int) -> None:
    """tools/fsck.py does the same without an installation, from whichever folder."""
    inherited = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    command = [sys.executable, TOOL, damaged, *arguments]
    result = subprocess.run(command, cwd=tmp_path, env=inherited, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
