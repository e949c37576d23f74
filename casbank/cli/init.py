"""``casbank init``: create a bank, or put back what opens one."""

from pathlib import Path
from typing import TypedDict, Unpack

import click
from click.core import ParameterSource

from casbank import limits
from casbank.bank import Bank
from casbank.cli.console import Console
from casbank.cli.given_key import KeyArguments
from casbank.cli.info import stats_document
from casbank.cli.new_key import read_new_key
from casbank.cli.recovery_text import STDIN, read_recovery
from casbank.cli.verb import verb


class Settings(TypedDict):
    """What Bank.create fixes for good."""

    chunking: str
    compression: int | str
    keep_deleted_s: int
    suite: str | None
    dedup_domain: Path | None


def _level(_context: click.Context, _option: click.Parameter, text: str) -> int | str:
    # Bank.create judges which levels and which words there are.
    return int(text) if text.isdecimal() else text


@click.command()
@click.argument("bank")
@click.option(
    "--chunking",
    default="default",
    show_default=True,
    metavar="PROFILE",
    help="How contents are cut: fine, default, coarse, archive, or fixed:N (bytes).",
)
@click.option(
    "--compression",
    callback=_level,
    default=str(limits.COMPRESSION_LEVEL_DEFAULT),
    show_default=True,
    metavar="N|none",
    help="The level of zstd, 1 to 22.",
)
@click.option(
    "--keep-deleted",
    "keep_deleted_s",
    type=int,
    default=limits.KEEP_DELETED_S_DEFAULT,
    show_default=True,
    metavar="SECONDS",
    help="How long removed and replaced versions can be brought back.",
)
@click.option("--encrypt", is_flag=True, help="Encrypt the bank; if no key is given, ask for a passphrase twice.")
@click.option(
    "--suite",
    metavar="SUITE",
    help="What encrypts: aes-256-gcm, which is the default, or chacha20-poly1305.",
)
@click.option(
    "--dedup-domain",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Encrypted banks that name one FILE (32 bytes to 1 MiB) recognise each other's chunks.",
)
@click.option(
    "--recover",
    "recovery_file",
    metavar="FILE|-",
    help="Put back the lost file BANK or folder keys of the bank whose recovery text this is, with a new key.",
)
@verb
def command(
    console: Console, *, bank: str, encrypt: bool, recovery_file: str | None, **settings: Unpack[Settings]
) -> None:
    """Create a bank in the folder BANK, which is absent or empty. Only its keys can be changed later.

    It is encrypted with --encrypt, and whenever a key is given, by an option or by a variable as CASBANK_PASSPHRASE:
    while that is set, a bank that is not encrypted could not be opened. Who loses all keys of an encrypted bank, and
    its recovery text ('casbank key export'), has lost the bank.
    """
    if recovery_file is not None:
        _recover(console, bank, recovery_file)
        return
    is_encrypted = encrypt or console.key is not None
    if not is_encrypted and settings["suite"] is not None:
        raise click.UsageError("--suite goes with --encrypt.")
    key = read_new_key(console.key) if is_encrypted else KeyArguments()
    with Bank.create(bank, cache_dir=console.cache_dir, **settings, **key) as created:
        stats = created.stats()
    if console.json:
        console.document(stats_document(stats))
    else:
        console.say(f"created a bank at {bank}")
    if is_encrypted:
        console.say(
            "who loses all keys of this bank has lost the bank; 'casbank key export BANK -o FILE' writes a recovery "
            "text to print and lock away"
        )


def _recover(console: Console, bank: str, recovery_file: str) -> None:
    if chosen := _chosen_settings():
        raise click.UsageError(f"--recover brings back the bank's own settings; it takes no {' and no '.join(chosen)}.")
    text = read_recovery(recovery_file)
    key = read_new_key(console.key, stdin_is_data=recovery_file == STDIN)
    with Bank.recover(bank, text, cache_dir=console.cache_dir, **key) as recovered:
        stats = recovered.stats()
    if console.json:
        console.document(stats_document(stats))
    else:
        console.say(f"recovered the bank at {bank}, with a new key")


def _chosen_settings() -> list[str]:
    """The options of Settings that stand on the command line."""
    context = click.get_current_context()
    return [
        option.opts[0]
        for option in context.command.params
        if option.name in Settings.__annotations__
        and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
