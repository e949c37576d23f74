"""A key for a new bank, or for a new slot."""

import click

from casbank.cli.given_key import GivenKey, KeyArguments
from casbank.cli.key_options import ways
from casbank.cli.passphrase import ask_twice, can_ask


def read_new_key(given: GivenKey | None, *, word: str = "", stdin_is_data: bool = False) -> KeyArguments:
    """The one that was given, or a passphrase that a person types twice.

    Raises UsageError, which names the options that begin with ``word``, if there is neither; InvalidInputError.
    """
    if given is not None:
        return given.arguments()
    if not can_ask(stdin_is_data=stdin_is_data):
        raise click.UsageError(f"A key is needed: give {ways(word)}.")
    return KeyArguments(passphrase=ask_twice("New passphrase"))
