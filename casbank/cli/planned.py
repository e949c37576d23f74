"""What a collection would do, and what it did, as people and programs are shown it.

Rule: space that does not come back has its reason beside it, and what ends that.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from casbank.cli.leased import holder, lease_document
from casbank.cli.sizes import human_bytes, human_count, human_time, moment
from casbank.model import CollectPlan, CollectReport, LeaseInfo

Row = tuple[str, str]
"""A label and a sentence."""
_NS = 10**9


def plan_document(plan: CollectPlan) -> dict[str, object]:
    """What ``--json`` shows of a plan; times are null where there is nothing to wait for."""
    fields: dict[str, object] = asdict(plan)
    del fields["window_until_ns"], fields["waiting_until_ns"], fields["is_idle"]
    return {
        **fields,
        "window_until": _iso(plan.window_until_ns),
        "waiting_until": _iso(plan.waiting_until_ns),
        "blocked": [{"lease": lease_document(held.lease), "bytes": held.bytes} for held in plan.blocked],
        "idle": plan.is_idle,
    }


def report_document(report: CollectReport) -> dict[str, object]:
    """What ``--json`` shows of what was done."""
    fields: dict[str, object] = asdict(report)
    fields["complete"] = fields.pop("is_complete")
    return fields


def plan_rows(plan: CollectPlan, leases: Sequence[LeaseInfo]) -> Iterator[Row]:
    """The whole plan; ``leases`` are the living ones."""
    yield "live", human_bytes(plan.live_bytes)
    yield "dead", human_bytes(plan.dead_bytes)
    yield from space_rows(plan, leases)
    if plan.orphan_packs:
        orphans = human_count(plan.orphan_packs, "pack")
        yield "orphans", f"{human_bytes(plan.orphan_bytes)} in {orphans} that crashes left, to be swept"
    if plan.expired_leases:
        yield "leases", f"{human_count(plan.expired_leases, 'lease')} to be ended: expired, or the owner is dead"


def space_rows(plan: CollectPlan, leases: Sequence[LeaseInfo]) -> Iterator[Row]:
    """What can be freed now, and what later or when somebody lets go of it."""
    yield "reclaimable now", _reclaimable(plan)
    if plan.window_bytes:
        yield "reclaimable later", f"{human_bytes(plan.window_bytes)} more {_window(plan)}"
        for lease in leases:
            if lease.kind == "pin":
                yield "pinned", f"{holder(lease)} keeps {human_count(lease.pins, 'version')}, removed or not"
    for held in plan.blocked:
        yield "blocked", f"{human_bytes(held.bytes)} by {holder(held.lease)}"
    if plan.waiting_packs:
        yield "swept before", f"{human_bytes(plan.waiting_bytes)} in {_waiting(plan)}"
    if plan.waiting_packs or plan.sweep_packs or plan.rewrite_packs:
        for lease in leases:
            if lease.kind == "read":
                yield "readers", f"{holder(lease)} keeps what is swept after it began from being deleted"


def report_rows(report: CollectReport, plan: CollectPlan) -> Iterator[Row]:
    """What was done by a plan."""
    if report.swept_packs or report.copied_bytes:
        yield "freed", _freed(report)
    if report.deleted_packs:
        yield "deleted", f"{human_count(report.deleted_packs, 'pack')} that no reader needs any more"
    if report.waiting_bytes:
        yield "waiting", _still_waiting(report, plan)
    if report.fenced_leases:
        yield "leases", f"ended {human_count(report.fenced_leases, 'lease')}"
    if not report.is_complete:
        yield "not complete", "the budget was used up, or others were in the way: collect again"
    elif not (report.swept_packs or report.copied_bytes or report.deleted_packs or report.fenced_leases):
        yield "done", "nothing was to be freed"


def _reclaimable(plan: CollectPlan) -> str:
    how = []
    if plan.sweep_packs:
        how.append(f"{human_count(plan.sweep_packs, 'pack')} to sweep")
    if plan.rewrite_packs:
        copied = human_bytes(plan.rewrite_live_bytes)
        how.append(f"{human_count(plan.rewrite_packs, 'pack')} to rewrite, of which {copied} must be copied")
    if plan.is_idle:
        how.append("nothing changed since the last collection")
    return ": ".join([human_bytes(plan.reclaimable_bytes), *([", ".join(how)] if how else [])])


def _window(plan: CollectPlan) -> str:
    if not plan.window_until_ns:
        # Their windows are over: what is left of them is pinned by name.
        return "when the pin leases end that keep them"
    return f"when their undelete window is over, the last on {_time(plan.window_until_ns)}"


def _waiting(plan: CollectPlan) -> str:
    packs = human_count(plan.waiting_packs, "pack")
    if plan.waiting_until_ns <= time.time_ns():
        return f"{packs} whose readers had their time, to be deleted"
    return f"{packs} that wait for slow readers until {_time(plan.waiting_until_ns)}"


def _freed(report: CollectReport) -> str:
    copied = f", with {human_bytes(report.copied_bytes)} copied" if report.copied_bytes else ""
    packs = f"{human_count(report.swept_packs, 'pack')} swept{copied}"
    if report.freed_bytes < 0:
        return f"nothing yet, {human_bytes(-report.freed_bytes)} more are in use: {packs}"
    return f"{human_bytes(report.freed_bytes)}: {packs}"


def _still_waiting(report: CollectReport, plan: CollectPlan) -> str:
    size = human_bytes(report.waiting_bytes)
    if not plan.reader_grace_s:
        return f"{size} for read leases; a collection behind their end deletes them"
    until = _time(time.time_ns() + int(plan.reader_grace_s * _NS))
    return f"{size} for slow readers; a collection from {until} on deletes them"


def _time(nanoseconds: int) -> str:
    return human_time(moment(nanoseconds))


def _iso(nanoseconds: int) -> str | None:
    return moment(nanoseconds).isoformat() if nanoseconds else None
