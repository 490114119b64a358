"""One stack: services, cluster and proxies that belong together, made for one run and ended with it.

Stacks differ by their slot and share nothing: they can run side by side. Ports, all on 127.0.0.1, from 8000 + 100 times
the slot (0 to 9) on:

    +1 to +49 the cluster, as in ops/cluster     +51 Redis     +52 Kafka     +53 its controller     +54 the proxy before it
    +55 PD     +56 its peers     +57 the test store     +58 its control port
"""

import os
import shutil
import subprocess
from pathlib import Path

from cluster import ROUTERS, Cluster
from freeze import FrozenPartition
from process import Process, end_leftovers
from proxy import Proxy
from services import AS_ROOT, TARGET, Kafka, Redis, Tikv

CHAOS = TARGET / "chaos"
SLOTS = 10


class Stack:
    """Everything that one run needs but its load."""

    def __init__(self, slot: int, bin_dir: Path) -> None:
        base = 8000 + 100 * slot
        self.base = base
        self.bin_dir = bin_dir
        self.folder = CHAOS / f"slot-{slot}"
        self.redis: Redis
        self.kafka: Kafka
        self.tikv: Tikv
        self.cluster = Cluster(self.folder / "cluster", base, bin_dir, {})
        self.partition = FrozenPartition()
        self.proxies: dict[str, Proxy] = {}

    def up(self, *, link_proxy: bool, kafka_proxy: bool, small_disk: bool, settings: tuple[str, ...]) -> None:
        """Starts everything anew, with nothing of earlier runs."""
        self.clear()
        self.folder.mkdir(parents=True)
        base = self.base
        self.redis = Redis(self.folder, base + 51)
        self.kafka = Kafka(self.folder, base + 52, base + 53, base + 54 if kafka_proxy else base + 52)
        self.tikv = Tikv(self.folder, base + 55, base + 56, base + 57, base + 58)
        self.redis.start()
        self.tikv.start()
        self.kafka.prepare(small_disk)
        self.kafka.start()
        if kafka_proxy:
            self.partition = FrozenPartition()
            self.proxies["kafka"] = Proxy(self.kafka.reach, self.kafka.port, self.partition.connection)
        for service in (self.redis, self.kafka, self.tikv):
            service.await_ready()
        addresses = {
            "CORELANE_TEST_REDIS": f"redis://127.0.0.1:{self.redis.port}",
            "CORELANE_TEST_KAFKA": f"127.0.0.1:{self.kafka.reach}",
            "CORELANE_TEST_PD": f"127.0.0.1:{self.tikv.pd_port}",
        }
        self.cluster = Cluster(self.folder / "cluster", base, self.bin_dir, addresses)
        options = [word for setting in settings for word in ("--set", *setting.split(" ", 1))]
        if link_proxy:
            options.append("--behind-proxy")
            for name in ROUTERS:
                ports = self.cluster.port_of(name, 40), self.cluster.port_of(name, 30)
                self.proxies[name] = Proxy(*ports)
        self.cluster.up(options)

    def services(self) -> list[Process]:
        """The processes of the services."""
        return [self.redis.process, self.kafka.process, self.tikv.pd, self.tikv.store]

    def clear(self) -> None:
        """Ends and forgets what is there, of this run or of one that was killed."""
        for proxy in self.proxies.values():
            proxy.stop()
        self.proxies = {}
        # Whoever leaves in order waits for others: nothing depends on that any more.
        self.cluster.kill_all()
        self.cluster.down()
        end_leftovers(self.folder)
        if os.path.ismount(self.folder / "kafka"):
            subprocess.run([*AS_ROOT, "umount", "-l", self.folder / "kafka"], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def keep_logs(self, folder: Path) -> None:
        """Copies what its processes said."""
        folder.mkdir(parents=True, exist_ok=True)
        for log in [*self.folder.glob("*.log"), *self.cluster.log_files()]:
            shutil.copy(log, folder / log.name)
