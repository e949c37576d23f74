"""What the journal keeps of one object."""

import msgpack
import pytest
from format_cases import DESCRIPTOR, ids32, numbers
from hypothesis import given
from hypothesis import strategies as st

from casbank import limits
from casbank.errors import CorruptionError, UnsupportedFormatError
from casbank.format.descriptor import Descriptor, decode_descriptor, encode_descriptor

metadata = st.dictionaries(st.text(max_size=20), st.text(max_size=20) | st.binary(max_size=20), max_size=5)
common = {
    "root": ids32,
    "digest": st.none() | ids32,
    "profile": st.integers(0, 255),
    "created_ns": numbers,
    "metadata": metadata,
}
stored = st.builds(Descriptor, size=numbers, depth=st.integers(0, 8), inline=st.none(), **common)
inline = st.binary(max_size=100).flatmap(
    lambda content: st.builds(
        Descriptor, size=st.just(len(content)), depth=st.just(0), inline=st.just(content), **common
    )
)
GOOD = [1, 5, bytes(32), None, 0, 0, 7, {}, b"hello"]
FIELDS = ("version", "size", "root", "digest", "depth", "profile", "created", "metadata", "inline")


def of(**changes: object) -> bytes:
    return msgpack.packb([changes.get(name, value) for name, value in zip(FIELDS, GOOD, strict=True)])


@given(stored | inline)
def test_descriptor_round_trips(descriptor: Descriptor) -> None:
    """A descriptor decodes to what was encoded."""
    assert decode_descriptor(encode_descriptor(descriptor)) == descriptor


def test_descriptor_is_the_documented_array() -> None:
    """The bytes are msgpack of nine elements, in the order of docs/format.md."""
    assert msgpack.unpackb(encode_descriptor(DESCRIPTOR)) == [
        1, 5, bytes(32), bytes(32), 0, 0, DESCRIPTOR.created_ns, {"k": "v", "b": b"\0"}, b"hello",
    ]  # fmt: skip


def test_largest_metadata_is_taken() -> None:
    """Metadata and inline content as large as a put may make them can be read back."""
    value = b"v" * (limits.METADATA_BYTES_MAX // limits.METADATA_KEYS_MAX - 4)
    full = {f"{number:04}": value for number in range(limits.METADATA_KEYS_MAX)}
    content = bytes(limits.INLINE_BYTES_MAX)
    descriptor = Descriptor(len(content), bytes(32), bytes(32), 0, 0, 2**63 - 1, full, content)
    assert decode_descriptor(encode_descriptor(descriptor)) == descriptor


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.0])
def test_another_version_is_unsupported(version: object) -> None:
    """A descriptor of a later version asks for a later casbank, whatever its other fields are."""
    with pytest.raises(UnsupportedFormatError):
        decode_descriptor(msgpack.packb([version, "anything"]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", -1),
        ("size", 2**63),
        ("size", True),
        ("size", 4),
        ("root", bytes(31)),
        ("root", "x" * 32),
        ("digest", bytes(33)),
        ("digest", 0),
        ("depth", 9),
        ("depth", 1),
        ("profile", 256),
        ("created", 2**63),
        ("created", 1.5),
        ("metadata", []),
        ("metadata", {b"k": "v"}),
        ("metadata", {"k": 1}),
        ("metadata", {"k": None}),
        ("inline", "hello"),
        ("inline", b"hell"),
    ],
)
def test_impossible_fields_are_corruption(field: str, value: object) -> None:
    """A field out of its range is never taken; inline content has the object's size and no manifest."""
    with pytest.raises(CorruptionError):
        decode_descriptor(of(**{field: value}))


@pytest.mark.parametrize("count", [1, 8, 10])
def test_another_number_of_fields_is_corruption(count: int) -> None:
    """Version 1 has nine elements."""
    with pytest.raises(CorruptionError):
        decode_descriptor(msgpack.packb(([*GOOD, None])[:count]))


def test_oversized_descriptor_is_corruption() -> None:
    """More than 256 KiB are refused before they become objects."""
    with pytest.raises(CorruptionError):
        decode_descriptor(of(metadata={"k": bytes(256 * limits.KIB)}))
