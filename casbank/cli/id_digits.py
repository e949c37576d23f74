"""Ids as people give them: the first digits, as long as only one id begins so."""

import string
from collections.abc import Iterable

import click

# Fewer are a slip of the finger, and what they name today may be another thing tomorrow.
_DIGITS_MIN = 4


def id_digits(text: str, argument: str, shown_by: str) -> str:
    """The digits, in small letters. UsageError for too few of them, and for what is none."""
    digits = text.lower()
    if len(digits) < _DIGITS_MIN or not set(digits) <= set(string.hexdigits):
        raise click.UsageError(
            f"{argument} is {_DIGITS_MIN} or more digits of an id that {shown_by} shows, not {text!r}."
        )
    return digits


def matching(ids: Iterable[str], digits: str) -> str | None:
    """The one that begins so, None if none does. UsageError if several do."""
    found = [each for each in ids if each.startswith(digits)]
    if len(found) > 1:
        raise click.UsageError(f"{len(found)} ids begin with {digits}: {', '.join(found)}.")
    return found[0] if found else None
