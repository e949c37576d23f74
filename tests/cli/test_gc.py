"""``casbank gc``, and what ``casbank info`` says of collections."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bank_scene import MIB, content, pack_bytes, packs_of, small_disk

from casbank import Bank, CollectReport, World
from casbank.cli.planned import report_rows
from casbank.cli.sizes import human_bytes, human_time, moment
from cli.shell import casbank, document, done, failed, files_below, flip_every_pack
from cli.terminal import talk

SIZE = 300_000
DAY_NS = 86_400 * 10**9
NOW = ("--keep-deleted", "0")
AT_ONCE = (*NOW, "--reader-grace", "0")

Start = Callable[..., "subprocess.Popen[str]"]

# Puts a stream that begins as an object does that is there, and stops for ever.
WRITER = """
import sys
from bank_scene import content
from casbank import Bank

def stream():
    for number in range(24):
        yield content(number, 1_000_000)
    print("read", flush=True)
    sys.stdin.read()

with Bank.open(sys.argv[1]) as bank:
    bank.put("stream", stream())
"""


@pytest.fixture
def worn(bank: Path) -> Path:
    """A bank with an object, one that was removed, and a pack of which little is left."""
    with Bank.open(bank) as opened:
        opened.put("kept", content("kept", SIZE))
        opened.put("gone", content("gone", SIZE))
        with opened.batch() as batch:
            batch.put("most", content("most", 3 * SIZE))
            batch.put("rest", content("rest", SIZE))
        opened.delete("gone")
        opened.delete("most")
    return bank


def rows(text: str) -> dict[str, list[str]]:
    """What stands behind each label."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        label, _, sentence = line.partition("  ")
        found.setdefault(label, []).append(sentence.strip())
    return found


def planned(bank: Path, *options: str) -> dict[str, list[str]]:
    return rows(done("gc", bank, "--dry-run", *options).stdout)


def collected(bank: Path, *options: str) -> dict[str, list[str]]:
    """What was shown of the plan and of its execution."""
    return rows(done("gc", bank, *options).stdout)


def ago(days: float) -> World:
    """A world of some days ago."""
    return World(now_ns=lambda: time.time_ns() - int(days * DAY_NS))


# --- the plan ----------------------------------------------------------------------------------------------------


def test_a_bank_without_garbage_has_nothing_to_free(bank: Path) -> None:
    """Plan and report of an empty bank say that there is nothing."""
    nothing = {"live": ["0 B"], "dead": ["0 B"], "reclaimable now": ["0 B"]}
    assert planned(bank) == nothing
    assert collected(bank) == {**nothing, "done": ["nothing was to be freed"]}
    unchanged = ["0 B: nothing changed since the last collection"]
    assert planned(bank) == {**nothing, "reclaimable now": unchanged}


def test_the_plan_says_what_can_be_freed_now(worn: Path) -> None:
    """Live and dead bytes, packs to sweep, packs to rewrite and what must be copied of them, as the library has it."""
    with Bank.open(worn) as opened:
        plan = opened.plan_collection(keep_deleted_s=0)
    assert min(plan.sweep_packs, plan.rewrite_packs) > 1
    assert SIZE <= plan.rewrite_live_bytes < 2 * SIZE
    assert planned(worn, *NOW) == {
        "live": [human_bytes(plan.live_bytes)],
        "dead": [human_bytes(plan.dead_bytes)],
        "reclaimable now": [
            f"{human_bytes(plan.reclaimable_bytes)}: {plan.sweep_packs} packs to sweep, "
            f"{plan.rewrite_packs} packs to rewrite, of which "
            f"{human_bytes(plan.rewrite_live_bytes)} must be copied"
        ],
    }


def test_the_plan_says_what_the_undelete_window_keeps_and_until_when(worn: Path) -> None:
    """What is removed is not dead before the bank's own window, or that of the option, is over."""
    with Bank.open(worn) as opened:
        plan = opened.plan_collection()
    later = f"{human_bytes(plan.window_bytes)} more when their undelete window is over, the last on "
    assert plan.window_bytes > 4 * SIZE
    shown = planned(worn)
    assert (shown["dead"], shown["reclaimable now"]) == (["0 B"], ["0 B"])
    assert shown["reclaimable later"] == [later + human_time(moment(plan.window_until_ns))]
    two_days = human_time(moment(plan.window_until_ns + DAY_NS))
    assert planned(worn, "--keep-deleted", str(2 * 86_400))["reclaimable later"] == [later + two_days]


def test_the_plan_names_the_writer_who_blocks_it(bank: Path, program: Start) -> None:
    """Packs that a living writer of another process relies on are not freed before his lease ends; who he is, is
    told."""
    with Bank.open(bank) as opened:
        opened.put("x", [content(number, 1_000_000) for number in range(24)])
        opened.delete("x")
    writer = program(WRITER, bank)
    assert writer.stdout.readline() == "read\n"
    with Bank.open(bank) as opened:
        (lease,) = opened.leases()
    assert (lease.kind, lease.pid, lease.is_owner_dead) == ("write", writer.pid, False)
    until = human_time(moment(lease.expires_ns))
    (blocked,) = planned(bank, *NOW)["blocked"]
    size, _, holder = blocked.partition(" by ")
    assert size.endswith(" MiB")
    assert holder == f"write lease {lease.id} of 'casbank' (host {lease.host}, process {writer.pid}) until {until}"
    document_of_it = document("gc", bank, "--dry-run", *NOW)["plan"]["blocked"]
    assert [(held["lease"]["id"], held["bytes"] > MIB) for held in document_of_it] == [(lease.id, True)]
    before = pack_bytes(bank)
    done("gc", bank, *AT_ONCE)
    assert pack_bytes(bank) > before * 0.5
    assert "blocked" in rows(done("info", bank).stdout)
    writer.kill()
    writer.wait()
    shown = collected(bank, *AT_ONCE)
    assert (shown["leases"][0], "blocked" in shown) == ("1 lease to be ended: expired, or the owner is dead", False)
    assert shown["leases"][1] == "ended 1 lease"
    assert pack_bytes(bank) < before * 0.1


def test_the_plan_names_pin_leases_that_keep_removed_versions(worn: Path) -> None:
    """What nobody could bring back but for a lease comes when the lease ends, which is named."""
    with Bank.open(worn) as opened:
        opened.undelete("gone")
    lease_id = done("lease", "acquire", worn, "me", "--pin", "gone").stdout.strip()
    done("rm", worn, "gone")
    shown = planned(worn, *NOW)
    assert shown["reclaimable later"][0].endswith(" KiB more when the pin leases end that keep them")
    (pinned,) = shown["pinned"]
    assert pinned.startswith(f"pin lease {lease_id} of 'me' (host ")
    assert pinned.endswith(" keeps 1 version, removed or not")


def test_the_plan_says_what_was_swept_before_and_who_reads_it(worn: Path) -> None:
    """Swept packs are on disk until the grace of readers is over; read leases keep them beyond that."""
    lease_id = done("lease", "acquire", worn, "reader", "--kind", "read").stdout.strip()
    report = document("gc", worn, *NOW)["report"]
    assert report["waiting_bytes"] > 4 * SIZE
    waiting = f"{human_bytes(report['waiting_bytes'])} in {report['swept_packs']} packs "
    (swept,) = planned(worn)["swept before"]
    assert swept.startswith(f"{waiting}that wait for slow readers until 20")
    shown = planned(worn, "--reader-grace", "0")
    assert shown["swept before"] == [f"{waiting}whose readers had their time, to be deleted"]
    (reader,) = shown["readers"]
    assert reader.startswith(f"read lease {lease_id} of 'reader' (host ")
    assert reader.endswith(" keeps what is swept after it began from being deleted")
    (still,) = collected(worn, "--reader-grace", "0")["waiting"]
    assert still.endswith("for read leases; a collection behind their end deletes them")
    done("lease", "release", worn, lease_id)
    shown = collected(worn, "--reader-grace", "0")
    assert shown["deleted"] == [f"{report['swept_packs']} packs that no reader needs any more"]
    assert "readers" not in shown
    assert "swept before" not in planned(worn)


def test_the_plan_says_what_crashes_left(bank: Path) -> None:
    """Packs that belong to nothing are freed when they are old; suspiciously many only with --force."""
    for number in range(11):
        orphan = bank / "packs" / f"{number:02x}" / f"{number:02x}{os.urandom(15).hex()}"
        orphan.parent.mkdir(parents=True, exist_ok=True)
        orphan.write_bytes(bytes(1024))
        os.utime(orphan, (0, 0))
    assert planned(bank)["orphans"] == ["11.0 KiB in 11 packs that crashes left, to be swept"]
    # The plan is shown, then what is the matter.
    result = casbank("gc", bank)
    assert (result.exit_code, result.stderr.count("\n")) == (4, 1)
    assert "--force" in result.stderr
    assert len(packs_of(bank)) == 11
    assert collected(bank, "--force", "--reader-grace", "0")["freed"] == ["11.0 KiB: 11 packs swept"]
    assert packs_of(bank) == []


def test_the_plan_counts_expired_leases(bank: Path) -> None:
    """A lease that is past is ended, which plan and report say."""
    with Bank.open(bank, world=ago(1)) as opened:
        opened.acquire_lease("me", tied_to_process=False)
    assert planned(bank)["leases"] == ["1 lease to be ended: expired, or the owner is dead"]
    assert collected(bank)["leases"][1] == "ended 1 lease"
    assert document("lease", "ls", bank) == {"leases": []}


# --- doing it ----------------------------------------------------------------------------------------------------


def test_gc_frees_the_space_of_removed_objects(worn: Path) -> None:
    """What the report says is freed is gone from the disk, and what is left can be read."""
    before = pack_bytes(worn)
    shown = collected(worn, *AT_ONCE)
    assert shown["freed"][0].endswith(" copied")
    assert shown["deleted"][0].endswith(" packs that no reader needs any more")
    assert "waiting" not in shown
    assert pack_bytes(worn) < before - 3.9 * SIZE
    with Bank.open(worn) as opened:
        assert opened.get("rest") == content("rest", SIZE)
        assert opened.get("kept") == content("kept", SIZE)


def test_gc_lets_slow_readers_go_on(worn: Path) -> None:
    """Within the grace nothing that was swept is deleted, and the report says when it will be."""
    before = {path.name for path in packs_of(worn)}
    shown = collected(worn, *NOW)
    size, _, rest = shown["waiting"][0].partition(" for slow readers; a collection from ")
    assert size.endswith(" MiB")
    assert rest.endswith("Z on deletes them")
    assert before <= {path.name for path in packs_of(worn)}


def test_a_dry_run_changes_nothing(worn: Path) -> None:
    """Not a byte of the bank, whatever there is to do."""
    before = files_below(worn)
    for options in ((), NOW, ("--json",), (*AT_ONCE, "--force", "--budget-bytes", "1")):
        done("gc", worn, "--dry-run", *options)
    assert files_below(worn) == before


def test_a_budget_of_bytes_bounds_what_is_copied(worn: Path) -> None:
    """What is dead as a whole is freed at any price; more is copied only as far as the budget goes."""
    report = document("gc", worn, *NOW, "--budget-bytes", "1k")["report"]
    assert report["copied_bytes"] <= 1000
    assert report["swept_packs"] > 0
    with Bank.open(worn) as opened:
        # So that there is something to look at anew.
        opened.put("another", content("another", SIZE))
    assert document("gc", worn, *NOW, "--budget-bytes", "10M")["report"]["copied_bytes"] >= SIZE


def test_a_budget_of_no_seconds_frees_what_is_dead(worn: Path) -> None:
    """Who has no time gets what costs none."""
    assert document("gc", worn, *AT_ONCE, "--budget-seconds", "0")["report"]["freed_bytes"] > 0
    with Bank.open(worn) as opened:
        assert opened.get("rest") == content("rest", SIZE)


def test_a_collection_that_is_not_complete_says_so(bank: Path) -> None:
    """Whoever reads the report learns that there is more to do, and that copies take space until then."""
    with Bank.open(bank) as opened:
        plan = opened.plan_collection()
    report = CollectReport(1, -2048, 4096, 0, 0, 0, 0, is_complete=False)
    assert list(report_rows(report, plan)) == [
        ("freed", "nothing yet, 2.0 KiB more are in use: 1 pack swept, with 4.0 KiB copied"),
        ("not complete", "the budget was used up, or others were in the way: collect again"),
    ]


PLAN_KEYS = {
    "version", "keep_deleted_s", "reader_grace_s", "live_bytes", "dead_bytes", "reclaimable_bytes", "sweep_packs",
    "rewrite_packs", "rewrite_live_bytes", "window_bytes", "window_until", "blocked", "waiting_packs", "waiting_bytes",
    "waiting_until", "orphan_packs", "orphan_bytes", "expired_leases", "idle", "budget_bytes", "budget_s", "force",
}  # fmt: skip
REPORT_KEYS = {
    "swept_packs", "freed_bytes", "copied_bytes", "deleted_packs", "waiting_bytes", "fenced_leases",
    "forgotten_versions_until", "complete",
}  # fmt: skip


def test_json_has_the_plan_and_the_report(worn: Path) -> None:
    """One document, of stable keys, with the options that the plan was made with."""
    options = ("--budget-bytes", "1G", "--budget-seconds", "60", "--force", "--reader-grace", "7")
    shown = document("gc", worn, "--dry-run", *options)
    assert (set(shown), shown["report"]) == ({"plan", "report"}, None)
    plan = shown["plan"]
    assert set(plan) == PLAN_KEYS
    assert (plan["budget_bytes"], plan["budget_s"], plan["force"], plan["reader_grace_s"]) == (2**30, 60, True, 7)
    assert (plan["keep_deleted_s"], plan["waiting_until"], plan["window_until"][10]) == (86_400, None, "T")
    shown = document("gc", worn, *NOW)
    assert (shown["plan"]["keep_deleted_s"], shown["plan"]["window_until"]) == (0, None)
    assert set(shown["report"]) == REPORT_KEYS
    assert shown["report"]["complete"] is True
    assert shown["plan"]["sweep_packs"] + shown["plan"]["rewrite_packs"] == shown["report"]["swept_packs"]


def test_quiet_leaves_out_all_but_a_plan_that_was_asked_for(worn: Path) -> None:
    """A nightly collection says nothing if all is well."""
    assert "reclaimable now" in done("gc", worn, "--dry-run", "--quiet").output
    assert done("gc", worn, "--quiet", *NOW).output == ""


def test_a_terminal_sees_how_far_it_is(worn: Path) -> None:
    """Who waits sees what is done; standard output has the plan all the same."""
    pytest.importorskip("rich")
    done_there = talk("gc", worn, *AT_ONCE)
    assert done_there.code == 0
    assert b"rewrite" in done_there.shown or b"sweep" in done_there.shown or b"delete" in done_there.shown
    assert done_there.stdout.startswith(b"live ")


def test_an_encrypted_bank_is_collected(locked: Path, key: Path) -> None:
    """With its key it is collected like any other."""
    with Bank.open(locked, key_file=key) as opened:
        opened.put("y", content("y", SIZE))
        opened.delete("y")
    report = document("gc", locked, "--key-file", key, *AT_ONCE)["report"]
    assert report["freed_bytes"] >= SIZE
    assert pack_bytes(locked) < SIZE


@pytest.mark.parametrize(
    "options",
    [
        ("--keep-deleted", "-1"),
        ("--keep-deleted", "1.5"),
        ("--keep-deleted", str(2**60)),
        ("--reader-grace", "-1"),
        ("--reader-grace", "nan"),
        ("--budget-bytes", "-1"),
        ("--budget-bytes", "much"),
        ("--budget-seconds", "-1"),
        ("--budget-seconds", str(2**60)),
    ],
    ids=" ".join,
)
def test_what_is_no_number_is_wrong_usage(worn: Path, options: tuple[str, ...]) -> None:
    """Nothing is collected by a guess of what was meant."""
    before = files_below(worn)
    assert failed("gc", worn, *options)[0] == 2
    assert files_below(worn) == before


def test_no_bank_is_3(tmp_path: Path) -> None:
    """As with every verb."""
    assert failed("gc", tmp_path / "nowhere")[0] == 3


def test_damage_is_4_and_frees_nothing(worn: Path) -> None:
    """What cannot be read is never taken for dead."""
    flip_every_pack(worn)
    before = pack_bytes(worn)
    assert failed("gc", worn, *AT_ONCE)[0] == 4
    assert pack_bytes(worn) == before


def test_a_read_only_disk_is_9_but_can_be_planned_for(tmp_path: Path) -> None:
    """What cannot be written cannot be collected; a dry run needs no writing."""
    try:
        with small_disk(tmp_path / "disk", 16 * MIB) as disk:
            with Bank.create(disk / "bank") as bank:
                bank.put("x", content("x", SIZE))
                bank.delete("x")
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            assert planned(disk / "bank", *NOW)["reclaimable now"][0].endswith(" packs to sweep")
            result = casbank("gc", disk / "bank", *NOW)
            assert (result.exit_code, result.stderr.count("\n")) == (9, 1)
            assert failed("lease", "acquire", disk / "bank", "me")[0] == 9
    except PermissionError as error:
        pytest.skip(str(error))


# --- info --------------------------------------------------------------------------------------------------------


def test_info_says_what_a_collection_could_free(worn: Path) -> None:
    """The plan of a collection by the bank's own window, as gc has it."""
    shown = rows(done("info", worn).stdout)
    plan = planned(worn)
    assert shown["last collection"] == ["none yet"]
    assert {label: shown[label] for label in plan if label not in ("live", "dead")} == {
        label: plan[label] for label in plan if label not in ("live", "dead")
    }
    told = document("info", worn)
    assert (told["plan"], told["plan_error"]) == (document("gc", worn, "--dry-run")["plan"], None)
    assert (told["last_collection"], told["collection_overdue"]) == (None, False)


def test_info_says_what_the_last_collection_left(worn: Path) -> None:
    """When it was, what it freed, what is dead still; and what was swept and waits."""
    before = time.time_ns()
    report = document("gc", worn, *NOW)["report"]
    told = document("info", worn)["last_collection"]
    assert (told["freed_bytes"], told["complete"]) == (report["freed_bytes"], True)
    assert moment(before).isoformat() <= told["time"] <= moment(time.time_ns()).isoformat()
    assert set(told) == {"time", "freed_bytes", "live_bytes", "dead_bytes", "complete"}
    with Bank.open(worn) as opened:
        assert told["live_bytes"] + told["dead_bytes"] == opened.stats().stored_bytes
    shown = rows(done("info", worn).stdout)
    (last,) = shown["last collection"]
    assert last.endswith(f", freed {human_bytes(told['freed_bytes'])}, left {human_bytes(told['dead_bytes'])} dead")
    assert shown["swept before"][0].startswith(human_bytes(report["waiting_bytes"]))


def test_info_goes_on_without_a_plan(worn: Path) -> None:
    """Where damage keeps a plan from being made, the rest is shown, and why."""
    flip_every_pack(worn)
    result = done("info", worn)
    assert rows(result.stdout)["reclaimable now"] == ["not known"]
    assert result.stderr.startswith("casbank: warning: what could be freed is not known: ")
    told = document("info", worn)
    assert told["plan"] is None
    assert told["plan_error"] in result.stderr


def test_info_warns_of_a_bank_that_nobody_collects(tmp_path: Path) -> None:
    """Removed versions that nobody ever collected, or not since a week, are told even with --quiet."""
    place = tmp_path / "old"
    with Bank.create(place, world=ago(9)) as opened:
        opened.put("x", content("x", SIZE))
        assert not told_to_collect(place)
        opened.delete("x")
    assert told_to_collect(place) == "removed and replaced versions were never collected"
    with Bank.open(place, world=ago(8.5)) as opened:
        opened.collect(opened.plan_collection(keep_deleted_s=0, reader_grace_s=0))
    assert told_to_collect(place) == "the last collection was 8 days ago"
    with Bank.open(place, world=ago(1)) as opened:
        opened.collect(opened.plan_collection(keep_deleted_s=0, reader_grace_s=0))
    assert not told_to_collect(place)
    done("gc", place, *AT_ONCE)
    assert not told_to_collect(place)


def test_info_does_not_warn_of_a_young_bank(worn: Path) -> None:
    """There was no week yet in which it could have been collected."""
    assert not told_to_collect(worn)


def told_to_collect(bank: Path) -> str | None:
    """Why, as people and programs are told; None if they are not."""
    said = done("info", bank, "--quiet").stderr
    assert document("info", bank)["collection_overdue"] is bool(said)
    if not said:
        return None
    assert said.startswith("casbank: warning: ")
    assert said.endswith("; run 'casbank gc'\n")
    return said.removeprefix("casbank: warning: ").removesuffix("; run 'casbank gc'\n")
