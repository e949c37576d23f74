"""``casbank undelete`` and ``casbank ls --deleted``."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from bank_scene import content

from casbank import Bank
from cli.shell import document, done, failed, files_below
from cli.test_objects import OBJECT_KEYS

SIZE = 100_000


@pytest.fixture
def versions(bank: Path) -> list[int]:
    """The versions of ``a``, of which the last is removed; ``b`` is there and was not replaced."""
    with Bank.open(bank) as opened:
        made = [opened.put("a", content(number, SIZE), metadata={"number": str(number)}).version for number in range(3)]
        opened.put("b", b"small")
        opened.delete("a")
    return made


def deleted(bank: Path, *options: str) -> list[dict[str, Any]]:
    return document("ls", bank, "--deleted", *options)


def test_ls_deleted_shows_what_can_be_brought_back(bank: Path, versions: list[int]) -> None:
    """Removed and replaced versions, the newest first: version, size, time of the removal and name; with --long and
    --json more."""
    shown = deleted(bank)
    assert [(info["name"], info["version"], info["size"]) for info in shown] == [
        ("a", version, SIZE) for version in reversed(versions)
    ]
    assert [set(info) for info in shown] == [OBJECT_KEYS | {"removed"}] * 3
    assert all(datetime.fromisoformat(info["removed"]) >= datetime.fromisoformat(info["created"]) for info in shown)
    times = [f"{info['removed'][:19].replace('T', ' ')}Z" for info in shown]
    lines = [f"{version:>8}    97.7 KiB  {removed}" for version, removed in zip(versions[::-1], times, strict=True)]
    assert done("ls", bank, "--deleted").stdout.splitlines() == [f"{line}  a" for line in lines]
    created = [f"{info['created'][:19].replace('T', ' ')}Z" for info in shown]
    assert done("ls", bank, "--deleted", "--long").stdout.splitlines() == [
        f"{line}  {time}  {info['etag']}  a" for line, time, info in zip(lines, created, shown, strict=True)
    ]


def test_ls_deleted_of_a_prefix(bank: Path, versions: list[int]) -> None:
    """Only names that begin so; nothing of what is there."""
    assert deleted(bank, "b") == []
    with Bank.open(bank) as opened:
        opened.put("b/c", b"1")
        opened.delete("b/c")
    assert [info["name"] for info in deleted(bank, "b")] == ["b/c"]
    assert done("ls", bank).stdout == "b\n"


@pytest.mark.parametrize("option", [("--limit", "1"), ("--start-after", "a"), ("--reverse",)])
def test_ls_deleted_is_whole_and_in_order(bank: Path, option: tuple[str, ...]) -> None:
    """Options that it does not have are wrong usage, not ignored."""
    code, message = failed("ls", bank, "--deleted", *option)
    assert code == 2
    assert "--deleted" in message


def test_what_was_removed_comes_back(bank: Path, versions: list[int]) -> None:
    """The last version, with content and metadata, under a new version number; then nothing of it is deleted."""
    result = done("undelete", bank, "a")
    with Bank.open(bank) as opened:
        info = opened.head("a")
        assert opened.get("a") == content(2, SIZE)
    assert result.stdout == ""
    assert result.stderr == f"casbank: brought back a, 97.7 KiB, as version {info.version}\n"
    assert (info.metadata, info.version > versions[-1]) == ({"number": "2"}, True)


def test_a_replaced_version_comes_back(bank: Path, versions: list[int]) -> None:
    """Each by its number; what was there is replaced, and comes back in turn."""
    for number in (0, 1, 2):
        info = document("undelete", bank, "a", "--version", str(versions[number]))
        assert set(info) == OBJECT_KEYS
        assert info["metadata"] == {"number": str(number)}
        with Bank.open(bank) as opened:
            assert opened.get("a") == content(number, SIZE)
    # What the last one replaced.
    done("undelete", bank, "a")
    with Bank.open(bank) as opened:
        assert opened.get("a") == content(1, SIZE)


def test_what_was_never_there_is_3(bank: Path, versions: list[int]) -> None:
    """A name without removed versions, and a version that is not this name's, change nothing."""
    before = files_below(bank)
    for arguments in (("nope",), ("b",), ("a", "--version", "9999")):
        code, message = failed("undelete", bank, *arguments)
        assert code == 3
        assert arguments[0] in message
    assert files_below(bank) == before


@pytest.mark.parametrize("arguments", [("a", "--version", "0"), ("a", "--version", "x"), ("",), ("n" * 1025,), ()])
def test_wrong_usage_is_2(bank: Path, arguments: tuple[str, ...]) -> None:
    """What can be no name or version is told before anything is looked for."""
    assert failed("undelete", bank, *arguments)[0] == 2


def test_behind_the_window_nothing_comes_back(bank: Path, versions: list[int]) -> None:
    """What a collection has freed is not listed, and is 3; what it kept still comes back."""
    done("gc", bank)
    assert len(deleted(bank)) == 3
    done("undelete", bank, "a", "--version", str(versions[1]))
    done("gc", bank, "--keep-deleted", "0")
    assert deleted(bank) == []
    for options in ((), ("--version", str(versions[0]))):
        assert failed("undelete", bank, "a", *options)[0] == 3
    with Bank.open(bank) as opened:
        assert opened.get("a") == content(1, SIZE)


def test_an_encrypted_bank_gives_back_too(locked: Path, key: Path) -> None:
    """With its key, like any other."""
    given = ("--key-file", str(key))
    done("rm", locked, "x", *given)
    assert [info["name"] for info in document("ls", locked, "--deleted", *given)] == ["x"]
    done("undelete", locked, "x", *given)
    assert done("get", locked, "x", *given).stdout_bytes == b"content"
