"""Keyed ids: without the dedup secret nobody can tell what is in a bank; with a shared one banks agree."""

from pathlib import Path

import pytest
from bank_scene import content, engine_of, memory_place, rows_of
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from casbank import Bank
from casbank.chunking import PUBLIC_SECRET, gear_table
from casbank.sealing.ids import PLAIN_IDS, keyed_ids

SECRET = bytes(range(32))
DATA = content("cuts", 3_000_000)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CASBANK_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(bytes(range(32)))
    return path


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=2000))
def test_ids_are_the_documented_hashes(secret: bytes, plain: bytes) -> None:
    """An id is BLAKE3 under a key that is derived of the dedup secret, one for chunks and one for nodes."""
    ids = keyed_ids(secret)
    for id_of, context in (
        (ids.chunk, "casbank v1 chunk id key"),
        (ids.node, "casbank v1 manifest node id key"),
    ):
        key = blake3(secret, derive_key_context=context).digest()
        assert id_of(plain) == blake3(plain, key=key).digest()
    assert len({ids.chunk(plain), ids.node(plain), PLAIN_IDS.chunk(plain), PLAIN_IDS.node(plain)}) == 4


@pytest.mark.parametrize("convert", [bytes, bytearray, memoryview])
def test_ids_do_not_depend_on_the_kind_of_buffer(convert: type) -> None:
    """Any buffer of the same bytes has the same id."""
    ids = keyed_ids(SECRET)
    assert ids.chunk(convert(b"abc")) == ids.chunk(b"abc")
    assert ids.node(convert(b"abc")) == ids.node(b"abc")


def test_ids_never_change() -> None:
    """The ids of nothing under a fixed secret are what they were in the first release."""
    ids = keyed_ids(SECRET)
    assert ids.chunk(b"").hex() == "03022afc0a490279194206e7ae3320d1106988b8d161acf6e5a770297f6e4a72"
    assert ids.node(b"").hex() == "bcbccb757d3b6532052f7145312a07f617c6b43d4ca9e8b68e1415a7733e7f49"


def chunks_of(bank: Bank) -> dict[bytes, int]:
    """Id and length of each chunk in a bank's index."""
    resources = engine_of(bank).resources
    with resources.follower.read() as snapshot:
        found = {name: snapshot.chunk(name) for name, _ in snapshot.rows("chunk")}
    return {name: place.raw for name, place in found.items() if place is not None}


def cuts_of(bank: Bank) -> list[int]:
    return list(engine_of(bank).resources.chunker.cut(memoryview(DATA), final=True))


def test_two_banks_have_two_sets_of_ids(key: Path) -> None:
    """Of one content, under one key file, two banks have no chunk id, no etag and no cuts in common; nor has either the
    ids and cuts of a bank without a key."""
    with (
        Bank.create(memory_place(), key_file=key) as one,
        Bank.create(memory_place(), key_file=key) as two,
        Bank.create(memory_place()) as plain,
    ):
        etags = {bank.put("x", DATA).etag for bank in (one, two, plain)}
        found = [set(chunks_of(bank)) for bank in (one, two, plain)]
        assert len(etags) == 3
        assert not found[0] & found[1]
        assert not found[0] & found[2]
        cuts = [cuts_of(bank) for bank in (one, two, plain)]
        assert len({tuple(each) for each in cuts}) == 3
        assert rows_of(one)["name"] != rows_of(two)["name"]
        # Of a small object too, which is one chunk whatever the cuts.
        assert len({bank.put("small", b"small" * 500).etag for bank in (one, two, plain)}) == 3
        # And of one in the record itself.
        assert len({bank.put("inline", b"inline").etag for bank in (one, two, plain)}) == 3


@pytest.mark.parametrize("suites", [("aes-256-gcm", "aes-256-gcm"), ("aes-256-gcm", "chacha20-poly1305")], ids=str)
def test_banks_of_one_domain_agree(key: Path, tmp_path: Path, suites: tuple[str, str]) -> None:
    """Banks that share a dedup domain, and no key, have the same ids, cuts and etags; one with another file has not."""
    keys = [tmp_path / f"key{number}" for number in range(3)]
    for number, path in enumerate(keys):
        path.write_bytes(content(number, 40))
    domain, other = tmp_path / "domain", tmp_path / "other"
    domain.write_bytes(content("domain", 1000))
    other.write_bytes(content("domain", 999))
    with (
        Bank.create(memory_place(), key_file=keys[0], suite=suites[0], dedup_domain=domain) as one,
        Bank.create(memory_place(), key_file=keys[1], suite=suites[1], dedup_domain=domain) as two,
        Bank.create(memory_place(), key_file=keys[2], suite=suites[0], dedup_domain=other) as apart,
    ):
        banks = one, two, apart
        etags = [bank.put("x", DATA).etag for bank in banks]
        assert etags[0] == etags[1] != etags[2]
        assert chunks_of(one) == chunks_of(two)
        assert not chunks_of(one).keys() & chunks_of(apart).keys()
        assert cuts_of(one) == cuts_of(two) != cuts_of(apart)
        # An edit costs what it costs in one bank: all other chunks are those of both.
        two.put("edited", DATA[:1_500_000] + b"edit" + DATA[1_500_000:])
        assert len(chunks_of(two).keys() - chunks_of(one).keys()) < 10


def test_domain_stays_after_reopening_and_rotation(key: Path, tmp_path: Path) -> None:
    """Ids and cuts are the bank's own for ever: a rotation, a new slot and another opening do not change them."""
    place = tmp_path / "bank"
    with Bank.create(place, key_file=key) as bank:
        etag, cuts = bank.put("x", DATA).etag, cuts_of(bank)
        bank.keys.rotate()
        assert bank.put("y", DATA).etag == etag
    with Bank.open(place, key_file=key) as bank:
        before = bank.stats().unique_bytes
        assert cuts_of(bank) == cuts
        assert bank.put("z", DATA).etag == etag
        assert bank.stats().unique_bytes == before


def test_gear_table_is_derived_of_the_dedup_secret() -> None:
    """Where a bank cuts is nobody's guess: its table is BLAKE3 of its secret, and not the public one."""
    assert gear_table(SECRET) == blake3(SECRET, derive_key_context="casbank v1 gear table").digest(2048)
    assert gear_table(SECRET) != gear_table(PUBLIC_SECRET)
