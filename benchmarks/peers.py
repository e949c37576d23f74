"""The stores that are compared, one class each: which commands they want, and where their bytes lie.

    stores = [kind(folder) for kind in KINDS if kind.version()]

Every store works in a folder of its own: its bank or repository, its caches, its settings. Each has the defaults that
its makers chose, except that a second put re-reads all content (casbank always does), since what is compared is
deduplication and not a look at modification times.
"""

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from child import Command
from content import stored_bytes


class Store(ABC):
    """One store at work. Tags are names of archives, snapshots or objects, used once."""

    name: ClassVar[str]
    settings: ClassVar[str]
    is_peer: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bank = folder / "bank"
        self.home = folder / "home"
        self.home.mkdir(parents=True)

    @classmethod
    @abstractmethod
    def program(cls) -> str | None:
        """Where its command is, or None: this machine does not have it."""

    @classmethod
    def version(cls) -> str:
        """What it says it is; empty if it is not here, or does not run."""
        program = cls.program()
        if program is None:
            return ""
        said = subprocess.run((program, *cls.version_arguments), capture_output=True, text=True, check=False)
        return said.stdout.strip().replace("\n", ", ") if said.returncode == 0 else ""

    version_arguments: ClassVar[tuple[str, ...]] = ("--version",)

    def environment(self) -> dict[str, str]:
        """This process's environment, but caches and settings stay inside the folder."""
        # Those in Python start from bytecode, as anything does that pip has installed, a checkout too.
        inherited = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        return inherited | {"HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / "cache")} | self.variables()

    def variables(self) -> dict[str, str]:
        return {}

    def command(self, *arguments: str | Path, cwd: Path | None = None, fed_from: Path | None = None) -> Command:
        return Command((str(self.program()), *map(str, arguments)), cwd or self.folder, fed_from)

    @abstractmethod
    def init(self) -> Command: ...

    @abstractmethod
    def put_folder(self, tag: str, source: Path) -> Command: ...

    @abstractmethod
    def put_file(self, tag: str, source: Path) -> Command: ...

    @abstractmethod
    def put_stdin(self, tag: str, source: Path) -> Command: ...

    @abstractmethod
    def get_folder(self, tag: str, into: Path) -> Command:
        """MUST leave the folder's files directly below `into`, which exists and is empty."""

    @abstractmethod
    def get_file(self, tag: str, name: str, into: Path) -> Command:
        """MUST leave the file at `into / name`."""

    @abstractmethod
    def list_all(self) -> Command:
        """Open the bank and list what is in it."""

    def stored_bytes(self) -> int:
        """What must be kept to get everything back."""
        return stored_bytes(self.bank)

    def cache_bytes(self) -> int:
        """What lies beside it to be faster, and can be lost."""
        return stored_bytes(self.home)


class Casbank(Store):
    name = "casbank"
    settings = "unencrypted, BLAKE3, zstd 2 in groups, chunks of 64 KiB on average; stored bytes without its LMDB index"
    is_peer = False
    version_arguments = ("version",)

    @classmethod
    def program(cls) -> str | None:
        # Beside the interpreter that runs the benchmark, so that it is this checkout's and no other.
        return shutil.which("casbank", path=str(Path(sys.executable).parent))

    def variables(self) -> dict[str, str]:
        return {"CASBANK_CACHE_DIR": str(self.home / "cache")}

    def init(self) -> Command:
        return self.command("init", self.bank)

    def put_folder(self, tag: str, source: Path) -> Command:  # noqa: ARG002  # names are the relative paths
        return self.command("put", self.bank, "--recursive", source)

    def put_file(self, tag: str, source: Path) -> Command:
        return self.command("put", self.bank, tag, source)

    def put_stdin(self, tag: str, source: Path) -> Command:
        return self.command("put", self.bank, tag, "-", fed_from=source)

    def get_folder(self, tag: str, into: Path) -> Command:  # noqa: ARG002  # the bank holds one tree
        return self.command("get", self.bank, "--recursive", "", "-o", into)

    def get_file(self, tag: str, name: str, into: Path) -> Command:
        return self.command("get", self.bank, tag, "-o", into / name)

    def list_all(self) -> Command:
        return self.command("ls", self.bank)

    def stored_bytes(self) -> int:
        return stored_bytes(self.bank) - stored_bytes(self.bank / "index")

    def cache_bytes(self) -> int:
        return stored_bytes(self.home) + stored_bytes(self.bank / "index")


class Restic(Store):
    name = "restic"
    settings = "AES-256-CTR + Poly1305 (it has no other way), SHA-256, zstd (auto), chunks of 1 MiB on average"
    version_arguments = ("version",)

    @classmethod
    def program(cls) -> str | None:
        return shutil.which("restic")

    def variables(self) -> dict[str, str]:
        return {"RESTIC_PASSWORD": "benchmark", "RESTIC_REPOSITORY": str(self.bank)}

    def init(self) -> Command:
        # Version 2 is the one that compresses.
        return self.command("init", "--quiet", "--repository-version", "2")

    def put_folder(self, tag: str, source: Path) -> Command:
        return self.command("backup", "--quiet", "--force", "--tag", tag, ".", cwd=source)

    def put_file(self, tag: str, source: Path) -> Command:
        return self.command("backup", "--quiet", "--force", "--tag", tag, source.name, cwd=source.parent)

    def put_stdin(self, tag: str, source: Path) -> Command:
        options = ("--stdin", "--stdin-filename", source.name)
        return self.command("backup", "--quiet", "--tag", tag, *options, fed_from=source)

    def get_folder(self, tag: str, into: Path) -> Command:
        return self.command("restore", "--quiet", "--tag", tag, "--target", into, "latest")

    def get_file(self, tag: str, name: str, into: Path) -> Command:  # noqa: ARG002  # the snapshot holds one file
        return self.get_folder(tag, into)

    def list_all(self) -> Command:
        return self.command("snapshots", "--quiet")


class Borg(Store):
    name = "borg"
    settings = "repokey: AES-256-CTR + HMAC-SHA256 (its documentation's example), lz4, chunks of 2 MiB on average"
    encryption: ClassVar[str] = "repokey"

    @classmethod
    def program(cls) -> str | None:
        return shutil.which("borg") or shutil.which("borg", path=str(Path(sys.executable).parent))

    def variables(self) -> dict[str, str]:
        return {
            "BORG_REPO": str(self.bank),
            "BORG_BASE_DIR": str(self.home),
            "BORG_PASSPHRASE": "benchmark",
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }

    def init(self) -> Command:
        return self.command("init", "--encryption", self.encryption)

    def put_folder(self, tag: str, source: Path) -> Command:
        return self.command("create", "--files-cache=disabled", f"::{tag}", ".", cwd=source)

    def put_file(self, tag: str, source: Path) -> Command:
        return self.command("create", "--files-cache=disabled", f"::{tag}", source.name, cwd=source.parent)

    def put_stdin(self, tag: str, source: Path) -> Command:
        return self.command("create", f"::{tag}", "-", fed_from=source)

    def get_folder(self, tag: str, into: Path) -> Command:
        return self.command("extract", f"::{tag}", cwd=into)

    def get_file(self, tag: str, name: str, into: Path) -> Command:  # noqa: ARG002  # the archive holds one file
        return self.get_folder(tag, into)

    def list_all(self) -> Command:
        return self.command("list")


class BorgPlain(Borg):
    name = "borg-plain"
    settings = "unencrypted, unkeyed SHA-256, lz4, chunks of 2 MiB on average"
    encryption = "none"


KINDS: tuple[type[Store], ...] = (Casbank, Restic, Borg, BorgPlain)
DEFAULT_NAMES = ("casbank", "restic", "borg", "borg-plain")
