"""One run of one row: stack, load, fault, verdict.

    |<- STEADY_S ->|<-- the fault, at most row.seconds -->|<- AFTER_S ->|<- until every terminal is complete ->|
    main load begins                                                    its last send is due
          quiet load begins                                   its last send is due

The load's plan is made before, so the fault begins when the rest of the plan is just long enough. How long the terminals
took counts from the moment when the fault was really over, which may be earlier than planned.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from load import MAIN_CONNECTIONS, MAIN_RATE, QUIET_CONNECTIONS, QUIET_SENDS, Generator
from metrics import rises
from process import Broken, NotReady, wait_until
from stack import Stack
from verdict import PASS, VOID, Evidence, Hit, Load, judge

STEADY_S = 6.0
# With the shortest of its faults, a lease that was left to end does so under load.
AFTER_S = 8.0
# The quiet load is started so long before the fault begins, and sends so long behind its end.
QUIET_BEFORE_S, QUIET_AFTER_S = 4.0, 3.0
READY_S = 30.0
# 500 sends a second are acknowledged within this time or they are not in flight.
FLOW_S = 1.0


@dataclass(frozen=True)
class Row:
    """A row of the matrix."""

    name: str
    what: str
    # Makes the fault, and returns when it is over.
    fault: Callable[["Run"], None]
    # How long that takes at most.
    seconds: float
    # What shows that it hit what it was meant for.
    hits: tuple[Hit, ...]
    # The services that it disturbs.
    touches: tuple[str, ...]
    link_proxy: bool = False
    kafka_proxy: bool = False
    small_disk: bool = False
    needs_root: bool = False
    # Whether the fault itself starts the quiet load, because its logins are part of it.
    starts_quiet: bool = False
    # Settings of the cluster, as "gateway SECTION.KEY=VALUE".
    settings: tuple[str, ...] = ()
    # Counters that must not rise: what the fault may not cost.
    spares: tuple[str, ...] = ()


class Run:
    """What a fault works with, and what is known so far."""

    def __init__(self, row: Row, stack: Stack, folder: Path) -> None:
        self.row = row
        self.stack = stack
        self.cluster = stack.cluster
        self.evidence = Evidence()
        self.main = Generator("main", stack.folder, folder, stack.cluster)
        self.quiet = Generator("quiet", stack.folder, folder, stack.cluster)
        self.figures: dict[str, float] = {}

    # --- for faults ---

    def pause(self, seconds: float) -> None:
        """Lets the fault last."""
        time.sleep(seconds)

    def note(self, name: str, value: float) -> None:
        """Something that the fault counted."""
        self.evidence.notes[name] = value

    def await_acks(self, count: int, seconds: float) -> None:
        """Until so many more sends of the main load were acknowledged; the cluster must be able to."""
        before = self.main.acks()
        try:
            wait_until(f"{count} acknowledgements", seconds, lambda: self.main.acks() - before >= count)
        except NotReady as error:
            raise Broken(str(error)) from None

    def start_quiet(self) -> None:
        """Starts the quiet load: it sends until a little after the fault's planned end."""
        seconds = self.main.last_send() - AFTER_S + QUIET_AFTER_S - time.monotonic()
        self.quiet.start(connections=QUIET_CONNECTIONS, rate=QUIET_SENDS / seconds, seconds=seconds)

    # --- the run ---

    def execute(self) -> tuple[str, str]:
        """Makes the run. Whatever happens, no load is left running."""
        try:
            self.load_and_fault()
        except Broken as error:
            self.evidence.trouble.append(str(error))
        except NotReady as error:
            self.evidence.mishaps.append(str(error))
        except Exception as error:  # noqa: BLE001  whatever it is, the other rows must be made
            self.evidence.mishaps.append(f"{type(error).__name__}: {error}")
        finally:
            self.main.process.kill()
            self.quiet.process.kill()
        self.sum_up()
        return judge(self.row.hits, self.evidence, self.row.spares)

    def load_and_fault(self) -> None:
        """The timeline at the top of this file."""
        row = self.row
        seconds = STEADY_S + row.seconds + AFTER_S
        self.main.start(connections=MAIN_CONNECTIONS, rate=MAIN_RATE, seconds=seconds)
        self.main.await_first_ack(READY_S)
        begins = self.main.last_send() - AFTER_S - row.seconds
        sleep_until(begins - QUIET_BEFORE_S)
        if not row.starts_quiet:
            self.start_quiet()
            self.quiet.await_first_ack(QUIET_BEFORE_S + READY_S)
        before = self.cluster.look_at_all()
        sleep_until(begins)
        self.evidence.flowing = self.is_flowing()
        fault_ended = self.make_fault()
        self.check_members()
        for generator in (self.main, self.quiet):
            self.evidence.loads[generator.name] = generator.wait()
        self.find_completion(fault_ended)
        self.check_members()
        self.look_again(before)

    def is_flowing(self) -> bool:
        """Whether sends are acknowledged right now, so that the fault meets some on their way."""
        acks = self.main.acks()
        try:
            wait_until("acknowledgement", FLOW_S, lambda: self.main.acks() > acks)
        except NotReady:
            return False
        return True

    def make_fault(self) -> float:
        """The fault; returns when it was over."""
        began = time.monotonic()
        self.row.fault(self)
        ended = time.monotonic()
        self.figures["fault_s"] = round(ended - began, 1)
        # Without traffic behind the fault nothing shows that it is over.
        if self.main.last_send() - ended < AFTER_S / 2:
            self.evidence.mishaps.append(f"the fault took {ended - began:.1f} s, {self.row.seconds:g} s were planned")
        return ended

    def find_completion(self, fault_ended: float) -> None:
        """When every terminal had everything, from the fault's end; no earlier than the last send."""
        moments = []
        for generator in (self.main, self.quiet):
            after = self.evidence.loads[generator.name].complete_after_s()
            if after is None:
                self.evidence.mishaps.append(f"the {generator.name} load does not say when its terminals were complete")
                return
            moments.append(generator.last_send() + after - fault_ended)
        self.evidence.complete_s = round(max(moments), 1)

    def check_members(self) -> None:
        """Nobody may have ended by himself: what a fault ended, it has started again. Services are not on trial."""
        trouble = [f"{name} ended by itself" for name in self.cluster.gone()]
        self.evidence.trouble += [each for each in trouble if each not in self.evidence.trouble]
        gone = [f"{each.name} ended by itself" for each in self.stack.services() if not each.is_alive()]
        self.evidence.mishaps += [each for each in gone if each not in self.evidence.mishaps]

    def look_again(self, before: dict) -> None:
        """What rose. A member that does not answer long after the fault has not got over it."""
        after = {}

        def has_answered(name: str) -> bool:
            try:
                after[name] = self.cluster.look(name)
            except OSError:
                return False
            return True

        for name in before:
            try:
                wait_until(f"figures of {name}", READY_S, lambda name=name: has_answered(name))
            except NotReady:
                self.evidence.trouble.append(f"{name} does not answer after the fault")
        self.evidence.rises = rises(before, after)

    def sum_up(self) -> None:
        """The figures that are kept."""
        main = self.evidence.loads.get("main", Load(None))
        quiet = self.evidence.loads.get("quiet", Load(None))
        for name in ("sent", "acked", "delivered", "redelivered", "repaired", "retries", "faults", "dropped"):
            self.figures[name] = main.count(name)
        self.figures["quiet_acked"] = quiet.count("acked")
        self.figures["slowest_s"] = round(main.slowest_s(), 2)
        if self.evidence.complete_s is not None:
            self.figures["complete_s"] = self.evidence.complete_s
        watched = {name for hit in self.row.hits for name in getattr(hit, "metrics", ())}
        for name in watched & self.evidence.rises.keys():
            self.figures[name] = self.evidence.rises[name]
        self.figures.update(self.evidence.notes)


def sleep_until(moment: float) -> None:
    """Until a moment of the monotonic clock."""
    time.sleep(max(0.0, moment - time.monotonic()))


def make_run(row: Row, stack: Stack, folder: Path) -> tuple[str, str, dict[str, float]]:
    """Brings a stack up, makes one run of a row, takes everything down again. Logs are kept unless it passed."""
    if row.needs_root and os.geteuid() != 0 and not shutil.which("sudo"):
        return VOID, "needs root or sudo, to mount a small disk for Kafka", {}
    folder.mkdir(parents=True, exist_ok=True)
    verdict, why, figures = VOID, "", {}
    try:
        stack.up(
            link_proxy=row.link_proxy, kafka_proxy=row.kafka_proxy, small_disk=row.small_disk, settings=row.settings
        )
        run = Run(row, stack, folder)
        verdict, why = run.execute()
        figures = run.figures
    except Exception as error:  # noqa: BLE001  whatever it is, the other rows must be made
        why = f"the stack did not come up: {type(error).__name__}: {error}"
    finally:
        if verdict != PASS:
            stack.keep_logs(folder)
        stack.clear()
    return verdict, why, figures
