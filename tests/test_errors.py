"""The error tree."""

import copy
import pickle

import pytest

from casbank import errors
from casbank.errors import CasbankError, CorruptionError, ErrorKind, NotFoundError, StoreError

BUILTINS = {"NotFoundError": KeyError, "StoreError": OSError, "InvalidInputError": ValueError}
EXIT_CODES = {
    "CasbankError": 1,
    "InvalidInputError": 2,
    "NotFoundError": 3,
    "CorruptionError": 4,
    "LeaseError": 5,
    "StoreError": 6,
    "KeyMismatchError": 7,
    "UnsupportedFormatError": 8,
    "ReadOnlyError": 9,
    "AlreadyExistsError": 10,
    "ConflictError": 10,
}
CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, CasbankError)
]  # fmt: skip


def test_every_class_is_listed() -> None:
    """The tree is exactly the documented one."""
    assert {cls.__name__ for cls in CLASSES} == set(EXIT_CODES)


@pytest.mark.parametrize("cls", CLASSES)
def test_exit_codes(cls: type[CasbankError]) -> None:
    """Each class ends the command line with its documented code."""
    assert cls("message").exit_code == EXIT_CODES[cls.__name__]


def test_unknown_outcome_has_an_exit_code_of_its_own() -> None:
    """A change that may have been made is told from one that was not."""
    assert StoreError("lost the answer", kind=ErrorKind.OUTCOME_UNKNOWN).exit_code == 12
    assert StoreError("full", kind=ErrorKind.DISK_FULL).exit_code == 6


@pytest.mark.parametrize("cls", CLASSES)
def test_classes_are_the_builtins_they_promise(cls: type[CasbankError]) -> None:
    """Whoever catches the builtin of that meaning catches ours, and nobody else does."""
    for builtin in (KeyError, OSError, ValueError):
        assert issubclass(cls, builtin) == (BUILTINS.get(cls.__name__) is builtin)


@pytest.mark.parametrize("cls", CLASSES)
def test_message_reads_as_it_was_written(cls: type[CasbankError]) -> None:
    """str() is the message: no quotes of KeyError, no errno of OSError."""
    assert str(cls("no object 'a/b'")) == "no object 'a/b'"


@pytest.mark.parametrize("cls", CLASSES)
def test_context_is_part_of_the_message(cls: type[CasbankError]) -> None:
    """What the error is about follows the message, ids in hex, and stays available as values."""
    error = cls("entry fails its tag", kind=ErrorKind.ENTRY_TAG, pack=b"\x01\xab", entry=3)
    assert str(error) == "entry fails its tag (pack 01ab, entry 3)"
    assert error.context == {"pack": b"\x01\xab", "entry": 3}
    assert error.kind is ErrorKind.ENTRY_TAG


@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("cls", CLASSES)
def test_errors_travel(cls: type[CasbankError], again) -> None:  # type: ignore[no-untyped-def]
    """An error that crossed a process boundary says and carries the same."""
    error = cls("message", kind=ErrorKind.DISK_FULL, path="a/b")
    other = again(error)
    assert type(other) is cls
    assert (str(other), other.kind, other.context) == (str(error), error.kind, error.context)
    assert other.exit_code == error.exit_code


def test_kind_defaults_to_general() -> None:
    """An error without a kind has the general one."""
    assert CorruptionError("message").kind is ErrorKind.GENERAL


def test_kinds_are_their_texts() -> None:
    """A kind compares with, and prints as, its stable text, and no two share one."""
    assert ErrorKind.PACK_MISSING == "pack-missing"
    assert f"{ErrorKind.PACK_MISSING}" == "pack-missing"
    assert len({str(kind) for kind in ErrorKind}) == len(ErrorKind.__members__)


def test_caught_as_the_builtin() -> None:
    """``except KeyError`` works as for a dict."""
    with pytest.raises(KeyError, match=r"^no object$"):
        raise NotFoundError("no object", kind=ErrorKind.NO_OBJECT)
