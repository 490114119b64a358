"""What came out of a run and whether it keeps its bounds. No process is touched here, so all of it can be tested."""

import csv
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# From decode at the gateway, in the order in which a message passes them; `corelane_stage_seconds` has these.
STAGES = ("admit", "persist", "publish")
COUNTED = ("lost", "duplicated", "reordered")


@dataclass
class Verdict:
    """The lines of one runner's verdict, and the figures they came from."""

    runner: str
    checks: list[tuple[bool, str]] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)

    def check(self, holds: bool, text: str) -> None:
        """Prints a line of the verdict and remembers it."""
        print(f"  {'ok    ' if holds else 'FAILED'} {text}", flush=True)
        self.checks.append((bool(holds), text))

    def note(self, name: str, value: object) -> None:
        """Keeps a figure for the JSON."""
        self.figures[name] = value

    def failed(self) -> int:
        """How many bounds do not hold."""
        return sum(not holds for holds, _ in self.checks)

    def write(self, folder: Path) -> Path:
        """Leaves it as JSON."""
        path = folder / f"{self.runner}.verdict.json"
        checks = [{"holds": holds, "text": text} for holds, text in self.checks]
        whole = {"runner": self.runner, "failed": self.failed(), "checks": checks, "figures": self.figures}
        path.write_text(json.dumps(whole, indent=2) + "\n")
        return path


def ms(us: float) -> str:
    """Microseconds as people read them."""
    return f"{us / 1000:.1f} ms"


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares."""
    mean_x = statistics.mean(x for x, _ in points)
    mean_y = statistics.mean(y for _, y in points)
    over = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / over


# --- a load on a cluster ----------------------------------------------------------------------------------------------


def clean(report: Mapping, code: int) -> tuple[bool, str]:
    """Whether the generator was satisfied and nothing was lost, doubled or reordered."""
    counts = {key: report[key] for key in ("sent", "acked", "delivered", *COUNTED)}
    holds = code == 0 and not report["void"] and not any(counts[key] for key in COUNTED)
    why = [*report["broken"], *filter(None, [report["void_reason"], report["log_not_compared"]])]
    return holds, f"exit {code}, {'; '.join(why) or 'not void'}, {counts}"


def half_ratio(report: Mapping) -> float:
    """Median of the second half over that of the first; without one no bound holds."""
    ratio = report["halves"]["p50_ratio"]
    return float("inf") if ratio is None else ratio


@dataclass(frozen=True)
class Commits:
    """Transactions of all routers together."""

    count: int
    per_s: float
    messages_each: float
    p99_us: float


def commits(report: Mapping) -> Commits:
    """What routers did; p99 is that of the slower one."""
    routers = [each for each in report["targets_metrics"] if each["commits"]]
    count = sum(each["commits"] for each in routers)
    messages = sum(each["commits"] * each["messages_per_commit"] for each in routers)
    p99 = [each["commit_latency_us"]["p99"] for each in routers if each["commit_latency_us"]]
    per_s = sum(each["commits_per_s"] or 0 for each in routers)
    return Commits(count, per_s, messages / max(count, 1), max(p99, default=0.0))


def stage_counts(report: Mapping) -> dict[str, int]:
    """Messages that passed each stage, of all processes."""
    total: dict[str, int] = {}
    for each in report["targets_metrics"]:
        for stage, count in each["stages"].items():
            total[stage] = total.get(stage, 0) + count
    return total


def unread_metrics(report: Mapping) -> list[str]:
    """Processes whose counters mean nothing: not read, or begun anew."""
    wrong = []
    for each in report["targets_metrics"]:
        if each["error"]:
            wrong.append(f"{each['url']}: {each['error']}")
        elif each["restarted"]:
            wrong.append(f"{each['url']} was started again")
    return wrong


def stage_rows(report: Mapping) -> list[tuple[str, float, float, float]]:
    """How long after decode (from the sampled stamps), and after the due time, messages were where: name, mean, p50, p99.

    Means are of all routers; quantiles of several cannot be put together, so they are those of the slower one.
    """
    rows = []
    for stage in STAGES:
        found = [each["stage_latency_us"].get(stage) for each in report["targets_metrics"]]
        found = [spread for spread in found if spread and spread["count"]]
        if found:
            count = sum(spread["count"] for spread in found)
            mean = sum(spread["mean"] * spread["count"] for spread in found) / count
            worst = [max(spread[quantile] for spread in found) for quantile in ("p50", "p99")]
            rows.append((f"decode to {stage}", mean, *worst))
    for name in ("due_to_ack", "due_to_delivery"):
        spread = report["latency_us"][name]
        rows.append((name.replace("_", " "), spread["mean"], spread["p50"], spread["p99"]))
    return rows


def stage_table(report: Mapping) -> str:
    """The same for people."""
    lines = [f"  {'':<20}{'mean':>12}{'p50':>12}{'p99':>12}"]
    for name, *figures in stage_rows(report):
        lines.append(f"  {name:<20}" + "".join(f"{ms(figure):>12}" for figure in figures))
    return "\n".join(lines)


def slowest_steps(report: Mapping) -> str:
    """Between which stages most of the time to delivery passes. Means add up; quantiles do not, and only say where to look."""
    rows = [row for row in stage_rows(report) if row[0] != "due to ack"]
    places = ["decode", *(name.removeprefix("decode to ") for name, *_ in rows[:-1]), "delivery"]
    told = []
    for column, what in ((1, "mean"), (3, "p99")):
        ends = [0.0, *(row[column] for row in rows)]
        steps = [(late - early, place) for place, (early, late) in enumerate(zip(ends, ends[1:], strict=False))]
        most, place = max(steps)
        told.append(f"{ms(most)} of the {what} of {ms(ends[-1])} pass from {places[place]} to {places[place + 1]}")
    return f"  most: {'; '.join(told)}"


# --- seconds ----------------------------------------------------------------------------------------------------------


def read_reconnects(path: Path) -> dict[int, int]:
    """Reconnects by second, from a file of `--per-second`."""
    with open(path, newline="") as file:
        return {int(row["second"]): int(row["reconnects"]) for row in csv.DictReader(file)}


@dataclass(frozen=True)
class Spread:
    """How things that should be spread over a window were spread."""

    total: int
    mean: float
    most: int
    second: int

    def ratio(self) -> float:
        """The fullest second over the mean; without anything no bound holds."""
        return self.most / self.mean if self.mean else float("inf")


def spread(by_second: Mapping[int, int], window_s: float) -> Spread:
    """Judges reconnects against a window. It begins with the first one: nothing else makes anybody reconnect."""
    total = sum(by_second.values())
    second, most = max(by_second.items(), key=lambda each: each[1], default=(0, 0))
    return Spread(total, total / window_s, most, second)


# --- incarnations -----------------------------------------------------------------------------------------------------

# Time between two sweeps of a router (`router/src/sweep.rs`), and how long a killed gateway's lease stands.
SWEEP_S, LEASE_S = 60.0, 10.0


def topic_age_max(keep_s: float) -> float:
    """How long after its gateway's end a topic may still be there: the janitor counts from the first sweep that finds the
    boot dead, and deletes at the first sweep after its age."""
    return LEASE_S + SWEEP_S + keep_s + SWEEP_S + 15.0


# Topics that a sweep deletes at most: `SWEEP_MAX` of `router/src/bus/kafka/janitor.rs`. Two routers that started together
# delete the same ones.
SWEEP_TOPICS = 100


def topics_gone_in(count: int, keep_s: float) -> float:
    """How long after the last end so many topics may take to be gone: what a sweep has no room for is left to the next."""
    return topic_age_max(keep_s) + count // SWEEP_TOPICS * SWEEP_S


def topics_allowed(live: int, ended_at: Iterable[float], now: float, keep_s: float) -> int:
    """How many topics may be there: those of the living, and of who ended lately."""
    return live + sum(now - at <= topic_age_max(keep_s) for at in ended_at)


# --- sync -------------------------------------------------------------------------------------------------------------

# `RECENT_BUCKET_MS` and `CURSOR_LAG_BUCKETS` of `router/core/src/decide.rs`.
BUCKET_S, LAG_BUCKETS = 300, 2


def cursor_is_behind_at(changed_at: float) -> float:
    """From when on a sync ends with a cursor above what changed at a moment, by the clock of the store: half a minute is
    for clocks that differ."""
    return (int(changed_at) // BUCKET_S + LAG_BUCKETS + 1) * BUCKET_S + 30.0


# --- two builds -------------------------------------------------------------------------------------------------------


def turns(rounds: int) -> list[str]:
    """Old and new in an order in which a machine that slows down favours neither: A B B A A B B A."""
    return [name for turn in range(rounds) for name in (("old", "new") if turn % 2 == 0 else ("new", "old"))]


def growth(old: Sequence[float], new: Sequence[float]) -> float:
    """By how much the median of the new is above that of the old, as a part of it."""
    return statistics.median(new) / statistics.median(old) - 1
