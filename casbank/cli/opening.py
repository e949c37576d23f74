"""Opening the bank of a verb, with the key that was given or that a person types."""

from casbank.bank import Bank
from casbank.cli.console import Console, printable
from casbank.cli.given_key import KeyArguments
from casbank.cli.key_options import ways
from casbank.cli.passphrase import ask, can_ask
from casbank.errors import ErrorKind, KeyMismatchError


def open_bank(console: Console, bank: str, *, read_only: bool = False, stdin_is_data: bool = False) -> Bank:
    """Raises what Bank.open does.

    ``stdin_is_data``: standard input is no place for answers, because it carries an object.
    """
    key = console.key
    try:
        arguments = KeyArguments() if key is None else key.arguments()
        return Bank.open(bank, read_only=read_only, cache_dir=console.cache_dir, **arguments)
    except KeyMismatchError as error:
        if error.kind is ErrorKind.NOT_ENCRYPTED and key is not None and not key.is_option:
            # Who set it long ago does not know that a key was given.
            raise KeyMismatchError(f"{key.origin} is set, but this bank is not encrypted", kind=error.kind) from error
        if error.kind is not ErrorKind.KEY_MISSING:
            raise
        passphrase = ask(f"Passphrase of {printable(bank)}: ") if can_ask(stdin_is_data=stdin_is_data) else ""
        if not passphrase:
            raise KeyMismatchError(f"this bank is encrypted: give {ways()}", kind=error.kind) from error
    return Bank.open(bank, read_only=read_only, cache_dir=console.cache_dir, passphrase=passphrase)
