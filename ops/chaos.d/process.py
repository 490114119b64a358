"""Processes that faults kill, stop and start again, and that end with the run.

A process leaves its number and when it started beside its log, as those of ops/processes.sh do: what a run left that was
itself killed is found and ended by the next one, and nobody is taken for it who got its number later.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path


class NotReady(Exception):
    """What a run needs did not come up, or not in time: the run proves nothing."""


class Broken(Exception):
    """The cluster did not do what it must: the run failed."""


def wait_until(what: str, seconds: float, condition: Callable[[], bool]) -> None:
    """Waits for a condition, named as in "no WHAT within 5 s"; raises NotReady when it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            raise NotReady(f"no {what} within {seconds:.0f} s")
        time.sleep(0.05)


def started_at(pid: int) -> str | None:
    """When a process started, in ticks since the machine's boot; none if it is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else fields[19]


def identity_in(pid_file: Path) -> tuple[int, str] | None:
    """The process of a file of this form, if it lives."""
    try:
        pid, ticks = pid_file.read_text().split()
        return (int(pid), ticks) if started_at(int(pid)) == ticks else None
    except (OSError, ValueError):
        return None


def end_leftovers(folder: Path) -> None:
    """Kills what an earlier run left in a folder."""
    for pid_file in folder.glob("*.pid"):
        found = identity_in(pid_file)
        if found:
            signal_group(found[0], signal.SIGKILL)
            wait_until(f"end of an earlier {pid_file.stem}", 10, lambda file=pid_file: identity_in(file) is None)
        pid_file.unlink(missing_ok=True)


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signals a process and its children, if it is there."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


class Process:
    """One process, which may have several lives."""

    def __init__(self, name: str, folder: Path, command: Sequence[str]) -> None:
        self.name = name
        self.folder = folder
        self.command = list(command)
        self.child: subprocess.Popen | None = None

    def start(self) -> None:
        """Begins a life. Its output goes on in the log of the earlier ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f"{self.name}.log", "ab") as log:
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        pid = self.child.pid
        (self.folder / f"{self.name}.pid").write_text(f"{pid} {started_at(pid)}\n")

    def is_alive(self) -> bool:
        """Whether it runs, or stands still."""
        return self.child is not None and self.child.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Signals it."""
        if self.is_alive():
            self.child.send_signal(number)

    def kill(self) -> None:
        """kill -9, and waits until it is gone."""
        if self.is_alive():
            signal_group(self.child.pid, signal.SIGKILL)
            self.child.wait()

    def stop(self, seconds: float = 10) -> None:
        """Asks it to end; kills it when that takes too long."""
        if not self.is_alive():
            return
        self.signal(signal.SIGTERM)
        try:
            self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
