"""Who is known to be dead, and of whom that can not be known."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Start

from casbank.engine.owner import Owner, decode_owner, encode_owner, is_known_dead, this_process
from casbank.storage.mount import UNKNOWN

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc: nobody is known to be dead")

TELL = """
import sys
from pathlib import Path
from casbank.engine.owner import encode_owner, this_process
if len(sys.argv) > 1:
    Path("/proc/self/comm").write_text(sys.argv[1])
print(encode_owner(this_process("me")), flush=True)
sys.stdin.read()
"""


def told_by(child: "subprocess.Popen[str]") -> Owner:
    assert child.stdout is not None
    return decode_owner(child.stdout.readline().strip())


@pytest.fixture(scope="module")
def dead() -> Owner:
    """A process of this host that has ended."""
    ended = subprocess.run([sys.executable, "-c", TELL], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return decode_owner(ended.stdout.decode().strip())


def test_owner_survives_its_record() -> None:
    """What a record has of an owner is what was put there."""
    for owner in (this_process('a text, with "quotes" and \U0001f980'), Owner("x"), this_process("")):
        assert decode_owner(encode_owner(owner)) == owner


def test_this_process_is_alive() -> None:
    """Who asks is not dead."""
    assert this_process("x").pid == os.getpid()
    assert not is_known_dead(this_process("x"))


@pytest.mark.parametrize("how", ["ended", "killed", "zombie"])
def test_dead_process_is_known(program: Start, how: str) -> None:
    """A process of the same boot and namespace is dead once it has ended, whether or not anybody has asked why."""
    child = program(TELL)
    owner = told_by(child)
    assert not is_known_dead(owner)
    if how == "ended":
        child.communicate()
    else:
        child.send_signal(signal.SIGKILL)
        # A zombie stays until its parent asks; this does not ask.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        if how == "killed":
            child.wait()
    assert is_known_dead(owner)


def test_stopped_process_is_alive(program: Start) -> None:
    """A process that does nothing for a while is not dead."""
    child = program(TELL)
    owner = told_by(child)
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert not is_known_dead(owner)


@pytest.mark.parametrize("comm", [") Z 1 (", "a b c", ")", "((", "1) X 2"])
def test_command_with_parentheses(program: Start, comm: str) -> None:
    """A process may call itself what it wants to."""
    child = program(TELL, comm)
    owner = told_by(child)
    assert Path(f"/proc/{child.pid}/comm").read_text() == comm + "\n"
    assert owner.started > 0
    assert not is_known_dead(owner)


def test_reused_pid_is_another_process() -> None:
    """A process of the same pid that started later is not the owner."""
    me = this_process("x")
    assert is_known_dead(me._replace(started=me.started - 1))


@pytest.mark.parametrize("field", ["host", "boot", "pid_namespace"])
@pytest.mark.parametrize("value", ["another", UNKNOWN])
def test_death_elsewhere_is_never_known(dead: Owner, field: str, value: str) -> None:
    """Of another host, boot or pid namespace nothing is known, nor where one of them could not be learnt."""
    assert is_known_dead(dead)
    assert not is_known_dead(dead._replace(**{field: value}))  # type: ignore[arg-type]


def test_death_without_a_beginning_is_never_known(dead: Owner) -> None:
    """Whose time of start could not be learnt may be whoever has the pid now."""
    assert not is_known_dead(dead._replace(started=-1))


@pytest.mark.parametrize(
    ("field", "source"),
    [
        ("host", "platform.node"),
        ("boot", "casbank.engine.owner._boot"),
        ("pid_namespace", "casbank.engine.owner._pid_namespace"),
    ],
)
def test_who_knows_not_where_he_is(dead: Owner, field: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two unknown places are not one: who knows not where he is knows nobody dead."""
    monkeypatch.setattr(source, lambda: UNKNOWN)
    assert not is_known_dead(dead)
    assert not is_known_dead(dead._replace(**{field: UNKNOWN}))  # type: ignore[arg-type]


def test_process_of_another_namespace(program: Start) -> None:
    """In containers two live processes have one host name, one boot id and each other's pids."""
    unshare = shutil.which("unshare")
    command = [unshare or "", "--pid", "--fork", sys.executable, "-c", TELL]
    if unshare is None or subprocess.run([*command[:3], "true"], capture_output=True, check=False).returncode:
        pytest.skip("this process may not make a pid namespace")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        owner = told_by(child)
        me = this_process("x")
        assert (owner.host, owner.boot) == (me.host, me.boot)
        assert owner.pid_namespace != me.pid_namespace
        # Pid 1 is here somebody else, who started earlier.
        assert owner.pid == 1
        assert not is_known_dead(owner)
        child.communicate()
    assert not is_known_dead(owner)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "somebody",
        "{}",
        "[]",
        "null",
        "[1,2,3,4,5,6]",
        json.dumps(["t", "h", "b", "n", 1, "2"]),
        json.dumps(["t", "h", "b", "n", True, 2]),
        json.dumps(["t", "h", "b", "n", 1, 2, 3]),
        pytest.param(
            "[" * 3000,
            id="deep",
        ),
        pytest.param("1" * 5000, id="long"),
    ],
)
def test_strange_owner_is_shown_and_alive(text: str) -> None:
    """Whatever another release wrote there is shown as it is, and never taken for dead."""
    owner = decode_owner(text)
    assert owner == Owner(text)
    assert not is_known_dead(owner)
