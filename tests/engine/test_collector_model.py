"""Random lives of a bank that is collected while several hosts write and read it (docs/collector.md).

Whatever is interleaved, stopped, killed, repeated or forgotten: what names say is there, byte for byte; what was
removed can be brought back until its window is over; nothing is made twice; and an idle bank gives back its space.
"""

from contextlib import ExitStack

import pytest
from collector_scene import (
    DAY_S,
    EVERYTHING,
    HOUR_S,
    KEEP_DELETED_S,
    KNOWN_PROBLEMS,
    Actor,
    Scene,
    made_of,
    small_limits,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from casbank import limits

# Who is killed leaves its temporary files to the collector of garbage, as a dead process leaves them to the kernel.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

NAMES = ["a", "b", "c"]
ACTORS_MAX = 6

hosts = st.integers(0, 1)
names = st.sampled_from(NAMES)
# Few, so that they meet: deduplication is what goes wrong.
contents = st.sampled_from([[0, 1], [1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6, 7], [8, 9], [5, 6, 7, 8, 9], []])
kinds = st.sampled_from(["bytes", "stream", "batch", "file"])
steps = st.sampled_from([EVERYTHING, 1, 2, 3, 4, 6, 9, 14])
few_steps = st.sampled_from([1, 2, 3, 4, 6, 9, 14, EVERYTHING])
numbers = st.integers(0, 100)
windows = st.sampled_from([0, KEEP_DELETED_S])


class BankLife(RuleBasedStateMachine):
    """A bank of two hosts, each with an index and a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.undo = ExitStack()
        self.undo.enter_context(small_limits())
        if "orphans" in KNOWN_PROBLEMS:
            limits.ORPHAN_AGE_S = 10_000 * DAY_S
        self.scene = Scene()
        self.is_sound = True

    def teardown(self) -> None:
        try:
            if self.is_sound:
                self.scene.settle()
        finally:
            self.undo.callback(self.scene.close)
            self.undo.close()

    @initialize(first=contents, second=contents)
    def begin(self, first: list[int], second: list[int]) -> None:
        self.scene.put(0, "a", made_of(first))
        self.scene.put(1, "b", made_of(second))

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        self.is_sound = False
        self.scene.check()
        self.is_sound = True

    # --- who begins something

    def has_room(self) -> bool:
        return len(self.scene.actors) < ACTORS_MAX

    @precondition(has_room)
    @rule(host=hosts, name=names, content=contents, kind=kinds, budget=few_steps)
    def put(self, host: int, name: str, content: list[int], kind: str, budget: int) -> None:
        self.scene.put(host, name, made_of(content), kind, budget)

    @precondition(has_room)
    @rule(host=hosts, name=names, known=numbers, kind=kinds, point=st.sampled_from(["commit", "append", "source"]))
    def put_what_is_known(self, host: int, name: str, known: int, kind: str, point: str) -> None:
        """A put that relies on packs that are there, and stops."""
        versions = list(self.scene.model.names.values())
        if versions:
            version = versions[known % len(versions)]
            self.scene.read(host, version.name)
            self.scene.go_to(self.scene.put(host, name, version.content + made_of([9]), kind, 0), point)

    @rule(host=hosts)
    def empty(self, host: int) -> None:
        """Everything is deleted and collected, but for what somebody holds."""
        for name in list(self.scene.model.names):
            self.scene.delete(host, name)
        self.scene.collect(host)

    @precondition(has_room)
    @rule(host=hosts, point=st.sampled_from(["append", "delete", "put_new", "commit"]))
    def begin_to_collect(self, host: int, point: str) -> None:
        """A collection that stops at a step that others can see."""
        self.scene.go_to(self.scene.collect(host, budget=0), point)

    @precondition(has_room)
    @rule(host=hosts, name=names, budget=steps)
    def delete(self, host: int, name: str, budget: int) -> None:
        self.scene.delete(host, name, budget)

    @precondition(has_room)
    @rule(host=hosts, source=names, goal=names, budget=steps)
    def copy(self, host: int, source: str, goal: str, budget: int) -> None:
        self.scene.copy(host, source, goal, budget)

    @precondition(has_room)
    @rule(host=hosts, name=names, budget=steps)
    def undelete(self, host: int, name: str, budget: int) -> None:
        self.scene.undelete(host, name, budget)

    @precondition(has_room)
    @rule(
        host=hosts,
        keep_s=windows,
        grace_s=st.sampled_from([0, HOUR_S]),
        budget=steps,
        bytes_max=st.sampled_from([None, None, 600]),
    )
    def collect(self, host: int, keep_s: int, grace_s: int, budget: int, bytes_max: int | None) -> None:
        self.scene.collect(host, keep_s, grace_s, budget, bytes_max)

    @rule(host=hosts)
    def collect_all(self, host: int) -> None:
        """A collection that nobody disturbs, and that keeps nothing."""
        self.scene.collect(host)

    @precondition(has_room)
    @rule(host=hosts, name=names, budget=steps)
    def read(self, host: int, name: str, budget: int) -> None:
        self.scene.read(host, name, budget)

    @precondition(has_room)
    @rule(host=hosts, budget=steps)
    def checkpoint(self, host: int, budget: int) -> None:
        self.scene.checkpoint(host, budget)

    @rule(host=hosts, name=names, kind=st.sampled_from(["pin", "read"]), ttl_s=st.sampled_from([600, 10 * DAY_S]))
    def lease(self, host: int, name: str, kind: str, ttl_s: int) -> None:
        self.scene.lease(host, kind, [name] if kind == "pin" else [], ttl_s)

    @rule()
    def release_leases(self) -> None:
        self.scene.release_leases()

    # --- what becomes of it

    def is_busy(self) -> bool:
        return bool(self.scene.actors)

    def actor(self, number: int) -> Actor:
        return self.scene.actors[number % len(self.scene.actors)]

    @precondition(is_busy)
    @rule(number=numbers, budget=steps, fine=st.booleans())
    def go_on(self, number: int, budget: int, fine: bool) -> None:
        self.scene.go_on(self.actor(number), budget, fine=fine)

    @precondition(is_busy)
    @rule(number=numbers, budget=steps)
    def go_on_longer(self, number: int, budget: int) -> None:
        self.scene.go_on(self.actor(number), budget)

    @precondition(is_busy)
    @rule(number=numbers, point=st.sampled_from(["append", "commit", "source", "delete", "end"]))
    def go_to(self, number: int, point: str) -> None:
        actor = self.actor(number)
        self.scene.go_on(actor, 0)
        self.scene.go_to(actor, point)

    @precondition(is_busy)
    @rule(number=numbers)
    def crash(self, number: int) -> None:
        self.scene.kill(self.actor(number))

    @precondition(is_busy)
    @rule(number=numbers, fault=st.sampled_from(["lose", "fail"]))
    def fault(self, number: int, fault: str) -> None:
        """The next blob or record that it stores goes wrong."""
        self.actor(number).fault = fault

    @rule(host=hosts, drop_index=st.booleans())
    def machine_goes_down(self, host: int, drop_index: bool) -> None:
        self.scene.die(host, drop_index=drop_index)

    @rule(host=hosts)
    def rebuild_index(self, host: int) -> None:
        self.scene.start(host, "rebuild", lambda at: at.bank.rebuild_index())

    @rule(host=hosts)
    def renew(self, host: int) -> None:
        self.scene.renew(host)

    @rule(seconds=st.sampled_from([60, 1000, 1000, HOUR_S, 2 * DAY_S]))
    def pass_time(self, seconds: int) -> None:
        self.scene.pass_time(seconds)

    @rule(host=hosts, seconds=st.sampled_from([-2 * DAY_S, 2 * DAY_S]))
    def jump(self, host: int, seconds: int) -> None:
        self.scene.jump(host, seconds)

    @rule(how=st.sampled_from(["once", "twice", "late"]))
    def deletes_come(self, how: str) -> None:
        self.scene.deletes_come = how

    @rule(again=st.booleans())
    def carry_out_deletes(self, again: bool) -> None:
        self.scene.carry_out_deletes(again=again)

    @rule()
    def look_at_everything(self) -> None:
        self.is_sound = False
        self.scene.check(whole=True)
        self.is_sound = True


def live(examples: int, steps_each: int) -> None:
    """Some lives of a bank."""
    run_state_machine_as_test(
        BankLife,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps_each,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_no_content_is_ever_lost() -> None:
    """What names say is there, whatever is interleaved; and what nothing reaches is freed in the end."""
    live(50, 30)


@pytest.mark.slow
def test_no_content_is_ever_lost_in_many_lives() -> None:
    """The same, for minutes."""
    live(700, 60)
