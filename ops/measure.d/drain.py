"""A gateway with many users drains while a load goes on at the other one: `drain`.

The load's measured part has two halves, and the drain begins with the second: what its users felt is the second half beside
the first.
"""

import sys
import time
from pathlib import Path

from cluster import GATEWAYS  # of ops/chaos.d

from judge import Verdict, clean, ms, read_reconnects, spread
from real import loadgen, real_cluster, values
from target import OUT, report_of

# A second may have so many times the mean of reconnects.
PEAK_MAX = 1.5
# The other gateway's p99, over what it was before.
P99_RATIO_MAX = 2.0
WARM_UP_S = 10
# The halves are longer than the window, so that who comes back last is in the second.
BEYOND_S = 3
LATE_S = 15


def await_sessions(cluster, count: int, process) -> None:
    """Until so many users are logged in."""
    while sum(values(cluster, GATEWAYS, "corelane_gateway_sessions").values()) < count:
        if process.poll() is not None:
            sys.exit(f"the generator of idle users ended early with {process.returncode}; see {OUT / 'drain-idle.txt'}")
        time.sleep(0.5)


def await_first_ack(ledger: Path, process) -> float:
    """When the load began, or a little later."""
    while not ledger.exists() or ledger.stat().st_size == 0:
        if process.poll() is not None:
            sys.exit(f"the load ended early with {process.returncode}; see {OUT / 'drain-load.txt'}")
        time.sleep(0.02)
    return time.monotonic()


def measure_drain(args, verdict: Verdict) -> None:
    """Drains gateway-2."""
    half_s = args.window + BEYOND_S
    with real_cluster(args, f"gateway gateway.drain_ms={args.window * 1000}") as cluster:
        stays, goes = cluster.urls()
        # Users are spread evenly, so as many stay as go.
        idle_s = WARM_UP_S + 2 * half_s + LATE_S + 60
        idle, idle_report = loadgen(
            cluster, "drain-idle", "idle", [stays, goes], "-c", str(2 * args.users), "-d", f"{idle_s}s", "-w", "1s",
            "--connect-rate", args.connect_rate, "--connect-timeout", "120s", "--reconnect",
        )
        await_sessions(cluster, 2 * args.users, idle)
        ledger = OUT / "drain-load.acks"
        ledger.unlink(missing_ok=True)
        load, load_report = loadgen(
            cluster, "drain-load", "direct", [stays], "-c", "200", "-r", args.rate, "-s", "512B", "-w", f"{WARM_UP_S}s",
            "-d", f"{2 * half_s}s", "--ledger", str(ledger),
        )
        began = await_first_ack(ledger, load)
        time.sleep(max(0.0, began + WARM_UP_S + half_s - time.monotonic()))
        drain_began = time.monotonic()
        cluster.command("drain", "gateway-2")
        took = time.monotonic() - drain_began
        load_code, load = report_of(load, load_report)
        idle_code, idle = report_of(idle, idle_report)
    judge_drain(args, verdict, took, (idle_code, idle), (load_code, load))


def judge_drain(args, verdict: Verdict, took: float, idle_end, load_end) -> None:
    """Holds both generators' reports to the bounds."""
    (idle_code, idle), (load_code, load) = idle_end, load_end
    by_second = read_reconnects(OUT / "drain-idle.csv")
    found = spread(by_second, args.window)
    untold, offline = idle["counters"]["untold"], idle["counters"]["offline"]
    before, during = load["halves"]["first"], load["halves"]["second"]
    print(
        f"drain: {found.total} users came back, {found.mean:.0f} per second in the mean, at most {found.most} in one; gone "
        f"after {took:.1f} s; p99 of the others {ms(before['p99'])} before, {ms(during['p99'])} during"
    )
    for second in sorted(second for second, count in by_second.items() if count):
        print(f"    second {second:>4}: {by_second[second]}")
    verdict.note("reconnects", {second: count for second, count in by_second.items() if count})
    verdict.note("others_p99_us", {"before": before["p99"], "during": during["p99"]})
    verdict.check(
        idle_code == 0 and found.total == args.users and untold + offline == 0,
        f"exit {idle_code}; {found.total} of {args.users} came back once, {untold} were not told to go, {offline} offline at "
        f"the end",
    )
    verdict.check(
        found.ratio() <= PEAK_MAX,
        f"no second has more than {PEAK_MAX} times the mean: second {found.second} has {found.ratio():.2f} times",
    )
    verdict.check(took <= args.window + LATE_S, f"the gateway left after {took:.1f} s, at most {args.window + LATE_S} s")
    verdict.check(*clean(load, load_code))
    ratio = during["p99"] / max(before["p99"], 1)
    verdict.check(
        before["count"] > 0 and during["count"] > 0 and ratio <= P99_RATIO_MAX,
        f"p99 of the others is {ratio:.2f} times what it was, at most {P99_RATIO_MAX}",
    )
