"""Gateways that come and go by the hundred, and what they leave behind in routers and in Kafka: `incarnations`.

Each incarnation is a process of its own that joins the cluster, has a user log in, delivers a message to him, so that its
topic is published to, and is then ended by SIGTERM or SIGKILL, by turns.

Metadata requests are held to their bound twice: while gateways come, and after that, while the janitors delete the topics,
where who goes on asking for what is gone shows.
"""

import shutil
import signal
import sys
import threading
import time
import urllib.request
from pathlib import Path

# Of ops/chaos.d.
import kafka
from cluster import ROUTERS
from process import Process, wait_until

from judge import Verdict, topics_allowed, topics_gone_in
from real import real_cluster, rss_anon, values
from target import OUT
from terminal import Backend, Terminal, mint

GROWTH_MAX = 32 * 2**20
METADATA_PER_S_MAX = 1.0
METADATA = "corelane_router_kafka_metadata_requests_total"
# Clients say every 10 s how much they asked (`STATISTICS` of `router/src/bus/kafka/config.rs`).
METADATA_LAG_S = 12.0
# Time over which metadata requests are counted, at least: each janitor sweeps once in it.
QUIET_S = 80.0
LIVE = 2
READY_S = 30.0
# Numbers of gateways beside the two of the cluster: ports +3 to +9 and +13 to +19 are free.
FIRST_NUMBER, WORKERS_MAX = 3, 7


class Incarnations:
    """Makes them, several at a time and not more in a minute than the janitors can clear away."""

    def __init__(self, cluster, per_minute: float) -> None:
        self.cluster = cluster
        self.pace_s = 60 / per_minute
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.ended_at: list[float] = []
        self.problems: list[str] = []
        self.left = 0
        self.next_at = 0.0

    def make(self, count: int, workers: int) -> None:
        """Makes so many; raises nothing: what went wrong stands in `problems`."""
        self.left, self.next_at = count, time.monotonic()
        threads = [threading.Thread(target=self.work, args=(number,)) for number in range(workers)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            # Where this was interrupted: each worker ends its own process.
            self.stopping.set()
            for thread in threads:
                thread.join()
            self.stopping.clear()

    def take(self) -> int | None:
        """The turn of the next one, when it has come; none if there is none."""
        with self.lock:
            if self.left == 0 or self.problems or self.stopping.is_set():
                return None
            self.left -= 1
            turn, at = self.left, self.next_at
            self.next_at = max(at, time.monotonic() - self.pace_s) + self.pace_s
        self.stopping.wait(max(0.0, at - time.monotonic()))
        return turn

    def work(self, worker: int) -> None:
        """One after the other."""
        folder = OUT / "incarnations" / f"worker-{worker}"
        shutil.rmtree(folder, ignore_errors=True)
        data = folder / "data"
        data.mkdir(mode=0o700, parents=True)
        for key in (self.cluster.folder / "keys").glob("*.key"):
            shutil.copy(key, data / key.name)
        while (turn := self.take()) is not None:
            gateway = self.gateway(worker, folder)
            try:
                self.live(gateway, worker)
                gateway.signal(signal.SIGTERM if turn % 2 == 0 else signal.SIGKILL)
                gateway.child.wait(READY_S)
            except Exception as error:  # whatever it is, the run says so and ends
                with self.lock:
                    self.problems.append(f"worker {worker}: {type(error).__name__}: {error}; see {folder}")
            finally:
                gateway.kill()
            with self.lock:
                self.ended_at.append(time.monotonic())
        # Its log is wanted where something went wrong.
        if not self.problems:
            shutil.rmtree(folder)

    def gateway(self, worker: int, folder: Path) -> Process:
        """The process of a worker's gateways: one of the cluster, small, with a name and ports of its own."""
        number = FIRST_NUMBER + worker
        settings = {
            "gateway.node": f"gateway-{number}",
            "gateway.listen": f"127.0.0.1:{self.cluster.ports + number}",
            "admin.listen": f"127.0.0.1:{self.cluster.ports + 10 + number}",
            "store.data_dir": folder / "data",
            "gateway.shards": 1,
            "gateway.drain_ms": 0,
        }
        command = [str(self.cluster.bin_dir / "corelane-gateway")]
        command += ["--config", str(self.cluster.folder / "gateway-1" / "gateway-1.toml")]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        return Process(f"gateway-{number}", folder, command)

    def live(self, gateway: Process, worker: int) -> None:
        """Joins, and delivers a message."""
        number = FIRST_NUMBER + worker
        admin = f"http://127.0.0.1:{self.cluster.ports + 10 + number}/readyz"

        def is_ready() -> bool:
            if not gateway.is_alive():
                raise RuntimeError("it ended at its start")
            try:
                with urllib.request.urlopen(admin, timeout=2):
                    return True
            except OSError:
                return False

        gateway.start()
        wait_until("readiness", READY_S, is_ready)
        user = f"visitor-{worker}"
        token = mint(self.cluster.key("token"), user, "desk")
        terminal = Terminal(f"ws://127.0.0.1:{self.cluster.ports + number}/ws", token, "desk")
        backend = Backend(self.cluster.http(ROUTERS[worker % len(ROUTERS)]), self.cluster.key("admin"))
        try:
            backend.send("host", user, "welcome")
            terminal.await_type("message")
        finally:
            backend.close()
            terminal.close()


def topics_of(cluster, port: int) -> set[str]:
    """The topics of this cluster's boots."""
    _, topics = kafka.list_topics(port)
    return {name for name in topics if name.startswith(f"{cluster.prefix()}.")}


def live_topics(cluster) -> set[str]:
    """Those of the gateways that stay. Routers name the boot of a gateway with a session, so each gets one."""
    found = set()
    backend = Backend(cluster.http(ROUTERS[0]), cluster.key("admin"))
    for number, url in enumerate(cluster.urls()):
        user = f"guest-{number}"
        terminal = Terminal(url, mint(cluster.key("token"), user, "desk"), "desk")
        try:
            found.add(f"{cluster.prefix()}.{backend.boot_of(user)}")
        finally:
            terminal.close()
    backend.close()
    return found


def kafka_port(cluster) -> int:
    """Where the broker listens, which must be on this machine."""
    servers = cluster.environment["CORELANE_TEST_KAFKA"]
    host, _, port = servers.split(",")[0].rpartition(":")
    if host not in ("127.0.0.1", "localhost"):
        sys.exit(f"CORELANE_TEST_KAFKA is {servers}: topics are listed only of a broker at 127.0.0.1")
    return int(port)


def measure_incarnations(args, verdict: Verdict) -> None:
    """Makes them and looks at what is left."""
    if not 1 <= args.workers <= WORKERS_MAX:
        sys.exit(f"--workers {args.workers}: allowed are 1 to {WORKERS_MAX}")
    with real_cluster(args, f"router bus.topic_keep_secs={args.keep}") as cluster:
        port = kafka_port(cluster)
        # What earlier clusters of this name left is not of this run; those that live are.
        earlier = topics_of(cluster, port) - live_topics(cluster)
        maker = Incarnations(cluster, args.per_minute)
        maker.make(args.warm_up, args.workers)
        memory = {name: rss_anon(cluster, name) for name in ROUTERS}
        began, asked = time.monotonic(), [values(cluster, ROUTERS, METADATA)]
        maker.make(args.count, args.workers)
        print(f"made within {time.monotonic() - began:.0f} s; waits until their topics are gone", flush=True)
        time.sleep(METADATA_LAG_S)
        now = time.monotonic()
        asked.append(values(cluster, ROUTERS, METADATA))
        grown = {name: rss_anon(cluster, name) - memory[name] for name in ROUTERS}
        topics = topics_of(cluster, port) - earlier
        allowed = topics_allowed(LIVE, maker.ended_at, now, args.keep)
        verdict.check(not maker.problems, f"{len(maker.ended_at)} incarnations came and went; {maker.problems or 'all well'}")
        verdict.check(len(topics) <= allowed, f"{len(topics)} topics, at most {allowed}: the living and the lately dead")
        left, live = await_topics_gone(cluster, port, earlier, now, topics_gone_in(len(topics), args.keep))
        later = time.monotonic()
        asked.append(values(cluster, ROUTERS, METADATA))
        judge_routers(args, verdict, grown, asked, (now - began, later - now))
        text = f"{len(left)} topics {later - now:.0f} s later, and they are those of the {LIVE} that live"
        verdict.check(left == live, text)
        verdict.note("topics", {"after": len(topics), "allowed": allowed, "in_the_end": sorted(left)})


def await_topics_gone(cluster, port: int, earlier: set[str], now: float, patience_s: float) -> tuple[set[str], set[str]]:
    """The topics that are left once all others are gone, or patience is; and those of the living. Takes QUIET_S at least."""
    live = live_topics(cluster)
    while True:
        left, waited = topics_of(cluster, port) - earlier, time.monotonic() - now
        if waited >= patience_s or (left == live and waited >= QUIET_S):
            return left, live
        time.sleep(5)


def judge_routers(args, verdict: Verdict, grown: dict, asked: list[dict], spans: tuple[float, float]) -> None:
    """Holds memory and metadata requests of the routers to their bounds: counted before the gateways came, after, and later."""
    (while_s, after_s), figures = spans, {}
    for name in ROUTERS:
        text = f"{name} grew by {grown[name] / 2**20:.1f} MiB of user memory, at most {GROWTH_MAX / 2**20:.0f} MiB"
        verdict.check(grown[name] <= GROWTH_MAX, text)
        before, after, later = (each[name] for each in asked)
        came, quiet = after - before, later - after
        figures[name] = {"while_they_came": came, "seconds": while_s, "after": quiet, "seconds_after": after_s}
        rate = came / while_s
        verdict.check(
            0 < rate <= METADATA_PER_S_MAX,
            f"{name} sent {rate:.2f} metadata requests per second while gateways came and went, at most "
            f"{METADATA_PER_S_MAX:.0f}; {came / args.count:.1f} for each",
        )
        rate = quiet / after_s
        verdict.check(
            rate <= METADATA_PER_S_MAX,
            f"{name} sent {rate:.2f} metadata requests per second afterwards, at most {METADATA_PER_S_MAX:.0f}",
        )
    verdict.note("grown_bytes", grown)
    verdict.note("metadata_requests", figures)
