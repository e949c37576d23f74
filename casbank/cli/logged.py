"""What the library logs, as lines on standard error."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from casbank.cli.console import Console

_LIBRARY = logging.getLogger("casbank")


@contextmanager
def logged(console: Console) -> Iterator[None]:
    """Warnings and errors are shown while the context lasts, even with ``--quiet``: nobody else will tell."""
    handler = _Shown(console)
    _LIBRARY.addHandler(handler)
    try:
        yield
    finally:
        _LIBRARY.removeHandler(handler)


class _Shown(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{record.levelname.lower()}: {record.getMessage()}"
        # A key slot is read by each method that looks at the slots, and is as damaged each time.
        if line not in self._said:
            self._said.add(line)
            # Who closed standard error does not want to know; the work goes on.
            with suppress(OSError):
                self._console.complain(line)
