"""Recovery texts: as they are read, and as they are written down."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from casbank.cli.sizes import human_time
from casbank.errors import InvalidInputError

STDIN = "-"
# The largest keyring has 1 MiB, and a third more in base64; the rest is what people write around it.
_RECOVERY_BYTES_MAX = 4 * 2**20


def read_recovery(file: str) -> str:
    """What is in a file, or comes from standard input. Raises InvalidInputError, UsageError, OSError."""
    if file == STDIN:
        if sys.stdin is None:
            raise click.UsageError("Standard input is closed.")
        data = sys.stdin.buffer.read(_RECOVERY_BYTES_MAX + 1)
    else:
        with Path(file).open("rb") as stream:
            data = stream.read(_RECOVERY_BYTES_MAX + 1)
    if len(data) > _RECOVERY_BYTES_MAX:
        raise InvalidInputError(f"{file} is no recovery text: it is larger than any")
    # What is no UTF-8 can only be around the text, and is not read; or it fails the text's own check.
    return data.decode(errors="replace")


def written_recovery(text: str, bank_id: str) -> str:
    """The text with what somebody who finds it in ten years has to know."""
    return (
        f"Recovery text of the casbank bank {bank_id}, exported {human_time(datetime.now(UTC))}.\n"
        "Whoever has it can read the whole bank: print it, lock it away, delete the file.\n"
        "If the bank's keys are lost, or its file BANK or its folder keys:\n"
        "    casbank init BANK --recover FILE --key-file NEW_KEY\n"
        "If its keys are there, and only what opens them is lost:\n"
        "    casbank key add BANK --recovery-file FILE --new-key-file NEW_KEY\n"
        "Export it anew after each 'casbank key rotate'.\n"
        "\n"
        f"{text}"
    )
