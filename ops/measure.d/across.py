"""Messages across the gateways of a cluster: `cluster` (1:1) and `cluster-group`."""

from collections.abc import Mapping

from judge import STAGES, Verdict, clean, commits, half_ratio, ms, slowest_steps, stage_counts, stage_rows, stage_table
from judge import unread_metrics
from real import loadgen, real_cluster
from target import report_of

HALF_RATIO_MAX = 1.2
WARM_UP_S = 10


def judge(verdict: Verdict, name: str, code: int, report: Mapping) -> None:
    """Prints what came out of a load, and holds it to its bounds."""
    latency, done = report["latency_us"]["due_to_delivery"], commits(report)
    cpu = report["target_cpu_us_per_message"] or 0
    print(
        f"{name}: p50 {ms(latency['p50'])}, p99 {ms(latency['p99'])}, p99.9 {ms(latency['p999'])}, max "
        f"{ms(latency['max'])}; {done.per_s:.0f} commits per second, {done.messages_each:.2f} messages per commit, p99 of "
        f"commits {ms(done.p99_us)}; {cpu:.0f} us of CPU per message, of all four"
    )
    print(stage_table(report))
    print(slowest_steps(report), flush=True)
    stages = {stage: {"mean": mean, "p50": p50, "p99": p99} for stage, mean, p50, p99 in stage_rows(report)}
    figures = {"latency_us": latency, "stages_us": stages, "commits_per_s": done.per_s}
    verdict.note(name, {**figures, "messages_per_commit": done.messages_each, "cpu_us_per_message": cpu})
    verdict.check(*clean(report, code))
    wrong = unread_metrics(report)
    counts = stage_counts(report)
    # The router of its conversation counted each once. What it refused for a moment was admitted again.
    stored = {stage: counts.get(stage, 0) for stage in STAGES}
    verdict.check(
        not wrong and stored["admit"] >= stored["persist"] == stored["publish"] == report["sent"],
        f"every stage of the routers counted {report['sent']}: {stored}{'; ' if wrong else ''}{'; '.join(wrong)}",
    )
    ratio = half_ratio(report)
    verdict.check(ratio <= HALF_RATIO_MAX, f"p50 of the second half is {ratio:.2f} of the first's, at most {HALF_RATIO_MAX}")


def direct_flags(args) -> list[str]:
    """The load of 1:1 messages. The two users of a message are always at different gateways."""
    flags = ["-c", str(args.connections), "-r", args.rate, "-s", args.size]
    return [*flags, "-d", f"{args.seconds}s", "-w", f"{WARM_UP_S}s"]


def measure_cluster(args, verdict: Verdict) -> None:
    """1:1 messages from gateway to gateway."""
    with real_cluster(args) as cluster:
        code, report = report_of(*loadgen(cluster, "cluster", "direct", cluster.urls(), *direct_flags(args)))
        judge(verdict, "cluster", code, report)


def measure_groups(args, verdict: Verdict) -> None:
    """Groups whose members are spread over the gateways: many small ones, and two large ones."""
    kinds = {
        "small": (args.small_groups, args.small_size, args.small_rate),
        "large": (args.large_groups, args.large_size, args.large_rate),
    }
    with real_cluster(args) as cluster:
        for kind in kinds if args.only is None else [args.only]:
            groups, size, rate = kinds[kind]
            name = f"cluster-group-{kind}"
            flags = ["-c", str(groups * size), "--groups", str(groups), "--group-size", str(size), "-r", rate]
            flags += ["-s", args.size, "-d", f"{args.seconds}s", "-w", f"{WARM_UP_S}s"]
            code, report = report_of(*loadgen(cluster, name, "group", cluster.urls(), *flags))
            judge(verdict, name, code, report)
