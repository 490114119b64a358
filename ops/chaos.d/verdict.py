"""What a run is worth: pass, fail, or void.

A broken promise is a failure, whatever else happened. A run that proves nothing is void: the load did not come up, a
service did not come back, no sends were in flight, or the fault did not hit what it was meant for. Only what is left has
passed.
"""

from dataclasses import dataclass, field

PASS, FAIL, VOID = "pass", "fail", "void"

# Exit codes of corelane-loadgen.
LOAD_PASS, LOAD_UNREACHABLE, LOAD_BROKEN, LOAD_VOID = 0, 3, 4, 5

# Longest until every terminal is complete, from the fault's end.
COMPLETE_S = 30.0


@dataclass(frozen=True)
class Load:
    """How a run of the load generator ended."""

    code: int | None
    report: dict = field(default_factory=dict)
    # The end of what it said, for those who have to find out.
    said: str = ""

    def broken(self) -> str | None:
        """What it says was broken."""
        if self.code == LOAD_BROKEN:
            return "; ".join(self.report.get("broken") or []) or "it says that a promise was broken"
        if self.code == LOAD_UNREACHABLE:
            return f"the target could not be reached: {self.report.get('log_not_compared') or self.said}"
        return None

    def unusable(self) -> str | None:
        """Why it proves nothing."""
        if self.code == LOAD_VOID:
            return self.report.get("void_reason") or "it says that it was the bottleneck"
        if self.code != LOAD_PASS and not self.broken():
            return f"it ended with {self.code}: {self.said}"
        if not self.report.get("acked") and not self.broken():
            return "nothing was acknowledged"
        return None

    def count(self, name: str) -> float:
        """A counter of its report, wherever that stands."""
        for place in (self.report, self.report.get("counters"), self.report.get("faults")):
            value = place.get(name) if isinstance(place, dict) else None
            if isinstance(value, int | float):
                return float(value)
        return 0.0

    def complete_after_s(self) -> float | None:
        """How long after its last send was due the last terminal had everything; none if one has not."""
        faults = self.report.get("faults")
        value = faults.get("complete_after_s") if isinstance(faults, dict) else None
        return None if value is None else float(value)

    def slowest_s(self) -> float:
        """The longest that a delivery took from the moment when its send was due."""
        latencies = (self.report.get("latency_us") or {}).get("due_to_delivery") or {}
        return float(latencies.get("max") or 0) / 1e6


@dataclass
class Evidence:
    """What is known at the end of a run."""

    loads: dict[str, Load] = field(default_factory=dict)
    rises: dict[str, float] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)
    # Acknowledgements came while the fault began.
    flowing: bool = False
    # From the fault's end until every terminal was complete.
    complete_s: float | None = None
    # What broke a promise beside the loads.
    trouble: list[str] = field(default_factory=list)
    # What kept the run from proving anything.
    mishaps: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Rose:
    """One of these counters must have risen: which one is the business of the program."""

    metrics: tuple[str, ...]

    def missed(self, evidence: Evidence) -> str | None:
        """Why it is not so."""
        known = [name for name in self.metrics if name in evidence.rises]
        if not known:
            return f"no process has a counter {' or '.join(self.metrics)}"
        if any(evidence.rises[name] > 0 for name in known):
            return None
        return f"{' or '.join(known)} did not rise"


@dataclass(frozen=True)
class Counted:
    """One of these counters of the main load must not be 0."""

    counters: tuple[str, ...]

    def missed(self, evidence: Evidence) -> str | None:
        """Why it is not so."""
        load = evidence.loads.get("main")
        if load and any(load.count(name) > 0 for name in self.counters):
            return None
        return f"the load counted no {' or '.join(self.counters)}"


@dataclass(frozen=True)
class Stalled:
    """A delivery of the main load must have taken so long: it met the fault and got over it."""

    seconds: float

    def missed(self, evidence: Evidence) -> str | None:
        """Why it is not so."""
        load = evidence.loads.get("main")
        slowest = load.slowest_s() if load else 0.0
        if slowest >= self.seconds:
            return None
        return f"the slowest delivery took {slowest:.1f} s, so nothing waited for {self.seconds:g} s"


@dataclass(frozen=True)
class Noted:
    """The fault itself must have counted something."""

    note: str

    def missed(self, evidence: Evidence) -> str | None:
        """Why it is not so."""
        return None if evidence.notes.get(self.note, 0) > 0 else f"{self.note} is 0"


Hit = Rose | Counted | Stalled | Noted


def judge(hits: tuple[Hit, ...], evidence: Evidence, spares: tuple[str, ...] = ()) -> tuple[str, str]:
    """The verdict, and why it is not a pass."""
    broken = list(evidence.trouble)
    broken += [f"{name} rose by {rise:g}" for name in spares if (rise := evidence.rises.get(name, 0)) > 0]
    broken += [f"{name}: {what}" for name, load in evidence.loads.items() if (what := load.broken())]
    if evidence.complete_s is not None and evidence.complete_s > COMPLETE_S:
        broken.append(f"complete {evidence.complete_s:.1f} s after the fault's end, at most {COMPLETE_S:g} s")
    if broken:
        return FAIL, "; ".join(broken)
    worthless = list(evidence.mishaps)
    worthless += [f"{name}: {what}" for name, load in evidence.loads.items() if (what := load.unusable())]
    if not worthless and set(evidence.loads) != {"main", "quiet"}:
        worthless.append("both loads must have run")
    if not worthless and not evidence.flowing:
        worthless.append("no sends were in flight when the fault began")
    if not worthless:
        worthless += [what for hit in hits if (what := hit.missed(evidence))]
    if worthless:
        return VOID, "; ".join(worthless)
    return PASS, ""
