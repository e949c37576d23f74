"""No bytes, however they came about, make a decoder do anything but decode or refuse."""

import os
import subprocess
import sys
import tracemalloc

import hostile
import pytest
from format_cases import CHECKED, EVERY, OTHERS, REFUSALS, Case, garbage, refuses
from hypothesis import given
from hypothesis import strategies as st

any_case = st.sampled_from(EVERY)


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_every_case_is_good(case: Case) -> None:
    """What the other tests spoil is readable before."""
    assert not refuses(case, case.good)


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_truncated_bytes_never_raise_another_error(case: Case) -> None:
    """A file cut anywhere decodes or is refused, and one under a hash is refused."""
    refused = [refuses(case, case.good[:length]) for length in range(len(case.good))]
    assert all(refused) or case in OTHERS


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_flipped_bits_never_raise_another_error(case: Case) -> None:
    """A file with any one bit flipped decodes or is refused, and one under a hash is refused."""
    for bit in range(8 * len(case.good)):
        spoilt = bytearray(case.good)
        spoilt[bit // 8] ^= 1 << bit % 8
        assert refuses(case, bytes(spoilt)) or case in OTHERS


@pytest.mark.parametrize("case", CHECKED, ids=str)
def test_appended_bytes_are_refused(case: Case) -> None:
    """A file that is longer than it was written is refused; a header is the start of a longer file."""
    assert case.name in ("header", "block", "packed block") or refuses(case, case.good + b"\0")


@given(any_case, st.binary(max_size=600))
def test_random_bytes_never_raise_another_error(case: Case, data: bytes) -> None:
    """Random bytes decode or are refused."""
    refuses(case, data)


@given(any_case, garbage)
def test_well_sealed_garbage_never_raises_another_error(case: Case, plain: bytes) -> None:
    """Garbage that somebody sealed correctly decodes or is refused: a tag vouches for no sense."""
    refuses(case, case.behind(plain))


@given(any_case, st.data())
def test_well_sealed_mutations_never_raise_another_error(case: Case, data: st.DataObject) -> None:
    """Bytes like the good file's, a few changed, behind correct tags, decode or are refused."""
    plain = bytearray(case.good[:300])
    for at in data.draw(st.lists(st.integers(0, len(plain) - 1), min_size=1, max_size=4)):
        plain[at] = data.draw(st.integers(0, 255))
    refuses(case, case.behind(bytes(plain)))


@pytest.mark.parametrize("name", hostile.HOSTILE)
def test_claimed_lengths_allocate_nothing(name: str) -> None:
    """A length that bytes claim allocates little, however large it is, and ends in a refusal."""
    decode, data = hostile.HOSTILE[name]
    tracemalloc.start()
    try:
        decode(data)
    except REFUSALS:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < hostile.MEMORY_BYTES_MAX


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS binds on Linux only")
def test_hostile_files_fit_in_little_memory() -> None:
    """The hostile files are refused in a process that cannot get more memory, C libraries included."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, hostile.__file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
