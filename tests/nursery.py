"""A process that forks others which are to be killed: an interpreter need not be started for each of them."""

import json
import os
import signal
import subprocess
from contextlib import suppress

# For each line of standard input, forks a process that calls a function of crash_scene with the words of the line as
# its command line; tells its id, and how it ended.
NURSERY = """
import json, os, sys
import crash_scene
for line in sys.stdin:
    what, *arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        sys.argv[1:] = arguments
        getattr(crash_scene, what)()
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Nursery:
    """A running NURSERY; it has one child at a time."""

    def __init__(self, program: "subprocess.Popen[str]") -> None:
        self._program = program
        self._child = 0

    def start(self, what: str, *arguments: object) -> None:
        """Begin a process, which calls that function."""
        assert self._program.stdin is not None
        self._program.stdin.write(json.dumps([what, *map(str, arguments)]) + "\n")
        self._program.stdin.flush()
        self._child = self._answer()

    def kill(self) -> int:
        """Kill the process if it has not come to its end; how it ended (wait(2))."""
        with suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)
        return self._answer()

    def wait(self) -> int:
        """Let the process come to its end; how it ended."""
        return self._answer()

    def _answer(self) -> int:
        assert self._program.stdout is not None
        return int(self._program.stdout.readline())
