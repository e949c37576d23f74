"""Crash states: what a folder can look like after a power cut, or a kill, at any moment of a recording.

The fault model (docs/reliability.md), after ALICE and CrashMonkey. The disk is as in ``disk.py``: after the first k
operations whatever was synced is there, and of the rest, which is *pending*, any subset:

Rule 1: of at most four pending operations every subset; of more: none, all, each alone missing, each alone there, every
prefix, and with all older ones there every subset of the last four.
Rule 2: the last pending write may be torn: there up to its first multiple of 512 or of 4096 bytes of the file, or up to
the last of 512; or from the first of 512 on, since pages reach the disk in any order; or as zeros, where the new length
came and the bytes did not.
Rule 3: what is never synced on purpose is as it was after any of its writes, empty, or not there at all.
Rule 4: a process that is killed loses nothing but a part of its last write: its pages are the kernel's.

A label tells one state: ``17:0110:torn512:kept`` is after 17 operations, with the second and third of four pending ones
there, the last of these torn, and unsynced files as they were; ``17:kill:whole:kept`` is a kill.
"""

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from casbank.testing.faults.disk import Change, Disk, Node, Operation, Synced, Written
from casbank.testing.faults.recorder import Recording

SUBSETS_MAX = 4
"""All subsets of so many pending operations are replayed."""

_KILL = "kill"
_WHOLE = "whole"
_KEPT, _LOST, _EMPTY = "kept", "lost", "empty"
_SECTOR_BYTES = 512
_PAGE_BYTES = 4096


class _Label(NamedTuple):
    prefix: int
    kept: str
    tear: str = _WHOLE
    unsynced: str = _KEPT

    def __str__(self) -> str:
        return ":".join(map(str, self))


class File(NamedTuple):
    """A file of a crash state; names with one ``node`` are links to one file."""

    node: int
    mode: int
    content: bytes


@dataclass(frozen=True, slots=True)
class CrashState:
    """One thing that can be found after a crash: ``acknowledged`` are the steps that had returned, ``begun`` those that
    had begun, with these."""

    label: str
    folders: tuple[str, ...]
    files: dict[str, File]
    acknowledged: tuple[str, ...]
    begun: tuple[str, ...]

    @property
    def is_kill(self) -> bool:
        """Whether the process died and the machine did not."""
        return self.label.split(":")[1] == _KILL

    @property
    def digest(self) -> bytes:
        """The same for states that look the same to who comes later, and were promised the same."""
        hasher = blake3(repr((self.folders, self.acknowledged, self.begun, self.is_kill)).encode())
        for path, file in self.files.items():
            hasher.update(f"{path}\0{len(file.content)}\0".encode() + file.content)
        return hasher.digest()

    def materialise(self, folder: Path) -> Path:
        """Make it, in ``folder``, which must not be there yet; returns that."""
        folder.mkdir()
        for path in self.folders:
            (folder / path).mkdir()
        made: dict[int, str] = {}
        for path, file in self.files.items():
            target = f"{folder}/{path}"
            if file.node in made:
                os.link(made[file.node], target)
            else:
                made[file.node] = target
                _write(target, file)
        return folder


def _write(path: str, file: File) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode)
    try:
        os.write(descriptor, file.content)
    finally:
        os.close(descriptor)


def crash_states(recording: Recording) -> Iterator[CrashState]:
    """Every crash state of a recording, those that look the same once."""
    seen: set[bytes] = set()
    replay = _Replay(recording)
    while True:
        for label in replay.labels():
            state = replay.state(label)
            if state.digest not in seen:
                seen.add(state.digest)
                yield state
        if not replay.step():
            return


def crash_state(recording: Recording, label: str) -> CrashState:
    """The one that a label tells. Raises ValueError for a label that this recording does not have."""
    fields = label.split(":")
    if len(fields) != len(_Label._fields) or not fields[0].isdigit():
        raise ValueError(f"not the label of a crash state: {label}")
    parsed = _Label(int(fields[0]), *fields[1:])
    if parsed.prefix > len(recording.operations):
        raise ValueError(f"the recording has {len(recording.operations)} operations: {label}")
    replay = _Replay(recording)
    replay.run(parsed.prefix)
    return replay.state(parsed)


def sampled_states(recording: Recording, count: int, chance: random.Random, *, since: int = 0) -> Iterator[CrashState]:
    """So many different ones, drawn at random from those after at least ``since`` operations; fewer if drawing finds no
    more."""
    seen: set[bytes] = set()
    drawn = sorted(chance.randint(since, len(recording.operations)) for _ in range(2 * count))
    found = []
    replay = _Replay(recording)
    for prefix in drawn:
        replay.run(prefix)
        state = replay.state(chance.choice(list(replay.labels())))
        if state.digest not in seen:
            seen.add(state.digest)
            found.append(state)
    yield from chance.sample(found, min(count, len(found)))


@dataclass
class _Replay:
    """The disk after a prefix of the operations: what is durable, and the numbers of what is pending."""

    recording: Recording
    prefix: int = 0
    durable: Disk = field(init=False)
    pending: list[int] = field(default_factory=list)
    # Writes of files that are never synced.
    unsynced: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.durable = self.recording.before.copy()
        self._never = self.recording.unsynced

    def run(self, prefix: int) -> None:
        while self.prefix < prefix:
            self.step()

    def step(self) -> bool:
        """Go on by one operation; False at the end."""
        if self.prefix == len(self.recording.operations):
            return False
        operation = self.recording.operations[self.prefix]
        if isinstance(operation, Synced):
            self._settle(operation.node)
        elif operation.node in self._never:
            self.unsynced.append(self.prefix)
        else:
            self.pending.append(self.prefix)
        self.prefix += 1
        return True

    def _settle(self, node: int) -> None:
        left = []
        for number in self.pending:
            change = self._change(number)
            if change.node == node:
                self.durable.apply(change)
            else:
                left.append(number)
        self.pending = left

    def _change(self, number: int) -> Change:
        operation = self.recording.operations[number]
        assert not isinstance(operation, Synced)
        return operation

    # --- labels ----------------------------------------------------------------------------------------------------

    def labels(self) -> Iterator[_Label]:
        """Those of the states after this prefix."""
        for number, kept in enumerate(_subsets(len(self.pending))):
            # A different one each time: the product of both would be of no more use than its size.
            unsynced = self._unsynced_variant(number)
            yield _Label(self.prefix, kept, _WHOLE, unsynced)
            last = kept.rfind("1")
            for tear in _tears(self._change(self.pending[last])) if last >= 0 else ():
                yield _Label(self.prefix, kept, tear, unsynced)
        yield _Label(self.prefix, _KILL)
        if self.prefix:
            for tear in _tears(self.recording.operations[self.prefix - 1]):
                if tear.startswith("torn"):
                    yield _Label(self.prefix, _KILL, tear)

    def _unsynced_variant(self, number: int) -> str:
        variants = [_KEPT, _LOST, _EMPTY, "0", *(str(written + 1) for written in self.unsynced)]
        return variants[(number + self.prefix) % len(variants)]

    # --- states ----------------------------------------------------------------------------------------------------

    def state(self, label: _Label) -> CrashState:
        """What the disk holds then."""
        disk = self.durable.copy()
        chosen = self._chosen(label)
        for number in chosen[:-1]:
            disk.apply(self._change(number))
        if chosen:
            disk.apply(_torn(self._change(chosen[-1]), label.tear))
        if label.kept != _KILL:
            self._age(disk, label.unsynced)
        steps = self.recording.steps
        return _state(
            disk,
            self.recording.nodes,
            str(label),
            [step.name for step in steps if step.done is not None and step.done <= self.prefix],
            [step.name for step in steps if step.begun <= self.prefix],
        )

    def _chosen(self, label: _Label) -> list[int]:
        if label.kept == _KILL:
            return sorted(self.pending + self.unsynced)
        if len(label.kept) != len(self.pending):
            raise ValueError(f"{len(self.pending)} operations are pending: {label}")
        return [number for number, kept in zip(self.pending, label.kept, strict=True) if kept == "1"]

    def _age(self, disk: Disk, variant: str) -> None:
        """Let the unsynced files be of another time, or gone."""
        if variant in (_LOST, _EMPTY):
            for node in self._never:
                disk.files[node] = b""
            if variant == _LOST:
                _remove(disk, self._never)
            return
        until = self.prefix if variant == _KEPT else int(variant)
        for number in self.unsynced:
            if number < until:
                disk.apply(self._change(number))


def _remove(disk: Disk, nodes: set[int]) -> None:
    for names in disk.folders.values():
        for name in [name for name, node in names.items() if node in nodes]:
            del names[name]


def _state(
    disk: Disk, nodes: dict[int, Node], label: str, acknowledged: Iterable[str], begun: Iterable[str]
) -> CrashState:
    folders: list[str] = []
    files: dict[str, File] = {}
    for path, node in disk.paths(nodes):
        if nodes[node].is_folder:
            folders.append(path)
        else:
            files[path] = File(node, nodes[node].mode, disk.files.get(node, b""))
    return CrashState(label, tuple(folders), files, tuple(acknowledged), tuple(begun))


def _subsets(count: int) -> list[str]:
    """Which of so many pending operations are there: a digit for each, 1 for those that are."""
    window = min(count, SUBSETS_MAX)
    found = ["1" * (count - window) + "".join(bits) for bits in product("01", repeat=window)]
    if count > SUBSETS_MAX:
        found += ["1" * number + "0" * (count - number) for number in range(count)]
        for number in range(count):
            found.append("1" * number + "0" + "1" * (count - number - 1))
            found.append("0" * number + "1" + "0" * (count - number - 1))
    return list(dict.fromkeys(found))


def _boundary(offset: int, step: int) -> int:
    """The first multiple of ``step`` behind an offset."""
    return (offset // step + 1) * step


def _cuts(change: Written) -> dict[str, int]:
    """How much is there of a torn write, by the name of the tear."""
    end = change.offset + len(change.data)
    cuts = {
        "torn512": _boundary(change.offset, _SECTOR_BYTES),
        "torn4096": _boundary(change.offset, _PAGE_BYTES),
        "tornlate": (end - 1) // _SECTOR_BYTES * _SECTOR_BYTES,
    }
    return {tear: cut - change.offset for tear, cut in cuts.items() if change.offset < cut < end}


def _tears(operation: Operation) -> list[str]:
    if not isinstance(operation, Written):
        return []
    cuts = _cuts(operation)
    return [*cuts, *(["tail512"] if "torn512" in cuts else []), "zeros"]


def _torn(change: Change, tear: str) -> Change:
    if tear == _WHOLE:
        return change
    if not isinstance(change, Written) or tear not in _tears(change):
        raise ValueError(f"the last change cannot be torn so: {tear}")
    if tear == "zeros":
        return change._replace(data=bytes(len(change.data)))
    cuts = _cuts(change)
    if tear == "tail512":
        cut = cuts["torn512"]
        return change._replace(offset=change.offset + cut, data=change.data[cut:])
    return change._replace(data=change.data[: cuts[tear]])
