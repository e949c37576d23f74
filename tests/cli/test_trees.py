"""Recursive put and get: whole trees, and what in them cannot be stored."""

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from casbank import Bank, limits
from casbank.cli.console import Console
from casbank.cli.exclude import exclude
from casbank.cli.store_tree import Tree, store_tree
from casbank.cli.walk import walk
from cli.shell import casbank, document, done, failed, files_below

ODD_FILES = {
    "empty": b"",
    "with space/and\nnewline\ttab": b"1",
    "ünï/日本/🗄": b"2",
    "-dash": b"3",
    "back\\slash": b"4",
    "a.txt": b"5",
    "a/b": b"6",
    "a-b": b"7",
    "/".join(["deep"] * 150): b"8",
    "n" * 255: b"9",
    "big": os.urandom(3 * limits.MIB + 1),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder of files with odd names."""
    root = tmp_path / "tree"
    for name, content in ODD_FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def test_a_tree_comes_back_as_it_was(bank: Path, tree: Path, tmp_path: Path) -> None:
    """Names and contents of every regular file survive put and get, whatever is in the names."""
    shown = document("put", bank, "--recursive", tree)
    assert (shown["files"], shown["read_bytes"]) == (len(ODD_FILES), sum(map(len, ODD_FILES.values())))
    assert shown["stored_bytes"] >= 3 * limits.MIB
    shown = document("get", bank, "--recursive", "", "-o", tmp_path / "out")
    assert (shown["files"], shown["bytes"]) == (len(ODD_FILES), sum(map(len, ODD_FILES.values())))
    assert files_below(tmp_path / "out") == ODD_FILES


def test_the_prefix_begins_every_name(bank: Path, tree: Path, tmp_path: Path) -> None:
    """A name is the prefix and the path below the folder; get makes files of the whole name."""
    done("put", bank, "--recursive", tree, "--prefix", "p/q-")
    with Bank.open(bank) as opened:
        assert {info.name for info in opened.list()} == {"p/q-" + name for name in ODD_FILES}
    done("get", bank, "--recursive", "p/q-a/", "-o", tmp_path / "out")
    assert files_below(tmp_path / "out") == {"p/q-a/b": b"6"}


def test_files_are_stored_in_the_order_of_their_names(bank: Path, tree: Path) -> None:
    """Neighbours in the list are neighbours in the packs: the walk is in the byte order of the names."""
    paths = [found.path for found in walk(tree, exclude([]), None)]
    assert paths == sorted(ODD_FILES, key=str.encode)


def test_work_is_committed_in_batches(bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree of more files than a batch takes is stored whole, by as many records as it needs."""
    monkeypatch.setattr(limits, "RECURSIVE_BATCH_OBJECTS", 10)
    root = tmp_path / "many"
    root.mkdir()
    for number in range(35):
        (root / str(number)).write_bytes(b"%d" % number)
    before = document("info", bank)["version"]
    assert document("put", bank, "--recursive", root)["files"] == 35
    assert document("info", bank)["version"] == before + 4
    assert document("rm", bank, "--recursive", "")["removed"] == 35
    assert document("info", bank)["version"] == before + 8


def test_an_empty_folder_is_fine(bank: Path, tmp_path: Path) -> None:
    """Nothing to store is no failure."""
    (tmp_path / "empty").mkdir()
    assert document("put", bank, "--recursive", tmp_path / "empty")["files"] == 0


def test_what_is_no_file_is_skipped_and_said_to_be(bank: Path, tree: Path, tmp_path: Path) -> None:
    """Links are not followed; they, sockets, FIFOs and devices are counted, and named with --verbose."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    (tree / "link").symlink_to(tmp_path / "outside" / "secret")
    (tree / "folder-link").symlink_to(tmp_path / "outside")
    (tree / "dangling").symlink_to("nowhere")
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tree / "socket"))
    result = casbank("put", bank, "--recursive", tree, "--json", "--verbose")
    assert result.exit_code == 0
    assert {item["path"]: item["kind"] for item in json.loads(result.stdout)["skipped"]} == {
        "link": "symbolic link", "folder-link": "symbolic link", "dangling": "symbolic link", "fifo": "FIFO",
        "socket": "socket",
    }  # fmt: skip
    assert "casbank: fifo: skipped, a FIFO\n" in result.stderr
    assert "casbank: skipped 1 FIFO, 1 socket, 3 symbolic links\n" in result.stderr
    with Bank.open(bank) as opened:
        assert set(opened) == set(ODD_FILES)


def test_names_that_no_object_can_have_are_named_and_the_rest_is_stored(bank: Path, tree: Path) -> None:
    """A name that is not UTF-8 or too long ends with 11, and keeps nothing else from being stored."""
    (tree / os.fsdecode(b"bad\xff")).write_bytes(b"x")
    long = "/".join(["x" * 200] * 6)
    (tree / long).parent.mkdir(parents=True)
    (tree / long).write_bytes(b"x")
    result = casbank("put", bank, "--recursive", tree, "--json")
    assert result.exit_code == 11
    shown = json.loads(result.stdout)
    assert [item["name"] for item in shown["failures"]] == ["bad\\xff", long]
    assert "casbank: bad\\xff: its name is not UTF-8\n" in result.stderr
    assert shown["files"] == len(ODD_FILES)
    with Bank.open(bank) as opened:
        assert set(opened) == set(ODD_FILES)


def test_a_folder_that_holds_the_bank_is_stored_without_it(tmp_path: Path) -> None:
    """A bank does not store itself, and says so."""
    place = tmp_path / "tree" / "below" / "bank"
    done("init", place)
    (tmp_path / "tree" / "file").write_bytes(b"x")
    result = casbank("put", place, "--recursive", tmp_path / "tree", "--json")
    assert result.exit_code == 0
    assert "below/bank: skipped, it is the bank itself" in result.stderr
    assert json.loads(result.stdout)["files"] == 1
    assert document("put", place, "--recursive", place)["files"] == 0


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["*.o"], {"src/a.c", "src/build/b.c", "build/x"}),
        (["build"], {"src/a.c", "src/a.o"}),
        (["build/"], {"src/a.c", "src/a.o"}),
        (["/build"], {"src/a.c", "src/a.o", "src/build/b.c"}),
        (["src/*.c"], {"src/a.o", "build/x"}),
        (["*.c", "*.o"], {"build/x"}),
        (["src", "x"], set()),
    ],
)
def test_excluded_files_and_folders_are_left_out(
    bank: Path, tmp_path: Path, patterns: list[str], left: set[str]
) -> None:
    """A pattern without a slash is of names anywhere, one with a slash of paths below the folder."""
    root = tmp_path / "tree"
    for name in ("src/a.c", "src/a.o", "src/build/b.c", "build/x"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    options = [option for pattern in patterns for option in ("--exclude", pattern)]
    done("put", bank, "--recursive", root, *options)
    with Bank.open(bank) as opened:
        assert set(opened) == left


def swap_for_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def swap_for_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("victim", "change"),
    [
        ("a.txt", lambda path: path.unlink()),
        ("a.txt", swap_for_link),
        ("a.txt", swap_for_fifo),
        ("ünï", swap_for_link),
    ],
    ids=["vanished", "now a link", "now a FIFO", "folder now a link"],
)
def test_a_tree_that_changes_under_the_walk(
    bank: Path, tree: Path, capsys: pytest.CaptureFixture[str], victim: str, change: Callable[[Path], None]
) -> None:
    """What vanished, or gave way to something else, is named, never followed or waited for; the rest is stored."""

    def spoil(path: str) -> bool:
        # The walk asks for each path after it has seen it, and before it opens it.
        if path == victim:
            change(tree / victim)
        return False

    console = Console(json=False, quiet=False, verbose=False, cache_dir=None)
    with Bank.open(bank) as opened:
        store_tree(opened, Tree(tree, "", spoil, bank), console)
        stored = set(opened)
    assert [item["name"] for item in console.failures] == [victim]
    assert f"casbank: {victim}: " in capsys.readouterr().err
    assert {name for name in ODD_FILES if not (name == victim or name.startswith(victim + "/"))} == stored - {"moved"}


def test_a_file_that_changes_while_it_is_read_is_named(bank: Path, tree: Path) -> None:
    """A file that is being appended to is not stored, and the others are."""
    (tree / "log").write_bytes(bytes(32 * limits.MIB))
    stop = threading.Event()

    def append() -> None:
        with (tree / "log").open("ab", buffering=0) as log:
            while not stop.is_set():
                log.write(b"x")

    writer = threading.Thread(target=append)
    writer.start()
    try:
        result = casbank("put", bank, "--recursive", tree)
    finally:
        stop.set()
        writer.join()
    assert result.exit_code == 11
    assert "casbank: log: the file changed while it was read\n" in result.stderr
    with Bank.open(bank) as opened:
        assert set(opened) == set(ODD_FILES)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_that_cannot_be_read_are_named(bank: Path, tree: Path) -> None:
    """A file or folder without the right to read is named, and the rest is stored."""
    (tree / "a.txt").chmod(0)
    (tree / "ünï").chmod(0)
    result = casbank("put", bank, "--recursive", tree)
    (tree / "ünï").chmod(0o755)
    assert result.exit_code == 11
    assert "a.txt: Permission denied" in result.stderr
    assert "ünï: Permission denied" in result.stderr


def test_get_goes_on_past_a_damaged_object(bank: Path, tmp_path: Path) -> None:
    """One damaged object is named, no file of it appears, and the others are fetched."""
    with Bank.open(bank) as opened:
        for name in ("a", "b", "c"):
            opened.put(name, os.urandom(300_000))
    packs = [path for path in (bank / "packs").rglob("*") if path.is_file()]
    pack = max(packs, key=lambda path: path.stat().st_mtime_ns)
    data = bytearray(pack.read_bytes())
    data[1000] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)
    result = casbank("get", bank, "--recursive", "", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 11
    assert [item["name"] for item in json.loads(result.stdout)["failures"]] == ["c"]
    assert set(files_below(tmp_path / "out")) == {"a", "b"}


def test_get_replaces_files_that_are_there(bank: Path, tree: Path, tmp_path: Path) -> None:
    """Fetching into a folder that has older files brings them up to date, and leaves no temporary ones."""
    done("put", bank, "--recursive", tree)
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    (out / "a" / "b").write_bytes(b"older")
    (out / "other").write_bytes(b"stays")
    done("get", bank, "--recursive", "", "-o", out)
    assert files_below(out) == {**ODD_FILES, "other": b"stays"}


def test_get_of_nothing_is_an_error_but_for_a_whole_bank(bank: Path, tmp_path: Path) -> None:
    """A prefix that no name has is a mistake; fetching all of an empty bank is not."""
    assert failed("get", bank, "--recursive", "x", "-o", tmp_path / "out")[0] == 3
    done("get", bank, "--recursive", "", "-o", tmp_path / "out")
