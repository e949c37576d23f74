"""What a verb says, and where to; the answers to its common options.

Rule 1: ``answer`` and ``document`` write to standard output, everything else to standard error.
Rule 2: what is shown to people has no control characters: a name must not move a cursor or fake a line.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from casbank.cli.given_key import GivenKey


class Failed(TypedDict):
    """One thing that a recursive verb could not do, as ``--json`` shows it."""

    name: str
    reason: str


@dataclass(slots=True)
class Console:
    """How a verb talks to whoever called it."""

    json: bool
    quiet: bool
    verbose: bool
    cache_dir: Path | None
    # The bank's; None if nobody gave one.
    key: GivenKey | None = None
    failures: list[Failed] = field(default_factory=list)

    def say(self, message: str) -> None:
        """What happened; silent with ``--quiet``."""
        if not self.quiet:
            self.complain(message)

    def detail(self, message: str) -> None:
        """What only ``--verbose`` shows."""
        if self.verbose:
            self.complain(message)

    def complain(self, message: str) -> None:
        """What must be said."""
        # Not click.echo: a progress bar puts itself in the place of sys.stderr, to stay below what is said.
        sys.stderr.write(f"casbank: {printable(message)}\n")

    def failed(self, name: str, reason: str) -> None:
        """Name a part of the work that was not done; the verb will end with 11."""
        self.failures.append({"name": printable(name), "reason": reason})
        self.complain(f"{name}: {reason}")

    def answer(self, text: str) -> None:
        """One line of the answer, in UTF-8 whatever the locale: names are."""
        sys.stdout.buffer.write(text.encode() + b"\n")

    def document(self, value: Mapping[str, object]) -> None:
        """The answer as JSON."""
        self.answer(json.dumps(value, indent=2))

    def table(self, rows: Mapping[str, object] | Sequence[tuple[str, object]]) -> None:
        """The answer as lines of a label and a value."""
        pairs = list(rows.items() if isinstance(rows, Mapping) else rows)
        width = max((len(label) for label, _ in pairs), default=0)
        for label, value in pairs:
            self.answer(f"{label:<{width}}  {printable(str(value))}")


def printable(text: str) -> str:
    """The text with everything escaped that could disturb a terminal, or that is not text."""
    if text.isprintable():
        return text
    # A path's bytes that are no UTF-8 are lone surrogates in Python's str.
    whole = os.fsencode(text).decode(errors="backslashreplace") if _has_raw_bytes(text) else text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in whole)


def _has_raw_bytes(text: str) -> bool:
    return any("\udc80" <= char <= "\udcff" for char in text)
