"""Results of runs: one JSON line each in target/chaos/COMMIT.jsonl, never changed or taken back.

A line has row, run (its number within the row, from 1), verdict, why, figures, at, commit. Several processes may append
to one file: a line is written at once.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from verdict import FAIL, PASS, VOID


def append(path: Path, record: dict) -> None:
    """Appends a line and brings it to the disk: what was measured for hours must not be lost with the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        # A crash may have cut the last line.
        file.seek(max(0, size - 1))
        start = b"" if file.read(1) in (b"", b"\n") else b"\n"
        file.write(start + json.dumps(record, sort_keys=True).encode() + b"\n")
        os.fsync(file.fileno())


def read(path: Path) -> list[dict]:
    """All lines. One that was cut by a crash is skipped: its run counts as not made."""
    records = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and {"row", "run", "verdict"} <= record.keys():
                records.append(record)
    return records


def next_number(records: Iterable[dict], row: str) -> int:
    """The number of a row's next run."""
    return 1 + max((record["run"] for record in records if record["row"] == row), default=0)


def runs_left(records: Iterable[dict], row: str, times: int) -> int:
    """How many runs are missing until `times` of them passed or failed; void ones do not count."""
    made = sum(record["row"] == row and record["verdict"] in (PASS, FAIL) for record in records)
    return max(0, times - made)


def plan(records: list[dict], rows: Iterable[str], times: int, resume: bool) -> list[tuple[str, int]]:
    """Which runs to make, as (row, number): round by round, so that an early end leaves some of every row."""
    numbers = {}
    for row in rows:
        first = next_number(records, row)
        count = runs_left(records, row, times) if resume else times
        numbers[row] = range(first, first + count)
    longest = max((len(each) for each in numbers.values()), default=0)
    return [(row, each[turn]) for turn in range(longest) for row, each in numbers.items() if turn < len(each)]


def report(records: list[dict], order: Iterable[str]) -> str:
    """A Markdown table, one line per row, rows that never ran included, and what was wrong below it. Times are the
    worst of all runs, counts their sums."""
    lines = ["| row | pass | fail | void | complete after, s | slowest delivery, s | acked | redelivered |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in order:
        lines.append(table_line(row, [record for record in records if record["row"] == row]))
    for record in records:
        if record["verdict"] != PASS:
            lines.append(f"\n- {record['row']} {record['run']}: {record['verdict']}: {record.get('why', '')}")
    return "\n".join(lines) + "\n"


def table_line(row: str, records: list[dict]) -> str:
    """One row's line. Figures are of the runs that passed or failed."""
    counts = [sum(record["verdict"] == verdict for record in records) for verdict in (PASS, FAIL, VOID)]
    figures = [record.get("figures", {}) for record in records if record["verdict"] != VOID]

    def of(name: str, combine) -> str:
        values = [each[name] for each in figures if each.get(name) is not None]
        return f"{combine(values):g}" if values else ""

    cells = [row, *map(str, counts), of("complete_s", max), of("slowest_s", max), of("acked", sum), of("redelivered", sum)]
    return "| " + " | ".join(cells) + " |"
