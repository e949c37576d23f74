"""The verbs that work on single objects, and on the bank itself."""

import json
import os
import threading
from pathlib import Path

import pytest

from casbank import Bank, ConflictError, limits
from casbank.cli.watched import WatchedFile
from casbank.config import CACHE_VARIABLE
from cli.shell import casbank, document, done, failed


@pytest.fixture
def filled(bank: Path) -> Path:
    """A bank with a few objects."""
    with Bank.open(bank) as opened:
        opened.put("a/1", b"one")
        opened.put("a/2", b"two" * 10_000, metadata={"text": "ä", "raw": b"\x00\xff"}, digest=True)
        opened.put("b", b"")
    return bank


def names_in(bank: Path) -> list[str]:
    with Bank.open(bank) as opened:
        return list(opened)


def test_what_put_stored_get_writes(bank: Path, tmp_path: Path) -> None:
    """A file comes back byte by byte, in a file and on standard output."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(3 * limits.MIB + 7))
    done("put", bank, "name", source)
    done("get", bank, "name", "-o", target)
    assert target.read_bytes() == source.read_bytes()
    assert casbank("get", bank, "name").stdout_bytes == source.read_bytes()


def test_success_is_silent_where_a_shell_expects_it(filled: Path, tmp_path: Path) -> None:
    """put, get -o, cp and rm say nothing when they did what they were asked for."""
    (tmp_path / "x").write_bytes(b"x")
    for arguments in (
        ("put", filled, "x", tmp_path / "x"),
        ("get", filled, "x", "-o", tmp_path / "y"),
        ("cp", filled, "x", "y"),
        ("rm", filled, "x"),
    ):
        assert done(*arguments).output == ""


def test_put_keeps_metadata_and_digest(bank: Path, tmp_path: Path) -> None:
    """--meta and --digest reach the object; a value may hold an equals sign."""
    (tmp_path / "x").write_bytes(b"content")
    done("put", bank, "x", tmp_path / "x", "--meta", "k=v=w", "--meta", "empty=", "--digest")
    shown = document("stat", bank, "x")
    assert shown["metadata"] == {"k": "v=w", "empty": ""}
    assert shown["digest"] == shown["etag"]


def test_put_if_absent_leaves_what_is_there(filled: Path, tmp_path: Path) -> None:
    """--if-absent fails with 10 and changes nothing."""
    (tmp_path / "x").write_bytes(b"other")
    assert failed("put", filled, "a/1", tmp_path / "x", "--if-absent")[0] == 10
    with Bank.open(filled) as opened:
        assert opened.get("a/1") == b"one"


def test_a_fifo_is_read_as_a_stream(bank: Path, tmp_path: Path) -> None:
    """put takes what a FIFO gives, though its size and its time change meanwhile."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(b"streamed" * 50_000,))
    writer.start()
    done("put", bank, "x", fifo)
    writer.join()
    assert document("stat", bank, "x")["size"] == 400_000


@pytest.mark.parametrize("change", [lambda path: os.utime(path, ns=(1, 1)), lambda path: os.truncate(path, 70_000)])
def test_a_file_that_changes_while_it_is_read_is_not_stored(bank: Path, tmp_path: Path, change) -> None:
    """A regular file must hold still, or the put fails and nothing of it is visible."""
    path = tmp_path / "x"
    path.write_bytes(b"x" * 80_000)
    descriptor = os.open(path, os.O_RDONLY)
    with Bank.open(bank) as opened, WatchedFile(descriptor, lambda count: change(path)) as file:
        with pytest.raises(ConflictError, match="changed while it was read"):
            opened.put("x", file)
        assert "x" not in opened


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-0", b"0"), ("2-4", b"234"), ("7-", b"789"), ("-3", b"789"), ("-99", b"0123456789"), ("8-99", b"89")],
)
def test_a_range_is_what_http_means_by_it(bank: Path, text: str, expected: bytes) -> None:
    """Both ends are included, an open end is the object's, a lone -N counts from it; beyond it nothing is."""
    with Bank.open(bank) as opened:
        opened.put("x", b"0123456789")
    assert casbank("get", bank, "x", "--range", text).stdout_bytes == expected


@pytest.mark.parametrize("text", ["", "-", "5", "4-2", "a-b", "1-2-3", "-1-2"])
def test_what_is_no_range_is_refused(filled: Path, text: str) -> None:
    """A malformed range is wrong usage, and nothing is written."""
    code, _ = failed("get", filled, "a/1", "--range", text)
    assert code == 2


def test_a_range_behind_the_end_is_refused(filled: Path, tmp_path: Path) -> None:
    """A range that begins behind the end is no empty answer, and leaves no file."""
    assert failed("get", filled, "a/1", "--range", "3-", "-o", tmp_path / "x")[0] == 2
    assert not (tmp_path / "x").exists()


def test_ls_shows_names_in_byte_order_and_by_prefix(filled: Path) -> None:
    """Each option of ls narrows or turns the list as its help says."""
    for options, expected in {
        (): "a/1 a/2 b",
        ("a/",): "a/1 a/2",
        ("--reverse",): "b a/2 a/1",
        ("--start-after", "a/1"): "a/2 b",
        ("--reverse", "--start-after", "b", "--limit", "1"): "a/2",
        ("--limit", "0"): "",
        ("nothing",): "",
    }.items():
        assert done("ls", filled, *options).stdout.split() == expected.split()
        assert [item["name"] for item in document("ls", filled, *options)] == expected.split()


def test_ls_long_shows_sizes(filled: Path) -> None:
    """--long gives size, time and name, one object a line."""
    lines = done("ls", filled, "--long").stdout.splitlines()
    assert [line.split()[-1] for line in lines] == ["a/1", "a/2", "b"]
    assert lines[1].split()[:2] == ["29.3", "KiB"]


def test_ls_gives_names_to_a_pipe_as_they_are(bank: Path) -> None:
    """A program that reads ls gets the very names."""
    with Bank.open(bank) as opened:
        opened.put("new\nline \x1b[31m ü", b"")
    assert casbank("ls", bank).stdout_bytes.decode() == "new\nline \x1b[31m ü\n"


def test_messages_cannot_disturb_a_terminal(bank: Path) -> None:
    """A name in a message is escaped: it can neither fake a line nor colour the screen."""
    code, message = failed("get", bank, "a\nb\x1b[31m")
    assert code == 3
    assert "a\\nb\\x1b[31m" in message


OBJECT_KEYS = {"name", "size", "etag", "digest", "version", "created", "metadata"}
STATS_KEYS = {
    "bank_id", "format", "chunking", "compression", "suite", "created", "keep_deleted_s", "objects", "logical_bytes",
    "unique_bytes", "stored_bytes", "packs", "chunks", "deleted_objects", "journal_bytes", "index_bytes", "version",
    "dedup_ratio", "compression_ratio", "last_collection",
}  # fmt: skip
INFO_KEYS = STATS_KEYS | {"plan", "plan_error", "collection_overdue"}


def test_json_documents_have_stable_keys(filled: Path, tmp_path: Path) -> None:
    """What a program reads of --json does not change its names: this is an interface."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "x").write_bytes(b"x")
    versions = {"casbank", "format", "python", "kernel", "liblmdb", "libzstd"}
    libraries = {"blake3", "click", "lmdb", "msgpack", "zstandard"}
    expected = {
        ("init", tmp_path / "new"): STATS_KEYS,
        ("info", filled): INFO_KEYS,
        ("put", filled, "x", tmp_path / "tree" / "x"): OBJECT_KEYS,
        ("stat", filled, "x"): OBJECT_KEYS,
        ("cp", filled, "x", "y"): OBJECT_KEYS,
        ("get", filled, "x", "-o", tmp_path / "out"): {"name", "version", "file", "start", "bytes"},
        ("put", filled, "--recursive", tmp_path / "tree"): {
            "files", "read_bytes", "stored_bytes", "seconds", "skipped", "failures",
        },
        ("get", filled, "--recursive", "x", "-o", tmp_path / "dir"): {"files", "bytes", "seconds", "failures"},
        ("rm", filled, "x"): {"removed", "failures"},
        ("undelete", filled, "x"): OBJECT_KEYS,
        ("gc", filled): {"plan", "report"},
        ("rm", filled, "--recursive", "y"): {"removed", "failures"},
        ("index", "verify", filled): {"clean", "differences"},
        ("index", "rebuild", filled): {"objects"},
        ("index", "drop", filled): {"dropped"},
        ("version",): versions | libraries,
    }  # fmt: skip
    assert {arguments: set(document(*arguments)) for arguments in expected} == expected


def test_json_shows_bytes_as_base64(filled: Path) -> None:
    """Metadata that is text stays text; metadata that is bytes survives JSON."""
    metadata = document("stat", filled, "a/2")["metadata"]
    assert metadata == {"text": "ä", "raw": {"base64": "AP8="}}


def test_cp_gives_a_second_name(filled: Path) -> None:
    """The copy has the content and the metadata; the original stays."""
    done("cp", filled, "a/2", "copy")
    with Bank.open(filled) as opened:
        assert opened.get("copy") == opened.get("a/2")
        assert opened.head("copy").metadata == opened.head("a/2").metadata


def test_rm_removes_what_is_there_and_names_what_is_not(filled: Path) -> None:
    """One absent name does not keep the others; the exit code tells whether anything was done."""
    result = casbank("rm", filled, "a/1", "nope", "b", "b")
    assert result.exit_code == 11
    assert result.stderr == "casbank: nope: no such object\n"
    assert names_in(filled) == ["a/2"]
    assert failed("rm", filled, "nope")[0] == 3
    assert failed("rm", filled, "nope", "nor this")[0] == 3


def test_rm_recursive_removes_a_prefix_only(filled: Path) -> None:
    """Everything below the prefix goes, nothing else; a prefix that nothing has is an error, the empty one is not."""
    done("rm", filled, "--recursive", "a/")
    assert names_in(filled) == ["b"]
    assert failed("rm", filled, "--recursive", "a/")[0] == 3
    done("rm", filled, "--recursive", "")
    done("rm", filled, "--recursive", "")
    assert names_in(filled) == []


def test_init_takes_every_option(tmp_path: Path) -> None:
    """What init is told is what info shows."""
    place = tmp_path / "x"
    done("init", place, "--chunking", "fixed:4096", "--compression", "none", "--keep-deleted", "60")
    shown = document("info", place)
    assert (shown["chunking"], shown["compression"], shown["keep_deleted_s"]) == ("fixed:4096", "none", 60)


@pytest.mark.parametrize(
    "options", [("--chunking", "nope"), ("--compression", "23"), ("--compression", "zip"), ("--keep-deleted", "-1")]
)
def test_init_refuses_what_it_cannot_mean(tmp_path: Path, options: tuple[str, ...]) -> None:
    """A wrong option is wrong usage, and no bank is left behind."""
    assert failed("init", tmp_path / "x", *options)[0] == 2
    assert not (tmp_path / "x").exists()


def test_the_cache_folder_holds_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --cache-dir, or its variable, the bank has no index in it."""
    place, cache = tmp_path / "x", tmp_path / "cache"
    done("init", place, "--cache-dir", cache)
    monkeypatch.setenv("CASBANK_CACHE_DIR", str(cache))
    done("ls", place)
    assert not (place / "index").exists()
    assert list(cache.rglob("data.mdb"))


def test_a_dropped_index_comes_back(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """drop removes the index, and whoever opens the bank next sees all of it again."""
    # So that the index is in the bank.
    monkeypatch.delenv(CACHE_VARIABLE)
    done("index", "drop", filled)
    assert not (filled / "index").exists()
    assert names_in(filled) == ["a/1", "a/2", "b"]


def test_drop_refuses_an_index_in_use(filled: Path) -> None:
    """An index that somebody has open is not pulled away from under them."""
    with Bank.open(filled):
        assert failed("index", "drop", filled)[0] == 6


def test_verify_and_rebuild_find_and_mend_a_wrong_row(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that differs from the store in one row is told, with 4, and rebuild makes it right."""
    # So that the command looks at the index that is spoilt here, the one in the bank.
    monkeypatch.delenv(CACHE_VARIABLE)
    with Bank.open(filled) as opened:
        follower = opened._engine.follower
        follower._view.update(lambda edit: edit.delete_name(b"b"))
        follower._view.update(lambda edit: edit.put_config("extra", "row"))
    result = casbank("index", "verify", filled, "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout) == {
        "clean": False,
        "differences": [
            "index table name: 1 rows are missing or wrong, 0 should not be there",
            "index table meta: 0 rows are missing or wrong, 1 should not be there",
        ],
    }
    done("index", "rebuild", filled)
    done("index", "verify", filled)
    assert names_in(filled) == ["a/1", "a/2", "b"]


def test_quiet_says_nothing_and_verbose_more(filled: Path, tmp_path: Path) -> None:
    """--quiet leaves results and failures only; --verbose tells of each thing that was done."""
    assert done("index", "rebuild", filled, "--quiet").output == ""
    assert failed("stat", filled, "nope", "--quiet")[0] == 3
    assert done("get", filled, "a/1", "-o", tmp_path / "x", "--verbose").stderr == "casbank: fetched a/1, 3 B\n"
