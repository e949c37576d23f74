"""Random lives of a local log: appends, reopenings, forgetting, crashes with and without a power cut."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from journal.scene import GROW_BYTES, Scene, append, make_frame, make_record, records_of

sizes = st.integers(0, 3000)


class LogLife(RuleBasedStateMachine):
    """What was acknowledged is always there; of a record under way at a crash all or nothing is."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.scene = Scene(self.root / "0")
        self.journal = self.scene.journal()
        self.acknowledged: dict[int, bytes] = {}
        self.disks = 0

    def teardown(self) -> None:
        self.scene.close()
        shutil.rmtree(self.root)

    @rule(size=sizes)
    def append(self, size: int) -> None:
        record = make_record(len(self.acknowledged), size)
        self.acknowledged[append(self.journal, record)] = record

    @rule(size=sizes)
    def append_by_another(self, size: int) -> None:
        record = make_record("another", size)
        other = self.scene.journal()
        self.acknowledged[append(other, record)] = record

    @rule()
    def reopen(self) -> None:
        self.scene.close()
        self.journal = self.scene.journal()

    @rule(back=st.integers(0, 8))
    def forget(self, back: int) -> None:
        self.journal.forget(len(self.acknowledged) - back)

    @rule(size=sizes, data=st.data(), power_cut=st.booleans(), mark_lost=st.booleans())
    def crash_in_an_append(self, size: int, data: st.DataObject, power_cut: bool, mark_lost: bool) -> None:
        if not self.scene.segments():
            return
        record = make_record("under way", size)
        frame = make_frame(len(self.acknowledged) + 1, record)
        torn = bytearray(frame[: data.draw(st.integers(0, len(frame)))])
        # Sectors reach the disk in any order.
        if power_cut and torn and data.draw(st.booleans()):
            start = data.draw(st.integers(0, len(torn) - 1))
            torn[start : start + 512] = bytes(len(torn[start : start + 512]))
        self._crash(bytes(torn), power_cut=power_cut, mark_lost=mark_lost)
        with self.journal.turn():
            if self.journal.head().seq > len(self.acknowledged):
                assert torn == frame
                self.acknowledged[len(self.acknowledged) + 1] = record

    def _crash(self, left_behind: bytes, *, power_cut: bool, mark_lost: bool) -> None:
        self.scene.close()
        if power_cut:
            self.disks += 1
            self.scene = self.scene.copy(self.root / str(self.disks))
        # The writer had begun a new segment if the last one was long enough; here it had not come so far.
        position = self.scene.mark().position
        if position.segment == int(self.scene.segments()[-1].stem):
            self.scene.leave_behind(left_behind)
        if power_cut and mark_lost:
            self.scene.forget_mark()
        self.journal = self.scene.journal()

    @invariant()
    def all_that_was_acknowledged_is_there(self) -> None:
        for journal in (self.journal, self.scene.journal(read_only=True)):
            first = journal.first()
            expected = {seq: record for seq, record in self.acknowledged.items() if seq >= first}
            assert records_of(journal, first - 1) == expected
            assert journal.head().seq == len(self.acknowledged)

    @invariant()
    def space_is_bounded(self) -> None:
        held = sum(path.stat().st_size for path in self.scene.segments())
        assert held <= self.journal.bytes_held() + 2 * GROW_BYTES


TestLogLife = LogLife.TestCase
TestLogLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
