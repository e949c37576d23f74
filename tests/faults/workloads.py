"""Small workloads on small banks: what each step does, and what the bank must hold behind it.

Everything is the same from run to run but salts and process ids, so that the label of a crash state tells the same one
each time: the clock ticks, randomness is counted, and whoever submits work to a pool does it himself.
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import count, product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from blake3 import blake3

TESTS = Path(__file__).resolve().parent.parent
sys.path += [str(TESTS), str(TESTS / "engine")]

from bank_scene import engine_of  # noqa: E402 - the path comes first
from collector_scene import made_of, small_limits  # noqa: E402

from casbank import Bank, World  # noqa: E402
from casbank.engine import resources  # noqa: E402
from casbank.journal.local import LocalJournal  # noqa: E402
from casbank.testing.faults import Recording, recording  # noqa: E402

_Result = TypeVar("_Result")
Contents = dict[str, bytes]

KEY = b"a key of thirty-two bytes, or so"
# A page: what is allocated ahead is then written over by a few records, and some segments begin in a workload.
_GROW_BYTES = 4096
_SEGMENT_BYTES_MAX = 3000
# To clear 40 MiB for each writer would take longer than all the rest.
_PACK_BUFFER_BYTES = 2**16


class Step(NamedTuple):
    """One operation at a place (0, 1, 2) of a workload: what it does to a bank, and to what the bank holds."""

    act: Callable[[Bank, int], object]
    model: Callable[[Contents, int], None] = lambda there, at: None


def _large(at: int) -> bytes:
    # Block 1 is in the base too.
    return made_of([1, *range(100 + 10 * at, 103 + 10 * at)])


def _put(name: str, content: Callable[[int], bytes]) -> Step:
    return Step(
        lambda bank, at: bank.put(name.format(at), content(at)),
        lambda there, at: there.update({name.format(at): content(at)}),
    )


def _batch(bank: Bank, at: int) -> None:
    with bank.batch() as batch:
        batch.put(f"batch{at}-small", b"in a batch %d" % at)
        batch.put(f"batch{at}-large", made_of([200 + at, 2, 210 + at]))
        batch.delete(f"batch{at}-gone")


def _batched(there: Contents, at: int) -> None:
    there |= {f"batch{at}-small": b"in a batch %d" % at, f"batch{at}-large": made_of([200 + at, 2, 210 + at])}
    del there[f"batch{at}-gone"]


def _collect(bank: Bank, budget_bytes: int | None) -> object:
    return bank.collect(bank.plan_collection(0, 0, budget_bytes=budget_bytes))


STEPS = {
    "put-small": _put("small{}", lambda at: b"small %d" % at),
    "put-large": _put("large{}", _large),
    "overwrite": _put("base", lambda at: made_of([2, 300 + at, 3, 310 + at])),
    "delete": Step(lambda bank, at: bank.delete(f"gone{at}"), lambda there, at: there.pop(f"gone{at}") and None),
    "copy": Step(
        lambda bank, at: bank.copy("base", f"copy{at}"),
        lambda there, at: there.update({f"copy{at}": there["base"]}),
    ),
    "batch": Step(_batch, _batched),
    "collect": Step(lambda bank, at: _collect(bank, 0)),
    "rewrite": Step(lambda bank, at: _collect(bank, None)),
    "checkpoint": Step(lambda bank, at: engine_of(bank).checkpoints.write()),
    "rotate": Step(lambda bank, at: bank.keys.rotate()),
    "rebuild": Step(lambda bank, at: bank.rebuild_index()),
}
ENCRYPTED = "rotate"

WORKLOADS = [steps for length in (1, 2, 3) for steps in product(STEPS, repeat=length)]
"""All of at most three steps."""


class _Inline:
    """A pool whose tasks are run by who submits them."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def submit(self, task: Callable[[], _Result]) -> "Future[_Result]":
        future: Future[_Result] = Future()
        try:
            future.set_result(task())
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self) -> None:
        pass


@contextmanager
def small_scene(*, inline: bool = True) -> Iterator[None]:
    """Small packs, small segments; ``inline``: no threads, so that every run is the same."""
    defaults: dict[str, Any] = LocalJournal.__init__.__kwdefaults__
    before = dict(defaults)
    pool, buffer_bytes = resources.ThreadPoolExecutor, resources.PACK_BUFFER_BYTES
    defaults.update(grow_bytes=_GROW_BYTES, segment_bytes_max=_SEGMENT_BYTES_MAX)
    resources.PACK_BUFFER_BYTES = _PACK_BUFFER_BYTES
    if inline:
        resources.ThreadPoolExecutor = _Inline  # type: ignore[misc, assignment]
    try:
        with small_limits():
            yield
    finally:
        defaults.update(before)
        resources.PACK_BUFFER_BYTES = buffer_bytes
        resources.ThreadPoolExecutor = pool  # type: ignore[misc]


def ticking_world(seed: str) -> World:
    """A clock that ticks a millisecond a look, randomness from a counter."""
    ticks = count(1_767_225_600_000_000_000, 1_000_000)
    numbers = count()
    return World(lambda: next(ticks), lambda length: blake3(f"{seed} {next(numbers)}".encode()).digest(length))


class Base:
    """A bank in ``folder / "bank"``, plain or encrypted, and what it holds; copied for each workload."""

    def __init__(self, folder: Path, *, encrypted: bool) -> None:
        self.folder = folder
        self.encrypted = encrypted
        self.contents: Contents = {}
        folder.mkdir()
        (folder / "key").write_bytes(KEY)
        options: dict[str, Any] = {"key_file": folder / "key", "cache_dir": folder / "cache"} if encrypted else {}
        with Bank.create(
            folder / "bank", chunking="gear:64/128/256", keep_deleted_s=0, world=ticking_world("base"), **options
        ) as bank:
            self._fill(bank)

    def _fill(self, bank: Bank) -> None:
        """Something for each step to do: packs that are dead, or mostly; a checkpoint that a second one follows."""
        for at in range(3):
            self._put(bank, f"gone{at}", b"deleted %d" % at)
            self._put(bank, f"batch{at}-gone", b"gone %d" % at)
        bank.put("dead", made_of([50, 51]))
        bank.put("mostly dead", made_of([60, 61, 62]))
        self._put(bank, "base", made_of([1, 2]))
        self._put(bank, "rest", made_of([60]))
        engine_of(bank).checkpoints.write()
        bank.delete("dead")
        bank.delete("mostly dead")

    def _put(self, bank: Bank, name: str, content: bytes) -> None:
        bank.put(name, content)
        self.contents[name] = content

    def copy(self, folder: Path) -> Path:
        shutil.copytree(self.folder, folder)
        return folder


def open_bank(folder: Path, *, encrypted: bool, seed: str = "open", **options: Any) -> Bank:
    """The bank of a base, of its copy or of a crash state."""
    if encrypted:
        options |= {"key_file": folder / "key", "cache_dir": folder / "cache"}
    return Bank.open(folder / "bank", world=ticking_world(seed), **options)


def models(base: Contents, steps: tuple[str, ...]) -> list[Contents]:
    """What the bank holds before the first step and behind each."""
    found = [dict(base)]
    for at, step in enumerate(steps):
        found.append(dict(found[-1]))
        STEPS[step].model(found[-1], at)
    return found


def record(base: Base, steps: tuple[str, ...], folder: Path) -> Recording:
    """Do the steps on a copy of the base, in ``folder``, which has to stay while the states are looked at: a file
    there has its inode's number for itself."""
    base.copy(folder)
    with recording(folder) as recorded, open_bank(folder, encrypted=base.encrypted) as bank:
        for at, step in enumerate(steps):
            with recorded.step(f"{at}"):
                STEPS[step].act(bank, at)
    return recorded
