"""What every verb has in common: its common options, and how it ends."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from casbank.cli.console import Console
from casbank.cli.failure import PARTIAL, explain
from casbank.cli.given_key import GivenKey
from casbank.cli.key_options import key_options
from casbank.cli.logged import logged
from casbank.config import CACHE_VARIABLE


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the common options and those of the bank's key, as a Console, and turn what it raises into a message
    and an exit code."""
    return key_options()(keyless_verb(function))


def keyless_verb(function: Callable[..., None]) -> Callable[..., None]:
    """The same, for a verb that opens no bank."""

    @click.option("--json", "as_json", is_flag=True, help="Write one JSON document to standard output; sizes in bytes.")
    @click.option("--quiet", "-q", is_flag=True, help="Say nothing but what failed, and warnings.")
    @click.option("--verbose", "-v", is_flag=True, help="Say more, and show tracebacks.")
    @click.option(
        "--cache-dir",
        metavar="DIR",
        type=click.Path(path_type=Path),
        envvar=CACHE_VARIABLE,
        show_envvar=True,
        help="Keep the index here, not in the bank.",
    )
    @functools.wraps(function)
    def wrapped(
        *,
        as_json: bool,
        quiet: bool,
        verbose: bool,
        cache_dir: Path | None,
        key: GivenKey | None = None,
        **arguments: Any,
    ) -> None:
        context = click.get_current_context()
        console = Console(as_json, quiet, verbose, cache_dir, key)
        try:
            with logged(console):
                function(console, **arguments)
            # Here, where a full disk or a closed pipe can still be told.
            sys.stdout.buffer.flush()
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (Exception, KeyboardInterrupt) as error:
            context.exit(explain(error, console))
        if console.failures:
            context.exit(PARTIAL)

    return wrapped
