"""How sizes and texts are shown."""

import pytest

from casbank.cli.console import printable
from casbank.cli.sizes import human_bytes, human_count


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (2**30, "1.0 GiB"),
        (2**63 - 1, "8.0 EiB"),
    ],
)
def test_sizes_are_short_and_binary(count: int, shown: str) -> None:
    """A size has at most four digits before its unit."""
    assert human_bytes(count) == shown


def test_counts_agree_with_their_nouns() -> None:
    """One file, several files."""
    assert (human_count(1, "file"), human_count(0, "file")) == ("1 file", "0 files")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 日本", "plain ü 日本"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31m\x7f", "\\x1b[31m\\x7f"),
        ("\udcff", "\\xff"),
        ("ü\udcff\n", "ü\\xff\\n"),
        ("\u202e", "\\u202e"),
    ],
)
def test_what_is_shown_has_no_control_characters(text: str, shown: str) -> None:
    """Whatever a name holds, a line that shows it is one line of printable text."""
    assert printable(text) == shown
    assert printable(text).isprintable()
