"""The platform as one or two processes on this machine with the default ports, and the load generator against it."""

import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# As ops/cluster and ops/services have it.
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
OUT = TARGET / "measure"
WS, HTTP, ADMIN = "ws://127.0.0.1:7070/ws", "http://127.0.0.1:7080", "http://127.0.0.1:7071"


def fetch(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def metric(url, name):
    """Sum of a metric over its labels."""
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+]+)$", fetch(url + "/metrics"), re.M)
    return sum(float(value) for value in found)


def usage(pid):
    """CPU in us, anonymous resident bytes and open descriptors of a process."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    with open(f"/proc/{pid}/status") as status:
        anonymous = int(re.search(r"RssAnon:\s+(\d+) kB", status.read()).group(1)) * 1024
    return (int(fields[11]) + int(fields[12])) * 10_000, anonymous, len(os.listdir(f"/proc/{pid}/fd"))


def loadgen_command(bin_dir, *words):
    """The generator's command: as root with real-time priority, or it would send late and void its runs where it shares the
    CPUs with its target."""
    first = ["chrt", "--fifo", "1"] if os.geteuid() == 0 and shutil.which("chrt") else []
    return [*first, os.path.join(bin_dir, "corelane-loadgen"), *words]


def start_loadgen(name, command):
    """Starts the generator; report_of() reads its report. It does not outlive this program."""
    report = OUT / f"{name}.json"
    report.unlink(missing_ok=True)
    with open(OUT / f"{name}.txt", "w") as log:
        process = subprocess.Popen(
            [*command, "-q", "--json", str(report)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    atexit.register(process.kill)
    return process, report


def report_of(process, path):
    """Waits for the generator's end: its exit code and report."""
    code = process.wait()
    if not path.exists():
        sys.exit(f"the generator ended with {code} and left no report; see {path.with_suffix('.txt')}")
    try:
        return code, json.loads(path.read_text())
    except ValueError:
        sys.exit(f"the generator ended with {code} before its report; see {path.with_suffix('.txt')}")


class Target:
    """The platform under test: one process, or gateway and router as two."""

    def __init__(self, bin_dir, two, durability="full", settings=(), loadgen_dir=None):
        self.bin_dir = bin_dir
        self.loadgen_dir = loadgen_dir or bin_dir
        self.two = two
        self.data = tempfile.mkdtemp(prefix="corelane-measure-")
        atexit.register(shutil.rmtree, self.data, ignore_errors=True)
        self.processes = {}
        gateway = [f"store.data_dir={self.data}", f"store.durability={durability}", "gateway.drain_ms=0", *settings]
        if two:
            environment = {
                "CORELANE__STORE__DATA_DIR": self.data,
                "CORELANE__STORE__DURABILITY": durability,
                "CORELANE__LOG__FORMAT": "text",
            }
            self.start("router", [], environment)
            gateway += ["router.embedded=false", "router.seeds=127.0.0.1:7090"]
        flags = [part for setting in gateway for part in ("--set", setting)]
        self.start("gateway", flags, {})

    def start(self, name, flags, environment):
        log = open(OUT / f"{name}.log", "w")
        program = os.path.join(self.bin_dir, f"corelane-{name}")
        process = subprocess.Popen(
            [program, *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **environment}
        )
        self.processes[name] = process
        atexit.register(process.kill)
        for _ in range(400):
            if process.poll() is not None:
                sys.exit(f"corelane-{name} ended with {process.returncode}; see {log.name}")
            with open(log.name) as said:
                if re.search(r"^ready ", said.read(), re.M):
                    return
            time.sleep(0.05)
        sys.exit(f"corelane-{name} was not ready within 20 s; see {log.name}")

    def pid(self, name):
        return self.processes[name].pid

    def metrics_url(self, name):
        return ADMIN if self.two and name == "gateway" else HTTP

    def loadgen(self, name, scenario, *flags):
        """Starts the generator; its report is read by report_of()."""
        pids = [part for each in self.processes.values() for part in ("--target-pid", str(each.pid))]
        keys = ["--secret-file", f"{self.data}/token.key", "--admin-key-file", f"{self.data}/admin.key"]
        return start_loadgen(name, loadgen_command(self.loadgen_dir, scenario, WS, *keys, *pids, *flags))

    def stop(self):
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.data, ignore_errors=True)
