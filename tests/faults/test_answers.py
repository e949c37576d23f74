"""A store whose answers go astray: it does what it says, and a bank on it keeps its word."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from crash_check import check_contents
from workloads import STEPS, Contents, made_of, small_scene, ticking_world

from casbank import Bank, CasbankError
from casbank.engine import place
from casbank.errors import AlreadyExistsError, ErrorKind, NotFoundError, StoreError
from casbank.storage.memory import MemoryStore
from casbank.testing.faults import Answer, FaultyStore, Request, the_nth
from casbank.testing.stores import StoreConformance

FAULTLESS = the_nth(0, Answer.GIVEN)
STEPS_DONE = ("put-large", "overwrite", "batch", "rewrite", "checkpoint")


class TestConformance(StoreConformance):
    """With nothing but good answers it is a store like any other."""

    @pytest.fixture
    def store(self) -> FaultyStore:
        return FaultyStore(MemoryStore(), FAULTLESS)


def test_a_failed_put_is_not_carried_out() -> None:
    """FAILED: an error, and nothing in the store, now or later."""
    inner = MemoryStore()
    store = FaultyStore(inner, the_nth(1, Answer.FAILED))
    with pytest.raises(StoreError) as error:
        store.put_new("a", [b"x"])
    assert error.value.kind is ErrorKind.GENERAL
    store.deliver()
    assert list(inner.list("")) == []


def test_a_lost_answer_leaves_the_blob() -> None:
    """LOST: the outcome is unknown to the caller, and the blob is there."""
    inner = MemoryStore()
    store = FaultyStore(inner, the_nth(1, Answer.LOST))
    with pytest.raises(StoreError) as error:
        store.put_new("a", [b"x"])
    assert error.value.kind is ErrorKind.OUTCOME_UNKNOWN
    assert inner.get("a") == b"x"


def test_a_delayed_put_comes_later() -> None:
    """DELAYED: the outcome is unknown, the blob comes when it is delivered, with the bytes of the call."""
    inner = MemoryStore()
    store = FaultyStore(inner, the_nth(1, Answer.DELAYED))
    content = bytearray(b"x")
    with pytest.raises(StoreError):
        store.put_new("a", [content])
    content[:] = b"y"
    assert list(inner.list("")) == []
    store.deliver()
    assert inner.get("a") == b"x"


def test_a_repeated_delete_comes_twice() -> None:
    """REPEATED: a good answer, and the request once more later; what it meets then is nobody's error."""
    inner = MemoryStore()
    store = FaultyStore(inner, lambda request: Answer.REPEATED)
    store.put_new("a", [b"x"])
    store.delete("a")
    with pytest.raises(NotFoundError):
        inner.get("a")
    store.deliver()
    assert list(inner.list("")) == []
    store.put_new("b", [b"x"])
    store.deliver()
    with pytest.raises(AlreadyExistsError):
        store.put_new("b", [b"x"])


def test_requests_are_recorded() -> None:
    """Each request is there with its number, in the order in which they came, whatever became of it."""
    store = FaultyStore(MemoryStore(), the_nth(1, Answer.FAILED))
    with pytest.raises(StoreError):
        store.put_new("a", [b"x"])
    store.delete("a")
    assert list(store.list("packs/")) == []
    assert store.requests == [Request(1, "put_new", "a"), Request(2, "delete", "a"), Request(3, "list", "packs/")]


# --- a bank on it ----------------------------------------------------------------------------------------------------


@contextmanager
def bank_on_faulty_store() -> Iterator[tuple[FaultyStore, Bank]]:
    """A bank in memory, and its store, which does nothing wrong yet."""
    name = str(uuid.uuid4())
    url = f"memory://{name}"
    with Bank.create(url, chunking="gear:64/128/256", keep_deleted_s=0, world=ticking_world("store")) as bank:
        bank.put("base", made_of([1, 2]))
        for at in range(len(STEPS_DONE)):
            bank.put(f"batch{at}-gone", b"gone")
    inner, journal = place._memory_banks[name]
    store = FaultyStore(inner, FAULTLESS)
    place._memory_banks[name] = store, journal  # type: ignore[assignment]
    with Bank.open(url, world=ticking_world("store, open")) as bank:
        store.requests.clear()
        yield store, bank


def work(bank: Bank) -> list[Contents]:
    """Do the steps as far as possible; what the bank may hold then."""
    there = {f"batch{at}-gone": b"gone" for at in range(len(STEPS_DONE))} | {"base": made_of([1, 2])}
    allowed: list[Contents] = [there]
    for at, step in enumerate(STEPS_DONE):
        behind = [dict(contents) for contents in allowed]
        for contents in behind:
            STEPS[step].model(contents, at)
        try:
            STEPS[step].act(bank, at)
            allowed = behind
        except CasbankError as error:
            if error.kind is ErrorKind.OUTCOME_UNKNOWN:
                allowed += behind
    return allowed


@pytest.mark.parametrize("answer", [answer for answer in Answer if answer is not Answer.GIVEN], ids=lambda a: a.name)
def test_no_answer_that_goes_astray_loses_anything(answer: Answer) -> None:
    """Whichever answer does: what was acknowledged is there, before and after the rest is delivered and collected; what
    raised is there as a whole or not at all."""
    number, was_reached = 0, True
    with small_scene():
        while was_reached:
            number += 1
            with bank_on_faulty_store() as (store, bank):
                store.choose = the_nth(number, answer)
                allowed = work(bank)
                was_reached = len(store.requests) >= number
                store.choose = FAULTLESS
                before = {name: bank.get(name) for name in bank}
                store.deliver()
                bank.collect(bank.plan_collection(0, 0, force=True))
                check_contents((before, {name: bank.get(name) for name in bank}), allowed)
    assert number > 40
