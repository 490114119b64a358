"""Two builds side by side on the embedded default, by turns: `compare`."""

import statistics
import sys
import time

from judge import Verdict, clean, growth, slope, turns
from target import ADMIN, Target, metric, report_of, usage

CPU_GROWTH_MAX = 0.05
MEMORY_GROWTH_MAX = 0.02


def cpu_per_message(args, verdict: Verdict, bin_dir: str, name: str) -> float:
    """CPU of the one process per acknowledged message, in us."""
    target = Target(bin_dir, False, loadgen_dir=args.new)
    flags = ["-c", "200", "-r", args.rate, "-s", "512B", "-d", f"{args.seconds}s", "-w", "5s"]
    process, path = target.loadgen(name, "direct", *flags)
    code, report = report_of(process, path)
    target.stop()
    verdict.check(*clean(report, code))
    cpu = report["target_cpu_us_per_message"]
    if cpu is None:
        sys.exit(f"{name} has no CPU per message: its process ended, or nothing was acknowledged; see {path}")
    print(f"{name}: {cpu:.1f} us of CPU per message", flush=True)
    return cpu


def bytes_per_connection(args, verdict: Verdict, bin_dir: str, name: str) -> float:
    """User memory of an idle connection at a gateway, by least squares."""
    points = []
    for count in (int(count) for count in args.counts.split(",")):
        target = Target(bin_dir, True, loadgen_dir=args.new)
        process, path = target.loadgen(
            f"{name}-{count}", "idle", "-c", str(count), "-d", "15s", "-w", "1s", "--heartbeat", "25s", "--connect-rate",
            args.connect_rate, "--connect-timeout", "120s",
        )
        while process.poll() is None and metric(ADMIN, "corelane_gateway_sessions") < count:
            time.sleep(0.5)
        time.sleep(5)
        points.append((count, usage(target.pid("gateway"))[1]))
        code, report = report_of(process, path)
        target.stop()
        connected = report["connected"]
        verdict.check(code == 0 and connected == count, f"exit {code}, {connected} of {count} connections")
    each = slope(points)
    print(f"{name}: {each:.0f} B of user memory per connection", flush=True)
    return each


def measure_compare(args, verdict: Verdict) -> None:
    """Old and new by turns, first for CPU, then for memory."""
    dirs = {"old": args.old, "new": args.new}
    figures = (
        ("cpu", cpu_per_message, CPU_GROWTH_MAX, "us of CPU per message"),
        ("memory", bytes_per_connection, MEMORY_GROWTH_MAX, "B of user memory per connection"),
    )
    for kind, measure, growth_max, unit in figures:
        if args.only not in (None, kind):
            continue
        found: dict[str, list[float]] = {"old": [], "new": []}
        for turn, which in enumerate(turns(args.rounds)):
            found[which].append(measure(args, verdict, dirs[which], f"compare-{kind}-{turn}-{which}"))
        grown = growth(found["old"], found["new"])
        verdict.note(kind, found)
        verdict.check(
            grown <= growth_max,
            f"{statistics.median(found['new']):.1f} {unit}, {statistics.median(found['old']):.1f} of the old: "
            f"{grown:+.1%}, at most +{growth_max:.0%}",
        )
