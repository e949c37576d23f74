"""How sizes and texts are shown."""

import pytest

from casbank.cli.byte_count import parse_bytes
from casbank.cli.console import printable
from casbank.cli.sizes import human_bytes, human_count, human_seconds, human_time, moment


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
    ("seconds", "shown"),
    [(0, "0 s"), (0.9, "0 s"), (119.9, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (777_700, "9 days")],
)
def test_durations_are_rounded_down_to_a_unit(seconds: float, shown: str) -> None:
    """A duration is one number of the largest unit that there are two of."""
    assert human_seconds(seconds) == shown


def test_a_time_beyond_the_calendar_is_its_end() -> None:
    """A window of thousands of years is no failure."""
    assert human_time(moment(0)) == "1970-01-01 00:00:00Z"
    assert human_time(moment(2**40 * 10**9)) == "9999-12-31 23:59:59Z"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("500", 500),
        ("7b", 7),
        ("1k", 1024),
        ("10M", 10 * 2**20),
        ("1.5GiB", 3 * 2**29),
        ("1.5 GiB", 3 * 2**29),
        ("2MB", 2_000_000),
        ("1T", 2**40),
        ("1P", 2**50),
        ("7.999999999E", 7_999_999_999 * 2**60 // 10**9),
    ],
)
def test_a_number_of_bytes_is_read_as_people_write_it(text: str, count: int) -> None:
    """Letters are powers of 1024, MB and the like powers of 1000, to the byte; what is shown can be typed."""
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "-1", "G", "1,5G", "1.G", ".5G", "1X", "1Gi", "1e3", " 1", "1  G", "٣"])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    """Whatever is not understood as a whole is not understood."""
    with pytest.raises(ValueError, match="500M"):
        parse_bytes(text)


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
