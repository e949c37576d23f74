"""What opens a bank: a passphrase, a key file, or a command that asks a device or a service.

Rule 1: a command is the caller's word, never the store's: who can write a slot must not be able to name a program.
Rule 2: nothing secret is put into a message, an argument or the environment of a command.
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from casbank import limits
from casbank.errors import ErrorKind, InvalidInputError, KeyMismatchError, StoreError
from casbank.format.keyring import SECRET_BYTES
from casbank.format.keyslot import KeySlot, SlotParameters, SlotSource
from casbank.sealing.secrets import PASSPHRASE_PARAMETERS, key_file_secret, passphrase_secret
from casbank.storage.files import translate
from casbank.world import World


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A text that a person knows."""

    text: str = field(repr=False)

    def enrol(self, _world: World, salt: bytes) -> tuple[SlotParameters, bytes]:
        """Parameters and secret of a new slot with this salt."""
        return PASSPHRASE_PARAMETERS, self._secret(PASSPHRASE_PARAMETERS, salt)

    def secret(self, slot: KeySlot) -> bytes | None:
        """The secret of a slot; None if it is of another source."""
        if slot.parameters.source is not SlotSource.PASSPHRASE:
            return None
        return self._secret(slot.parameters, slot.header.salt)

    def _secret(self, parameters: SlotParameters, salt: bytes) -> bytes:
        try:
            return passphrase_secret(self.text, parameters, salt)
        except MemoryError as error:
            raise StoreError(f"a key slot needs {parameters.memory_kib} KiB of memory, which are not there") from error


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The bytes of a file."""

    content: bytes = field(repr=False)

    def enrol(self, _world: World, salt: bytes) -> tuple[SlotParameters, bytes]:
        """Parameters and secret of a new slot with this salt."""
        return SlotParameters(SlotSource.KEY_FILE), key_file_secret(self.content, salt)

    def secret(self, slot: KeySlot) -> bytes | None:
        """The secret of a slot; None if it is of another source."""
        if slot.parameters.source is not SlotSource.KEY_FILE:
            return None
        return key_file_secret(self.content, slot.header.salt)


@dataclass(frozen=True, slots=True)
class KeyCommand:
    """A program that wraps 32 secret bytes and unwraps them again, from standard input to standard output.

    It is called with one more argument, ``wrap`` or ``unwrap``. It must refuse to unwrap what it did not wrap: else who
    can write the store could put a bank of his own in this one's place (docs/keys.md).
    """

    argv: tuple[str, ...]

    def enrol(self, world: World, _salt: bytes) -> tuple[SlotParameters, bytes]:
        """Parameters and secret of a new slot with this salt."""
        secret = world.entropy(SECRET_BYTES)
        token = self._run("wrap", secret)
        if not 0 < len(token) <= limits.KEY_TOKEN_BYTES_MAX:
            raise InvalidInputError(f"the key command wrapped a key into {len(token)} bytes; 1 to 65536 are possible")
        return SlotParameters(SlotSource.COMMAND, token=token), secret

    def secret(self, slot: KeySlot) -> bytes | None:
        """The secret of a slot; None if it is of another source, or not one of this command's."""
        if slot.parameters.source is not SlotSource.COMMAND:
            return None
        secret = self._run("unwrap", slot.parameters.token)
        return secret if len(secret) == SECRET_BYTES else None

    def _run(self, what: str, data: bytes) -> bytes:
        try:
            # Its standard error is the caller's: a person may have to touch a device.
            done = subprocess.run(
                [*self.argv, what], input=data, stdout=subprocess.PIPE, timeout=limits.KEY_COMMAND_S_MAX, check=False
            )
        except OSError as error:
            raise translate(error, "cannot run the key command", path=self.argv[0]) from error
        except ValueError as error:
            raise InvalidInputError("the key command has a NUL in it") from error
        except subprocess.TimeoutExpired:
            raise StoreError(f"the key command took longer than {limits.KEY_COMMAND_S_MAX} s") from None
        if done.returncode:
            raise KeyMismatchError(
                f"the key command could not {what} a key: it ended with code {done.returncode}",
                kind=ErrorKind.KEY_WRONG,
            )
        return done.stdout


@dataclass(frozen=True, slots=True)
class RecoveryText:
    """What ``key export`` printed: the bank's key itself."""

    text: str = field(repr=False)


Credential: TypeAlias = Passphrase | KeyFile | KeyCommand
"""What a slot can be made for."""


def credential_of(
    passphrase: str | None, key_file: str | os.PathLike[str] | None, key_command: Sequence[str] | None
) -> Credential | None:
    """The one that was given; None if none was.

    Raises InvalidInputError for several, an empty passphrase, a key file that is too small or large; StoreError for one
    that cannot be read.
    """
    if sum(given is not None for given in (passphrase, key_file, key_command)) > 1:
        raise InvalidInputError("passphrase, key_file and key_command exclude each other")
    if passphrase is not None:
        return Passphrase(_checked_passphrase(passphrase))
    if key_file is not None:
        return KeyFile(read_key_file(key_file))
    if key_command is not None:
        return KeyCommand(_checked_command(key_command))
    return None


def read_key_file(place: str | os.PathLike[str]) -> bytes:
    """The bytes of a key file, or of one for a dedup domain."""
    try:
        path = Path(place)
        with path.open("rb") as file:
            content = file.read(limits.KEY_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise translate(error, "cannot read the key file", path=place) from error
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"not the path of a key file: {place!r}") from error
    if not limits.KEY_FILE_BYTES_MIN <= len(content) <= limits.KEY_FILE_BYTES_MAX:
        raise InvalidInputError(
            f"a key file has 32 bytes to 1 MiB; make one with: head -c 32 /dev/urandom > {path.name}", path=path
        )
    return content


def _checked_passphrase(text: str) -> str:
    if not isinstance(text, str) or not text:
        raise InvalidInputError("a passphrase is a text, and not empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError("a passphrase must be UTF-8") from None
    return text


def _checked_command(command: Sequence[str]) -> tuple[str, ...]:
    if isinstance(command, str | bytes) or not command or not all(isinstance(word, str) for word in command):
        raise InvalidInputError("key_command is a list of a program and its arguments")
    return tuple(command)
