"""Whole files and folders of a bank that are cut, lost, swapped, of another time or another bank; and two at once."""

import pytest

from fsck.damage_runs import damaged

_ALL = 10_000


@pytest.mark.slow
def test_some_files() -> None:
    """A file that is not what it was costs at most what it held, and never gives wrong bytes."""
    outcomes = damaged(["--bank", "plain", "--files", 20, "--seed", 5], ["--bank", "aes", "--files", 12, "--seed", 5])
    assert outcomes["cases"] == 32
