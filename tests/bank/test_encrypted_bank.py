"""An encrypted bank is a bank: all that a plain one does, under either suite, and nothing in its files is in clear."""

import io
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bank_scene import MIB, content, contents_of, engine_of, memory_place, random_work, rows_of

from casbank import (
    AlreadyExistsError,
    Bank,
    CasbankError,
    ConflictError,
    ErrorKind,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    UnsupportedFormatError,
)

SUITES = ["aes-256-gcm", "chacha20-poly1305"]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CASBANK_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(content("key", 32))
    return path


@pytest.fixture(params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["folder", "memory"])
def at(request: pytest.FixtureRequest, place: Path) -> Path | str:
    """Where the bank is."""
    return place if request.param == "folder" else memory_place()


@pytest.fixture
def bank(at: Path | str, key: Path, suite: str) -> Iterator[Bank]:
    """A new encrypted bank of either suite, on disk or in memory."""
    with Bank.create(at, key_file=key, suite=suite) as made:
        yield made


# --- what every bank does --------------------------------------------------------------------------------------------


def test_bank_says_how_it_is_sealed(bank: Bank, suite: str) -> None:
    """The suite stands among what is known of the bank."""
    assert bank.stats().suite == suite


@pytest.mark.parametrize("size", [0, 1, 2048, 2049, 70_000, 9_000_000])
def test_put_and_get(bank: Bank, size: int) -> None:
    """What is put is what is got, whole, in ranges and as a file; its digest is that of its bytes."""
    data = content(size, size)
    info = bank.put("x", data, metadata={"k": "v"}, digest=True)
    assert bank.get("x") == data
    assert bank.head("x") == info
    for start, length in ((0, 10), (size // 2, 1000), (size - 1, 5), (size, 1), (size // 3, None)):
        end = size if length is None else max(start, 0) + length
        assert bank.get("x", start=max(start, 0), length=length) == data[max(start, 0) : end]
    with bank.open_object("x") as file:
        file.seek(size // 2)
        assert file.read() == data[size // 2 :]


def test_sources(bank: Bank, tmp_path: Path) -> None:
    """A path, a file, an iterable and a buffer are read alike, and cost one copy."""
    data = content("sources", 3 * MIB)
    path = tmp_path / "data"
    path.write_bytes(data)
    sources: list[Any] = [path, io.BytesIO(data), iter([data[:MIB], data[MIB:]]), memoryview(data), bytearray(data)]
    etags = {bank.put(f"n{number}", source).etag for number, source in enumerate(sources)}
    assert len(etags) == 1
    assert bank.stats().unique_bytes < 1.01 * len(data) + 100_000
    assert all(bank.get(f"n{number}") == data for number in range(len(sources)))


def test_list_copy_delete(bank: Bank) -> None:
    """Names are listed in order, copied without data, deleted, and conditions hold."""
    for name in ("b", "a/2", "a/1"):
        bank.put(name, content(name, 5000))
    assert [info.name for info in bank.list("a/")] == ["a/1", "a/2"]
    stored = bank.stats().stored_bytes
    copied = bank.copy("b", "c")
    assert (bank.get("c"), bank.stats().stored_bytes) == (content("b", 5000), stored)
    with pytest.raises(AlreadyExistsError):
        bank.copy("b", "c", if_absent=True)
    with pytest.raises(ConflictError):
        bank.put("c", b"", if_version=copied.version - 1)
    bank.delete("b")
    with pytest.raises(NotFoundError):
        bank.get("b")
    assert (list(bank), len(bank), "b" in bank) == (["a/1", "a/2", "c"], 3, False)


def test_batch_is_one(bank: Bank) -> None:
    """A batch is visible as a whole, or not at all."""
    bank.put("gone", b"")
    before = bank.stats().version
    with bank.batch() as batch:
        for number in range(50):
            batch.put(f"n{number}", content(number, number * 500))
        batch.delete("gone")
    assert bank.stats().version == before + 1
    assert contents_of(bank) == {f"n{number}": content(number, number * 500) for number in range(50)}
    batch = bank.batch()
    batch.put("never", content("never", 50_000))
    batch.abandon()
    assert "never" not in bank


def test_index_is_a_view(bank: Bank) -> None:
    """After any work the index made anew, from the journal or a checkpoint, is the one that was kept."""
    for number in range(2):
        there = random_work(bank, number, 40)
        assert bank.verify_index() == []
        before = rows_of(bank)
        bank.rebuild_index()
        assert rows_of(bank) == before
        assert {name: bank.get(name) for name in there} == there
        assert engine_of(bank).checkpoints.write() is not None


def test_bank_is_there_after_reopening(bank: Bank, at: Path | str, key: Path) -> None:
    """What was put is there when the bank is opened again, also for who opens it to read, and without the index."""
    there = random_work(bank, "reopened", 40)
    bank.close()
    with Bank.open(at, key_file=key, read_only=True) as again:
        assert contents_of(again) == there
        with pytest.raises(ReadOnlyError):
            again.put("x", b"")
        with pytest.raises(ReadOnlyError):
            again.keys.rotate()
        with pytest.raises(ReadOnlyError):
            again.keys.add(key_file=key)
        assert len(again.keys.slots()) == len(again.keys.epochs()) == 1
    if isinstance(at, Path):
        Bank.drop_index(at)
        with Bank.open(at, key_file=key) as again:
            assert contents_of(again) == there
            assert again.verify_index() == []


def test_every_profile_and_level(place: Path, key: Path, suite: str) -> None:
    """Chunking profiles and compression do what they do in a plain bank."""
    data = content("a", 300_000) + bytes(300_000)
    for number, (chunking, level) in enumerate([("fine", "none"), ("fixed:65536", 1), ("gear:256/1024/8192", 19)]):
        with Bank.create(place / str(number), key_file=key, suite=suite, chunking=chunking, compression=level) as bank:
            bank.put("x", data)
            assert bank.get("x") == data
            bank.rebuild_index()
            assert bank.get("x") == data


def test_passphrase_opens(place: Path, suite: str) -> None:
    """A passphrase makes a bank, and opens it."""
    with Bank.create(place, passphrase="correct horse", suite=suite) as bank:
        bank.put("x", b"content")
    with Bank.open(place, passphrase="correct horse") as bank:
        assert bank.get("x") == b"content"


# --- what is in clear ------------------------------------------------------------------------------------------------


def test_nothing_is_in_clear(place: Path, key: Path, suite: str, cache: Path) -> None:
    """No name, no content and no metadata, nor the hash of any, is in any file of the bank; the index, which has them,
    is not in it, and nobody else may look into the folder that it is in."""
    from blake3 import blake3

    marks = [b"a-name-that-nobody-sees", b"some content, which is short", b"more content " * 500, b"metadata of it"]
    with Bank.create(place, key_file=key, suite=suite, compression="none") as bank:
        bank.put(marks[0].decode(), marks[1], metadata={"k": marks[3]}, digest=True)
        bank.put(marks[0].decode() + " 2", marks[2], digest=True)
        etags = [bytes.fromhex(info.etag) for info in bank.list()]
        assert engine_of(bank).checkpoints.write() is not None
        bank.keys.add(key_file=key)
        bank.keys.rotate()
        hidden = [*marks, *etags, key.read_bytes(), *(blake3(mark).digest() for mark in marks)]
        keys = engine_of(bank).keys
        assert keys is not None
        hidden += [keys.keyrings.key, keys.keyrings.dedup_secret, *keys.keyrings.secrets(1), *keys.keyrings.secrets(2)]
        folders = [path for path in (cache, *cache.rglob("*")) if path.is_dir() and "index" in path.name]
    for path in (path for path in place.rglob("*") if path.is_file()):
        data = path.read_bytes()
        assert not [part for part in hidden if part[:200] in data], path
    assert not (place / "index").exists()
    assert folders
    for folder in folders:
        # Those above the cache are not casbank's.
        own = [parent for parent in folder.parents if parent.is_relative_to(cache)]
        assert any(parent.stat().st_mode & 0o077 == 0 for parent in own)


def test_plain_bank_shows_what_it_holds(place: Path) -> None:
    """The test above can fail."""
    with Bank.create(place, compression="none") as bank:
        bank.put("a-name-that-nobody-sees", b"some content, which is short")
    assert any(b"some content" in path.read_bytes() for path in place.rglob("*") if path.is_file())


def test_equal_contents_cost_once(bank: Bank) -> None:
    """Deduplication goes on within a bank: a content that is put again, and one with an edit, cost what is new."""
    data = content("again", 6_000_000)
    bank.put("one", data)
    stored = bank.stats().stored_bytes
    bank.put("two", data)
    assert bank.stats().stored_bytes == stored
    bank.put("three", data[:3_000_000] + b"edit" + data[3_000_000:])
    assert bank.stats().stored_bytes < stored + 800_000


# --- creating --------------------------------------------------------------------------------------------------------


def _file(size: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"file of {size}"
        path.write_bytes(bytes(size))
        return path

    return make


@pytest.mark.parametrize(
    "options",
    [
        {"suite": "aes-128-gcm"},
        {"suite": ""},
        {"suite": "none"},
        {"suite": "AES-256-GCM"},
        {"passphrase": "words"},
        {"key_command": ["cat"]},
        {"passphrase": "words", "key_file": None, "key_command": ["cat"]},
        {"key_file": None, "passphrase": ""},
        {"key_file": None, "passphrase": b"bytes"},
        {"key_file": None, "passphrase": 5},
        {"key_file": None, "passphrase": "\ud800"},
        {"key_file": None, "key_command": []},
        {"key_file": None, "key_command": "cat"},
        {"key_file": _file(0)},
        {"key_file": _file(31)},
        {"key_file": _file(MIB + 1)},
        {"key_file": "nul\0nul"},
        {"dedup_domain": _file(31)},
        {"dedup_domain": _file(MIB + 1)},
        {"key_file": None, "dedup_domain": _file(32)},
    ],
    ids=str,
)
@pytest.mark.parametrize("in_memory", [False, True])
def test_wrong_options_are_invalid_input(
    place: Path, key: Path, tmp_path: Path, options: dict[str, Any], in_memory: bool
) -> None:
    """Options that make no sense are refused, and leave nothing: a bank can be made there."""
    at = f"memory://{uuid.uuid4()}" if in_memory else place
    given = {"key_file": key} | {name: value(tmp_path) if callable(value) else value for name, value in options.items()}
    with pytest.raises(InvalidInputError):
        Bank.create(at, **given)
    assert not place.exists()
    Bank.create(at, key_file=key).close()


@pytest.mark.parametrize("path", ["missing", "."])
def test_unreadable_key_file_is_told(place: Path, tmp_path: Path, path: str) -> None:
    """A key file that is not there, or is a folder, is an error of the library's own."""
    with pytest.raises(CasbankError):
        Bank.create(place, key_file=tmp_path / path)
    assert not place.exists()


@pytest.mark.parametrize("size", [32, MIB])
def test_smallest_and_largest_key_file(place: Path, tmp_path: Path, size: int) -> None:
    """Key files of 32 bytes and of 1 MiB are good, to the last byte."""
    path = tmp_path / "edge"
    path.write_bytes(content("edge", size))
    Bank.create(place, key_file=path).close()
    Bank.open(place, key_file=str(path)).close()
    path.write_bytes(content("edge", size)[:-1] + b"?")
    with pytest.raises(CasbankError):
        Bank.open(place, key_file=path)


def test_existing_bank_is_not_replaced(bank: Bank, at: Path | str, key: Path) -> None:
    """Where a bank is no other is made, whatever the key, and its keys stay."""
    bank.put("x", b"content")
    with pytest.raises(AlreadyExistsError) as caught:
        Bank.create(at, key_file=key)
    assert caught.value.kind is ErrorKind.BANK_EXISTS
    bank.close()
    with Bank.open(at, key_file=key) as again:
        assert again.get("x") == b"content"


def test_interrupted_creation_is_taken_up(place: Path, key: Path, tmp_path: Path) -> None:
    """A creation that was cut off before its first record leaves keys that nobody needs: the next one makes its own."""
    Bank.create(tmp_path / "other", key_file=key).close()
    place.mkdir()
    (tmp_path / "other" / "BANK").rename(place / "BANK")
    (tmp_path / "other" / "keys").rename(place / "keys")
    left = {path.name for path in (place / "keys").iterdir()}
    with pytest.raises(CasbankError):
        Bank.open(place, key_file=key)
    with Bank.create(place, key_file=key) as bank:
        bank.put("x", b"content")
        assert not left & {path.name for path in (place / "keys").iterdir()}
    with Bank.open(place, key_file=key) as bank:
        assert bank.get("x") == b"content"


# --- no downgrade ----------------------------------------------------------------------------------------------------


def test_files_of_another_suite_are_refused(place: Path, key: Path, tmp_path: Path) -> None:
    """Records of suite 0, which anybody can write, are refused in an encrypted bank."""
    with Bank.create(tmp_path / "plain") as plain:
        plain.put("x", b"forged")
    Bank.create(place, key_file=key).close()
    for path in (place / "journal").iterdir():
        path.unlink()
    for path in (tmp_path / "plain" / "journal").iterdir():
        (place / "journal" / path.name).write_bytes(path.read_bytes())
    Bank.drop_index(place)
    with pytest.raises(UnsupportedFormatError):
        Bank.open(place, key_file=key)
