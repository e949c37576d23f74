"""The real console script, between pipes, signals and terminals."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from casbank import Bank
from cli.shell import SCRIPT, environment, script, start

MIB = 2**20


def test_pipes_carry_an_object_both_ways(bank: Path) -> None:
    """What is piped in comes out of a pipe byte by byte, sizes that no buffer divides included."""
    content = os.urandom(40 * MIB + 12_345)
    stored = script("put", bank, "name", data=content)
    assert (stored.returncode, stored.stderr) == (0, b"")
    fetched = script("get", bank, "name")
    assert fetched.returncode == 0
    assert fetched.stdout == content
    assert script("put", bank, "again", "-", data=content).returncode == 0
    with Bank.open(bank) as opened:
        assert opened.head("again").etag == opened.head("name").etag


def test_two_scripts_form_a_pipeline(bank: Path) -> None:
    """get feeds put without a file between them."""
    content = os.urandom(5 * MIB)
    script("put", bank, "x", data=content)
    with start("get", bank, "x") as source, start("put", bank, "y", stdin=source.stdout) as target:
        source.stdout.close()
        assert target.wait() == 0
        assert source.wait() == 0
    with Bank.open(bank) as opened:
        assert opened.get("y") == content


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_stays_flat(bank: Path, tmp_path: Path) -> None:
    """get needs no more memory for an object of 200 MiB than its buffers: far less than the object."""
    with Bank.open(bank) as opened:
        opened.put("x", (b"%9d" % (number % 50) * 2**17 for number in range(178)))
    # Not getrusage: what it says of a child includes what its parent needed when it forked.
    program = (
        "import re, sys; from casbank.cli.main import command\n"
        "command(sys.argv[1:], standalone_mode=False)\n"
        "print(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "get", bank, "x", "-o", tmp_path / "x"], capture_output=True, check=True
    )
    assert (tmp_path / "x").stat().st_size == 178 * 9 * 2**17
    assert int(done.stderr) < 120 * 1024


@pytest.mark.parametrize("verb", ["get", "ls"])
def test_a_reader_that_stops_is_no_failure_to_talk_about(bank: Path, verb: str) -> None:
    """After a broken pipe the exit code is that of cat, and standard error is empty."""
    with Bank.open(bank) as opened, opened.batch() as batch:
        batch.put("x" * 900, os.urandom(2 * MIB))
        for number in range(500):
            batch.put(f"{number:0900}", b"")
    arguments = ("get", bank, "x" * 900) if verb == "get" else ("ls", bank)
    with start(*arguments) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_an_interrupted_put_stores_nothing(bank: Path) -> None:
    """SIGINT ends with 130 and one line; what was read so far is not visible, and the bank works on."""
    with start("put", bank, "x", stdin=subprocess.PIPE, bufsize=0) as process:
        # More than a pipe holds: once this returns, the put is under way.
        process.stdin.write(os.urandom(8 * MIB))
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == b"casbank: interrupted\n"
    with Bank.open(bank) as opened:
        assert list(opened) == []
        opened.put("x", b"x")


def test_an_interrupted_get_leaves_what_was_there(bank: Path, tmp_path: Path) -> None:
    """SIGINT in the middle of get -o leaves the old file, and no temporary one."""
    target = tmp_path / "folder" / "target"
    target.parent.mkdir()
    target.write_bytes(b"before")
    with Bank.open(bank) as opened:
        opened.put("x", (bytes(MIB) for _ in range(256)))
    with start("get", bank, "x", "-o", target) as process:
        while len(list(target.parent.iterdir())) == 1 and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert target.read_bytes() == b"before"
    assert list(target.parent.iterdir()) == [target]


def test_a_killed_get_leaves_what_was_there(tmp_path: Path) -> None:
    """SIGKILL before the last byte leaves the old file as it was, beside a temporary one at most."""
    target = tmp_path / "target"
    target.write_bytes(b"before")
    program = (
        "import os, pathlib, sys; from casbank.cli.whole_file import whole_file\n"
        "with whole_file(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, target], check=False).returncode == -signal.SIGKILL
    assert target.read_bytes() == b"before"
    assert [path.name[:9] for path in tmp_path.iterdir() if path != target] == [".casbank-"]


def test_a_device_is_written_into(bank: Path, tmp_path: Path) -> None:
    """-o never puts a file in the place of a device, a FIFO or a symbolic link."""
    script("put", bank, "x", data=b"content")
    assert script("get", bank, "x", "-o", "/dev/stdout").stdout == b"content"
    assert script("get", bank, "x", "-o", "-").stdout == b"content"
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert script("get", bank, "x", "-o", tmp_path / "link").returncode == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_replaced_file_is_not_opened_to_more_people(bank: Path, tmp_path: Path) -> None:
    """The new file has the old one's mode."""
    target = tmp_path / "x"
    target.touch(mode=0o600)
    script("put", bank, "x", data=b"content")
    script("get", bank, "x", "-o", target)
    assert (target.stat().st_mode & 0o777, target.read_bytes()) == (0o600, b"content")


def on_terminal(*arguments: str | Path, stdout: int | None = None) -> tuple[int, bytes]:
    """Run the script with a terminal as its standard error, and output unless that is given; what it was shown."""
    leader, follower = pty.openpty()
    with start(*arguments, stdout=stdout or follower, stderr=follower, env=environment(TERM="xterm")) as process:
        os.close(follower)
        shown = b""
        try:
            while data := os.read(leader, 65_536):
                shown += data
        except OSError:
            pass  # EIO: the last one has closed the terminal
    os.close(leader)
    return process.returncode, shown


def test_a_terminal_is_shown_escaped_names(bank: Path) -> None:
    """ls cannot be made to send a name's control characters to a terminal."""
    with Bank.open(bank) as opened:
        opened.put("a\nb\x1b[31m", b"")
    assert on_terminal("ls", bank) == (0, b"a\\nb\\x1b[31m\r\n")


def test_a_bar_stays_out_of_the_answer(bank: Path, tmp_path: Path) -> None:
    """On a terminal progress goes to standard error, below what is said there; standard output is JSON alone."""
    pytest.importorskip("rich")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "good").write_bytes(os.urandom(MIB))
    (tree / "link").symlink_to("good")
    with (tmp_path / "out").open("wb") as out:
        code, shown = on_terminal("put", bank, "--recursive", tree, "--json", "-v", stdout=out.fileno())
    assert code == 0
    assert json.loads((tmp_path / "out").read_bytes())["files"] == 1
    assert b"casbank: link: skipped, a symbolic link\r\n" in shown
    assert b"1.0/" in shown


def test_closed_standard_streams_do_no_harm(bank: Path, tmp_path: Path) -> None:
    """Without standard streams the work is done, and no message lands in a file of the bank."""
    (tmp_path / "x").write_bytes(b"content")
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", SCRIPT]
    assert subprocess.run([*closed, "put", bank, "x", tmp_path / "x"], check=False).returncode == 0
    assert subprocess.run([*closed, "ls", bank, "--json"], check=False).returncode == 0
    assert subprocess.run([*closed, "get", bank, "nope"], check=False).returncode == 3
    assert subprocess.run([*closed, "put", bank, "y"], check=False).returncode == 2
    assert script("index", "verify", bank).returncode == 0
    assert script("get", bank, "x").stdout == b"content"


def test_python_m_is_the_same_command(bank: Path) -> None:
    """``python -m casbank`` is ``casbank``."""
    module = subprocess.run([sys.executable, "-m", "casbank", "version"], capture_output=True, check=True)
    assert module.stdout == subprocess.run([SCRIPT, "version"], capture_output=True, check=True).stdout
