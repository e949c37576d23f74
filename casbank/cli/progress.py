"""A bar on standard error, if that is a terminal and rich is installed; nothing otherwise."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from casbank.cli.console import Console, printable

Advance: TypeAlias = Callable[[int], None]
"""To be told how many bytes more were done."""

# Leaves room for a bar in the usual 80 columns; the end of a path tells more than its beginning.
_LABEL_CHARS = 24


@contextmanager
def progress(console: Console, label: str, total: int | None = None) -> Iterator[Advance]:
    """Shows how many of ``total`` bytes (None: not known) were done, while the context lasts."""
    if console.quiet or not sys.stderr.isatty():
        yield untold
        return
    try:
        # Takes longer to import than most verbs to run.
        from rich import progress as bars  # noqa: PLC0415 - imported late
        from rich.console import Console as Terminal  # noqa: PLC0415 - imported late
    except ImportError:
        yield untold
        return
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.DownloadColumn(binary_units=True),
        bars.TimeElapsedColumn(),
    )
    # Standard output is not rich's to redirect: contents go there.
    with bars.Progress(*columns, console=Terminal(stderr=True), transient=True, redirect_stdout=False) as shown:
        task = shown.add_task(printable(label)[-_LABEL_CHARS:], total=total)
        yield lambda count: shown.advance(task, count)


def untold(count: int) -> None:
    """For work of which no bar is shown."""
