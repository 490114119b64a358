"""Redis, Kafka, PD and the test store of one stack: real servers of its own, because faults kill them, take their data
and fill their disk. The programs are those that `ops/services install` brings; the settings that matter are as there.
"""

import errno
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import kafka
from process import NotReady, Process, wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
CACHE = TARGET / "services" / "cache"
READY_S = 60.0
ANSWER_S = 5.0
# Mounting and unmounting.
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]
# Room for a few minutes of the load, and quickly filled.
SMALL_DISK = "256m"
KAFKA_CLUSTER = "CorelaneChaosCluster00"


def await_service(processes: Sequence[Process], condition: Callable[[], bool]) -> None:
    """Until a service works; it will not once one of its processes is gone."""
    name = " and ".join(each.name for each in processes)

    def works() -> bool:
        gone = [each.name for each in processes if not each.is_alive()]
        if gone:
            raise NotReady(f"{gone[0]} ended at its start")
        return condition()

    wait_until(f"right answer of {name}", READY_S, works)


class Redis:
    """One node that keeps every change: what a kill -9 leaves is what it had answered."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.data = folder / "redis"
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.data), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"]
        command += ["--maxmemory-policy", "noeviction"]
        self.process = Process("redis", folder, command)

    def start(self) -> None:
        """Starts it with the data that is there."""
        self.data.mkdir(parents=True, exist_ok=True)
        self.process.start()

    def await_ready(self) -> None:
        """Until it answers."""
        await_service([self.process], lambda: self.ask("PING") == ["PONG"])

    def ask(self, *command: str) -> list[str]:
        """The lines of an answer; none if there is none."""
        line = ["redis-cli", "-p", str(self.port), "--raw", *command]
        try:
            done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=ANSWER_S)
        except subprocess.TimeoutExpired:
            return []
        return done.stdout.splitlines() if done.returncode == 0 else []

    def key_count(self) -> int:
        """How many keys it has: one per user who is connected, among others."""
        answer = self.ask("DBSIZE")
        if len(answer) != 1 or not answer[0].isdecimal():
            raise NotReady(f"Redis does not say how many keys it has: {answer}")
        return int(answer[0])

    def copy_of_data(self) -> Path:
        """A copy of what it has written so far. A file that only grows can be copied at any time."""
        copy = self.data.with_name("redis-earlier")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.data, copy)
        return copy

    def take_data(self, other: Path | None = None) -> None:
        """Has other data at its next start, or none. It must not run."""
        shutil.rmtree(self.data)
        if other:
            shutil.copytree(other, self.data)


class Kafka:
    """One broker. Clients reach it at `reach`, which is its own port or that of a proxy before it."""

    def __init__(self, folder: Path, port: int, controller: int, reach: int) -> None:
        self.port = port
        self.reach = reach
        self.data = folder / "kafka"
        self.filler = self.data / "filler"
        self.properties = folder / "kafka.properties"
        lib = Path(self.find_lib())
        self.lib = f"{lib}/*"
        # The outcome of formatting, by version and ports: that takes a Java of its own, and comes out the same.
        self.formatted = folder.parent / "kafka-formatted" / f"{lib.parent.name}-{port}-{controller}"
        self.settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{reach}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": self.data / "logs",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "log.cleaner.dedupe.buffer.size": 2097152,
            "broker.session.timeout.ms": 1000,
            "broker.heartbeat.interval.ms": 200,
        }
        command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        # A full disk may end it in the middle of a mapped file.
        command += [f"-XX:ErrorFile={folder / 'kafka-crash.log'}"]
        command += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", self.lib, "kafka.Kafka", str(self.properties)]
        self.process = Process("kafka", folder, command)

    @staticmethod
    def find_lib() -> str:
        """Where ops/services keeps the broker's jars."""
        done = subprocess.run([ROOT / "ops/services", "env", "kafka"], capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            if name == "CORELANE_TEST_KAFKA_LIB":
                return value.strip("'")
        raise NotReady(f"ops/services does not say where Kafka's jars are: {done.stderr.strip()}")

    def prepare(self, small_disk: bool) -> None:
        """Formats its data, on a small disk of its own if it is going to be filled."""
        self.data.mkdir(parents=True, exist_ok=True)
        if small_disk:
            options = f"size={SMALL_DISK},uid={os.getuid()},gid={os.getgid()},mode=700"
            command = [*AS_ROOT, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.data)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise NotReady(f"a small disk could not be mounted: {done.stderr.strip()}")
        self.properties.write_text("".join(f"{key}={value}\n" for key, value in self.settings.items()))
        logs = self.settings["log.dirs"]
        if self.formatted.exists():
            shutil.copytree(self.formatted, logs)
            return
        command = ["java", "-cp", self.lib, "kafka.tools.StorageTool", "format", "--standalone", "--ignore-formatted"]
        command += ["-t", KAFKA_CLUSTER, "-c", str(self.properties)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NotReady(f"Kafka's data could not be formatted: {done.stdout}{done.stderr}")
        made = self.formatted.with_name(f"{self.formatted.name}.new")
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(logs, made)
        made.rename(self.formatted)

    def start(self) -> None:
        """Starts it with the data that is there."""
        self.process.start()

    def await_ready(self) -> None:
        """Until it works, which is later than its port opens."""
        await_service([self.process], lambda: kafka.is_ready(self.port))

    def fill_disk(self) -> None:
        """Takes all room that is left on its disk."""
        block = bytes(1024 * 1024)
        with open(self.filler, "wb", buffering=0) as filler:
            while True:
                try:
                    filler.write(block)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    if len(block) == 1:
                        return
                    # What is left is less than a block.
                    block = block[: len(block) // 2]

    def free_disk(self) -> None:
        """Gives the room back."""
        self.filler.unlink(missing_ok=True)


class Tikv:
    """The real PD, and the test store in TiKV's place, with its control port."""

    def __init__(self, folder: Path, pd: int, peer: int, store: int, control: int) -> None:
        self.pd_port = pd
        self.control_port = control
        urls = ["--client-urls", f"http://127.0.0.1:{pd}", "--peer-urls", f"http://127.0.0.1:{peer}"]
        # The etcd in it registers a path with a blank, which Go's router refuses since 1.22.
        command = ["env", "GODEBUG=httpmuxgo121=1", str(CACHE / "tikv" / "pd-server")]
        command += ["--config", str(ROOT / "tests/tikv/pd/pd.toml"), "--name", "pd"]
        command += ["--data-dir", str(folder / "pd"), *urls, "--initial-cluster", f"pd=http://127.0.0.1:{peer}"]
        self.pd = Process("pd", folder, command)
        command = [str(TARGET / "ci" / "corelane-tikv-test-store"), "--data", str(folder / "store")]
        command += ["--listen", f"127.0.0.1:{store}", "--control", f"127.0.0.1:{control}", "--pd", f"127.0.0.1:{pd}"]
        self.store = Process("store", folder, command)

    def start(self) -> None:
        """Starts both. The store waits for PD by itself."""
        self.pd.start()
        self.store.start()

    def await_ready(self) -> None:
        """Until clients can use both."""
        await_service([self.pd, self.store], self.is_ready)

    def is_ready(self) -> bool:
        """Whether clients can use both."""
        try:
            self.control("GET", "/ready")
        except OSError:
            return False
        return True

    def control(self, method: str, path: str, **query: object) -> bytes:
        """A request to the control port; raises OSError where it does not succeed."""
        line = f"http://127.0.0.1:{self.control_port}{path}"
        if query:
            line += "?" + urllib.parse.urlencode(query)
        with urllib.request.urlopen(urllib.request.Request(line, method=method), timeout=5) as answer:
            return answer.read()

    def fault(self, do: str, on: str, **more: object) -> None:
        """Adds a fault: what happens to which requests."""
        self.control("POST", "/fault", do=do, on=on, **more)

    def end_faults(self) -> None:
        """Ends all of them."""
        self.control("DELETE", "/fault")

    def faults_hit(self, do: str) -> int:
        """How many requests the faults of this kind have hit that were not ended yet."""
        faults = json.loads(self.control("GET", "/status"))["faults"]
        return sum(each["hits"] for each in faults if each["rule"]["do"] == do)

    def split(self, key: str) -> None:
        """Splits a region at a key, unless one begins there."""
        try:
            self.control("POST", "/split", at=key)
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise
