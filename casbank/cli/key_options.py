"""The options that name a key: the bank's own, or a new one."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import click

from casbank.cli.given_key import KeyKind, given_key, parameter, variable

NEW = "new-"
_Verb: TypeAlias = Callable[..., None]

_OPTIONS = {
    KeyKind.KEY_FILE: ("FILE", "The {}key is the content of FILE, 32 bytes to 1 MiB."),
    KeyKind.PASSPHRASE_FILE: ("FILE", "The {}passphrase is the content of FILE, less a newline at its end."),
    KeyKind.KEY_COMMAND: (
        "CMD",
        "CMD, a program and its arguments, wraps and unwraps the {}key; no shell is involved.",
    ),
}


def key_options(word: str = "") -> Callable[[_Verb], _Verb]:
    """Give a verb the options of a key, whose names begin with ``word``.

    It gets them as one argument, ``key`` or ``new_key``: a GivenKey, or None.
    """

    def decorate(function: _Verb) -> _Verb:
        @functools.wraps(function)
        def wrapped(*positional: Any, **arguments: Any) -> None:
            values = {kind: arguments.pop(parameter(word, kind)) for kind in _OPTIONS}
            arguments[parameter(word, "key")] = given_key(word, values)
            function(*positional, **arguments)

        for kind, (metavar, text) in reversed(_OPTIONS.items()):
            # Not click's envvar: an option must win over the variable of another one.
            explained = f"{text.format(word.replace('-', ' '))}  [env var: {variable(word, kind)}]"
            wrapped = click.option(f"--{word}{kind}", metavar=metavar, help=explained)(wrapped)
        return wrapped

    return decorate


def ways(word: str = "") -> str:
    """How a key can be given, for a message."""
    *others, last = (f"--{word}{kind}" for kind in _OPTIONS)
    return f"{', '.join(others)} or {last}, or set {variable(word, KeyKind.PASSPHRASE)}"
