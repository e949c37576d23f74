"""A key as options or the environment name it.

Rule 1: no passphrase is the value of an option: everybody on the machine can see those.
Rule 2: an option wins over the environment; two options, or two variables, are a mistake, and not a matter of order.
Rule 3: a variable that is set and empty is a mistake too: what should have filled it failed, and taking it for unset
would make an unencrypted bank.
"""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypedDict

import click

from casbank.cli.passphrase import decode_passphrase, read_passphrase
from casbank.errors import InvalidInputError


class KeyKind(StrEnum):
    """What a key is, or where it is to be found; as in the names of options and variables."""

    KEY_FILE = "key-file"
    PASSPHRASE_FILE = "passphrase-file"
    KEY_COMMAND = "key-command"
    # A variable only: rule 1.
    PASSPHRASE = "passphrase"


class KeyArguments(TypedDict, total=False):
    """One key, as the methods of Bank and Keys take it."""

    passphrase: str
    key_file: Path
    key_command: list[str]


@dataclass(frozen=True, slots=True)
class GivenKey:
    """A key that is to be read. ``origin`` is the option or the variable that gave it."""

    kind: KeyKind
    value: str = field(repr=False)
    origin: str

    @property
    def is_option(self) -> bool:
        """Whether it was asked for in this very command."""
        return self.origin.startswith("--")

    def arguments(self) -> KeyArguments:
        """Read it. InvalidInputError for what can be no key, OSError for a file that cannot be read."""
        match self.kind:
            case KeyKind.KEY_FILE:
                return KeyArguments(key_file=Path(self.value))
            case KeyKind.PASSPHRASE_FILE:
                return KeyArguments(passphrase=read_passphrase(Path(self.value)))
            case KeyKind.KEY_COMMAND:
                return KeyArguments(key_command=self._words())
            case KeyKind.PASSPHRASE:
                return KeyArguments(passphrase=decode_passphrase(os.fsencode(self.value), self.origin))

    def _words(self) -> list[str]:
        try:
            words = shlex.split(self.value)
        except ValueError as error:
            raise InvalidInputError(f"{self.origin}: {error}") from error
        if not words:
            raise InvalidInputError(f"{self.origin} names no command")
        return words


def given_key(word: str, values: Mapping[KeyKind, str | None]) -> GivenKey | None:
    """The one key that was given by options, whose ``values`` these are, or by variables; None if none was.

    ``word`` is what the names begin with. Raises UsageError by rules 2 and 3.
    """
    options = [GivenKey(kind, value, f"--{word}{kind}") for kind, value in values.items() if value is not None]
    found = options or _variables(word)
    if len(found) > 1:
        raise click.UsageError(f"{' and '.join(key.origin for key in found)} exclude each other.")
    return found[0] if found else None


def _variables(word: str) -> list[GivenKey]:
    names = {kind: variable(word, kind) for kind in KeyKind}
    found = [GivenKey(kind, os.environ[name], name) for kind, name in names.items() if name in os.environ]
    for key in found:
        if not key.value:
            raise click.UsageError(f"{key.origin} is set, but empty.")
    return found


def variable(word: str, kind: KeyKind) -> str:
    """The variable that stands for an option: ``CASBANK_KEY_FILE``."""
    return f"CASBANK_{parameter(word, kind)}".upper()


def parameter(word: str, kind: str) -> str:
    """An option as the argument of a function: ``key_file``."""
    return f"{word}{kind}".replace("-", "_")
