"""What a path lies on, read from examples of mountinfo and from this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from casbank.errors import ErrorKind, StoreError
from casbank.storage.mount import (
    UNKNOWN,
    MountLine,
    boot_id,
    find_mount,
    mount_of,
    parse_mountinfo,
    refuse_file_system,
    refuse_network_file_system,
)

MOUNTINFO = rb"""27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
36 27 0:40 / /mnt/with\040space\134and\011tab rw shared:1 master:2 - nfs4 host:/x rw,vers=4.2
37 27 8:1 /sub /data rw - xfs /dev/sda1 rw
38 37 0:50 / /data rw propagate_from:2 - fuse.sshfs user@host: rw
39 27 0:51 / /data2 rw - btrfs /dev/sdb rw
40 27 0:52 / /caf\303\251 rw - tmpfs none rw
"""


def test_lines_are_parsed_with_escapes_and_optional_fields() -> None:
    """Each line gives its id, device, mount point as it is on disk, and type, whatever stands between."""
    lines = parse_mountinfo(MOUNTINFO)
    assert len(lines) == 6
    assert lines[0] == MountLine(27, "254:0", Path("/"), "ext4")
    assert lines[1] == MountLine(36, "0:40", Path("/mnt/with space\\and\ttab"), "nfs4")
    assert lines[5] == MountLine(40, "0:52", Path(os.fsdecode(b"/caf\xc3\xa9")), "tmpfs")


def test_lines_of_another_shape_are_left_out() -> None:
    """What lacks the fields that the kernel documents is no mount."""
    assert parse_mountinfo(b"\n27 1 254:0 / / rw ext4\n1 - ext4 x rw\n") == []


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/", 27),
        ("/home/user", 27),
        ("/mnt", 27),
        ("/mnt/with space\\and\ttab/deep/down", 36),
        ("/data", 38),
        ("/data/bank", 38),
        ("/data2/bank", 39),
        ("/data23", 27),
    ],
)
def test_the_deepest_and_latest_mount_holds_a_path(path: str, mount: int) -> None:
    """A path lies on the longest mount point that contains it by whole segments, the last of those stacked there."""
    found = find_mount(parse_mountinfo(MOUNTINFO), Path(path))
    assert found is not None
    assert found.id == mount


def test_without_mounts_nothing_is_found() -> None:
    """An empty mountinfo holds no path."""
    assert find_mount([], Path("/x")) is None


@pytest.mark.parametrize("file_system", ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.s3fs"])
def test_network_file_systems_are_refused(file_system: str) -> None:
    """The refusal names the type, the reason and a way out."""
    with pytest.raises(StoreError, match=r"locks.*memory maps.*local disk") as refused:
        refuse_file_system(file_system, path=Path("/x"))
    assert refused.value.kind is ErrorKind.NETWORK_FILE_SYSTEM
    assert file_system in str(refused.value)


@pytest.mark.parametrize("file_system", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "fuse", UNKNOWN])
def test_other_file_systems_are_not(file_system: str) -> None:
    """What is local, or unknown, is let through."""
    refuse_file_system(file_system, path=Path("/x"))


def test_this_machine_is_understood(tmp_path: Path) -> None:
    """A path that does not exist yet has the mount of the folder it would be in, and asking again gives the same."""
    refuse_network_file_system(tmp_path)
    assert mount_of(tmp_path / "not" / "yet") == mount_of(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_identity_changes_with_each_attachment(tmp_path: Path) -> None:
    """What is detached and attached again at one place has another identity, though it has the same type."""
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "casbank-test", str(tmp_path)]
    seen = []
    for _ in range(2):
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("mounting needs root")
        try:
            seen.append(mount_of(tmp_path))
        finally:
            subprocess.run(["umount", str(tmp_path)], check=True)
    if "unique" not in seen[0].identity:
        pytest.skip("this kernel has no unique mount ids")
    assert seen[0].file_system == seen[1].file_system == "tmpfs"
    assert seen[0].identity != seen[1].identity


def test_the_boot_has_one_id() -> None:
    """The id is the same within a boot, and is not empty."""
    assert boot_id() == boot_id() != ""
