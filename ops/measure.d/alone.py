"""Figures of the gateway alone, with its router beside it or in it: `direct`, `idle`, `slow`."""

import re
import statistics
import time

from judge import ms, slope
from target import ADMIN, HTTP, OUT, Target, fetch, metric, report_of, usage


def slow_commits(name):
    """Lines of the log that tell of commits over 50 ms, with their stages."""
    with open(OUT / f"{name}.log") as log:
        return [line.strip() for line in log if "slow commit" in line]


def measure_direct(args, verdict):
    rows = []
    router = "router" if args.two else "gateway"
    for run in range(args.runs):
        target = Target(args.bin_dir, args.two, args.durability)
        probe = ["--wake-probe"] if args.durability == "os" else ["--fsync-probe", target.data]
        name = f"direct-{args.durability}-{'two' if args.two else 'one'}-{run}"
        code, report = report_of(
            *target.loadgen(
                name, "direct", "-c", "200", "-r", args.rate, "-s", "512B", "-d", f"{args.seconds}s", "-w", "5s", *probe
            )
        )
        stages = {
            stage: metric(target.metrics_url("gateway"), f"corelane_gateway_{counter}_total")
            for stage, counter in (
                ("forward", "forward_messages"), ("consume", "consume_messages"), ("deliver", "deliver_messages"))
        }
        text = fetch(target.metrics_url(router) + "/metrics")
        for stage in ("persist", "locate", "publish"):
            stages[stage] = float(
                re.search(rf'corelane_stage_messages_total{{stage="{stage}"}} (\d+)', text).group(1))
        commits = metric(target.metrics_url(router), "corelane_store_commits_total")
        target.stop()
        latency = report["latency_us"]["due_to_delivery"]
        probed = report["wake_probe_us" if args.durability == "os" else "fsync_probe_us"]
        slow = slow_commits(router)
        print(
            f"{name}: p50 {ms(latency['p50'])}, p99 {ms(latency['p99'])}, p99.9 {ms(latency['p999'])}, max "
            f"{ms(latency['max'])}; probe p99 {ms(probed['p99'])}; {report['target_cpu_us_per_message']:.0f} us of CPU per "
            f"message; {report['sent'] / max(commits, 1):.1f} messages per commit, {len(slow)} commits over 50 ms"
        )
        for line in slow[:20]:
            print(f"    {line}")
        counts = {key: report[key] for key in ("sent", "acked", "delivered", "lost", "duplicated", "reordered")}
        verdict.check(
            code == 0 and not report["void"] and counts["lost"] + counts["duplicated"] + counts["reordered"] == 0,
            f"exit {code}, {report['void_reason'] or 'not void'}, {counts}",
        )
        verdict.check(
            all(value == report["sent"] for value in stages.values()),
            f"every stage counted {report['sent']}: { {stage: int(value) for stage, value in stages.items()} }",
        )
        rows.append((latency["p99"], probed["p99"], latency["p999"]))
    base, beyond = (10_000, None) if args.durability == "os" else (20_000, 300_000)
    p99, bound = statistics.median(row[0] for row in rows), statistics.median(base + 4 * row[1] for row in rows)
    verdict.check(p99 <= bound, f"median p99 {ms(p99)} is at most {ms(base)} + 4 x the probe's p99 = {ms(bound)}")
    if beyond:
        p999 = statistics.median(row[2] for row in rows)
        verdict.check(p999 <= beyond, f"median p99.9 {ms(p999)} is at most {ms(beyond)}")


def measure_idle(args, verdict):
    counts = [int(count) for count in args.counts.split(",")]
    memory, cpu = [], []
    for count in counts:
        target = Target(args.bin_dir, True)
        pid = target.pid("gateway")
        time.sleep(3)
        used, empty_bytes, _ = usage(pid)
        time.sleep(10)
        shards = len(re.findall(r"^corelane_gateway_sessions{", fetch(ADMIN + "/metrics"), re.M))
        idle_percent = (usage(pid)[0] - used) / 10 / 10_000 / shards
        last = count == counts[-1]
        seconds = args.seconds if last else min(args.seconds, 60)
        process, path = target.loadgen(
            f"idle-{count}", "idle", "-c", str(count), "-d", f"{seconds}s", "-w", "1s", "--heartbeat", "25s",
            "--connect-rate", args.connect_rate, "--connect-timeout", "120s", "--reach", "1000",
        )
        while process.poll() is None and metric(ADMIN, "corelane_gateway_sessions") < count:
            time.sleep(0.5)
        time.sleep(5)
        before, _, _ = usage(pid)
        began = time.monotonic()
        # Whole heartbeats, so that each connection is counted as often as any other.
        time.sleep(50 if seconds >= 58 else 25)
        after, anonymous, descriptors = usage(pid)
        per_second = (after - before) / (time.monotonic() - began)
        code, report = report_of(process, path)
        target.stop()
        memory.append((count, anonymous))
        cpu.append((count, per_second))
        print(
            f"idle {count}: {anonymous / 2**20:.1f} MiB of user memory ({empty_bytes / 2**20:.1f} empty), "
            f"{per_second / 10_000:.1f} % of a core, {descriptors} descriptors; idle shard {idle_percent:.1f} % of a core"
        )
        reached, within = report["delivered"], report["latency_us"]["due_to_delivery"]["max"]
        verdict.check(
            code == 0 and report["connected"] == count and report["dropped"] == 0,
            f"exit {code}, {report['connected']} connected in {report['connect_seconds']:.0f} s, {report['dropped']} "
            f"dropped in {seconds} s",
        )
        verdict.check(
            reached >= 1000 and within <= 1_000_000,
            f"{reached} messages reached random users, the last within {ms(within)}, at most a second",
        )
        verdict.check(descriptors < 1000, f"{descriptors} descriptors are fewer than 1,000")
        verdict.check(idle_percent <= 4, f"an idle shard uses {idle_percent:.1f} %, at most 4 % of a core")
    if len(counts) > 1:
        verdict.check(slope(memory) <= 640, f"{slope(memory):.0f} B of user memory per connection, at most 640 (least squares)")
        verdict.check(slope(cpu) <= 0.8, f"{slope(cpu):.2f} us/s of CPU per connection, at most 0.8 (least squares)")


def measure_slow(args, verdict):
    """A B B A: without and with members that never read."""
    results = {0: [], args.stuck: []}
    size = 50 + args.stuck
    for turn, stuck in enumerate((0, args.stuck, args.stuck, 0)):
        target = Target(args.bin_dir, False)
        pid = target.pid("gateway")
        # The same number of readers in both, so that the same work is compared.
        members = size if stuck else 50
        process, path = target.loadgen(
            f"slow-{turn}-{stuck}", "group", "-c", str(members), "--group-size", str(members), "--groups", "1", "-r",
            "500/s", "-s", "128B", "-w", "12s", "-d", f"{args.seconds}s", "--stall", str(stuck),
        )
        began, demoted_at, most, kernel = time.monotonic(), None, 0, 0
        while process.poll() is None:
            time.sleep(0.25)
            most = max(most, usage(pid)[1])
            with open("/proc/net/sockstat") as sockets:
                kernel = max(kernel, int(re.search(r"TCP: .* mem (\d+)", sockets.read()).group(1)) * 4096)
            try:
                demotions = metric(HTTP, "corelane_gateway_deliver_demotions_total")
            except OSError:
                continue
            if stuck and demoted_at is None and demotions >= stuck:
                demoted_at = time.monotonic() - began
        code, report = report_of(process, path)
        target.stop()
        p99 = report["latency_us"]["due_to_delivery"]["p99"]
        results[stuck].append(p99)
        print(
            f"slow with {stuck} stuck: p99 of the others {ms(p99)}, most user memory {most / 2**20:.0f} MiB, most kernel "
            f"socket memory {kernel / 2**20:.1f} MiB, {report['counters']['stalled_closed']} closed"
        )
        verdict.check(
            code == 0 and not report["void"],
            f"exit {code}, {report['void_reason'] or 'not void'}, lost {report['lost']}, missing "
            f"{report['counters']['missing']}, log {'compared' if report['log'] else report['log_not_compared']}",
        )
        if stuck:
            verdict.check(
                demoted_at is not None and demoted_at <= 10,
                f"all {stuck} demoted {'never' if demoted_at is None else f'{demoted_at:.1f} s'} after the start, at most 10 s",
            )
            # Bounds: 256 KiB queued per connection and a send buffer of 64 KiB, which the kernel doubles.
            bound = stuck * 256 * 1024 + 64 * 2**20
            verdict.check(most <= 128 * 2**20 + bound, f"user memory at most 128 MiB + {bound / 2**20:.0f} MiB of queues")
            verdict.check(kernel <= stuck * 2 * 2**20 + 64 * 2**20, "kernel socket memory (both ends) bounded per connection")
    without, with_stuck = statistics.median(results[0]), statistics.median(results[args.stuck])
    bound = max(1.5 * without, without + 2000)
    verdict.check(with_stuck <= bound, f"p99 {ms(with_stuck)} with, {ms(without)} without; at most {ms(bound)}")
