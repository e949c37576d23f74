"""Which key is derived from which: pinned, and computed a second time by the documented construction."""

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from casbank.format.header import Kind, Suite
from casbank.sealing.schedule import domain_secret, epoch_key, file_key

ids = st.binary(min_size=16, max_size=16)
secrets = st.binary(min_size=32, max_size=32)
BASE, BANK_ID, FILE_ID, SALT = bytes(range(32)), b"b" * 16, b"f" * 16, b"s" * 16


def derived(context: str, material: bytes, length: int = 32) -> bytes:
    """BLAKE3's key derivation mode (BLAKE3 paper, section 2.3), called here and not by the code under test."""
    hasher = blake3(derive_key_context=context)
    hasher.update(material)
    return hasher.digest(length)


@given(secrets, ids, ids, ids)
def test_file_key_is_the_documented_one(base: bytes, bank: bytes, file: bytes, salt: bytes) -> None:
    """Key and commitment of a file are 64 bytes derived of base, bank, file and salt."""
    keys = file_key(base, bank, file, salt)
    assert keys.key + keys.commitment == derived("casbank v1 file", base + bank + file + salt, 64)
    assert keys.key != keys.commitment


@pytest.mark.parametrize("number", range(4))
def test_file_key_depends_on_every_bit(number: int) -> None:
    """Any bit of base, bank, file or salt makes another key and another commitment."""
    fields = [BASE, BANK_ID, FILE_ID, SALT]
    known = file_key(*fields)
    for bit in range(8 * len(fields[number])):
        spoilt = bytearray(fields[number])
        spoilt[bit // 8] ^= 1 << bit % 8
        other = file_key(*fields[:number], bytes(spoilt), *fields[number + 1 :])
        assert other.key != known.key
        assert other.commitment != known.commitment


@given(secrets, st.sampled_from(Kind), st.sampled_from(Suite))
def test_epoch_key_is_the_documented_one(secret: bytes, kind: Kind, suite: Suite) -> None:
    """An epoch's key for a kind of file is derived of its secret, the kind and the suite, a byte each."""
    assert epoch_key(secret, kind, suite) == derived("casbank v1 epoch key", secret + bytes([kind, suite]))


def test_epoch_keys_are_apart() -> None:
    """No two kinds or suites have one key, nor has the dedup domain that of anything."""
    made = [epoch_key(BASE, kind, suite) for kind in Kind for suite in Suite]
    made += [domain_secret(BASE), domain_secret(BASE + bytes(2)), *file_key(BASE, BANK_ID, FILE_ID, SALT)]
    assert len(set(made)) == len(made)


@given(st.binary(max_size=2000))
def test_domain_secret_is_the_documented_one(shared: bytes) -> None:
    """The secret of a dedup domain is derived of the file's bytes, all of them."""
    assert domain_secret(shared) == derived("casbank v1 dedup domain", shared)
    assert domain_secret(shared + b"\0") != domain_secret(shared)


def test_keys_never_change() -> None:
    """The keys of a fixed input are what they were in the first release."""
    keys = file_key(BASE, BANK_ID, FILE_ID, SALT)
    assert keys.key.hex() == "cb81622355c2260eab9bd6ef035a9fd6f49317680f7d5cc8e8b26db4672b3bc6"
    assert keys.commitment.hex() == "9feb2e865896051c77f837ebea1b32d36bfff0944ff846d44d080f45827133ae"
    assert (
        epoch_key(BASE, Kind.DATA_PACK, Suite.AES_256_GCM).hex()
        == "38b3733df2fa3b66427a5b2fe3366499e915f4c2aaaa96083de1b603142fbc49"
    )
    assert domain_secret(BASE).hex() == "cd7af2709249b61d2dd119431d1a895bccb1cedd2405fd250822ce438c92cbd9"
