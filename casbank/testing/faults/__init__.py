"""Crashes, failing disks and lost answers, for tests of casbank and of programs that stand on it.

A crash test of your own program is a dozen lines. Do your work under a recording, with a ``step`` around whatever your
program acknowledges; then open every state that a crash could have left, and ask for what was acknowledged::

    def test_my_program_survives_any_crash(tmp_path):
        folder = tmp_path / "data"
        Bank.create(folder / "bank").close()
        with recording(folder) as recorded, Bank.open(folder / "bank") as bank:
            for day in ("monday", "tuesday"):
                with recorded.step(day):
                    my_backup(bank, day)
        for number, state in enumerate(crash_states(recorded)):
            with Bank.open(state.materialise(tmp_path / str(number)) / "bank") as bank:
                assert set(state.acknowledged) <= set(bank), state.label

What else lies in ``folder`` is recorded too, so your program may keep files of its own beside the bank. A label tells a
state: ``crash_state`` makes it again. ``sampled_states`` draws some where all are too many.

The other tools: ``failing`` lets the n-th call of the system fail, ``FaultyStore`` loses, repeats and delays the
answers of a store, ``flips`` and ``flipped`` change one bit at a time. The fault model is in ``docs/reliability.md``;
what each module promises is in its first lines.
"""

from casbank.testing.faults.answers import Answer, Choose, FaultyStore, Request, the_nth
from casbank.testing.faults.calls import Call
from casbank.testing.faults.failing import Failure, Fault, failing
from casbank.testing.faults.flips import Flip, flipped, flips
from casbank.testing.faults.recorder import IGNORED, UNSYNCED, Recording, Step, UnrecordedError, recording
from casbank.testing.faults.replay import CrashState, File, crash_state, crash_states, sampled_states

__all__ = [
    "IGNORED",
    "UNSYNCED",
    "Answer",
    "Call",
    "Choose",
    "CrashState",
    "Failure",
    "Fault",
    "FaultyStore",
    "File",
    "Flip",
    "Recording",
    "Request",
    "Step",
    "UnrecordedError",
    "crash_state",
    "crash_states",
    "failing",
    "flipped",
    "flips",
    "recording",
    "sampled_states",
    "the_nth",
]
