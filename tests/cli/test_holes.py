"""``casbank get --allow-holes``: what is left of a damaged object, where it goes, and what is said of the rest."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bank_scene import content, flip, packs_of

from casbank import Bank, limits
from cli.shell import casbank, document, done, failed, files_below, new_key_file, script, start

CHUNK = 4096
WHOLE = content("whole", 25 * CHUNK)
# The third and the fourth chunk are in the entry that is damaged.
HOLE = {"start": 2 * CHUNK, "length": 2 * CHUNK}
LEFT = WHOLE[: 2 * CHUNK] + bytes(2 * CHUNK) + WHOLE[4 * CHUNK :]


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bank with ``good/x``, and ``good/y`` that lost its third and its fourth chunk."""
    return make_damaged(tmp_path / "damaged", monkeypatch)


def make_damaged(place: Path, monkeypatch: pytest.MonkeyPatch, **key: Path) -> Path:
    monkeypatch.setattr(limits, "GROUP_BYTES_TARGET", 2 * CHUNK)
    with Bank.create(place, chunking=f"fixed:{CHUNK}", compression="none", **key) as bank:
        bank.put("good/x", content("good", 10_000))
        before = set(packs_of(place))
        bank.put("good/y", WHOLE)
        data_pack = max(set(packs_of(place)) - before, key=lambda pack: pack.stat().st_size)
    # Behind the header, one entry and its tag.
    flip(data_pack, 128 + 2 * CHUNK + 16 + 100)
    return place


def ended_4(*arguments: str | Path) -> str:
    """What is said by one that met damage."""
    result = casbank(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 4
    return result.stderr


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_file_with_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypted: bool) -> None:
    """The file has zeros where bytes are lost; each hole has a line, the whole has one, and the exit code is 4."""
    key = {"key_file": new_key_file(tmp_path / "key")} if encrypted else {}
    place = make_damaged(tmp_path / "bank", monkeypatch, **key)
    options = ("--key-file", tmp_path / "key") if encrypted else ()
    said = ended_4("get", place, "good/y", "-o", tmp_path / "out", "--allow-holes", *options)
    assert (tmp_path / "out").read_bytes() == LEFT
    assert said.splitlines() == [
        "casbank: good/y: hole at 8192, 8192 bytes",
        "casbank: good/y: 8192 bytes lost in 1 hole; zeros stand in their place",
    ]


def test_the_map_as_json(damaged: Path, tmp_path: Path) -> None:
    """The document has the map, and standard error the sentence alone."""
    result = casbank("get", damaged, "good/y", "-o", tmp_path / "out", "--allow-holes", "--json")
    assert result.exit_code == 4
    shown = json.loads(result.stdout)
    assert (shown["holes"], shown["holes_omitted_bytes"], shown["bytes"]) == ([HOLE], 0, len(WHOLE))
    assert result.stderr.count("\n") == 1


def test_nothing_is_said_of_what_is_whole(damaged: Path, tmp_path: Path) -> None:
    """An undamaged object is fetched as without the option, and its map is empty; without the option there is none."""
    arguments = ("get", damaged, "good/x", "-o", tmp_path / "out")
    assert done(*arguments, "--allow-holes").output == ""
    assert (tmp_path / "out").read_bytes() == content("good", 10_000)
    assert document(*arguments, "--allow-holes")["holes"] == []
    assert "holes" not in document(*arguments)


def test_a_pipe_gets_the_zeros_too(damaged: Path) -> None:
    """Standard output has the content and nothing else, all of it before the exit code."""
    result = script("get", damaged, "good/y", "--allow-holes")
    assert (result.returncode, result.stdout) == (4, LEFT)
    assert b"hole at 8192, 8192 bytes" in result.stderr


def test_a_full_standard_output_is_the_worse_failure(damaged: Path) -> None:
    """Content that could not be written is not taken for content with holes."""
    # So few bytes wait in a buffer until the end.
    arguments = ("get", damaged, "good/y", "--allow-holes", "--range", "9000-9009")
    with Path("/dev/full").open("wb") as full, start(*arguments, stdout=full) as process:
        process.communicate()
    assert process.returncode == 6


@pytest.mark.parametrize(
    ("wanted", "hole"),
    [("0-8191", None), ("0-8192", (8192, 1)), ("10000-10009", (10_000, 10)), ("16383-", (16_383, 1)), ("16384-", None)],
)
def test_a_range_tells_its_own_holes(damaged: Path, tmp_path: Path, wanted: str, hole: tuple[int, int] | None) -> None:
    """Holes are those of the range that was asked for, counted from the beginning of the object."""
    target = tmp_path / "out"
    result = casbank("get", damaged, "good/y", "--range", wanted, "-o", target, "--allow-holes", "--json")
    assert result.exit_code == (0 if hole is None else 4)
    shown = json.loads(result.stdout)
    assert shown["holes"] == ([] if hole is None else [{"start": hole[0], "length": hole[1]}])
    assert target.read_bytes() == LEFT[shown["start"] : shown["start"] + shown["bytes"]]


def test_a_tree_with_holes(damaged: Path, tmp_path: Path) -> None:
    """A recursive get writes every object, names those with holes, and ends with 11."""
    result = casbank("get", damaged, "--recursive", "", "-o", tmp_path / "tree", "--allow-holes")
    assert result.exit_code == 11
    assert files_below(tmp_path / "tree") == {"good/x": content("good", 10_000), "good/y": LEFT}
    assert "casbank: good/y: hole at 8192, 8192 bytes\n" in result.stderr
    assert "casbank: good/y: 8192 bytes lost in 1 hole; zeros stand in their place\n" in result.stderr


def test_a_tree_without_holes(damaged: Path, tmp_path: Path) -> None:
    """Without the option a recursive get leaves the damaged object out and says how to get it."""
    result = casbank("get", damaged, "--recursive", "", "-o", tmp_path / "tree", "--json")
    assert result.exit_code == 11
    shown = json.loads(result.stdout)
    assert [failure["name"] for failure in shown["failures"]] == ["good/y"]
    assert "--allow-holes" in shown["failures"][0]["reason"]
    assert "holes" not in shown
    assert set(files_below(tmp_path / "tree")) == {"good/x"}


def test_the_map_of_a_tree(damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document of a recursive get names the object of each hole, and counts the bytes that it has no place for."""
    with Bank.open(damaged) as bank:
        bank.copy("good/y", "z")
    arguments = ("get", damaged, "--recursive", "", "-o", tmp_path / "tree", "--allow-holes", "--json")
    shown = json.loads(casbank(*arguments).stdout)
    assert shown["holes"] == [{"name": "good/y", **HOLE}, {"name": "z", **HOLE}]
    assert (shown["holes_omitted_bytes"], shown["files"], len(shown["failures"])) == (0, 3, 2)
    monkeypatch.setattr(limits, "HOLES_MAX", 1)
    shown = json.loads(casbank(*arguments).stdout)
    assert shown["holes"] == [{"name": "good/y", **HOLE}]
    assert shown["holes_omitted_bytes"] == HOLE["length"]


@pytest.mark.parametrize("spoil", [lambda pack: flip(pack, 200), Path.unlink], ids=["flipped", "missing"])
def test_an_error_says_what_helps(damaged: Path, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """Who meets a damaged object learns how to get the rest of it, and nothing is written."""
    for pack in packs_of(damaged):
        spoil(pack)
    assert "--allow-holes" in ended_4("get", damaged, "good/y", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    ended_4("get", damaged, "good/y", "-o", tmp_path / "out", "--allow-holes")
    assert (tmp_path / "out").read_bytes() == bytes(len(WHOLE))


def test_no_hint_where_it_would_not_help(damaged: Path) -> None:
    """An object that is not there has no holes."""
    assert "--allow-holes" not in failed("get", damaged, "nothing")[1]
    assert failed("get", damaged, "nothing", "--allow-holes")[0] == 3
