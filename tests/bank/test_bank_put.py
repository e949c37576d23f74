"""What a put takes, and that it comes back as it was."""

import array
import ctypes
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bank_scene import MIB, content, memory_place, pack_bytes, packs_of
from blake3 import blake3

from casbank import (
    AlreadyExistsError,
    Bank,
    ConflictError,
    ErrorKind,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    StoreError,
)
from casbank.limits import BATCH_BYTES, METADATA_BYTES_MAX

DATA = content("data", 300_000)


class OnlyRead:
    """A file as some libraries make them: nothing but ``read``, and short answers."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, 1000))


def parts(data: bytes, size: int = 7777) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def written(data: bytes, path: Path) -> Path:
    path.write_bytes(data)
    return path


SOURCES: dict[str, Callable[[bytes, Path], Any]] = {
    "bytes": lambda data, _: data,
    "bytearray": lambda data, _: bytearray(data),
    "memoryview": lambda data, _: memoryview(data),
    "memoryview of words": lambda data, _: memoryview(array.array("I", data)),
    "array": lambda data, _: array.array("I", data),
    "ctypes": lambda data, _: (ctypes.c_char * len(data)).from_buffer_copy(data),
    "path": written,
    "binary file": lambda data, path: written(data, path).open("rb"),
    "raw file": lambda data, path: written(data, path).open("rb", buffering=0),
    "BytesIO": lambda data, _: io.BytesIO(data),
    "read only": lambda data, _: OnlyRead(data),
    "list": lambda data, _: list(parts(data)),
    "generator": lambda data, _: parts(data),
    "views": lambda data, _: (memoryview(part) for part in parts(data)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_comes_back(bank: Bank, tmp_path: Path, kind: str) -> None:
    """What was put, from whatever holds it, is what is got."""
    source = SOURCES[kind](DATA, tmp_path / "file")
    info = bank.put("x", source)
    if hasattr(source, "close"):
        source.close()
    assert info.size == len(DATA)
    assert bank.get("x") == DATA


@pytest.mark.parametrize("kind", ["array", "bytes", "list", "BytesIO"])
def test_empty_sources(bank: Bank, kind: str) -> None:
    """An empty source of any kind is an empty object."""
    bank.put("x", SOURCES[kind](b"", Path()))
    assert bank.get("x") == b""


@pytest.mark.parametrize(
    "source",
    [
        "text",
        io.StringIO("text"),
        memoryview(b"abcdef")[::2],
        None,
        5,
        1.5,
        object(),
        ["text"],
        [b"a", None, b"b"],
        [1, 2],
        {"a": b"b"},
    ],
    ids=repr,
)
def test_refused_sources(bank: Bank, source: Any) -> None:
    """What is not bytes is refused as invalid input, and nothing becomes visible."""
    with pytest.raises(InvalidInputError):
        bank.put("x", source)
    assert list(bank) == []


def test_text_file_is_refused(bank: Bank, tmp_path: Path) -> None:
    """A file in text mode is refused."""
    path = tmp_path / "text"
    path.write_text("text")
    with path.open() as file, pytest.raises(InvalidInputError, match="binary"):
        bank.put("x", file)  # type: ignore[arg-type]


def test_file_that_gives_too_much_is_refused(bank: Bank) -> None:
    """A file whose read gives more than it was asked for is refused as invalid input."""

    class Generous:
        def read(self, size: int) -> bytes:
            return bytes(size + 1)

    with pytest.raises(InvalidInputError, match="asked for"):
        bank.put("x", Generous())  # type: ignore[arg-type]


def test_file_in_the_middle(bank: Bank) -> None:
    """A file is read from where it stands, and stays open."""
    file = io.BytesIO(DATA)
    file.seek(1000)
    bank.put("x", file)
    assert bank.get("x") == DATA[1000:]
    assert not file.closed


def test_missing_path(bank: Bank, tmp_path: Path) -> None:
    """A path that cannot be read is a StoreError with the system's number."""
    with pytest.raises(StoreError) as caught:
        bank.put("x", tmp_path / "none")
    assert caught.value.errno == 2


def test_path_that_grows_while_it_is_read(bank: Bank, tmp_path: Path) -> None:
    """A file that changes while it is read is a conflict, and nothing becomes visible."""
    path = tmp_path / "file"
    path.write_bytes(content(0, 64 * MIB))
    stop = threading.Event()

    def touch() -> None:
        while not stop.is_set():
            os.utime(path)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(ConflictError) as caught:
            bank.put("x", path)
    finally:
        stop.set()
        thread.join()
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED
    assert "x" not in bank


@pytest.mark.parametrize("before", [0, 10, 3000, BATCH_BYTES, 3 * BATCH_BYTES + 5])
def test_failing_source_passes_through(bank: Bank, before: int) -> None:
    """What a source raises comes out unchanged, whenever it does, and leaves nothing visible."""

    class OwnError(Exception):
        pass

    def failing() -> Iterator[bytes]:
        yield from parts(content("before", before), 100_000)
        raise OwnError("mine")

    with pytest.raises(OwnError, match="mine"):
        bank.put("x", failing())
    assert list(bank) == []
    bank.put("x", DATA)
    assert bank.get("x") == DATA


def test_buffer_that_changes_after_the_put(bank: Bank) -> None:
    """A buffer that its owner changes once put has returned changes nothing in the bank."""
    data = bytearray(DATA)
    bank.put("x", data)
    data[:] = bytes(len(data))
    data.clear()
    assert bank.get("x") == DATA


def test_generator_that_reuses_its_buffer(bank: Bank) -> None:
    """A generator may change, and change the size of, the buffer that it gave before."""

    def reusing() -> Iterator[bytearray]:
        buffer = bytearray()
        for part in parts(DATA):
            buffer.clear()
            buffer += part
            yield buffer

    bank.put("x", reusing())  # type: ignore[arg-type]
    assert bank.get("x") == DATA


SIZES = [0, 1, 63, 64, 65, 2047, 2048, 2049, 16_383, 16_384, 16_385, 262_144]
LARGE = [BATCH_BYTES - 1, BATCH_BYTES, BATCH_BYTES + 1, 2 * BATCH_BYTES, 40 * MIB]


@pytest.mark.parametrize("size", SIZES + LARGE)
def test_sizes(bank: Bank, size: int) -> None:
    """Every size comes back, also where a read buffer ends exactly with the source."""
    data = content(size, size)
    sources: dict[str, Any] = {"whole": data, "parts": parts(data, 65_536)}
    for name, source in sources.items():
        assert bank.put(name, source).size == size
        assert bank.get(name) == data


@pytest.mark.parametrize(
    "chunking", ["fine", "default", "coarse", "archive", "fixed:512", "fixed:4096", "fixed:1000000", "gear:64/128/256"]
)
@pytest.mark.parametrize("size", [100, 1500, 2048, 200_000, 9_000_000])
def test_chunkings(chunking: str, size: int) -> None:
    """Every chunking gives the bytes back, and one etag for one content, inline, packed alone or packed in a batch."""
    if size > MIB and chunking in ("fixed:512", "gear:64/128/256"):
        size = MIB
    data = content(size, size)
    with Bank.create(memory_place(), chunking=chunking) as bank:
        etag = bank.put("put", data).etag
        with bank.batch() as batch:
            batch.put("batch", data)
            batch.put("other", b"other")
        bank.put("parts", parts(data, 1000))
        assert bank.get("put") == bank.get("batch") == data
        assert {bank.head(name).etag for name in ("put", "batch", "parts")} == {etag}


@pytest.mark.parametrize("compression", ["none", 1, 3, 22])
def test_compressions(place: Path, compression: int | str) -> None:
    """Every level gives the bytes back, and text takes less room than it has bytes unless there is none."""
    text = b"".join(b"line %d of a text\n" % number for number in range(40_000))
    with Bank.create(place, compression=compression) as bank:
        bank.put("text", text)
        bank.put("noise", DATA)
        assert bank.get("text") == text
        assert bank.get("noise") == DATA
    assert (pack_bytes(place) < len(text) + len(DATA)) == (compression != "none")


@pytest.mark.parametrize(
    "options",
    [
        {"compression": 0},
        {"compression": 23},
        {"compression": "zlib"},
        {"compression": True},
        {"chunking": "x"},
        {"keep_deleted_s": -1},
    ],
    ids=str,
)
def test_refused_options(place: Path, options: dict[str, Any]) -> None:
    """An option that means nothing is refused before anything is created."""
    with pytest.raises(InvalidInputError):
        Bank.create(place, **options)
    assert not place.exists()


# --- what is told of an object -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 100, 5000, 300_000, 9 * MIB])
def test_digest_is_blake3_of_the_content(bank: Bank, size: int) -> None:
    """The digest is BLAKE3 of the whole content where it was asked for, and None where it was not."""
    data = content(size, size)
    assert bank.put("a", data, digest=True).digest == blake3(data).hexdigest()
    assert bank.head("a").digest == blake3(data).hexdigest()
    assert bank.put("b", data).digest is None
    assert bank.head("b").digest is None


def test_head_is_what_put_returned(bank: Bank) -> None:
    """Head tells what put told, to the last field."""
    for size in (10, 10_000):
        info = bank.put("x", content(size, size), metadata={"k": "v", "b": b"\0\xff"}, digest=True)
        assert bank.head("x") == info
        assert list(bank.list()) == [info]
        assert info.metadata == {"k": "v", "b": b"\0\xff"}
        assert info.created.timestamp() == pytest.approx(info.created_ns / 1e9)


@pytest.mark.parametrize(
    "metadata",
    [
        {"k": "x" * METADATA_BYTES_MAX},
        {str(number): "" for number in range(1025)},
        {"k": 1},
        {1: "v"},
        {"k": None},
        {"k": "\ud800"},
        {"\ud800": "v"},
        "text",
        5,
        [("k", "v")],
    ],
    ids=lambda value: repr(value)[:30],
)
def test_refused_metadata(bank: Bank, metadata: Any) -> None:
    """Metadata that is no mapping of text to text or bytes, or too large, is refused and leaves nothing visible."""
    with pytest.raises(InvalidInputError):
        bank.put("x", b"", metadata=metadata)
    assert "x" not in bank


def test_most_metadata(bank: Bank) -> None:
    """Metadata up to its limits comes back."""
    metadata = {f"key {number}": "v" * 40 for number in range(1024)}
    bank.put("x", b"", metadata=metadata)
    large = {"k": b"x" * (METADATA_BYTES_MAX - 16)}
    bank.put("y", b"", metadata=large)
    assert bank.head("x").metadata == metadata
    assert bank.head("y").metadata == large


@pytest.mark.parametrize(
    "name", ["", "a\0b", "x" * 1025, "ü" * 513, "\ud800", b"bytes", None, 5], ids=lambda name: repr(name)[:20]
)
def test_refused_names(bank: Bank, name: Any) -> None:
    """A name that is not 1 to 1024 bytes of UTF-8 without NUL is refused by everything that takes one."""
    calls: list[Callable[[], object]] = [
        lambda: bank.put(name, b""),
        lambda: bank.get(name),
        lambda: bank.head(name),
        lambda: bank.delete(name),
        lambda: bank.delete(name, missing_ok=True),
        lambda: bank.copy(name, "x"),
        lambda: bank.copy("x", name),
        lambda: bank.open_object(name),
        lambda: bank.batch().put(name, b""),
        lambda: bank.batch().delete(name),
    ]
    for call in calls:
        with pytest.raises(InvalidInputError) as caught:
            call()
        assert caught.value.kind is ErrorKind.NAME


ODD_NAMES = ["x" * 1024, "ü" * 512, "/", "//", ".", "../x", "a//b", " ", "\n", "\U0001f980", "\u202e"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: ascii(name)[:20])
def test_odd_names(bank: Bank, name: str) -> None:
    """Any other name is a name, and none of them reaches outside the bank."""
    bank.put(name, DATA)
    assert bank.get(name) == DATA
    assert list(bank) == [name]
    assert name in bank


# --- conditions ----------------------------------------------------------------------------------------------------


def test_conditions_of_a_put(bank: Bank) -> None:
    """if_absent puts only where nothing is, if_version only where that version is."""
    first = bank.put("x", b"1", if_absent=True)
    with pytest.raises(AlreadyExistsError) as taken:
        bank.put("x", b"2", if_absent=True)
    assert taken.value.kind is ErrorKind.OBJECT_EXISTS
    second = bank.put("x", b"2", if_version=first.version)
    with pytest.raises(ConflictError) as lost:
        bank.put("x", b"3", if_version=first.version)
    assert lost.value.kind is ErrorKind.VERSION
    with pytest.raises(ConflictError):
        bank.put("y", b"3", if_version=1)
    assert second.version > first.version
    assert bank.get("x") == b"2"
    assert list(bank) == ["x"]


@pytest.mark.parametrize(
    "wrong", [{"if_absent": True, "if_version": 1}, {"if_version": 0}, {"if_version": "1"}], ids=str
)
def test_refused_conditions(bank: Bank, wrong: dict[str, Any]) -> None:
    """Conditions that contradict each other, or are none, are refused."""
    with pytest.raises(InvalidInputError):
        bank.put("x", b"", **wrong)


def test_delete(bank: Bank) -> None:
    """A deleted object is absent, to delete an absent one is an error unless the caller says otherwise."""
    info = bank.put("x", b"1")
    with pytest.raises(ConflictError):
        bank.delete("x", if_version=info.version + 1)
    bank.delete("x", if_version=info.version)
    assert "x" not in bank
    with pytest.raises(NotFoundError):
        bank.get("x")
    with pytest.raises(NotFoundError) as absent:
        bank.delete("x")
    assert absent.value.kind is ErrorKind.NO_OBJECT
    bank.delete("x", missing_ok=True)
    assert bank.stats().objects == len(bank) == 0


def test_copy(bank: Bank, place: Path) -> None:
    """A copy has the content and metadata under another name and a version of its own, and stores no data."""
    info = bank.put("x", DATA, metadata={"k": "v"}, digest=True)
    before = pack_bytes(place)
    copied = bank.copy("x", "y")
    assert pack_bytes(place) == before
    assert (copied.etag, copied.metadata, copied.digest) == (info.etag, info.metadata, info.digest)
    assert copied.version > info.version
    assert bank.head("y") == copied
    bank.delete("x")
    assert bank.get("y") == DATA
    with pytest.raises(NotFoundError):
        bank.copy("x", "z")
    with pytest.raises(AlreadyExistsError):
        bank.copy("y", "y", if_absent=True)
    assert bank.copy("y", "y", if_version=copied.version).version > copied.version
    assert bank.get("y") == DATA


# --- deduplication -------------------------------------------------------------------------------------------------


def test_second_put_stores_nothing(bank: Bank, place: Path) -> None:
    """Content that is there is not stored again, under another name, in a batch or from another kind of source."""
    data = content(1, 5 * MIB)
    bank.put("a", data)
    before = packs_of(place)
    bank.put("b", data)
    bank.put("c", parts(data))
    with bank.batch() as batch:
        batch.put("d", data)
    assert packs_of(place) == before
    assert all(bank.get(name) == data for name in "abcd")


def test_repetition_within_one_put(place: Path) -> None:
    """What repeats within one put is stored once."""
    once = content(1, MIB)
    with Bank.create(place, chunking="fixed:65536") as bank:
        bank.put("x", once * 40)
        assert bank.get("x") == once * 40
    assert pack_bytes(place) < 1.2 * MIB


def test_repetition_within_a_batch(bank: Bank, place: Path) -> None:
    """What two objects of one batch have in common is stored once."""
    data = content(1, 3 * MIB)
    with bank.batch() as batch:
        for number in range(10):
            batch.put(str(number), data)
    assert pack_bytes(place) < 3.3 * MIB
    assert all(bank.get(name) == data for name in bank)


def test_edited_image_adds_little(bank: Bank, place: Path) -> None:
    """100 edits in an image of 64 MiB, insertions among them, add the chunks around them and no more."""
    image = bytearray(content("image", 64 * MIB))
    bank.put("image", image)
    before = pack_bytes(place)
    for number in range(100):
        at = number * 600_000 + 12_345
        image[at : at + 10] = content(number, 10 + number % 3)
    bank.put("edited", image)
    assert bank.get("edited") == image
    assert pack_bytes(place) - before < 20 * MIB
    assert bank.get("image") == content("image", 64 * MIB)


# --- the state of a bank -------------------------------------------------------------------------------------------


def test_stats_add_up(bank: Bank, place: Path) -> None:
    """The counts are those of what is there, through overwrites and deletes."""
    empty = bank.stats()
    assert (empty.objects, empty.logical_bytes, empty.stored_bytes, empty.deleted_objects) == (0, 0, 0, 0)
    bank.put("a", content(1, MIB))
    bank.put("b", content(1, MIB))
    bank.put("c", b"inline")
    bank.put("c", b"inline again")
    bank.delete("b")
    stats = bank.stats()
    assert (stats.objects, stats.logical_bytes) == (2, MIB + len(b"inline again"))
    assert MIB <= stats.unique_bytes < 1.01 * MIB
    assert stats.stored_bytes == pack_bytes(place)
    assert stats.packs == len(packs_of(place))
    assert stats.deleted_objects == 2
    assert stats.version == bank.put("d", b"").version - 1
    assert len(bank) == 3


def test_read_only_refuses_writes(bank: Bank, place: Path) -> None:
    """A bank that was opened read-only reads and writes nothing, though another one of the process writes."""
    bank.put("x", DATA)
    with Bank.open(place, read_only=True) as reader:
        writes: list[Callable[[], object]] = [
            lambda: reader.put("y", b""),
            lambda: reader.delete("x"),
            lambda: reader.copy("x", "y"),
            reader.batch,
        ]
        for write in writes:
            with pytest.raises(ReadOnlyError) as caught:
                write()
            assert caught.value.kind is ErrorKind.OPENED_READ_ONLY
        bank.put("z", b"new")
        assert list(reader) == ["x", "z"]
        assert reader.get("x") == DATA


def test_closed_bank(bank: Bank) -> None:
    """A closed bank refuses every call, and closing it again does nothing."""
    bank.put("x", DATA)
    batch, names = bank.batch(), bank.list()
    bank.close()
    bank.close()
    calls: list[Callable[[], object]] = [
        lambda: bank.get("x"),
        lambda: bank.put("x", b""),
        lambda: bank.head("x"),
        lambda: list(bank.list()),
        lambda: list(names),
        lambda: len(bank),
        lambda: "x" in bank,
        lambda: batch.put("y", DATA),
        batch.commit,
        bank.stats,
        bank.refresh,
        bank.batch,
        bank.sync,
    ]
    for call in calls:
        with pytest.raises(InvalidInputError) as caught:
            call()
        assert caught.value.kind is ErrorKind.CLOSED


def test_open_object_of_a_closed_bank(bank: Bank) -> None:
    """A file that outlives its bank says that the bank is closed."""
    bank.put("x", content(1, 20 * MIB))
    file = bank.open_object("x")
    file.read(10)
    bank.close()
    with pytest.raises(InvalidInputError) as caught:
        file.read()
    assert caught.value.kind is ErrorKind.CLOSED


def test_close_under_other_threads(place: Path) -> None:
    """A bank that is closed while threads read and write gives each of them its result or "closed", and ends."""
    bank = Bank.create(place)
    bank.put("x", content(1, 5 * MIB))
    other: list[BaseException] = []
    seen = threading.Barrier(5)

    def work(number: int) -> None:
        seen.wait()
        try:
            while True:
                bank.put(f"n{number}", content(number, 100_000))
                bank.get("x")
                list(bank)
        except InvalidInputError as error:
            if error.kind is not ErrorKind.CLOSED:
                other.append(error)
        except BaseException as error:
            other.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    seen.wait()
    threading.Event().wait(0.2)
    bank.close()
    for thread in threads:
        thread.join(10)
    assert other == []
    assert not any(thread.is_alive() for thread in threads)
    with Bank.open(place) as again:
        assert again.get("x") == content(1, 5 * MIB)


def test_two_opens_share(bank: Bank, place: Path) -> None:
    """Two opens of one bank in one process see each other's work at once, and one's closing leaves the other alone."""
    other = Bank.open(place)
    bank.put("x", DATA)
    assert other.get("x") == DATA
    other.put("y", DATA)
    assert bank.head("y") == other.head("y")
    bank.close()
    assert other.get("y") == DATA
    other.close()
    with Bank.open(place) as again:
        assert list(again) == ["x", "y"]


def test_context_managers(place: Path) -> None:
    """Leaving the block closes the bank, by an exception too."""
    bank = Bank.create(place)

    def fail() -> None:
        with bank:
            bank.put("x", b"1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with pytest.raises(InvalidInputError):
        bank.get("x")


def test_places_without_a_bank(place: Path) -> None:
    """What is no bank is not found; what is one, or is in use, is not created over."""
    with pytest.raises(NotFoundError) as none:
        Bank.open(place)
    assert none.value.kind is ErrorKind.NO_BANK
    place.mkdir()
    with pytest.raises(NotFoundError):
        Bank.open(place)
    (place / "file").write_bytes(b"")
    with pytest.raises(InvalidInputError):
        Bank.create(place)
    (place / "file").unlink()
    Bank.create(place).close()
    with pytest.raises(AlreadyExistsError) as exists:
        Bank.create(place)
    assert exists.value.kind is ErrorKind.BANK_EXISTS
    with pytest.raises(NotFoundError):
        Bank.open("memory://never-made")


def test_cache_dir_that_is_a_file(tmp_path: Path, place: Path) -> None:
    """A place for the index that is none is a StoreError, and the bank can be created elsewhere then."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        Bank.create(place, cache_dir=tmp_path / "file")
    with Bank.create(place, cache_dir=tmp_path / "cache") as bank:
        bank.put("x", DATA)
    assert not (place / "index").exists()
    with Bank.open(place) as bank:
        assert bank.get("x") == DATA


def test_replaced_bank_is_noticed(bank: Bank, place: Path, tmp_path: Path) -> None:
    """A bank that took the place of an open one is not mistaken for it."""
    Bank.create(tmp_path / "other").close()
    (place / "BANK").unlink()
    (tmp_path / "other" / "BANK").rename(place / "BANK")
    with pytest.raises(StoreError):
        Bank.open(place)
