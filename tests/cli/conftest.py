"""A bank to work on."""

import signal
from pathlib import Path

import pytest

from casbank import Bank


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """The folder of an empty bank that nobody has open."""
    place = tmp_path / "bank"
    Bank.create(place).close()
    return place


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Who runs tests in the background of a shell has SIGINT ignored, and so would every process that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
