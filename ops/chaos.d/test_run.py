"""The timeline of a run, with stand-ins for the stack and the load generator."""

import sys
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import run
from metrics import Look
from process import Broken, NotReady
from run import Row, Run
from verdict import FAIL, PASS, VOID, Rose

# Acknowledges ten times a second until its plan is over, then leaves a report.
LOADGEN = f"""#!{sys.executable}
import json, sys, time
def option(name):
    return sys.argv[sys.argv.index(name) + 1]
with open(option("--ledger"), "w") as ledger:
    for _ in range(int(float(option("-d").rstrip("s")) * 10)):
        ledger.write("acked\\n")
        ledger.flush()
        time.sleep(0.1)
report = {{"acked": 5, "faults": {{"complete_after_s": 0.25}}, "broken": ["1 lost"]}}
with open(option("--json"), "w") as file:
    json.dump(report, file)
sys.exit(CODE)
"""


class StandIn:
    """As much of a cluster as a run asks for."""

    def __init__(self, folder: Path) -> None:
        self.bin_dir = folder
        self.counted = 0.0
        self.ended: list[str] = []

    def urls(self) -> list[str]:
        return ["ws://127.0.0.1:1/ws"]

    def http(self, router: str) -> str:
        return f"http://{router}"

    def key(self, name: str) -> Path:
        return self.bin_dir / name

    def gone(self) -> list[str]:
        return self.ended

    def look(self, _: str) -> Look:
        return Look("1 1", {"retry_total": self.counted})

    def look_at_all(self) -> dict[str, Look]:
        return {"gateway-1": self.look("gateway-1")}


class Runs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.cluster = StandIn(self.folder)
        self.services: list[SimpleNamespace] = []
        shorter = {"STEADY_S": 0.6, "AFTER_S": 0.6, "QUIET_BEFORE_S": 0.2, "QUIET_AFTER_S": 0.4}
        for patch in (mock.patch.multiple(run, **shorter), mock.patch("load.before_others", return_value=[])):
            patch.start()
            self.addCleanup(patch.stop)

    def make(self, fault, code: int = 0, **more) -> tuple[str, str, Run]:
        """A run of a row with this fault, under a load generator that ends with this code."""
        program = self.folder / "corelane-loadgen"
        program.write_text(LOADGEN.replace("CODE", str(code)))
        program.chmod(0o755)
        row = Row("row", "a fault", fault, 0.5, (Rose(("retry_total",)),), ("nothing",), **more)
        stack = SimpleNamespace(folder=self.folder, cluster=self.cluster, services=lambda: self.services)
        made = Run(row, stack, self.folder)
        return (*made.execute(), made)

    def hit(self, _: Run) -> None:
        self.cluster.counted += 1

    def test_a_fault_that_is_got_over_passes_and_leaves_its_figures(self):
        verdict, why, made = self.make(self.hit)
        self.assertEqual((verdict, why), (PASS, ""))
        self.assertEqual((made.figures["retry_total"], made.figures["acked"], made.figures["quiet_acked"]), (1, 5, 5))
        self.assertTrue(0.25 <= made.figures["complete_s"] <= 5, made.figures)

    def test_a_fault_may_start_the_quiet_load_itself(self):
        def fault(made: Run) -> None:
            made.start_quiet()
            self.hit(made)

        self.assertEqual(self.make(fault, starts_quiet=True)[:2], (PASS, ""))

    def test_a_load_that_finds_a_broken_promise_fails(self):
        self.assertEqual(self.make(self.hit, code=4)[:2], (FAIL, "main: 1 lost; quiet: 1 lost"))

    def test_a_member_that_ended_by_itself_fails(self):
        def fault(_: Run) -> None:
            self.cluster.ended = ["router-2"]

        self.assertEqual(self.make(fault)[:2], (FAIL, "router-2 ended by itself"))

    def test_a_service_that_ended_by_itself_is_void(self):
        self.services = [SimpleNamespace(name="kafka", is_alive=lambda: False)]
        self.assertEqual(self.make(self.hit)[:2], (VOID, "kafka ended by itself"))

    def test_a_cluster_that_does_not_come_back_fails_and_a_service_that_does_not_is_void(self):
        for error, expected in ((Broken("router-1"), FAIL), (NotReady("kafka"), VOID), (OSError("refused"), VOID)):
            with self.subTest(error=error):
                verdict, why, made = self.make(mock.Mock(side_effect=error))
                self.assertEqual(verdict, expected)
                self.assertIn(str(error), why)
                self.assertFalse(made.main.process.is_alive() or made.quiet.process.is_alive())

    def test_a_fault_that_outlasts_the_load_is_void(self):
        verdict, why, _ = self.make(lambda made: made.pause(1.2))
        self.assertEqual(verdict, VOID)
        self.assertIn("0.5 s were planned", why)

    def test_a_fault_that_hits_nothing_is_void(self):
        self.assertEqual(self.make(lambda _: None)[:2], (VOID, "retry_total did not rise"))


if __name__ == "__main__":
    unittest.main()
