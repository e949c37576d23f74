"""The obligations of ``Store`` as tests: inherit the suite, give it your store, run pytest.

    pytest.register_assert_rewrite("casbank.testing.stores")      # in conftest.py: failures show their values

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def store(self, tmp_path):
            with closing(MyStore(tmp_path)) as store:
                yield store

        def reopen(self, store):
            return MyStore(store.root)

Rule 1: the suite uses nothing but the protocol. Rule 2: every test starts with an empty store. What it cannot test:
that a blob survives a power cut, and that nobody uses a name again after a delete (the callers see to that).
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from casbank.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from casbank.limits import KIB, MIB
from casbank.model import Buffer
from casbank.storage.base import BLOB_NAME_BYTES_MAX, BlobInfo, Store

RIVALS = 16
READERS = 4
# More than one writev takes, and no multiple of it.
MANY_PARTS = 2500

CONTENTS: dict[str, list[Buffer]] = {
    "no parts": [],
    "one empty part": [b""],
    "small": [b"content"],
    "every kind of buffer": [b"bytes", bytearray(b"bytearray"), memoryview(b"a memoryview")[2:], b"", b"end"],
    "many parts": [b"%d," % number for number in range(MANY_PARTS)],
    "5 MiB": [bytes(range(256)) * (4 * KIB)] * 5,
}
RANGES = [(0, None), (0, 0), (0, 4), (3, 4), (3, None), (9, 1), (9, 5), (10, None), (10, 1), (11, 1), (2**40, 2**62)]
BAD_NAMES = [
    "", "/", "/a", "a/", "a//b", ".", "..", "./a", "../a", "a/..", "a/../b", "a b", "a\n", "a\\b", "a\0", "ä", "tmp/a",
    "a" * (BLOB_NAME_BYTES_MAX + 1),
]  # fmt: skip
CALLS: dict[str, Callable[[Store, str], object]] = {
    "put_new": lambda store, name: store.put_new(name, [b"x"]),
    "get": lambda store, name: store.get(name),
    "size": lambda store, name: store.size(name),
    "delete": lambda store, name: store.delete(name),
}


class StoreConformance:
    """Inherit it, and define a fixture ``store`` that gives an empty store and closes it in the end."""

    def reopen(self, store: Store) -> Store:  # noqa: ARG002  # for those who override it
        """A second store over the same data; leave it out if yours lives no longer than its instance."""
        pytest.skip("this store does not outlive its instance")

    @pytest.mark.parametrize("parts", CONTENTS.values(), ids=CONTENTS.keys())
    def test_what_was_put_comes_back(self, store: Store, parts: list[Buffer]) -> None:
        """A blob is its parts, one behind the other, however many there are."""
        store.put_new("packs/00/blob", parts)
        whole = b"".join(parts)
        assert store.get("packs/00/blob") == whole
        assert store.size("packs/00/blob") == len(whole)

    def test_a_copy_outlives_what_it_was_copied_from(self, store: Store) -> None:
        """A second name has the content, and keeps it when the first one goes; it is refused where it is taken."""
        store.put_new("packs/00/blob", [b"content"])
        store.copy("packs/00/blob", "quarantine/blob")
        with pytest.raises(AlreadyExistsError):
            store.copy("packs/00/blob", "quarantine/blob")
        store.delete("packs/00/blob")
        assert store.get("quarantine/blob") == b"content"
        with pytest.raises(NotFoundError):
            store.copy("packs/00/blob", "quarantine/other")

    @pytest.mark.parametrize(("start", "length"), RANGES)
    def test_ranges_are_exact(self, store: Store, start: int, length: int | None) -> None:
        """A range is what a slice of the content would be, also past the end."""
        content = b"0123456789"
        store.put_new("blob", [content])
        end = len(content) if length is None else start + length
        assert store.get("blob", start, length) == content[start:end]

    @pytest.mark.parametrize(("start", "length"), [(-1, None), (-1, 1), (0, -1)])
    def test_negative_ranges_are_refused(self, store: Store, start: int, length: int | None) -> None:
        """A negative number is an error of the caller, never counted from the end."""
        store.put_new("blob", [b"0123456789"])
        with pytest.raises(InvalidInputError):
            store.get("blob", start, length)

    def test_what_is_absent_is_not_found(self, store: Store) -> None:
        """A blob that was never put is NotFoundError, also where others are near it."""
        store.put_new("packs/00/blob", [b"x"])
        for name in ("other", "packs", "packs/00", "packs/00/blo", "packs/00/blob/deeper"):
            with pytest.raises(NotFoundError):
                store.get(name)
            with pytest.raises(NotFoundError):
                store.size(name)

    def test_a_taken_name_is_refused(self, store: Store) -> None:
        """A second put of a name changes nothing and says so."""
        store.put_new("blob", [b"first"])
        with pytest.raises(AlreadyExistsError):
            store.put_new("blob", [b"second, and longer"])
        assert store.get("blob") == b"first"
        assert [info.name for info in store.list("")] == ["blob"]

    def test_one_of_many_rivals_wins(self, store: Store) -> None:
        """Of several puts of one name at once exactly one succeeds, and the blob is wholly its."""
        gate = threading.Barrier(RIVALS)

        def compete(number: int) -> int | None:
            gate.wait()
            try:
                store.put_new("contested", [bytes([number]) * (64 * KIB)] * 4)
            except AlreadyExistsError:
                return None
            return number

        with ThreadPoolExecutor(RIVALS) as pool:
            winners = [number for number in pool.map(compete, range(RIVALS)) if number is not None]
        assert len(winners) == 1
        assert store.get("contested") == bytes(winners) * (256 * KIB)

    def test_readers_see_nothing_or_all(self, store: Store) -> None:
        """A blob that is being put is absent or whole to get, size and list, never in between."""
        content = bytes(range(256)) * (16 * KIB)
        gate = threading.Barrier(READERS + 1)
        put_ended = threading.Event()

        def watch(_: int) -> set[int]:
            lengths: set[int] = set()
            gate.wait()
            while not put_ended.is_set():
                lengths |= {info.size for info in store.list("packs/")}
                with suppress(NotFoundError):
                    lengths |= {store.size("packs/blob"), len(store.get("packs/blob"))}
            return lengths

        with ThreadPoolExecutor(READERS) as pool:
            watchers = pool.map(watch, range(READERS))
            gate.wait()
            try:
                store.put_new("packs/blob", [content[start : start + KIB] for start in range(0, len(content), KIB)])
            finally:
                put_ended.set()
            assert set().union(*watchers) <= {4 * MIB}

    def test_list_is_in_byte_order(self, store: Store) -> None:
        """Names come in the order of their bytes, where a slash is a byte like others."""
        names = ["a/b", "a-b", "a.b", "a0", "aZ/c", "B", "c/c/d", "c/c.d", "c/D", "_", "a/b0", "a/C"]
        for name in names:
            store.put_new(name, [name.encode()])
        assert [info.name for info in store.list("")] == sorted(names)

    @pytest.mark.parametrize(
        ("prefix", "found"),
        [
            ("", ["a/b", "a/bc", "a/c/d", "ab", "b"]),
            ("a", ["a/b", "a/bc", "a/c/d", "ab"]),
            ("a/", ["a/b", "a/bc", "a/c/d"]),
            ("a/b", ["a/b", "a/bc"]),
            ("a/bc", ["a/bc"]),
            ("a/c", ["a/c/d"]),
            ("a/c/", ["a/c/d"]),
            ("a/b/", []),
            ("a/bcd", []),
            ("c", []),
            ("/", []),
            ("../", []),
        ],
    )
    def test_prefixes_are_strings(self, store: Store, prefix: str, found: list[str]) -> None:
        """A list holds the names that begin with the prefix, whether or not it ends at a slash."""
        for name in ("b", "ab", "a/c/d", "a/bc", "a/b"):
            store.put_new(name, [b"x"])
        assert [info.name for info in store.list(prefix)] == found

    def test_list_tells_sizes_and_times(self, store: Store) -> None:
        """A listed blob has its size, and a time that does not change from list to list."""
        store.put_new("blob", [b"12345"])
        (info,) = store.list("")
        assert info == BlobInfo("blob", 5, info.modified_ns)
        assert info.modified_ns > 0
        assert list(store.list("")) == [info]

    def test_list_goes_on_while_others_write(self, store: Store) -> None:
        """What was there all the time is listed once, whatever comes and goes during the list."""
        kept = [f"packs/{number:02}/kept" for number in range(20)]
        for name in kept:
            store.put_new(name, [b"x"])
        found = []
        for number, info in enumerate(store.list("packs/")):
            found.append(info.name)
            if number < len(kept):
                store.put_new(f"packs/{number:02}/new", [b"x"])
                store.delete(f"packs/{number - 1:02}/new")
        assert [name for name in found if name.endswith("kept")] == kept

    def test_deleting_is_idempotent(self, store: Store) -> None:
        """A deleted blob is gone from everything, and deleting it again is no error."""
        store.put_new("packs/blob", [b"x"])
        assert store.get("packs/blob") == b"x"
        for _ in range(2):
            store.delete("packs/blob")
            assert list(store.list("")) == []
            with pytest.raises(NotFoundError):
                store.get("packs/blob")
        store.put_new("packs/other", [b"x"])
        for absent in ("never", "never/was", "packs/other/deeper"):
            store.delete(absent)
        assert store.get("packs/other") == b"x"

    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
    @pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
    def test_bad_names_are_refused(self, store: Store, name: str, call: Callable[[Store, str], object]) -> None:
        """A name that is no blob's is an error of the caller in every call, and leaves nothing behind."""
        with pytest.raises(InvalidInputError):
            call(store, name)
        assert list(store.list("")) == []

    def test_the_caller_may_reuse_its_buffers(self, store: Store) -> None:
        """What happens to the parts after put_new returned does not reach the blob."""
        part = bytearray(b"before")
        parts: list[Buffer] = [part]
        store.put_new("blob", parts)
        part[:] = b"after!"
        parts.append(b"more")
        assert store.get("blob") == b"before"

    def test_closing_twice_is_harmless(self, store: Store) -> None:
        """close() may be called again."""
        store.put_new("blob", [b"x"])
        assert store.get("blob") == b"x"
        store.close()
        store.close()

    def test_blobs_outlive_the_store(self, store: Store) -> None:
        """Another store over the same place finds what the first one acknowledged, and no more."""
        store.put_new("packs/kept", [b"kept"])
        store.put_new("packs/deleted", [b"x"])
        store.delete("packs/deleted")
        second = self.reopen(store)
        try:
            assert second.get("packs/kept") == b"kept"
            assert [info.name for info in second.list("")] == ["packs/kept"]
            with pytest.raises(AlreadyExistsError):
                second.put_new("packs/kept", [b"x"])
        finally:
            second.close()
