"""On what a path lies: the file system's type, and an identity that tells one attachment of a disk from the next.

Rule 1: whoever trusts pages of the page cache (the index) compares ``boot_id`` and ``Mount.identity`` with those it
wrote down; a value that differs, or is ``UNKNOWN``, means that a power cut or a detached disk may lie between.
Rule 2: what cannot be learnt is ``UNKNOWN``, never a guess that looks like an answer.
Identities are those of this mount namespace: in two containers one volume has two.
"""

import ctypes
import os
import re
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from casbank.errors import ErrorKind, StoreError
from casbank.storage.files import translate

UNKNOWN = "unknown"

# Locks there are slow, optional or local to one client, and shared memory maps do not see other hosts' writes. Not an
# allow list: new local file systems appear more often than new network ones.
_NETWORK = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "davfs",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "orangefs",
    "prl_fs",
    "pvfs2",
    "smb2",
    "smb3",
    "smbfs",
    "vboxsf",
    "vmhgfs",
    "wekafs",
}
_NETWORK_FUSE = {
    "blobfuse",
    "blobfuse2",
    "ceph",
    "ceph-fuse",
    "cephfs",
    "curlftpfs",
    "davfs2",
    "gcsfuse",
    "glusterfs",
    "goofys",
    "jmtpfs",
    "juicefs",
    "lizardfs",
    "mfs",
    "moosefs",
    "mount-s3",
    "mountpoint-s3",
    "rclone",
    "s3fs",
    "s3ql",
    "seaweedfs",
    "smbnetfs",
    "sshfs",
    "vmhgfs-fuse",
}
NETWORK_FILE_SYSTEMS = frozenset(_NETWORK | {f"fuse.{name}" for name in _NETWORK_FUSE})

_MOUNTINFO = Path("/proc/self/mountinfo")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_OCTAL_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
_FIELDS_BEFORE_OPTIONAL_MIN = 6

# statx(2), since Linux 6.8: a mount id that is never given twice between two boots.
_STATX_MNT_ID_UNIQUE = 0x4000
_STATX_BYTES = 256
_STATX_MASK = struct.Struct("=I")
_STATX_MNT_ID = struct.Struct("=Q")
_STATX_MNT_ID_OFFSET = 144
_AT_FDCWD = -100
# A UUID and its end.
_SYSCTL_BYTES = 64


@dataclass(frozen=True)
class Mount:
    """``file_system`` as the kernel names it ("ext4", "fuse.sshfs") or UNKNOWN; ``identity`` an opaque text."""

    file_system: str
    identity: str


class MountLine(NamedTuple):
    """One line of mountinfo, as far as it matters: ``device`` is ``major:minor``."""

    id: int
    device: str
    mount_point: Path
    file_system: str


def mount_of(path: Path) -> Mount:
    """The mount that holds ``path``, or would hold it if it does not exist yet.

    Without a mountinfo (macOS and others) the type is UNKNOWN and the identity the device number: a best effort that
    does not see a disk which went and came back. Raises StoreError if the path cannot be looked at.
    """
    try:
        resolved = path.resolve()
        present = next(folder for folder in (resolved, *resolved.parents) if folder.exists())
        line = find_mount(_mountinfo(), present)
        if line is None:
            return Mount(UNKNOWN, f"device {present.stat().st_dev}")
    except OSError as error:
        raise translate(error, "cannot learn on which file system this is", path=path) from error
    unique = _unique_mount_id(present)
    return Mount(line.file_system, f"{line.device} " + (f"mount {line.id}" if unique is None else f"unique {unique}"))


def refuse_network_file_system(path: Path) -> None:
    """Raise StoreError (kind NETWORK_FILE_SYSTEM) if ``path`` lies on one."""
    refuse_file_system(mount_of(path).file_system, path=path)


def refuse_file_system(file_system: str, *, path: Path) -> None:
    """Raise StoreError (kind NETWORK_FILE_SYSTEM) for a type that is one of the network's."""
    if file_system in NETWORK_FILE_SYSTEMS:
        raise StoreError(
            "network and shared file systems cannot hold this: file locks there need not exclude other hosts, and "
            "memory maps do not see their writes. Use a local disk, or keep the bank in object storage",
            kind=ErrorKind.NETWORK_FILE_SYSTEM,
            file_system=file_system,
            path=path,
        )


def boot_id() -> str:
    """An opaque text that is new after each boot of the machine, or UNKNOWN."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return _boot_session() if sys.platform == "darwin" else UNKNOWN


def parse_mountinfo(text: bytes) -> list[MountLine]:
    """The lines of a mountinfo, in its order; one without the known fields is left out (proc_pid_mountinfo(5))."""
    lines = []
    for raw in text.splitlines():
        # 36 35 98:0 /root /mount/point options [optional fields] - type source options
        before, separator, behind = raw.partition(b" - ")
        fields = before.split(b" ")
        if separator and len(fields) >= _FIELDS_BEFORE_OPTIONAL_MIN:
            mount_point = Path(os.fsdecode(_OCTAL_ESCAPE.sub(_unescape, fields[4])))
            file_system = os.fsdecode(behind.split(b" ")[0])
            lines.append(MountLine(int(fields[0]), os.fsdecode(fields[2]), mount_point, file_system))
    return lines


def find_mount(lines: list[MountLine], path: Path) -> MountLine | None:
    """The line that holds an absolute, resolved path: the longest mount point, the last of several on one point."""
    found: MountLine | None = None
    for line in lines:
        deeper = found is None or len(line.mount_point.parts) >= len(found.mount_point.parts)
        if deeper and path.is_relative_to(line.mount_point):
            found = line
    return found


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8)])


def _mountinfo() -> list[MountLine]:
    try:
        return parse_mountinfo(_MOUNTINFO.read_bytes())
    except FileNotFoundError:
        return []


def _unique_mount_id(path: Path) -> int | None:
    """The id that the kernel never gives again until it boots, or None where it (or the C library) has none."""
    try:
        statx = ctypes.CDLL(None).statx
    except AttributeError:
        return None
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(_AT_FDCWD, os.fsencode(path), 0, ctypes.c_uint(_STATX_MNT_ID_UNIQUE), answer) != 0:
        return None
    # A kernel that does not know the bit answers without it.
    if not _STATX_MASK.unpack_from(answer)[0] & _STATX_MNT_ID_UNIQUE:
        return None
    return int(_STATX_MNT_ID.unpack_from(answer, _STATX_MNT_ID_OFFSET)[0])


def _boot_session() -> str:
    answer = ctypes.create_string_buffer(_SYSCTL_BYTES)
    length = ctypes.c_size_t(_SYSCTL_BYTES)
    failed = ctypes.CDLL(None).sysctlbyname(b"kern.bootsessionuuid", answer, ctypes.byref(length), None, 0)
    return UNKNOWN if failed else answer.value.decode("ascii")
