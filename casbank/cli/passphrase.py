"""Passphrases: in a file, in the environment, from a person.

Rule 1: one and the same passphrase is one and the same text on all ways: UTF-8, less the newline that an editor adds.
Rule 2: what a person types is never shown, and never read from anything but a terminal.
"""

import sys
import warnings
from getpass import GetPassWarning, getpass
from pathlib import Path

from casbank.errors import InvalidInputError

# Nobody types more. A larger file is the wrong one, or meant as a key file.
_PASSPHRASE_BYTES_MAX = 4096


def read_passphrase(path: Path) -> str:
    """The content of a file, less one newline at its end. Raises InvalidInputError, OSError."""
    with path.open("rb") as file:
        data = file.read(_PASSPHRASE_BYTES_MAX + 1)
    if len(data) > _PASSPHRASE_BYTES_MAX:
        raise InvalidInputError(f"{path} is no passphrase: it has more than {_PASSPHRASE_BYTES_MAX} bytes")
    if data.endswith(b"\n"):
        data = data[: -2 if data.endswith(b"\r\n") else -1]
    return decode_passphrase(data, str(path))


def decode_passphrase(data: bytes, origin: str) -> str:
    """InvalidInputError, which names the origin, unless it is UTF-8 and not empty."""
    if not data:
        raise InvalidInputError(f"the passphrase in {origin} is empty")
    try:
        return data.decode()
    except UnicodeDecodeError:
        # None: the error's text would show bytes of the passphrase.
        raise InvalidInputError(f"the passphrase in {origin} is not UTF-8") from None


def can_ask(*, stdin_is_data: bool = False) -> bool:
    """Whether somebody is there to answer. Where standard input carries an object, standard error tells."""
    stream = sys.stderr if stdin_is_data else sys.stdin
    return stream is not None and stream.isatty()


def ask(prompt: str) -> str:
    """What a person types at the terminal of this process, which is not standard input if that is a pipe.

    Empty if nothing comes, or if there is no terminal that can hide it. InvalidInputError for what is no text.
    """
    try:
        with warnings.catch_warnings():
            # Without a terminal getpass would go on with standard input: with the object, or with an echo.
            warnings.simplefilter("error", GetPassWarning)
            return getpass(prompt)
    except (EOFError, GetPassWarning):
        return ""
    except UnicodeDecodeError:
        raise InvalidInputError("the passphrase that was typed is not in the encoding of this locale") from None


def ask_twice(prompt: str) -> str:
    """The same for a new passphrase. InvalidInputError if the answers differ, or are empty."""
    answer = ask(f"{prompt}: ")
    if not answer:
        raise InvalidInputError("no passphrase was typed")
    if ask(f"{prompt}, again: ") != answer:
        raise InvalidInputError("the two passphrases differ")
    return answer
