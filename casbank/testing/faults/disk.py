"""A disk as a crash sees it: what is durable, and what was done since to what.

Rule 1: a file's bytes and length become durable with a sync of that file; a name (made, linked, moved, removed) with a
sync of the folder that holds it, a moved one with that of its new folder. A move is atomic.
Rule 2: until then each change may have reached the disk or not, by itself, whatever came before or after it.
Rule 3: a file that was made and never written is empty; bytes that were skipped are zero.
Nodes are numbers of our own: an inode's is given again once its file is gone.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

ROOT = 0


class Named(NamedTuple):
    """Names of folders lead elsewhere from now on, all at once: ``(folder, name, node or None)``. The last of them is
    in the folder whose sync makes this durable."""

    changes: tuple[tuple[int, str, int | None], ...]

    @property
    def node(self) -> int:
        """What has to be synced."""
        return self.changes[-1][0]


class Written(NamedTuple):
    """Bytes at an offset of a file."""

    node: int
    offset: int
    data: bytes


class Resized(NamedTuple):
    """A file got this length, or at least this one."""

    node: int
    length: int
    at_least: bool = False


class Synced(NamedTuple):
    """A file or a folder was synced."""

    node: int


Change: TypeAlias = Named | Written | Resized
Operation: TypeAlias = Change | Synced


@dataclass(frozen=True, slots=True)
class Node:
    """What stays as it is of a file or folder: its permissions, and the first path that it had."""

    path: str
    mode: int
    is_folder: bool


@dataclass(slots=True)
class Disk:
    """Folders and files by node."""

    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    files: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> "Disk":
        return Disk({node: dict(names) for node, names in self.folders.items()}, dict(self.files))

    def apply(self, change: Change) -> None:
        """Let a change be there."""
        if isinstance(change, Named):
            for folder, name, node in change.changes:
                self._name(folder, name, node)
        elif isinstance(change, Resized):
            content = self.files.get(change.node, b"")
            if not change.at_least:
                content = content[: change.length]
            self.files[change.node] = content.ljust(change.length, b"\0")
        elif change.data:
            content = self.files.get(change.node, b"").ljust(change.offset, b"\0")
            end = change.offset + len(change.data)
            self.files[change.node] = content[: change.offset] + change.data + content[end:]

    def _name(self, folder: int, name: str, node: int | None) -> None:
        names = self.folders.setdefault(folder, {})
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node

    def find(self, path: str) -> int | None:
        """The node that a path leads to."""
        node: int | None = ROOT
        for name in filter(None, path.split("/")):
            node = None if node is None else self.folders.get(node, {}).get(name)
        return node

    def paths(self, nodes: dict[int, Node], node: int = ROOT, above: str = "") -> list[tuple[str, int]]:
        """Every path and its node; folders before what is in them."""
        found: list[tuple[str, int]] = []
        for name, child in sorted(self.folders.get(node, {}).items()):
            found.append((above + name, child))
            if nodes[child].is_folder:
                found += self.paths(nodes, child, f"{above}{name}/")
        return found
