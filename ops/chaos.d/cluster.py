"""The cluster of one stack, by ops/cluster, in a directory and on ports of its own."""

import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from metrics import Look, parse
from process import Broken, NotReady, identity_in, signal_group
from services import ROOT

GATEWAYS = ("gateway-1", "gateway-2")
ROUTERS = ("router-1", "router-2")
COMMAND_S = 180


class Cluster:
    """Two gateways and two routers, on the services that the environment names."""

    def __init__(self, folder: Path, ports: int, bin_dir: Path, addresses: dict[str, str]) -> None:
        self.folder = folder
        self.ports = ports
        self.bin_dir = bin_dir
        # What processes say is kept as it is: settings of the caller must not reach them.
        kept = {key: value for key, value in os.environ.items() if not key.startswith("CORELANE_")}
        own = {"CORELANE_CLUSTER_DIR": str(folder), "CORELANE_CLUSTER_PORTS": str(ports)}
        self.environment = {**kept, **own, **addresses}

    def command(self, *words: str) -> None:
        """Runs ops/cluster; raises NotReady with the end of what it said if it fails."""
        line = [str(ROOT / "ops/cluster"), *words]
        try:
            done = subprocess.run(
                line, env=self.environment, capture_output=True, text=True, timeout=COMMAND_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise NotReady(f"ops/cluster {' '.join(words)} not within {COMMAND_S} s") from None
        if done.returncode != 0:
            raise NotReady(f"ops/cluster {' '.join(words)} failed: {done.stderr.strip()[-600:]}")

    def up(self, options: Sequence[str]) -> None:
        """Starts it. Short drains: a run ends its cluster with nobody connected."""
        counts = ["--gateways", str(len(GATEWAYS)), "--routers", str(len(ROUTERS)), "--bin-dir", str(self.bin_dir)]
        self.command("up", *counts, "--set", "gateway", "gateway.drain_ms=500", *options)

    def down(self) -> None:
        """Ends it, whatever is left of it, and forgets it."""
        self.command("down")
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill_all(self) -> None:
        """kill -9 to whoever is left."""
        for pid_file in self.folder.glob("*-?/*.pid"):
            found = identity_in(pid_file)
            if found:
                signal_group(found[0], signal.SIGKILL)

    def must(self, *words: str) -> None:
        """Runs ops/cluster where only the cluster can be to blame for a failure."""
        try:
            self.command(*words)
        except NotReady as error:
            raise Broken(str(error)) from None

    def kill(self, name: str, which: str = "KILL") -> None:
        """Signals a member, which must run."""
        self.must("kill", name, which)

    def restart(self, name: str) -> None:
        """Starts a member again; it must become ready."""
        self.must("restart", name)

    def port_of(self, name: str, base: int) -> int:
        """A port of a member: its number from a base on, as ops/cluster documents them."""
        return self.ports + base + int(name.rpartition("-")[2])

    def urls(self) -> list[str]:
        """Where clients connect."""
        return [f"ws://127.0.0.1:{self.port_of(name, 0)}/ws" for name in GATEWAYS]

    def http(self, router: str) -> str:
        """The HTTP API of a router."""
        return f"http://127.0.0.1:{self.port_of(router, 20)}"

    def health(self, name: str) -> str:
        """Where a member serves its metrics."""
        base = 10 if name in GATEWAYS else 20
        return f"http://127.0.0.1:{self.port_of(name, base)}"

    def key(self, name: str) -> Path:
        """A key file."""
        return self.folder / "keys" / f"{name}.key"

    def prefix(self) -> str:
        """What the names of its topics begin with, and its keys in Redis."""
        return f"c{self.ports}"

    def gone(self) -> list[str]:
        """Members that should run and do not."""
        return [name for name in (*ROUTERS, *GATEWAYS) if identity_in(self.pid_file(name)) is None]

    def pid_file(self, name: str) -> Path:
        """Where ops/cluster keeps a member's number."""
        return self.folder / name / f"{name}.pid"

    def look(self, name: str) -> Look:
        """The figures of a member; raises OSError if it does not answer."""
        identity = str(identity_in(self.pid_file(name)))
        with urllib.request.urlopen(f"{self.health(name)}/metrics", timeout=5) as answer:
            return Look(identity, parse(answer.read().decode()))

    def look_at_all(self) -> dict[str, Look]:
        """The figures of all members."""
        return {name: self.look(name) for name in (*ROUTERS, *GATEWAYS)}

    def log_files(self) -> list[Path]:
        """The logs of all members."""
        return sorted((self.folder / "logs").glob("*.log"))
