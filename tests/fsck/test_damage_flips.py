"""One flipped bit anywhere in a bank: found, refused when read, and mended without a loss beside it."""

import pytest

from fsck.damage import damager
from fsck.damage_judge import BrokenRuleError, Expected
from fsck.damage_regions import HARMLESS
from fsck.damage_runs import damaged


@pytest.mark.slow
def test_each_kind_of_place() -> None:
    """A bit of each kind of place costs at most what lies there."""
    outcomes = damaged(["--bank", "aes", "--kinds"])
    assert outcomes["cases"] > 20
    assert outcomes["repaired"] > 12
    assert outcomes["repaired with losses"] > 5


def test_some_bits() -> None:
    """No flipped bit is called clean, and none gives wrong bytes."""
    outcomes = damaged(["--bank", "plain", "--flips", 100], ["--bank", "aes-cut", "--flips", 80])
    assert outcomes["cases"] == 180
    assert outcomes["damage found"] > 300


def test_every_place_has_a_name() -> None:
    """Every byte of every file belongs to one region, so that no flip goes by unjudged."""
    with damager("aes") as ours:
        for file, regions in ours.regions.of.items():
            ends = [0, *(region.end for region in regions)]
            assert [region.start for region in regions] == ends[:-1]
            assert ends[-1] == len(ours.scene.read(file))
        assert set(ours.regions.of) == set(ours.scene.files)
        kinds = {region.kind for regions in ours.regions.of.values() for region in regions}
    # An empty file has no region; and this bank has its mark.
    assert HARMLESS.keys() - kinds == {"lock", "last record"}
    assert {"BANK", "BANK.copy", "slot", "keyring", "checkpoint", "frame head", "record", "entry", "table"} <= kinds


def test_the_judge_sees_what_is_wrong() -> None:
    """An undamaged bank that is said to be damaged, or whose objects are said to be others, breaks the rules."""
    with damager("plain") as ours:
        judge = ours.judge
        judge.judge(Expected(objects=frozenset(), changes=frozenset()))
        with pytest.raises(BrokenRuleError, match="is called clean"):
            judge.check(Expected(found=True))
        name, made = next(iter(ours.scene.names.items()))
        ours.scene.names[name] = made._replace(content=b"something else")
        with pytest.raises(BrokenRuleError, match="wrong bytes"):
            judge.judge(Expected())


def _flips(bank: str, number: int) -> list[object]:
    return ["--bank", bank, "--flips", number]
