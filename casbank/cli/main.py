"""The command ``casbank``: finds the verb and hands over.

Rule: only the verb that was asked for is imported. What each is for stands here, so that ``casbank --help`` need not
ask them.
"""

import gc
import os
import sys
from importlib import import_module
from typing import cast

import click

from casbank.cli.failure import USAGE

_STDOUT = 1
_STDERR = 2

VERBS = {
    "init": "Create a bank.",
    "put": "Store a file, standard input, or every file below a folder.",
    "get": "Fetch an object, or every object below a prefix.",
    "ls": "List objects.",
    "stat": "Show what is known of an object.",
    "rm": "Remove objects.",
    "undelete": "Bring back what was removed or replaced.",
    "cp": "Give an object's content a second name.",
    "info": "Show a bank's sizes and counts.",
    "gc": "Free what nothing needs any more.",
    "fsck": "Check a bank, offline; repair it.",
    "lease": "List, acquire, renew and release leases.",
    "key": "Show, add, remove, rotate and export a bank's keys.",
    "index": "Rebuild, drop or verify a bank's index.",
    "version": "Show the versions of casbank and of what it stands on.",
}


class Verbs(click.Group):
    """The verbs, each imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click names it
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click too
        if cmd_name not in VERBS:
            return None
        return cast(click.Command, import_module(f"casbank.cli.{cmd_name}").command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click too
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            asked = (error.ctx or ctx).command_path
            click.echo(f"casbank: {error.format_message()} See '{asked} --help'.", err=True)
            ctx.exit(USAGE)


@click.command(
    cls=Verbs,
    subcommand_metavar="VERB BANK ...",
    epilog="Exit codes: 0 done, 1 unexpected failure, 2 wrong usage, 3 no such bank or object, 4 damaged data, 5 a "
    "lease has ended, 6 a disk or store failed, 7 no key or a wrong one, 8 a newer format, 9 read-only, 10 exists "
    "already or changed meanwhile, 11 a part of a recursive verb's work failed, 12 outcome unknown, 130 interrupted.",
)
@click.version_option(package_name="casbank", message="casbank %(version)s")
def command() -> None:
    """Keep objects in a bank: deduplicated, checked on every read, durable once acknowledged.

    BANK is the path of a folder. Results go to standard output, messages to standard error.

    The key of an encrypted bank comes from --key-file, --passphrase-file or --key-command, or else from the variables
    CASBANK_PASSPHRASE, CASBANK_KEY_FILE, CASBANK_PASSPHRASE_FILE and CASBANK_KEY_COMMAND, of which one may be set. If
    there is none, a passphrase is asked for on the terminal.
    """


def run() -> None:
    """The console script."""
    _occupy_standard_descriptors()
    # A verb makes few cycles and many objects that live as long as a batch: looking for garbage among those every 700
    # of them takes some percent of a recursive put.
    gc.set_threshold(50_000)
    command.main(prog_name="casbank")


def _occupy_standard_descriptors() -> None:
    """Put the null device where a standard stream was closed: else a file of the bank would get its number, and
    whatever is written there."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(_STDOUT, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(_STDERR, "w", closefd=False)
