"""Opening the bank of a verb, with the key that was given or that a person types."""

from collections.abc import Callable
from typing import TypeVar

from casbank.bank import Bank
from casbank.cli.console import Console, printable
from casbank.cli.given_key import KeyArguments
from casbank.cli.key_options import ways
from casbank.cli.passphrase import ask, can_ask
from casbank.errors import ErrorKind, KeyMismatchError

_Result = TypeVar("_Result")


def open_bank(console: Console, bank: str, *, read_only: bool = False, stdin_is_data: bool = False) -> Bank:
    """Raises what Bank.open does. ``stdin_is_data`` as in :func:`with_key`."""

    def opened(arguments: KeyArguments) -> Bank:
        return Bank.open(bank, read_only=read_only, cache_dir=console.cache_dir, **arguments)

    return with_key(console, bank, opened, stdin_is_data=stdin_is_data)


def with_key(
    console: Console,
    bank: str,
    use: Callable[[KeyArguments], _Result],
    *,
    stdin_is_data: bool = False,
    or_else: str = "",
) -> _Result:
    """What ``use`` makes of the key that was given; if it says that one is missing, of what a person types.

    ``stdin_is_data``: standard input is no place for answers, because it carries an object. ``or_else``: what can be
    done without a key, for the message. Raises what ``use`` does.
    """
    key = console.key
    try:
        return use(KeyArguments() if key is None else key.arguments())
    except KeyMismatchError as error:
        if error.kind is ErrorKind.NOT_ENCRYPTED and key is not None and not key.is_option:
            # Who set it long ago does not know that a key was given.
            raise KeyMismatchError(f"{key.origin} is set, but this bank is not encrypted", kind=error.kind) from error
        if error.kind is not ErrorKind.KEY_MISSING:
            raise
        passphrase = ask(f"Passphrase of {printable(bank)}: ") if can_ask(stdin_is_data=stdin_is_data) else ""
        if not passphrase:
            raise KeyMismatchError(f"this bank is encrypted: give {ways()}{or_else}", kind=error.kind) from error
    return use(KeyArguments(passphrase=passphrase))
