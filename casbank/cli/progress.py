"""A bar on standard error, if that is a terminal and rich is installed; nothing otherwise."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from casbank.cli.console import Console, printable
from casbank.findings import FsckProgress
from casbank.model import CollectProgress

if TYPE_CHECKING:
    from rich.progress import Progress

Advance: TypeAlias = Callable[[int], None]
"""To be told how many bytes more were done."""

# Leaves room for a bar in the usual 80 columns; the end of a path tells more than its beginning.
_LABEL_CHARS = 24


@contextmanager
def progress(console: Console, label: str, total: int | None = None) -> Iterator[Advance]:
    """Shows how many of ``total`` bytes (None: not known) were done, while the context lasts."""
    with _bars(console) as shown:
        if shown is None:
            yield untold
        else:
            task = shown.add_task(printable(label)[-_LABEL_CHARS:], total=total)
            yield lambda count: shown.advance(task, count)


@contextmanager
def collecting(console: Console) -> Iterator[Callable[[CollectProgress], None]]:
    """The same for a collection, which tells what it does."""
    with _bars(console) as shown:
        if shown is None:
            yield _unwatched
        else:
            task = shown.add_task("mark", total=None)
            yield lambda event: shown.update(
                # A collection that has copied more than it could free yet has freed less than nothing.
                task,
                description=event.step,
                completed=max(0, event.done_bytes),
                total=max(1, event.total_bytes),
            )


@contextmanager
def checking(console: Console) -> Iterator[Callable[[FsckProgress], None]]:
    """The same for a check."""
    with _bars(console) as shown:
        if shown is None:
            yield _unwatched
        else:
            task = shown.add_task("check", total=None)
            yield lambda event: shown.update(task, **_checked(event))


def _checked(event: FsckProgress) -> dict[str, Any]:
    """How a bar of bytes shows a step that counts other things: by its description."""
    if event.unit == "bytes":
        return {
            "description": event.step,
            "completed": event.done,
            "total": max(event.done, event.total) or None,
        }
    return {"description": f"{event.step} {event.done or ''}", "completed": 0, "total": None}


@contextmanager
def _bars(console: Console) -> "Iterator[Progress | None]":
    """Where bars are drawn; None if nobody would see them."""
    if console.quiet or not sys.stderr.isatty():
        yield None
        return
    try:
        # Takes longer to import than most verbs to run.
        from rich import progress as bars  # noqa: PLC0415 - imported late
        from rich.console import Console as Terminal  # noqa: PLC0415 - imported late
    except ImportError:
        yield None
        return
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.DownloadColumn(binary_units=True),
        bars.TimeElapsedColumn(),
    )
    # Standard output is not rich's to redirect: contents go there.
    with bars.Progress(*columns, console=Terminal(stderr=True), transient=True, redirect_stdout=False) as shown:
        yield shown


def _unwatched(event: CollectProgress | FsckProgress) -> None:
    """For events of which no bar is shown."""


def untold(count: int) -> None:
    """For work of which no bar is shown."""
