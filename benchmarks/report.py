"""Turn the raw rows of a comparison into Markdown tables of medians.

    python benchmarks/report.py ROWS.jsonl

The first line of the file describes the run, every other one is a Row. Ratios are taken within each round, casbank's
figure to that of whichever peer did best in that round, and their median is shown: the speed of a machine drifts, and
only figures that were taken side by side compare. In every table less is better, so below 1 casbank is ahead.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from table import markdown_table

MB = 10**6


@dataclass(frozen=True, slots=True)
class Row:
    """One step of one store in one round."""

    round: int
    scenario: str
    step: str
    store: str
    is_peer: bool
    reported: bool
    logical_bytes: int
    exit_code: int
    wall_s: float
    cpu_s: float
    peak_mib: float
    other_cpu_s: float
    stored_bytes: int
    added_bytes: int
    cache_bytes: int
    # None: nothing was restored.
    restored_equal: bool | None

    @property
    def is_good(self) -> bool:
        return self.exit_code == 0 and self.restored_equal is not False


@dataclass(frozen=True, slots=True)
class Metric:
    """One table: which figure of a row, how to write its median, and which steps have it."""

    title: str
    value: Callable[[Row], float]
    cell: Callable[[float, Row], str] = lambda value, _: f"{value:.1f}"
    applies: Callable[[Row], bool] = lambda _: True
    # Where the best peer has less than this, a ratio to it says nothing.
    least: float = 0.0


def seconds(value: float, row: Row) -> str:
    """Seconds, and MB/s where bytes went in or out."""
    return f"{value:.2f} ({row.logical_bytes / MB / value:.0f})" if row.logical_bytes and value else f"{value:.2f}"


def puts(row: Row) -> bool:
    return row.logical_bytes > 0 and row.restored_equal is None


METRICS = (
    Metric("Wall time, s (MB/s)", lambda row: row.wall_s, seconds),
    Metric("CPU time, user and system, s (MB per CPU second)", lambda row: row.cpu_s, seconds),
    Metric("Stored after the step, MB", lambda row: row.stored_bytes / MB, applies=puts),
    Metric("Added by the step, MB", lambda row: row.added_bytes / MB, lambda v, _: f"{v:.2f}", puts, least=0.1),
    Metric("Peak memory of the largest process, MiB", lambda row: row.peak_mib, lambda v, _: f"{v:.0f}"),
    Metric(
        "Caches and indexes beside it after the step, MB", lambda row: row.cache_bytes / MB, applies=puts, least=0.1
    ),
)


def render(run: dict[str, Any], rows: Sequence[Row]) -> str:
    parts = [facts(run), *(table_of(metric, rows) for metric in METRICS), noise(rows), failures(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def facts(run: dict[str, Any]) -> str:
    lines = [f"- {name}: {text}" for name, text in run["machine"].items()]
    lines += [f"- {name} ({store['version']}): {store['settings']}" for name, store in run["stores"].items()]
    lines += [f"- {note}" for note in run["notes"]]
    parts = run["corpus"]["parts"]
    lines.append("- corpus: " + ", ".join(f"{name} {part['bytes'] / MB:.1f} MB" for name, part in parts.items()))
    return "\n".join([*lines, f"- command: `{run['command']}`"])


def table_of(metric: Metric, rows: Sequence[Row]) -> str:
    good = [row for row in rows if row.is_good and row.reported and metric.applies(row)]
    stores = ordered(row.store for row in good)
    subjects = ordered(row.store for row in good if not row.is_peer)
    lines = []
    for step in ordered(row.step for row in good):
        here = [row for row in good if row.step == step]
        cells = [median_cell(metric, [row for row in here if row.store == store]) for store in stores]
        ratios = [ratio_cell(metric, here, subject) for subject in subjects]
        lines.append([step, *cells, *ratios])
    headings = ["step", *stores, *(f"{subject} : best peer" for subject in subjects)]
    return f"**{metric.title}**\n\n{markdown_table(headings, lines)}" if lines else ""


def median_cell(metric: Metric, rows: Sequence[Row]) -> str:
    return metric.cell(median(map(metric.value, rows)), rows[0]) if rows else "-"


def ratio_cell(metric: Metric, rows: Sequence[Row], subject: str) -> str:
    """The median over rounds of the subject's figure to the best peer's, and who that was most often."""
    ratios, winners = [], []
    for row in rows:
        peers = [other for other in rows if other.round == row.round and other.is_peer]
        if row.store == subject and peers:
            best = min(peers, key=metric.value)
            if metric.value(best) > metric.least:
                ratios.append(metric.value(row) / metric.value(best))
                winners.append(best.store)
    return f"{median(ratios):.2f} ({max(winners, key=winners.count)})" if ratios else "-"


def noise(rows: Sequence[Row]) -> str:
    wall_s = sum(row.wall_s for row in rows)
    other_s = sum(row.other_cpu_s for row in rows)
    return f"Beside the stores the machine worked {other_s / wall_s:.2f} CPU seconds a second." if wall_s else ""


def failures(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        if not row.is_good:
            what = f"exit code {row.exit_code}" if row.exit_code else "RESTORED BYTES DIFFER"
            lines.append(f"- round {row.round}, {row.store}, {row.step}: {what}")
    return "\n".join(["**Failures**", "", *lines]) if lines else ""


def ordered(names: Iterable[str]) -> list[str]:
    """Each name once, where it came first."""
    return list(dict.fromkeys(names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    run, *rows = map(json.loads, parser.parse_args().rows.read_text().splitlines())
    print(render(run, [Row(**row) for row in rows]), end="")


if __name__ == "__main__":
    main()
