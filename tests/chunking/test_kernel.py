"""The compiled kernel against its twin in pure Python, and life without it."""

import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

import casbank.chunking
from casbank.chunking import PUBLIC_SECRET, Profile, _twin, gear_table, make_chunker

kernel = pytest.importorskip("casbank.chunking._kernel")

TABLE = gear_table(PUBLIC_SECRET)
SIZES = st.integers(7, 10).flatmap(
    lambda bits: st.tuples(
        st.integers(64, 2**bits - 1), st.just(2**bits), st.integers(2**bits + 1, 2 ** (bits + 2) + 3)
    )
)
NOISE = st.builds(
    lambda seed, length: blake3(seed.to_bytes(8)).digest(length=length), st.integers(0, 2**32), st.integers(1, 9000)
)
PERIODIC = st.builds(lambda pattern, times: pattern * times, st.binary(max_size=9), st.integers(0, 900))
WITHOUT_KERNEL = """
import sys, warnings
sys.modules["casbank.chunking._kernel"] = None
from casbank import chunking
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    first, second = (chunking.make_chunker(chunking.Profile("gear", 64, 256, 1024)) for _ in range(2))
print(chunking.KERNEL, [warning.category.__name__ for warning in caught])
print(second.cut(bytes(range(256)) * 64, final=True))
"""


def masks(average: int) -> tuple[int, int]:
    bits = average.bit_length() - 1
    return 2**64 - 2 ** (64 - bits - 2), 2**64 - 2 ** (64 - bits + 2)


@given(NOISE | PERIODIC | st.binary(max_size=3000), SIZES, st.booleans(), st.integers(0, 7))
def test_kernel_and_twin_cut_alike(data, sizes, final, skipped):
    """For any bytes, sizes and alignment the two implementations return the same list."""
    arguments = (memoryview(data)[skipped:], TABLE, sizes, masks(sizes[1]), final)
    assert kernel.cut(*arguments) == _twin.cut(*arguments)


@given(st.binary(min_size=2048, max_size=2048), NOISE, st.integers(1, 30), st.integers(1, 30))
def test_kernel_and_twin_cut_alike_by_any_table(table, data, strict_bits, loose_bits):
    """The agreement does not rest on good tables, nor on the masks that profiles use."""
    arguments = (data, table, (64, 300, 1000), (2**64 - 2 ** (64 - strict_bits), 2**loose_bits - 1 << 20), True)
    assert kernel.cut(*arguments) == _twin.cut(*arguments)


@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_equal_bytes_are_cut_alike(value):
    """A run of one byte value, longer than the maximum, is cut alike by both, and everywhere at one length."""
    arguments = (bytes([value]) * 10_000, TABLE, (64, 256, 1024), masks(256), True)
    lengths = kernel.cut(*arguments)
    assert lengths == _twin.cut(*arguments)
    assert len(set(lengths[:-1])) == 1


@pytest.mark.parametrize(
    ("table", "sizes"),
    [
        (TABLE[:-1], (64, 256, 1024)),
        (b"", (64, 256, 1024)),
        (TABLE, (63, 256, 1024)),
        (TABLE, (0, 256, 1024)),
        (TABLE, (-64, 256, 1024)),
        (TABLE, (257, 256, 1024)),
        (TABLE, (64, 256, 255)),
        (TABLE, (64, 256, -1)),
    ],
)
def test_kernel_refuses_what_it_could_not_scan_safely(table, sizes):
    """A short table or sizes out of order raise ValueError before a byte is read."""
    with pytest.raises(ValueError, match=r"must have 2048 bytes|want 64 <= minimum"):
        kernel.cut(bytes(5000), table, sizes, (1, 1), True)


def test_kernel_refuses_what_is_no_buffer():
    """An argument of a wrong type raises TypeError."""
    with pytest.raises(TypeError):
        kernel.cut("text", TABLE, (64, 256, 1024), (1, 1), True)


def scan_is_seen_running() -> bool:
    """Whether this thread gets to run while another one is in the kernel."""
    started, finished = threading.Event(), threading.Event()

    def scan() -> None:
        started.set()
        kernel.cut(bytes(16 * 2**20), TABLE, (64, 2**22, 2**23), masks(2**22), True)
        finished.set()

    thread = threading.Thread(target=scan)
    thread.start()
    started.wait()
    seen = not finished.is_set()
    thread.join()
    return seen


def test_other_threads_run_while_the_kernel_scans():
    """The GIL is free during a call, even if the interpreter takes it from nobody."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        # A busy machine may let a scan end before this thread wakes, but not every time.
        assert any(scan_is_seen_running() for _ in range(100))
    finally:
        sys.setswitchinterval(interval)


def test_kernel_keeps_no_memory():
    """What a call allocates beside its result is free again when it returns."""
    data = bytes(2**20)
    tracemalloc.start()
    try:
        for _ in range(10):
            kernel.cut(data, TABLE, (64, 256, 1024), masks(256), True)
        assert tracemalloc.get_traced_memory()[0] < 64 * 2**10
    finally:
        tracemalloc.stop()


def test_the_kernel_in_use_is_told():
    """Where the kernel can be imported, it is what cuts."""
    assert casbank.chunking.KERNEL == "native"


def test_without_kernel_the_twin_cuts_and_says_so_once():
    """A process that cannot import the kernel warns at its first gear chunker only, and cuts as others do."""
    source = Path(casbank.chunking.__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_KERNEL], cwd=source, capture_output=True, text=True, check=True
    )
    lengths = make_chunker(Profile("gear", 64, 256, 1024)).cut(bytes(range(256)) * 64, final=True)
    assert result.stdout.splitlines() == ["python ['RuntimeWarning']", str(lengths)]
