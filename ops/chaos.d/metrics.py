"""Figures of the processes, from their /metrics, and what rose between two looks.

A process that was started again counts from 0. What is taken as the same process has the same identity at both looks;
of another one everything it counted has risen. What a process counted before it was killed is not known, and not made up.
"""

import re
from dataclasses import dataclass

SAMPLE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{.*\})? ([^ ]+)(?: [0-9]+)?$")


def parse(text: str) -> dict[str, float]:
    """Sums of all samples of a name, whatever their labels. Lines that are no samples are skipped."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        found = SAMPLE.match(line)
        if not found:
            continue
        try:
            value = float(found[2])
        except ValueError:
            continue
        sums[found[1]] = sums.get(found[1], 0.0) + value
    return sums


@dataclass(frozen=True)
class Look:
    """One process at one moment."""

    identity: str
    values: dict[str, float]


def rises(before: dict[str, Look], after: dict[str, Look]) -> dict[str, float]:
    """How much each name rose over all processes, by name; a name that no process has is not there."""
    total: dict[str, float] = {}
    for process, look in after.items():
        earlier = before.get(process)
        same = earlier is not None and earlier.identity == look.identity
        for name, value in look.values.items():
            base = earlier.values.get(name, 0.0) if same else 0.0
            total[name] = total.get(name, 0.0) + value - base
    return total
