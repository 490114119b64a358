"""What a login costs: rows read by a sync, and a load beside many logins: `sync`.

A sync's cursor lags: what changed lately is read again by the next one. So the conversations are made first, the loads run
while they become old, and only then a cursor is taken, ten of them change, and the user logs in again.
"""

import statistics
import sys
import threading
import time

from cluster import ROUTERS  # of ops/chaos.d

from across import WARM_UP_S, direct_flags
from judge import Verdict, clean, cursor_is_behind_at, ms
from real import loadgen, real_cluster, values
from target import OUT, report_of
from terminal import Backend, Terminal, mint

ROWS_MAX = 50
P99_RATIO_MAX = 2.0
USER, DEVICE = "reader", "desk"
ROWS, PAGES = "corelane_store_sync_rows_total", "corelane_store_sync_pages_total"
SENDERS = 8
# Logins begin before the load does, and go on beyond its end.
BEFORE_S, BEYOND_S = 3, 25


def write_to_reader(cluster, peers: range, text: str) -> None:
    """One message from each peer."""
    problems: list[str] = []

    def work(own: range) -> None:
        backend = Backend(cluster.http(ROUTERS[own.start % len(ROUTERS)]), cluster.key("admin"))
        try:
            for peer in own:
                backend.send(f"peer-{peer:05}", USER, text)
        except Exception as error:  # whatever it is, the run says so and ends
            problems.append(f"{type(error).__name__}: {error}")
        finally:
            backend.close()

    shares = [peers[start::SENDERS] for start in range(min(SENDERS, len(peers)))]
    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        sys.exit(f"messages could not be written: {problems[0]}")


def login_and_sync(cluster, cursor: str) -> tuple[list[dict], str]:
    """Logs in and syncs."""
    terminal = Terminal(cluster.urls()[0], mint(cluster.key("token"), USER, DEVICE), DEVICE)
    try:
        return terminal.sync(cursor)
    finally:
        terminal.close()


def beside_logins(args, cluster, verdict: Verdict, turn: int) -> float:
    """The load with logins beside it; its p99."""
    seconds = BEFORE_S + WARM_UP_S + args.seconds + BEYOND_S
    count = int(args.logins * seconds)
    began = time.time()
    logins, logins_report = loadgen(
        cluster, f"sync-{turn}-logins", "direct", cluster.urls(), "-c", str(count), "--connect-rate", f"{args.logins}/s",
        "--connect-timeout", "60s", "-r", "1/s", "-d", "1s", "-w", "0s", "-s", args.size,
    )
    time.sleep(BEFORE_S)
    p99, ended = load(args, cluster, verdict, f"sync-{turn}-with")
    code, report = report_of(logins, logins_report)
    # Not beyond the load's generator, which reads the log back.
    went_on = began + report["connect_seconds"] >= ended
    rate = report["connected"] / max(report["connect_seconds"], 1)
    # Its one message a second measures nothing: it may be void.
    verdict.check(
        code in (0, 5) and report["connected"] == count and went_on and rate >= 0.95 * args.logins,
        f"exit {code}; {report['connected']} of {count} logged in, {rate:.0f} per second, p99 of a login "
        f"{ms(report['latency_us']['connect']['p99'])}{'' if went_on else '; they ended before the load did'}",
    )
    return p99


def load(args, cluster, verdict: Verdict, name: str) -> tuple[float, float]:
    """The load of `cluster`; its p99, and when it got its last acknowledgement."""
    ledger = OUT / f"{name}.acks"
    ledger.unlink(missing_ok=True)
    flags = [*direct_flags(args), "--ledger", str(ledger)]
    code, report = report_of(*loadgen(cluster, name, "direct", cluster.urls(), *flags))
    verdict.check(*clean(report, code))
    p99 = report["latency_us"]["due_to_delivery"]["p99"]
    print(f"{name}: p99 {ms(p99)}", flush=True)
    return p99, ledger.stat().st_mtime


def compare_loads(args, cluster, verdict: Verdict) -> None:
    """A B B A: without and with logins."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for turn, with_logins in enumerate((False, True, True, False)):
        if with_logins:
            p99 = beside_logins(args, cluster, verdict, turn)
        else:
            p99, _ = load(args, cluster, verdict, f"sync-{turn}-without")
        found[with_logins].append(p99)
    without, beside = statistics.median(found[False]), statistics.median(found[True])
    verdict.note("p99_us", {"without": found[False], "beside": found[True]})
    verdict.check(
        beside <= P99_RATIO_MAX * without,
        f"p99 {ms(beside)} beside {args.logins} logins per second, {ms(without)} without; at most {P99_RATIO_MAX} times that",
    )


def judge_rows(args, cluster, verdict: Verdict, cursor: str) -> None:
    """Ten conversations change; what the next login reads."""
    write_to_reader(cluster, range(args.changed), "again")
    before = [values(cluster, ROUTERS, name) for name in (ROWS, PAGES)]
    found, _ = login_and_sync(cluster, cursor)
    after = [values(cluster, ROUTERS, name) for name in (ROWS, PAGES)]
    rows, pages = (sum(late.values()) - sum(early.values()) for early, late in zip(before, after, strict=True))
    verdict.note("rows", {"conversations": args.conversations, "changed": args.changed, "rows": rows, "pages": pages})
    verdict.check(len(found) == args.changed, f"the login is told of {len(found)} conversations, {args.changed} changed")
    verdict.check(
        0 < rows <= ROWS_MAX,
        f"it read {rows:.0f} rows in {pages:.0f} pages, of a user with {args.conversations} conversations; at most {ROWS_MAX}",
    )


def measure_sync(args, verdict: Verdict) -> None:
    """Both figures, on one cluster."""
    with real_cluster(args) as cluster:
        if args.only != "loads":
            write_to_reader(cluster, range(args.conversations), "first")
            made_at = time.time()
        if args.only != "rows":
            compare_loads(args, cluster, verdict)
        if args.only == "loads":
            return
        while (wait := cursor_is_behind_at(made_at) - time.time()) > 0:
            print(f"  {wait:.0f} s until the conversations are old enough", flush=True)
            time.sleep(min(wait, 60))
        found, cursor = login_and_sync(cluster, "")
        text = f"the first login is told of {len(found)} conversations of {args.conversations}"
        verdict.check(len(found) == args.conversations, text)
        judge_rows(args, cluster, verdict, cursor)
