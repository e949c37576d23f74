"""Banks to work on, and keys."""

import os
import signal
from pathlib import Path

import pytest

from casbank import Bank
from casbank.config import CACHE_VARIABLE
from cli.shell import new_key_file


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """The folder of an empty bank that nobody has open."""
    place = tmp_path / "bank"
    Bank.create(place).close()
    return place


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key file."""
    return new_key_file(tmp_path / "key")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another key file."""
    return new_key_file(tmp_path / "other")


@pytest.fixture
def locked(tmp_path: Path, key: Path) -> Path:
    """The folder of a bank with one object, ``x``, that the key file opens."""
    place = tmp_path / "locked"
    with Bank.create(place, key_file=key) as made:
        made.put("x", b"content")
    return place


@pytest.fixture(autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept outside of banks goes to a folder of this test; keys of who runs it are not its business."""
    for name in [name for name in os.environ if name.startswith("CASBANK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Who runs tests in the background of a shell has SIGINT ignored, and so would every process that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
