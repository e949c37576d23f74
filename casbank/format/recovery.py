"""The recovery text: all that is needed to read a bank whose ``BANK`` file and ``keys/`` folder are lost.

    -----BEGIN CASBANK RECOVERY KEY-----
    base64 (RFC 4648) of msgpack [1, BANK, key, name of the newest keyring, that keyring] | first 8 bytes of its BLAKE3
    -----END CASBANK RECOVERY KEY-----

Lines outside are for people and are not read; white space inside does not matter.
"""

import base64
import binascii
from textwrap import wrap
from typing import NamedTuple

from blake3 import blake3

from casbank.errors import ErrorKind, InvalidInputError
from casbank.format import messages
from casbank.format.keyslot import KEY_BYTES

_BEGIN = "-----BEGIN CASBANK RECOVERY KEY-----"
_END = "-----END CASBANK RECOVERY KEY-----"
_VERSION = 1
_CHECK_BYTES = 8
_LINE = 64


class Recovery(NamedTuple):
    """What the text holds: the bytes of BANK, the bank's key, and the newest keyring under its name."""

    bank: bytes
    key: bytes
    keyring_name: str
    keyring: bytes


def encode_recovery(recovery: Recovery) -> str:
    """The text, lines of 64 characters."""
    body = messages.encode([_VERSION, *recovery])
    coded = base64.b64encode(body + blake3(body).digest(_CHECK_BYTES)).decode()
    return "\n".join((_BEGIN, *wrap(coded, _LINE), _END)) + "\n"


def decode_recovery(text: str) -> Recovery:
    """Recovery from its text. InvalidInputError unless it says what was printed."""
    if not isinstance(text, str):
        raise InvalidInputError(f"a recovery text is a text, not {type(text).__name__}")
    _, begin, rest = text.partition(_BEGIN)
    coded, end, _ = rest.partition(_END)
    if not begin or not end:
        raise InvalidInputError(f"this is no recovery text: no lines '{_BEGIN}' and '{_END}'")
    try:
        whole = base64.b64decode("".join(coded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError("the recovery text has a wrong character") from error
    body, check = whole[:-_CHECK_BYTES], whole[-_CHECK_BYTES:]
    if blake3(body).digest(_CHECK_BYTES) != check:
        raise InvalidInputError("the recovery text fails its check: a character is missing or wrong")
    fields = messages.decode(body, "recovery text", ErrorKind.KEYRING)
    messages.check_version(fields[0], _VERSION, "recovery text")
    if [type(field) for field in fields[1:]] != [bytes, bytes, str, bytes] or len(fields[2]) != KEY_BYTES:
        raise InvalidInputError("the recovery text has an impossible field")
    return Recovery(*fields[1:])
