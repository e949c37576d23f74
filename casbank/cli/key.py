"""``casbank key``: what opens an encrypted bank, and the epochs in which it is sealed."""

from pathlib import Path

import click

from casbank.bank import Bank
from casbank.cli.console import Console, printable
from casbank.cli.given_key import GivenKey
from casbank.cli.id_digits import id_digits, matching
from casbank.cli.key_options import NEW, key_options
from casbank.cli.new_key import read_new_key
from casbank.cli.opening import open_bank
from casbank.cli.private_file import write_private_file
from casbank.cli.recovery_text import STDIN, read_recovery, written_recovery
from casbank.cli.sizes import human_time, moment
from casbank.cli.verb import verb
from casbank.errors import ErrorKind, NotFoundError
from casbank.model import KeyEpoch, KeySlotInfo

_STDOUT = "-"


@click.group()
def command() -> None:
    """Show, add, remove, rotate and export the keys of an encrypted bank."""


@command.command()
@click.argument("bank")
@verb
def ls(console: Console, bank: str) -> None:
    """List the key slots of BANK, each of which opens it, and its key epochs, in which files are sealed."""
    with open_bank(console, bank, read_only=True) as opened:
        slots, epochs = opened.keys.slots(), opened.keys.epochs()
    if console.json:
        console.document({"slots": [_slot(slot) for slot in slots], "epochs": [_epoch(epoch) for epoch in epochs]})
        return
    for slot in slots:
        line = f"slot   {slot.id}  {slot.source:<10}  {human_time(moment(slot.created_ns))}  {printable(slot.label)}"
        console.answer(line.rstrip())
    for epoch in epochs:
        state = "current" if epoch.is_current else "retired" if epoch.is_retired else ""
        console.answer(f"epoch  {epoch.number}  {human_time(moment(epoch.created_ns))}  {state}".rstrip())


@command.command()
@click.argument("bank")
@click.option("--label", default="", metavar="TEXT", help="What to call the new key in 'casbank key ls'.")
@click.option(
    "--recovery-file",
    metavar="FILE|-",
    help="Open BANK with the recovery text in FILE, or on standard input, in place of a key.",
)
@key_options(NEW)
@verb
def add(console: Console, *, bank: str, label: str, recovery_file: str | None, new_key: GivenKey | None) -> None:
    """Let one more key open BANK. If no new key is given, not by CASBANK_NEW_PASSPHRASE either, ask for a passphrase
    twice.

    To change a passphrase, add the new one and remove the slot of the old one.
    """
    with _open_for_new_key(console, bank, recovery_file) as opened:
        arguments = read_new_key(new_key, word=NEW, stdin_is_data=recovery_file == STDIN)
        slot = opened.keys.add(label=label, **arguments)
    if console.json:
        console.document(_slot(slot))
    else:
        console.say(f"added key slot {slot.id}")


def _open_for_new_key(console: Console, bank: str, recovery_file: str | None) -> Bank:
    if recovery_file is None:
        return open_bank(console, bank)
    if console.key is not None and console.key.is_option:
        raise click.UsageError(f"--recovery-file takes the place of {console.key.origin}.")
    return Bank.open(bank, recovery=read_recovery(recovery_file), cache_dir=console.cache_dir)


@command.command()
@click.argument("bank")
@click.argument("slot")
@verb
def rm(console: Console, bank: str, slot: str) -> None:
    """Let the key slot SLOT open BANK no longer: its id, or the first digits (4 or more) of it.

    The last one cannot be removed. Who has a copy of the slot and what opened it can still read copies of the bank.
    """
    digits = id_digits(slot, "SLOT", "'casbank key ls'")
    with open_bank(console, bank) as opened:
        slot_id = matching([found.id for found in opened.keys.slots()], digits)
        if slot_id is None:
            raise NotFoundError("no such key slot", kind=ErrorKind.NO_KEY, slot=digits)
        opened.keys.remove(slot_id)
    if console.json:
        console.document({"removed": slot_id})
    else:
        console.say(f"removed key slot {slot_id}")


@command.command()
@click.argument("bank")
@verb
def rotate(console: Console, bank: str) -> None:
    """Begin a key epoch: what is written to BANK from now on is sealed with new secrets. Nothing is written anew."""
    with open_bank(console, bank) as opened:
        epoch = opened.keys.rotate()
    if console.json:
        console.document({"epoch": epoch})
    console.say(f"key epoch {epoch} began; export the recovery text anew, an older one does not recover this epoch")


@command.command()
@click.argument("bank")
@click.argument("epoch", type=click.IntRange(min=1))
@verb
def retire(console: Console, bank: str, epoch: int) -> None:
    """Mark the key epoch EPOCH, so that the collector seals anew what was sealed in it."""
    with open_bank(console, bank) as opened:
        opened.keys.retire(epoch)
    if console.json:
        console.document({"retired": epoch})
    else:
        console.say(f"retired key epoch {epoch}")


@command.command()
@click.argument("bank")
@click.option(
    "-o", "--output", metavar="FILE", help="Write here, to a file that must not exist yet and only you can read."
)
@verb
def export(console: Console, bank: str, output: str | None) -> None:
    """Write the recovery text of BANK: it opens the bank by itself, even if BANK's own keys are lost.

    Whoever has it can read the bank, whatever keys are removed afterwards: print it and lock it away. It holds the
    epochs there are now: export it anew after each 'casbank key rotate'. With --json, the document has it as
    "recovery"; with -o too, the name of the file as "file".
    """
    with open_bank(console, bank, read_only=True) as opened:
        text, bank_id = opened.keys.export(), opened.stats().bank_id
    written = written_recovery(text, bank_id)
    if output not in (None, _STDOUT):
        write_private_file(Path(output), written.encode())
        if console.json:
            console.document({"file": output})
        else:
            console.say(f"wrote the recovery text to {output}: print it, lock it away, delete the file")
    elif console.json:
        console.document({"recovery": text})
    else:
        console.answer(written.rstrip("\n"))


def _slot(slot: KeySlotInfo) -> dict[str, object]:
    return {
        "id": slot.id,
        "source": slot.source,
        "label": slot.label,
        "created": moment(slot.created_ns).isoformat(),
    }


def _epoch(epoch: KeyEpoch) -> dict[str, object]:
    return {
        "number": epoch.number,
        "created": moment(epoch.created_ns).isoformat(),
        "current": epoch.is_current,
        "retired": epoch.is_retired,
    }
