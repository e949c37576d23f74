"""Names of objects that try to get out of the folder that they are fetched into."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casbank import Bank, InvalidInputError
from casbank.cli.folder import Folder
from cli.shell import casbank, files_below


def test_hostile_names_never_leave_the_folder(bank: Path, tmp_path: Path) -> None:
    """Absolute names, "..", planted links and files in the way are refused one by one; the rest is fetched."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"outside")
    out = tmp_path / "out"
    out.mkdir()
    (out / "link").symlink_to(outside)
    (out / "file-link").symlink_to(outside / "x")
    (out / "folder").mkdir()
    (out / "folder" / "up").symlink_to("..")
    refused = [
        "../outside/x", str(outside / "x"), "a/../../outside/x", "..", ".", "./x", "a//b", "//x", "end/", "link/x",
        "link/new", "folder/up/outside-of-folder", "x/b", "x" * 256, "folder",
    ]  # fmt: skip
    accepted = ["a", "a-b", "a\\..\\b", "...", "..x/y", "file-link", "folder/z", "x", "x" * 255]
    with Bank.open(bank) as opened, opened.batch() as batch:
        for name in refused + accepted:
            batch.put(name, b"from the bank")
    result = casbank("get", bank, "--recursive", "", "-o", out, "--json")
    assert result.exit_code == 11
    shown = json.loads(result.stdout)
    assert sorted(item["name"] for item in shown["failures"]) == sorted(refused)
    assert all(f"casbank: {name}: " in result.stderr for name in refused)
    assert files_below(outside) == {"x": b"outside"}
    assert files_below(out) == dict.fromkeys(accepted, b"from the bank")
    assert (out / "link").is_symlink()
    assert f"{outside / 'x'}: refused, it is an absolute path\n" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "out", "outside"]


def test_a_file_where_a_folder_is_needed_refuses_the_second(bank: Path, tmp_path: Path) -> None:
    """Of "a" and "a/b" the first in order is fetched, the other one is named."""
    with Bank.open(bank) as opened:
        opened.put("a", b"1")
        opened.put("a/b", b"2")
        opened.put("a/b/c", b"3")
        opened.put("b/c", b"4")
    result = casbank("get", bank, "--recursive", "", "-o", tmp_path / "out")
    assert result.exit_code == 11
    assert "a/b: refused, 'a' on its way is a file" in result.stderr
    assert files_below(tmp_path / "out") == {"a": b"1", "b/c": b"4"}


PARTS = st.sampled_from(["", ".", "..", "a", "b", "link", "up", "\n", "é", "x" * 256])


@settings(max_examples=200, deadline=None)
@given(names=st.lists(st.lists(PARTS, min_size=1, max_size=5).map("/".join), max_size=8))
def test_no_sequence_of_names_escapes(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    """Whatever the names are, and whatever was refused before, the world outside stays as it was."""
    world = tmp_path_factory.mktemp("world")
    root = world / "root"
    (root / "b").mkdir(parents=True)
    (root / "link").symlink_to(world)
    (root / "b" / "up").symlink_to("../..")
    written = set()
    with Folder(root) as folder:
        for name in names:
            try:
                with folder.new_file(name) as descriptor:
                    os.write(descriptor, b"x")
                written.add(name)
            except (InvalidInputError, OSError):
                pass
    assert set(files_below(root)) == written
    assert os.listdir(world) == ["root"]  # noqa: PTH208 - names are what is compared


def test_a_folder_closes_what_it_opens(tmp_path: Path) -> None:
    """However deep the names go and whatever is refused, no descriptor is left."""
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    with Folder(tmp_path / "root") as folder:
        for name in ("a/b/c/d", "a/b/x/y", "z", "q/w/e"):
            with folder.new_file(name):
                pass
        with pytest.raises(InvalidInputError), folder.new_file("z/under/a/file"):
            pass
        with pytest.raises(ZeroDivisionError), folder.new_file("q/failed"):
            raise ZeroDivisionError
    assert not (tmp_path / "root" / "q" / "failed").exists()
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) == before
