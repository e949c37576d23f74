"""A bank on a disk that cannot be written."""

import subprocess
from pathlib import Path

import pytest
from bank_scene import MIB, content, contents_of, small_disk

from casbank import Bank, ReadOnlyError


def test_bank_on_read_only_disk(tmp_path: Path) -> None:
    """A bank on a read-only disk is read by way of an index elsewhere, and refuses writes as a read-only one."""
    expected = {"inline": b"1", "packed": content(1, 100_000)}
    try:
        with small_disk(tmp_path / "disk", 16 * MIB) as disk:
            with Bank.create(disk / "bank") as bank:
                for name, data in expected.items():
                    bank.put(name, data)
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            for read_only in (True, False):
                with Bank.open(disk / "bank", cache_dir=tmp_path / "cache", read_only=read_only) as bank:
                    assert contents_of(bank) == expected
                    with pytest.raises(ReadOnlyError):
                        bank.put("x", b"1")
                    with pytest.raises(ReadOnlyError):
                        bank.delete("inline")
    except PermissionError as error:
        pytest.skip(str(error))
