"""Recording what a program does to the files below a folder, so that its crashes can be replayed.

Rule 1: what is there when the recording begins is durable.
Rule 2: in the end all that was recorded must give what is really there, byte for byte; else something was not seen, and
``UnrecordedError`` says so. What is ``ignored`` is left out, and so is what has no name.
One process is recorded, with all its threads.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from casbank.testing.faults.calls import Call, Identity, identity_of, interposed, is_nameless, matches
from casbank.testing.faults.disk import ROOT, Disk, Named, Node, Operation, Resized, Synced, Written

IGNORED = ("index*", "*/index*")
"""A bank's index: LMDB writes it through a map of its own, and a bank must open without it."""

UNSYNCED = ("journal/synced", "*/journal/synced", "*/head")
"""What a bank never syncs on purpose: the journal's mark, and a client's memory of an encrypted bank."""


class UnrecordedError(AssertionError):
    """The folder is not what was recorded: the program changed it in a way that is not watched."""


class Step(NamedTuple):
    """Something that the program did: between which operations it began and had returned; ``done`` None if it did not
    return."""

    name: str
    begun: int
    done: int | None


class Recording:
    """The operations in order, and what was there before."""

    def __init__(self, root: Path, ignored: Sequence[str], unsynced: Sequence[str]) -> None:
        self.root = root
        self.operations: list[Operation] = []
        self.calls: list[str] = []
        self.steps: list[Step] = []
        self.nodes: dict[int, Node] = {ROOT: Node("", 0o777, True)}
        self.before = Disk()
        self._ignored = ignored
        self._unsynced = unsynced
        self._node_of: dict[Identity, int] = {identity_of(root.stat()): ROOT}
        self._take_all()
        self._now = self.before.copy()

    @property
    def unsynced(self) -> set[int]:
        """Files whose bytes are never synced, on purpose."""
        return {node for node, known in self.nodes.items() if matches(known.path, self._unsynced)}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """What is done in here counts as begun from here on, and as acknowledged once it has ended without an error."""
        number = len(self.steps)
        self.steps.append(Step(name, len(self.operations), None))
        yield
        self.steps[number] = self.steps[number]._replace(done=len(self.operations))

    def check(self) -> None:
        """Raise UnrecordedError unless what is recorded is what is there."""
        expected = {
            path: None if self.nodes[node].is_folder else self._now.files.get(node, b"")
            for path, node in self._now.paths(self.nodes)
        }
        there = {below: None if path.is_dir() else path.read_bytes() for below, path in self._walk(self.root, "")}
        if there != expected:
            paths = sorted(path for path in expected.keys() | there.keys() if expected.get(path) != there.get(path))
            raise UnrecordedError(f"changed in a way that is not recorded: {', '.join(paths)}")

    def _walk(self, folder: Path, above: str) -> Iterator[tuple[str, Path]]:
        for path in sorted(folder.iterdir()):
            below = above + path.name
            if not matches(below, self._ignored):
                yield below, path
                if path.is_dir() and not path.is_symlink():
                    yield from self._walk(path, f"{below}/")

    def _take_all(self) -> None:
        """Read what is there before anything is recorded."""
        for below, path in self._walk(self.root, ""):
            status = path.stat()
            node = self._node_of.get(identity_of(status))
            if node is None:
                node = self._node(below, status)
            self.before.apply(Named(((self._at(below.rpartition("/")[0], self.before), path.name, node),)))
            if not path.is_dir():
                self.before.files[node] = path.read_bytes()

    def _node(self, path: str, status: os.stat_result) -> int:
        number = len(self.nodes)
        self.nodes[number] = Node(path, status.st_mode & 0o777, stat.S_ISDIR(status.st_mode))
        self._node_of[identity_of(status)] = number
        return number

    # --- what is called --------------------------------------------------------------------------------------------

    def handle(self, call: Call, run: Callable[..., Any]) -> Any:
        """Make the call, and record what it did."""
        was_there = self._now.find(call.path) is not None
        result = run()
        for operation in self._meant(call, result, was_there):
            if not isinstance(operation, Synced):
                self._now.apply(operation)
            self.operations.append(operation)
            self.calls.append(str(call))
        return result

    def _meant(self, call: Call, result: Any, was_there: bool) -> list[Operation]:
        match call.name:
            case "open":
                return self._opened(call, result, was_there)
            case "fsync" | "fdatasync":
                return [Synced(self._of(call))]
            case "write" | "writev" | "pwrite" | "pwritev":
                return self._wrote(call, result)
            case "truncate" | "ftruncate" | "posix_fallocate":
                return [self._resized(call)]
        changes = self._named(call)
        return [Named(changes)] if changes else []

    def _named(self, call: Call) -> tuple[tuple[int, str, int | None], ...]:
        match call.name:
            case "mkdir":
                return (self._made(call.path, (self.root / call.path).stat()),)
            case "unlink" | "remove" | "rmdir":
                return (self._place(call.path, None),)
            case "link":
                return (self._place(str(call.other), self._at(call.path)),)
            case "rename" | "replace":
                return self._place(call.path, None), self._place(str(call.other), self._at(call.path))
        return ()

    def _opened(self, call: Call, descriptor: int, was_there: bool) -> list[Operation]:
        flags = call.arguments[1]
        if is_nameless(flags):
            return []
        if not was_there:
            return [Named((self._made(call.path, os.fstat(descriptor)),))]
        return [Resized(self._at(call.path), 0)] if flags & os.O_TRUNC else []

    def _made(self, path: str, status: os.stat_result) -> tuple[int, str, int | None]:
        return self._place(path, self._node(path, status))

    def _wrote(self, call: Call, count: int) -> list[Operation]:
        descriptor, data, *rest = call.arguments
        offset = rest[0] if call.name.startswith("p") else os.lseek(descriptor, 0, os.SEEK_CUR) - count
        whole = b"".join(map(bytes, data)) if call.name.endswith("v") else bytes(data)
        return [Written(self._of(call), offset, whole[:count])] if count else []

    def _resized(self, call: Call) -> Operation:
        if call.name == "posix_fallocate":
            return Resized(self._of(call), sum(call.arguments[1:]), at_least=True)
        return Resized(self._of(call) if call.identity else self._at(call.path), call.arguments[1])

    def _place(self, path: str, node: int | None) -> tuple[int, str, int | None]:
        folder, _, name = path.rpartition("/")
        return self._at(folder), name, node

    def _at(self, path: str, disk: Disk | None = None) -> int:
        node = (disk or self._now).find(path)
        if node is None:
            raise UnrecordedError(f"nothing is recorded of {path}")
        return node

    def _of(self, call: Call) -> int:
        assert call.identity is not None
        return self._node_of[call.identity]


@contextmanager
def recording(
    root: Path, *, ignored: Sequence[str] = IGNORED, unsynced: Sequence[str] = UNSYNCED
) -> Iterator[Recording]:
    """Record what happens below ``root``, which is a folder, until the context ends.

    ``ignored``: patterns of what is none of its business; ``unsynced``: of files whose bytes nobody syncs on purpose,
    so that a crash may leave them as they were at any time, or take them (patterns: ``calls.py``). Raises
    UnrecordedError in the end if something was not seen.
    """
    made = Recording(root, ignored, unsynced)
    with interposed(root, made.handle, ignored):
        yield made
    made.check()
