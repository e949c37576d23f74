"""Profiles and their texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casbank import limits
from casbank.chunking import PRESETS, FixedChunker, GearChunker, Profile, gear_table, make_chunker, parse_profile
from casbank.errors import InvalidInputError

GEAR_PROFILES = st.integers(7, 22).flatmap(
    lambda bits: st.builds(
        Profile,
        st.just("gear"),
        st.integers(limits.CHUNK_BYTES_MIN, 2**bits - 1),
        st.just(2**bits),
        st.integers(2**bits + 1, limits.CHUNK_BYTES_MAX),
    )
)
FIXED_PROFILES = st.integers(512, limits.CHUNK_BYTES_MAX).map(Profile.fixed)


@given(GEAR_PROFILES | FIXED_PROFILES | st.sampled_from(list(PRESETS.values())))
def test_text_is_taken_back(profile):
    """A profile's text parses to that profile."""
    assert parse_profile(profile.text) == profile


def test_presets_are_known_by_name():
    """Each preset has its name for a text, and the sizes that the format gives it, in KiB."""
    sizes = {name: (p.min_bytes // 1024, p.average_bytes // 1024, p.max_bytes // 1024) for name, p in PRESETS.items()}
    assert sizes == {
        "fine": (4, 16, 64),
        "default": (16, 64, 256),
        "coarse": (64, 256, 1024),
        "archive": (512, 2048, 8192),
    }
    assert [profile.text for profile in PRESETS.values()] == list(PRESETS)


def test_other_profiles_name_their_sizes():
    """A profile that is no preset shows its kind and sizes in bytes."""
    assert Profile.fixed(4096).text == "fixed:4096"
    assert Profile("gear", 64, 256, 1024).text == "gear:64/256/1024"


@pytest.mark.parametrize(
    "text",
    [
        *["", "Default", " fine", "prf:64/256/1024"],
        *[
            "fixed",
            "fixed:",
            "fixed:04096",
            "fixed:-1",
            "fixed:4_096",
            "fixed:٤٠٩٦",
            "fixed:4096\n",
            "fixed:" + "9" * 5000,
        ],
        *["gear:", "gear:64/256", "gear:64/256/1024/1"],
    ],
    ids=lambda text: repr(text[:20]),
)
def test_an_unknown_text_is_told_the_choices(text):
    """A text that names no profile is refused with a message that lists what there is."""
    with pytest.raises(InvalidInputError, match=r"fine, default, coarse, archive, fixed:BYTES"):
        parse_profile(text)


@pytest.mark.parametrize(
    "sizes",
    [
        ("gear", 63, 256, 1024),
        ("gear", 256, 256, 1024),
        ("gear", 64, 1024, 1024),
        ("gear", 64, 255, 1024),
        ("gear", 64, 256, limits.CHUNK_BYTES_MAX + 1),
        ("fixed", 511, 511, 511),
        ("fixed", limits.CHUNK_BYTES_MAX + 1, limits.CHUNK_BYTES_MAX + 1, limits.CHUNK_BYTES_MAX + 1),
        ("fixed", 512, 512, 513),
        ("fixed", 512, 513, 513),
        ("buzhash", 64, 256, 1024),
    ],
    ids=str,
)
def test_impossible_sizes_make_no_profile(sizes):
    """A profile out of its bounds cannot be made."""
    with pytest.raises(InvalidInputError):
        Profile(*sizes)


def test_make_chunker_serves_each_kind():
    """The chunker is of the profile's kind and keeps the profile."""
    gear = make_chunker(PRESETS["default"])
    fixed = make_chunker(Profile.fixed(4096))
    assert isinstance(gear, GearChunker)
    assert isinstance(fixed, FixedChunker)
    assert (gear.profile.text, fixed.profile.text) == ("default", "fixed:4096")


def test_fixed_cuts_every_n_bytes():
    """A fixed profile cuts at multiples of n; only the end of the stream is shorter."""
    chunker = make_chunker(Profile.fixed(512))
    assert chunker.cut(bytes(1300), final=False) == [512, 512]
    assert chunker.cut(bytes(1300), final=True) == [512, 512, 276]
    assert chunker.cut(bytes(1024), final=True) == [512, 512]


def test_gear_chunker_refuses_what_it_cannot_cut_by():
    """A table of a wrong length or a profile of another kind makes no gear chunker."""
    with pytest.raises(InvalidInputError, match="2048 bytes, not 2047"):
        make_chunker(PRESETS["default"], gear_table(b"")[:-1])
    with pytest.raises(InvalidInputError, match="not a gear profile"):
        GearChunker(Profile.fixed(4096), gear_table(b""))
