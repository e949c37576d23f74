"""Who holds a lease: enough to know, on the same machine, that he is dead.

Rule: a process is known to be dead only by who shares its boot and its pid namespace: in two containers two live
processes have one host name, one boot id and each other's pids.
"""

import json
import os
import platform
from functools import cache
from pathlib import Path
from typing import NamedTuple

from casbank.storage.mount import UNKNOWN, boot_id

_FIELDS = 6
# Of /proc/<pid>/stat behind the command's closing parenthesis: field 22 of the whole (proc_pid_stat(5)).
_START_TIME = 19
# A zombie has ended.
_ENDED = ("Z", "X")


class Owner(NamedTuple):
    """``text`` is what the caller said; the rest is the process: start time in clock ticks since boot."""

    text: str
    host: str = UNKNOWN
    boot: str = UNKNOWN
    pid_namespace: str = UNKNOWN
    pid: int = 0
    started: int = 0


def this_process(text: str) -> Owner:
    """The owner of what this process acquires."""
    pid = os.getpid()
    started = _started(pid)
    return Owner(text, platform.node(), _boot(), _pid_namespace(), pid, -1 if started is None else started)


def no_process(text: str) -> Owner:
    """The owner of what outlives the process that acquires it: nobody takes him for dead."""
    return Owner(text, platform.node())


def encode_owner(owner: Owner) -> str:
    """As a lease's record has it."""
    return json.dumps(list(owner), separators=(",", ":"))


def decode_owner(text: str) -> Owner:
    """Whatever another release wrote there is shown as it is, and never taken for dead."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return Owner(text)
    kinds = (str, str, str, str, int, int)
    if type(fields) is not list or len(fields) != _FIELDS:
        return Owner(text)
    if not all(type(field) is kind for field, kind in zip(fields, kinds, strict=True)):
        return Owner(text)
    return Owner(*fields)


def is_known_dead(owner: Owner) -> bool:
    """Whether the process cannot be alive any more. False where that cannot be known from here."""
    here = (platform.node(), _boot(), _pid_namespace())
    if UNKNOWN in here or (owner.host, owner.boot, owner.pid_namespace) != here or owner.started < 0:
        return False
    started = _started(owner.pid)
    if started is None:
        return _is_gone(owner.pid)
    return started != owner.started


def _is_gone(pid: int) -> bool:
    """Whether there is no such process, or only what is left of one: another user's may not be shown (hidepid)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _state(pid) in _ENDED


def _started(pid: int) -> int | None:
    fields = _stat(pid)
    return None if not fields or fields[0] in _ENDED else int(fields[_START_TIME])


def _state(pid: int) -> str:
    fields = _stat(pid)
    return fields[0] if fields else ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat behind the command, which may have spaces and parentheses in it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return stat.rpartition(")")[2].split()


@cache
def _boot() -> str:
    return boot_id()


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return UNKNOWN
