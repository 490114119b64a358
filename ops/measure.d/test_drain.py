"""A drain is held to how its users came back and to what the others felt."""

import argparse
import contextlib
import io
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import drain
from judge import Verdict

USERS, WINDOW = 300, 30


def half(p99):
    return {"p99": p99, "count": 100}


def load(before=4000, during=6000):
    report = {"sent": 9, "acked": 9, "delivered": 9, "lost": 0, "duplicated": 0, "reordered": 0, "void": False}
    report |= {"void_reason": None, "log_not_compared": None, "broken": []}
    return report | {"halves": {"first": half(before), "second": half(during)}}


def idle(untold=0, offline=0):
    return {"counters": {"untold": untold, "offline": offline}}


class Drain(unittest.TestCase):
    def failed(self, by_second, took=30.5, idle_end=(0, idle()), load_end=(0, load())):
        """What does not hold."""
        args, verdict = argparse.Namespace(users=USERS, window=WINDOW), Verdict("drain")
        with tempfile.TemporaryDirectory() as folder:
            rows = "".join(f"{second},0,0,0,,,{count}\n" for second, count in by_second.items())
            (Path(folder) / "drain-idle.csv").write_text(f"second,sent,acked,delivered,p50_us,p99_us,reconnects\n{rows}")
            with mock.patch.object(drain, "OUT", Path(folder)), contextlib.redirect_stdout(io.StringIO()):
                drain.judge_drain(args, verdict, took, idle_end, load_end)
        return [text for holds, text in verdict.checks if not holds]

    def test_users_who_come_back_evenly_and_others_who_feel_little_are_well(self):
        self.assertEqual(self.failed({second: 10 for second in range(50, 80)}), [])

    def test_a_second_that_is_too_full_is_named(self):
        by_second = {second: 10 for second in range(50, 80)} | {60: 4, 79: 16}
        (text,) = self.failed(by_second)
        self.assertIn("second 79 has 1.60 times", text)

    def test_who_did_not_come_back_or_was_not_told_is_missed(self):
        even = {second: 10 for second in range(50, 80)}
        self.assertEqual(len(self.failed(even | {50: 9})), 1)
        self.assertEqual(len(self.failed(even, idle_end=(0, idle(untold=1)))), 1)
        self.assertEqual(len(self.failed(even, took=90.0)), 1)

    def test_others_who_wait_more_than_twice_as_long_are_seen(self):
        even = {second: 10 for second in range(50, 80)}
        (text,) = self.failed(even, load_end=(0, load(4000, 8100)))
        self.assertIn("2.02 times", text)


if __name__ == "__main__":
    unittest.main()
