"""Passphrases and key files: the documented derivations, by vectors that others published and by hand."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from hypothesis import given
from hypothesis import strategies as st

from casbank import limits
from casbank.format.keyslot import SlotParameters, SlotSource
from casbank.sealing.secrets import PASSPHRASE_PARAMETERS, key_file_secret, passphrase_secret

SALT = bytes(range(16))
CHEAP = SlotParameters(SlotSource.PASSPHRASE, memory_kib=32, iterations=1, lanes=4)


def hkdf(content: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, section 2, with nothing but HMAC."""
    key = hmac.digest(salt, content, hashlib.sha256)
    block, made = b"", b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([number]), hashlib.sha256)
        made += block
    return made[:length]


# --- passphrases -----------------------------------------------------------------------------------------------------


def test_primitive_is_the_rfc_s() -> None:
    """Argon2id as it is installed gives the test vector of RFC 9106, section 5.3."""
    derivation = Argon2id(
        salt=b"\2" * 16, length=32, iterations=3, lanes=4, memory_cost=32, ad=b"\4" * 12, secret=b"\3" * 8
    )
    expected = "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"
    assert derivation.derive(b"\1" * 32).hex() == expected


@pytest.mark.parametrize(
    ("memory_kib", "lanes", "expected"),
    [
        (2**16, 1, "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7"),
        (2**8, 1, "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe"),
        (2**8, 2, "6d093c501fd5999645e0ea3bf620d7b8be7fd2db59c20d9fff9539da2bf57037"),
    ],
)
def test_secret_is_argon2id(memory_kib: int, lanes: int, expected: str) -> None:
    """The vectors of the reference implementation (phc-winner-argon2, src/test.c: version 0x13, two passes)."""
    known = SlotParameters(SlotSource.PASSPHRASE, memory_kib, 2, lanes)
    assert passphrase_secret("password", known, b"somesalt").hex() == expected


@pytest.mark.parametrize(
    "change",
    [{"memory_kib": 64}, {"iterations": 2}, {"lanes": 2}],
    ids=str,
)
def test_every_parameter_counts(change: dict[str, int]) -> None:
    """Another memory, number of passes or of lanes makes another secret; so do another salt and passphrase."""
    known = passphrase_secret("text", CHEAP, SALT)
    assert passphrase_secret("text", CHEAP._replace(**change), SALT) != known  # type: ignore[arg-type]
    assert passphrase_secret("text", CHEAP, SALT[::-1]) != known
    assert passphrase_secret("Text", CHEAP, SALT) != known
    assert passphrase_secret("text", CHEAP, SALT) == known
    assert len(known) == 32


def test_new_slots_follow_the_rfc() -> None:
    """New slots are made with RFC 9106's second recommended option: 64 MiB, three passes, four lanes."""
    assert (SlotSource.PASSPHRASE, 65536, 3, 4, b"") == PASSPHRASE_PARAMETERS
    assert PASSPHRASE_PARAMETERS.memory_kib <= limits.ARGON2_MEMORY_KIB_MAX


@pytest.mark.parametrize(
    ("composed", "decomposed"),
    [
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"),
        ("\N{ANGSTROM SIGN}", "A\N{COMBINING RING ABOVE}"),
        ("\N{HANGUL SYLLABLE GAG}", "\u1100\u1161\u11a8"),
        ("\u1e69", "s\N{COMBINING DOT ABOVE}\N{COMBINING DOT BELOW}"),
    ],
)
def test_keyboards_spell_alike(composed: str, decomposed: str) -> None:
    """A passphrase typed with combining characters is the one that was typed without (NFC)."""
    assert composed != decomposed
    assert passphrase_secret(composed, CHEAP, SALT) == passphrase_secret(decomposed, CHEAP, SALT)


def test_what_only_looks_alike_is_apart() -> None:
    """Compatibility characters, case and blanks are kept: NFC, not NFKC, and no folding or stripping."""
    texts = ["fi", "\N{LATIN SMALL LIGATURE FI}", "FI", " fi", "fi ", "f i", "f\N{NO-BREAK SPACE}i", "fi\0"]
    assert len({passphrase_secret(text, CHEAP, SALT) for text in texts}) == len(texts)


def test_passphrase_is_utf8() -> None:
    """What is derived from is the UTF-8 of the text."""
    direct = Argon2id(salt=SALT, length=32, iterations=1, lanes=4, memory_cost=32)
    text = "p\N{LATIN SMALL LETTER A WITH DIAERESIS}ss \N{CRAB}"
    assert passphrase_secret(text, CHEAP, SALT) == direct.derive(b"p\xc3\xa4ss \xf0\x9f\xa6\x80")


# --- key files -------------------------------------------------------------------------------------------------------


def test_construction_by_hand_is_the_rfc_s() -> None:
    """HKDF as it is built above gives test case 1 of RFC 5869."""
    made = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert made.hex() == expected


@given(st.binary(min_size=32, max_size=500), st.binary(min_size=16, max_size=16))
def test_secret_is_hkdf(content: bytes, salt: bytes) -> None:
    """The secret of a key file is HKDF-SHA256 of its bytes with the slot's salt."""
    secret = key_file_secret(content, salt)
    assert secret == hkdf(content, salt, b"casbank v1 key file", 32)
    assert len(secret) == 32


def test_every_byte_of_a_key_file_counts() -> None:
    """A line end more, or one changed byte anywhere, makes another secret."""
    content = bytes(range(200))
    spoilt = [content[:at] + b"\xff" + content[at + 1 :] for at in range(200)]
    made = {key_file_secret(each, SALT) for each in (content, content + b"\n", content[:-1], *spoilt)}
    assert len(made) == 203
