"""A store whose answers go astray, as those of a store behind a network do.

Rule 1: what is wrong is chosen for each request, from what it asks, before it is carried out.
Rule 2: nothing here breaks the obligations of ``Store``: where it is not known what became of a put, the error says so;
late deletes and late repetitions are what those obligations let happen.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import NamedTuple, TypeAlias, TypeVar

from casbank.errors import CasbankError, ErrorKind, StoreError
from casbank.model import Buffer
from casbank.storage.base import BlobInfo, Store

_Result = TypeVar("_Result")


class Answer(Enum):
    """What becomes of a request and of its answer.

    FAILED: it is not carried out, and the caller is told. LOST: it is, and the caller learns nothing. DELAYED: the
    caller learns nothing, and it is carried out later. REPEATED: it is carried out, and once more later.
    """

    GIVEN = auto()
    FAILED = auto()
    LOST = auto()
    DELAYED = auto()
    REPEATED = auto()


class Request(NamedTuple):
    """One request: its number from 1, the method, the name (of a copy its new one) or prefix."""

    number: int
    method: str
    name: str


Choose: TypeAlias = Callable[[Request], Answer]


def the_nth(number: int, answer: Answer) -> Choose:
    """The request of this number is answered so, all others are as they should be."""
    return lambda request: answer if request.number == number else Answer.GIVEN


class FaultyStore:
    """A ``Store`` around another one. ``requests`` are all that came, in their order; ``choose`` may be set anew."""

    def __init__(self, store: Store, choose: Choose) -> None:
        self.requests: list[Request] = []
        self.choose = choose
        self._store = store
        self._late: list[Callable[[], object]] = []
        self._mutex = threading.Lock()

    def deliver(self) -> None:
        """Carry out what is late."""
        with self._mutex:
            late, self._late = self._late, []
        for carry_out in late:
            # Nobody waits for the answer.
            with suppress(CasbankError):
                carry_out()

    def put_new(self, name: str, parts: Sequence[Buffer]) -> None:
        # The caller may reuse its buffers, and this may be carried out later.
        content = [b"".join(bytes(part) for part in parts)]
        self._answer("put_new", name, lambda: self._store.put_new(name, content))

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        return self._answer("get", name, lambda: self._store.get(name, start, length))

    def size(self, name: str) -> int:
        return self._answer("size", name, lambda: self._store.size(name))

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        yield from self._answer("list", prefix, lambda: list(self._store.list(prefix)))

    def copy(self, name: str, target: str) -> None:
        self._answer("copy", target, lambda: self._store.copy(name, target))

    def delete(self, name: str) -> None:
        self._answer("delete", name, lambda: self._store.delete(name))

    def close(self) -> None:
        self._store.close()

    def _answer(self, method: str, name: str, carry_out: Callable[[], _Result]) -> _Result:
        with self._mutex:
            request = Request(len(self.requests) + 1, method, name)
            self.requests.append(request)
            answer = self.choose(request)
            if answer in (Answer.DELAYED, Answer.REPEATED):
                self._late.append(carry_out)
        if answer is Answer.FAILED:
            raise StoreError("the store did not take the request", blob=name)
        if answer is Answer.DELAYED:
            raise _unanswered(request)
        result = carry_out()
        if answer is Answer.LOST:
            raise _unanswered(request)
        return result


def _unanswered(request: Request) -> StoreError:
    # Of a read or a delete nothing is left to be known.
    kind = ErrorKind.OUTCOME_UNKNOWN if request.method in ("put_new", "copy") else ErrorKind.GENERAL
    return StoreError("no answer came from the store", kind=kind, blob=request.name)
