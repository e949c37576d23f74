"""A bank to work on."""

from pathlib import Path

import pytest

from casbank import Bank


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """The folder of an empty bank that nobody has open."""
    place = tmp_path / "bank"
    Bank.create(place).close()
    return place
