"""Ways to run the command: in this process, where that is enough, or as its users do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from casbank.cli.main import command

SCRIPT = Path(sys.executable).with_name("casbank")
_HEADER_BYTES = 128


def environment(**more: str) -> dict[str, str]:
    """That of this test, with ``more`` in it."""
    # As users have it: what is left in a buffer when a write fails is a case of its own.
    return {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"} | more


def casbank(*arguments: str | Path) -> Result:
    """Run in this process; standard input is not there."""
    return CliRunner().invoke(command, [str(argument) for argument in arguments], prog_name="casbank")


def done(*arguments: str | Path) -> Result:
    """The same, for what must succeed."""
    result = casbank(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def document(*arguments: str | Path) -> Any:
    """What ``--json`` writes to standard output; nothing else may be there."""
    return json.loads(done(*arguments, "--json").stdout)


def failed(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and message of what must fail, which is one line and never a traceback."""
    result = casbank(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stderr.startswith("casbank: ")
    assert result.stderr.count("\n") == 1
    return result.exit_code, result.stderr


def start(*arguments: str | Path, **options: Any) -> "subprocess.Popen[bytes]":
    """The console script as a process of its own."""
    usual = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment()}
    return subprocess.Popen([SCRIPT, *arguments], **{**usual, **options})


def script(*arguments: str | Path, data: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """Run the console script to its end with ``data`` on standard input."""
    return subprocess.run([SCRIPT, *arguments], input=data, env=environment(), capture_output=True, check=False)


def new_key_file(path: Path) -> Path:
    """A file of random bytes, in which a key is."""
    path.write_bytes(os.urandom(32))
    return path


def files_below(root: Path) -> dict[str, bytes]:
    """Every regular file's path and content; links are not followed."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            if not path.is_symlink() and path.is_file():
                found[os.fspath(path.relative_to(root))] = path.read_bytes()
    return found


def flip_every_pack(bank: Path) -> None:
    """Damage the first entry of each pack."""
    for pack in (bank / "packs").rglob("*"):
        if pack.is_file():
            data = bytearray(pack.read_bytes())
            data[_HEADER_BYTES + 50] ^= 1
            pack.chmod(0o644)
            pack.write_bytes(data)
