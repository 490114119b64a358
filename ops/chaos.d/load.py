"""The load beside a fault: corelane-loadgen, which checks what arrives and reads the log back."""

import functools
import json
import shutil
import subprocess
import time
from pathlib import Path

from cluster import ROUTERS, Cluster
from process import NotReady, Process, wait_until
from verdict import COMPLETE_S, Load

# The main load: every second it has sends in flight in every lane.
MAIN_CONNECTIONS, MAIN_RATE = 200, 500
# Quiet conversations: pairs of users who write about once each, and then never again.
QUIET_CONNECTIONS, QUIET_SENDS = 300, 150
SIZE_BYTES = 512
# Making the connections before its plan begins, at most.
CONNECT_S = 3.0
# Reading the log back, asking for what is missing, closing.
READ_BACK_S = 90.0


@functools.cache
def before_others() -> list[str]:
    """What lets a program run before all others, where that is allowed: a generator that shares the CPUs with its target
    would else send late and void its runs."""
    words = ["chrt", "--fifo", "1"]
    if not shutil.which("chrt") or subprocess.run([*words, "true"], capture_output=True, check=False).returncode != 0:
        return []
    return words


class Generator:
    """One run of the load generator. Its process belongs to the stack, its files to the run."""

    def __init__(self, name: str, stack_folder: Path, folder: Path, cluster: Cluster) -> None:
        self.name = name
        self.cluster = cluster
        self.report = folder / f"{name}.json"
        self.ledger = folder / f"{name}.acks"
        self.log = stack_folder / f"{name}.log"
        self.process = Process(name, stack_folder, [])
        self.seconds = 0.0
        self.began = 0.0
        self.seen = 0
        self.acked = 0

    def start(self, *, connections: int, rate: float, seconds: float) -> None:
        """Starts it, against all gateways. Its plan is made before and does not slow down for anybody."""
        cluster = self.cluster
        command = [str(cluster.bin_dir / "corelane-loadgen"), "direct", *cluster.urls(), "-q", "--faults"]
        command += ["-c", str(connections), "-r", f"{rate:.3f}/s", "-s", f"{SIZE_BYTES}B", "--pattern", "pairs"]
        command += ["-d", f"{seconds:.1f}s", "-w", "0s", "--settle", f"{COMPLETE_S:g}s"]
        command += ["--secret-file", str(cluster.key("token")), "--admin-key-file", str(cluster.key("admin"))]
        for router in ROUTERS:
            command += ["--http", cluster.http(router)]
        command += ["--json", str(self.report), "--ledger", str(self.ledger)]
        command += ["--per-second", str(self.report.with_suffix(".csv"))]
        self.process.command = [*before_others(), *command]
        # Of a run that was interrupted: acks are appended.
        self.ledger.unlink(missing_ok=True)
        self.process.start()
        self.seconds = seconds
        self.began = time.monotonic() + CONNECT_S

    def last_send(self) -> float:
        """When its last send is due, or a little later: CONNECT_S, if its first acknowledgement was not waited for."""
        return self.began + self.seconds

    def acks(self) -> int:
        """How many sends were acknowledged so far."""
        if self.ledger.exists():
            with open(self.ledger, "rb") as ledger:
                ledger.seek(self.seen)
                new = ledger.read()
            self.seen += len(new)
            self.acked += new.count(b"\n")
        return self.acked

    def await_first_ack(self, seconds: float) -> None:
        """Until it is under way; raises NotReady if it ends before, or takes too long."""

        def is_under_way() -> bool:
            if not self.process.is_alive():
                raise NotReady(f"the {self.name} load ended early: {self.said()}")
            return self.acks() > 0

        wait_until(f"acknowledgement of the {self.name} load", seconds, is_under_way)
        self.began = time.monotonic()

    def said(self) -> str:
        """The end of what it said."""
        return self.log.read_text(errors="replace").strip()[-400:] if self.log.exists() else ""

    def wait(self) -> Load:
        """Waits for its end. One that never ends is killed, and proves nothing."""
        limit = self.last_send() + COMPLETE_S + READ_BACK_S
        try:
            wait_until("end of it", limit - time.monotonic(), lambda: not self.process.is_alive())
        except NotReady:
            self.process.kill()
            return Load(None, {}, "it did not end")
        try:
            report = json.loads(self.report.read_text())
        except (OSError, ValueError):
            report = {}
        return Load(self.process.child.returncode, report, self.said())
