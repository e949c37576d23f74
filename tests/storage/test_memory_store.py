"""The memory store keeps every promise of the protocol but durability."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from casbank.storage.memory import MemoryStore
from casbank.testing.stores import StoreConformance
from casbank.world import World


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self) -> Iterator[MemoryStore]:
        with closing(MemoryStore()) as store:
            yield store


def test_times_are_those_of_the_world() -> None:
    """A blob's time is asked of the world that the store was given."""
    store = MemoryStore(world=World(now_ns=lambda: 42))
    store.put_new("blob", [b"x"])
    assert next(store.list("")).modified_ns == 42
