"""The command itself: its lines, its order, and what an interruption leaves."""

import importlib.machinery
import importlib.util
import threading
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from services import ROOT
from verdict import FAIL, PASS, VOID

loader = importlib.machinery.SourceFileLoader("chaos", str(ROOT / "ops/chaos"))
chaos = importlib.util.module_from_spec(importlib.util.spec_from_loader("chaos", loader))
loader.exec_module(chaos)

FOLDER = Path("/kept")


def record(verdict: str, why: str = "") -> dict:
    return {"row": "row", "run": 2, "verdict": verdict, "why": why, "seconds": 41.6}


class Stack:
    """Counts how often it is cleared."""

    def __init__(self, *_):
        self.cleared = 0

    def clear(self):
        self.cleared += 1


class Command(unittest.TestCase):
    def setUp(self):
        self.records: list[dict] = []
        self.lines: list[str] = []
        patches = [
            mock.patch.object(chaos, "Stack", Stack),
            mock.patch.object(chaos.results, "append", lambda _, each: self.records.append(each)),
            mock.patch.object(chaos, "print", lambda text, **_: self.lines.append(text), create=True),
        ]
        for patch in patches:
            patch.start()
            self.addCleanup(patch.stop)

    def runner(self, runs, make_run):
        patch = mock.patch.object(chaos, "make_run", make_run)
        patch.start()
        self.addCleanup(patch.stop)
        args = SimpleNamespace(slot=0, jobs=2, bin_dir=FOLDER, ci=True)
        return chaos.Runner(args, runs, "commit")

    def test_lines_are_for_people_or_for_the_test_command(self):
        void = record(VOID, "two\nlines")
        self.assertEqual(chaos.tap_line(record(PASS), FOLDER), "ok - row (42 s)")
        self.assertEqual(chaos.tap_line(void, FOLDER), "not ok - row: void: two lines; see /kept")
        self.assertTrue(chaos.tap_line(record(FAIL, "1 lost"), FOLDER).startswith("not ok - row: fail: 1 lost"))
        self.assertEqual(chaos.result_line(record(PASS), FOLDER), "row 2: pass (42 s)")

    def test_what_goes_wrong_in_one_row_is_its_own(self):
        def make_run(row, *_):
            if row.name == "router-killed":
                raise OSError("the port is taken")
            return PASS, "", {}

        rows = ["gateway-killed", "router-killed", "store-killed"]
        runner = self.runner([(row, 1) for row in rows], make_run)
        self.assertFalse(runner.run())
        verdicts = {each["row"]: each["verdict"] for each in self.records}
        self.assertEqual(verdicts, {"gateway-killed": PASS, "router-killed": VOID, "store-killed": PASS})
        self.assertEqual(sum(line.startswith("ok - ") for line in self.lines), 2)
        self.assertEqual(sum(line.startswith("not ok - ") for line in self.lines), 1)
        self.assertEqual(len(self.records), 5, "what is void is made three times")
        self.assertTrue(all(stack.cleared for stack in runner.stacks))

    def test_a_void_run_is_made_anew_and_a_failed_one_is_not(self):
        verdicts = {"gateway-killed": [VOID, PASS], "router-killed": [FAIL, PASS]}
        runner = self.runner([(row, 1) for row in verdicts], lambda row, *_: (verdicts[row.name].pop(0), "why", {}))
        self.assertFalse(runner.run())
        made = sorted((each["row"], each["run"], each["verdict"]) for each in self.records)
        self.assertEqual(
            made, [("gateway-killed", 1, VOID), ("gateway-killed", 2, PASS), ("router-killed", 1, FAIL)]
        )

    def test_an_interruption_records_nothing_and_begins_nothing(self):
        began, is_cleared = threading.Semaphore(0), threading.Event()

        def make_run(*_):
            began.release()
            is_cleared.wait(10)
            return FAIL, "it was ended under its hands", {}

        runner = self.runner([("gateway-killed", number) for number in range(1, 9)], make_run)

        def join(thread, timeout=None):
            if timeout is None:
                began.acquire(timeout=10)
                raise KeyboardInterrupt
            is_cleared.set()
            return original(thread, timeout)

        original = threading.Thread.join
        with mock.patch.object(threading.Thread, "join", join), self.assertRaises(KeyboardInterrupt):
            runner.run()
        self.assertEqual((self.records, self.lines), ([], []))
        self.assertGreaterEqual(runner.todo.qsize(), 6)


if __name__ == "__main__":
    unittest.main()
