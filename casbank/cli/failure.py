"""From what was raised to one line on standard error and an exit code.

Rule 1: errors of casbank carry their exit code; what the command's own files raise counts as a failed store.
Rule 2: a traceback is for bugs: only ``--verbose`` shows one, and only for what was not foreseen.
Rule 3: who reads standard output may stop: that is nobody's failure, and nothing is said of it.
"""

import os
import sys
import traceback
from contextlib import suppress

from casbank.cli.console import Console
from casbank.errors import LOST_KINDS, CasbankError, CorruptionError
from casbank.storage.files import translate

UNEXPECTED = 1
USAGE = 2
NOT_FOUND = 3
UNCLEAN = 4
PARTIAL = 11
INTERRUPTED = 130
# What a shell reports of a program that SIGPIPE ended, as it does cat.
BROKEN_PIPE = 141


def explain(error: BaseException, console: Console) -> int:
    """Say what went wrong; the exit code for it."""
    match error:
        case BrokenPipeError():
            _drop_output()
            return BROKEN_PIPE
        case KeyboardInterrupt():
            console.complain("interrupted")
            return INTERRUPTED
        case CasbankError():
            console.complain(reason(error))
            return error.exit_code
        case OSError():
            _drop_output()
            what = f"cannot use {error.filename}" if error.filename else "input or output failed"
            translated = translate(error, what)
            console.complain(str(translated))
            return translated.exit_code
    _explain_bug(error, console)
    return UNEXPECTED


def reason(error: CasbankError) -> str:
    """Its message; of a damaged object, what gets the rest of it."""
    if isinstance(error, CorruptionError) and error.kind in LOST_KINDS and "object" in error.context:
        return f"{error}; 'casbank get --allow-holes' writes what is left of it"
    return str(error)


def _explain_bug(error: BaseException, console: Console) -> None:
    if console.verbose:
        sys.stderr.write("".join(traceback.format_exception(error)))
    hint = "" if console.verbose else "; --verbose shows where"
    console.complain(f"unexpected failure, {type(error).__name__}: {error}{hint}")


def _drop_output() -> None:
    """Let what standard output could not take go nowhere: the interpreter would try again as it exits, and complain."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
