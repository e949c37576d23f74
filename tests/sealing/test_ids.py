"""Ids of chunks and manifest nodes."""

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from casbank.sealing.ids import PLAIN_IDS


@given(st.binary(max_size=2000))
def test_chunk_is_never_taken_for_a_node(plain: bytes) -> None:
    """The same bytes have one id as a chunk and another as a node, both of 32 bytes."""
    chunk, node = PLAIN_IDS.chunk(plain), PLAIN_IDS.node(plain)
    assert chunk != node
    assert len(chunk) == len(node) == 32


@given(st.binary(max_size=2000))
def test_ids_are_the_documented_hashes(plain: bytes) -> None:
    """A chunk's id is BLAKE3 of its bytes, a node's is derived in a context of its own."""
    assert PLAIN_IDS.chunk(plain) == blake3(plain).digest()
    assert PLAIN_IDS.node(plain) == blake3(plain, derive_key_context="casbank v1 manifest node id").digest()


@pytest.mark.parametrize("convert", [bytes, bytearray, memoryview])
def test_ids_do_not_depend_on_the_kind_of_buffer(convert: type) -> None:
    """Any buffer of the same bytes has the same id."""
    assert PLAIN_IDS.chunk(convert(b"abc")) == PLAIN_IDS.chunk(b"abc")
    assert PLAIN_IDS.node(convert(b"abc")) == PLAIN_IDS.node(b"abc")


def test_ids_never_change() -> None:
    """The ids of nothing are what they were in the first release: the chunk's is BLAKE3's own test vector."""
    assert PLAIN_IDS.chunk(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert PLAIN_IDS.node(b"").hex() == "ac524f914f7ef66d9852cca680be3e43a82ff172ef19d3809fc81a164ef53467"
