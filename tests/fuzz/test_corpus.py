"""The targets without a fuzzer, over what fuzzing has saved; and with one, where it is installed, for a moment."""

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from casbank.errors import InvalidInputError
from fuzz.asked import comes_back, decoded, little_memory
from fuzz.mutator import mutate
from fuzz.targets import MESSAGES, TARGETS

CORPUS = Path(__file__).parent / "corpus"
TOOL = Path(__file__).parents[2] / "tools" / "fuzz.py"
# It is read in every run of the default suite, and kept in the history for ever.
CORPUS_BYTES_MAX = 100 * 2**10
SECONDS = 2


@pytest.fixture(autouse=True)
def traced() -> Iterator[None]:
    """The targets turn tracemalloc on (asked.py); other tests would be slow under it."""
    yield
    tracemalloc.stop()


def run_tool(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def saved(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())


@pytest.mark.parametrize("name", TARGETS)
def test_target_holds_for_its_corpus(name: str) -> None:
    """What was ever of interest to the fuzzer is decoded or refused as it should be."""
    assert saved(name)
    for path in saved(name):
        TARGETS[name](path.read_bytes())


def test_corpus_is_small_and_all_of_it_is_used() -> None:
    """No folder of the corpus is without a target, and all files together are few bytes."""
    assert {folder.name for folder in CORPUS.iterdir()} <= {*TARGETS, "kernel"}
    assert sum(path.stat().st_size for path in CORPUS.glob("*/*")) <= CORPUS_BYTES_MAX


def test_another_exception_is_a_finding() -> None:
    """An exception that is no refusal leaves a target."""
    with pytest.raises(ZeroDivisionError):
        decoded(lambda data: 1 // len(data), b"")


def test_a_refusal_of_another_kind_is_a_finding() -> None:
    """A decoder of stored bytes does not blame its caller."""

    def blame(data: bytes) -> None:
        raise InvalidInputError("the caller is wrong")

    with pytest.raises(InvalidInputError):
        decoded(blame, b"")


def test_much_memory_is_a_finding() -> None:
    """A decoder that believes a claimed length fails its target, even if it gives the memory back."""
    with pytest.raises(AssertionError, match="bytes were allocated"), little_memory():
        bytes(65 * 2**20)


def test_a_value_that_does_not_come_back_is_a_finding() -> None:
    """A decoder that takes what its encoder would write otherwise fails its target."""
    with pytest.raises(AssertionError):
        comes_back(int, lambda value: str(value + 1).encode(), b"7")


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_mutated_messages_stay_messages(name: str) -> None:
    """The mutation by value makes other values of a message, all of them well formed and within the bound."""
    data = max((path.read_bytes() for path in saved(name) if _is_message(path.read_bytes())), key=len)
    changed = {mutate(data, 2048, seed, lambda same, _: same) for seed in range(100)}
    assert len(changed) > 10
    assert all(map(_is_message, changed))
    assert all(len(one) <= 2048 for one in changed)


def _is_message(data: bytes) -> bool:
    try:
        msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, msgpack.UnpackException):
        return False
    return True


def test_one_input_is_run_without_a_fuzzer() -> None:
    """The command that reproduces a finding needs no atheris, and says when there is nothing to be found."""
    path = saved("descriptor")[0]
    done = run_tool("descriptor", "--input", path)
    assert (done.returncode, done.stdout) == (0, f"descriptor holds for {path}\n"), done.stderr
