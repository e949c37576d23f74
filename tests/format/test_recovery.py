"""The recovery text: typed in from paper, so every slip must be noticed."""

import base64
import random
from itertools import pairwise

import msgpack
import pytest
from blake3 import blake3
from format_cases import garbage
from hypothesis import given
from hypothesis import strategies as st

from casbank.errors import CorruptionError, InvalidInputError, UnsupportedFormatError
from casbank.format.recovery import Recovery, decode_recovery, encode_recovery

BEGIN, END = "-----BEGIN CASBANK RECOVERY KEY-----", "-----END CASBANK RECOVERY KEY-----"
REFUSALS = (InvalidInputError, CorruptionError, UnsupportedFormatError)
chance = random.Random("recovery")
# The three lengths of what base64 leaves over: with two, one and no signs of padding.
RECOVERIES = [
    Recovery(chance.randbytes(190 + more), bytes(range(32)), "keys/keyring-1-0011223344556677", chance.randbytes(300))
    for more in range(3)
]
TEXTS = [encode_recovery(recovery) for recovery in RECOVERIES]


def text_of(body: bytes) -> str:
    """A text with any body and a correct check."""
    return f"{BEGIN}\n{base64.b64encode(body + blake3(body).digest(8)).decode()}\n{END}\n"


def taken(text: str) -> Recovery | None:
    """What a text says; None if it is refused as a caller's mistake, as a wrong character must be."""
    try:
        return decode_recovery(text)
    except InvalidInputError:
        return None


@given(
    st.builds(Recovery, st.binary(max_size=300), st.binary(min_size=32, max_size=32), st.text(), st.binary()),
    st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "-" not in text),
)
def test_text_round_trips(recovery: Recovery, around: str) -> None:
    """A text gives back what it was made of, whatever stands before and behind its lines."""
    text = encode_recovery(recovery)
    assert decode_recovery(text) == recovery
    assert decode_recovery(around + text + around) == recovery


def test_text_is_the_documented_one() -> None:
    """Lines of 64 characters between the two lines: base64 of msgpack and eight bytes of its BLAKE3."""
    first, *lines, last = TEXTS[0].splitlines()
    assert (first, last) == (BEGIN, END)
    assert {len(line) for line in lines[:-1]} == {64}
    whole = base64.b64decode("".join(lines))
    assert whole[-8:] == blake3(whole[:-8]).digest()[:8]
    assert msgpack.unpackb(whole[:-8]) == [1, *RECOVERIES[0]]


def test_three_paddings_are_tested() -> None:
    """The texts that the tests below spoil end in two, one and no signs of padding."""
    assert {text.splitlines()[-2].count("=") for text in TEXTS} == {0, 1, 2}
    assert [taken(text) for text in TEXTS] == RECOVERIES


@pytest.mark.parametrize("number", range(3))
def test_every_wrong_character_is_refused(number: int) -> None:
    """Any character of the text that is replaced by another one is noticed. In the last one before padding base64 has
    bits that mean nothing; there the text says the same."""
    text = TEXTS[number]
    where = [at for at, character in enumerate(text) if not character.isspace()]
    for at in where:
        for other in "Aa0+/=-x!\N{LATIN SMALL LETTER E WITH ACUTE}\N{CYRILLIC SMALL LETTER A}\0":
            if other != text[at]:
                found = taken(text[:at] + other + text[at + 1 :])
                unused_bits = text[at + 1 : at + 2] in ("=", "\n") and text[at + 1 :].startswith(("=", f"\n{END}"))
                assert found is None or (found == RECOVERIES[number] and unused_bits), (at, other)


@pytest.mark.parametrize("number", range(3))
def test_every_missing_or_doubled_character_is_refused(number: int) -> None:
    """A text that lacks a character, or has one twice, is refused; but one dash more around the lines is outside."""
    text = TEXTS[number]
    for at, character in enumerate(text):
        if character.isspace():
            continue
        assert taken(text[:at] + text[at + 1 :]) is None, at
        doubled = taken(text[:at] + character + text[at:])
        outside = at < 5 or at >= len(text) - 6
        assert doubled is None or outside, (at, character)


@pytest.mark.parametrize("number", range(3))
def test_every_swap_is_refused(number: int) -> None:
    """Two different neighbours that change places are noticed; so are two lines."""
    text = TEXTS[number]
    for at, (one, two) in enumerate(pairwise(text)):
        if one != two and not one.isspace() and not two.isspace():
            assert taken(text[:at] + two + one + text[at + 2 :]) is None, at
    first, *lines, last = text.splitlines()
    for at in range(len(lines) - 1):
        swapped = [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]
        assert taken("\n".join((first, *swapped, last))) is None
        assert taken("\n".join((first, *lines[:at], *lines[at + 1 :], last))) is None


@pytest.mark.parametrize("space", [" ", "\n", "\t", "\r\n", "\N{NO-BREAK SPACE}"])
def test_white_space_does_not_matter(space: str) -> None:
    """Blanks and line ends between any two characters of the coded part change nothing."""
    for text, recovery in zip(TEXTS, RECOVERIES, strict=True):
        inner = text.removeprefix(BEGIN).removesuffix(f"{END}\n")
        for at in range(len(inner)):
            assert taken(BEGIN + inner[:at] + space + inner[at:] + END) == recovery
        assert taken(BEGIN + "".join(inner.split()) + END) == recovery
        assert taken(BEGIN + space.join(inner) + END) == recovery


@pytest.mark.parametrize("text", ["", BEGIN, END, END + BEGIN, BEGIN + END, f"{BEGIN}\n\n{END}", TEXTS[0][:-20], "\0"])
def test_what_is_no_recovery_text_is_invalid_input(text: str) -> None:
    """A text without the lines, or with nothing between them, is the caller's mistake."""
    with pytest.raises(InvalidInputError):
        decode_recovery(text)


@given(garbage)
def test_garbage_behind_a_correct_check_is_refused(body: bytes) -> None:
    """A body that means nothing, its check correct, is refused by an error of the library's own."""
    try:
        decode_recovery(text_of(body))
    except REFUSALS:
        return
    raise AssertionError("garbage was taken")


@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.parametrize("value", [None, 5, "text", b"bytes", ["list"], True])
def test_field_of_another_type_is_refused(at: int, value: object) -> None:
    """A body with a field of another type, or a key of another length, is refused."""
    fields: list[object] = [1, *RECOVERIES[0]]
    if type(fields[at]) is type(value) and at != 2:
        return
    fields[at] = value
    with pytest.raises(REFUSALS):
        decode_recovery(text_of(msgpack.packb(fields)))


@given(st.text(max_size=300), st.binary(max_size=100))
def test_random_text_is_refused(text: str, data: bytes) -> None:
    """Random text between the lines, and base64 of random bytes, is refused."""
    assert taken(text) is None
    assert taken(BEGIN + text + END) is None
    assert taken(BEGIN + base64.b64encode(data).decode() + END) is None
