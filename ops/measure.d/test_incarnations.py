"""Incarnations are as many as asked, not faster than asked, and end with the first that went wrong."""

import contextlib
import io
import time
import unittest
from types import SimpleNamespace

from incarnations import Incarnations, judge_routers, kafka_port
from judge import Verdict


class Pace(unittest.TestCase):
    def test_there_are_as_many_as_asked_and_no_more_in_a_time_than_allowed(self):
        maker = Incarnations(None, per_minute=1200)
        maker.left, maker.next_at = 5, time.monotonic()
        began = time.monotonic()
        turns = [maker.take() for _ in range(6)]
        self.assertEqual(turns, [4, 3, 2, 1, 0, None])
        self.assertGreaterEqual(time.monotonic() - began, 4 * 0.05)

    def test_a_time_that_was_missed_is_not_made_up_for(self):
        maker = Incarnations(None, per_minute=1200)
        maker.left, maker.next_at = 3, time.monotonic() - 60
        began = time.monotonic()
        self.assertEqual([maker.take() for _ in range(3)], [2, 1, 0])
        self.assertGreaterEqual(time.monotonic() - began, 0.05)

    def test_nothing_follows_what_went_wrong(self):
        maker = Incarnations(None, per_minute=1200)
        maker.left, maker.problems = 3, ["it ended at its start"]
        self.assertIsNone(maker.take())

    def test_a_broker_elsewhere_is_refused(self):
        at = lambda servers: SimpleNamespace(environment={"CORELANE_TEST_KAFKA": servers})  # noqa: E731
        self.assertEqual(kafka_port(at("127.0.0.1:9092,b:1")), 9092)
        with self.assertRaises(SystemExit):
            kafka_port(at("kafka.example:9092"))


class Routers(unittest.TestCase):
    def failed(self, *asked, grown=0):
        """What does not hold of router-1 when router-2 is well."""
        asked = [{"router-1": count, "router-2": well} for count, well in zip(asked, (5, 300, 310), strict=True)]
        verdict, args = Verdict("incarnations"), SimpleNamespace(count=500)
        with contextlib.redirect_stdout(io.StringIO()):
            judge_routers(args, verdict, {"router-1": grown, "router-2": 0}, asked, (340.0, 100.0))
        return [text for holds, text in verdict.checks if not holds]

    def test_metadata_requests_are_held_to_their_bound_while_gateways_come_and_after(self):
        self.assertEqual(self.failed(5, 345, 445), [])
        (text,) = self.failed(5, 346, 400)
        self.assertIn("router-1 sent 1.00 metadata requests per second while gateways came", text)
        (text,) = self.failed(5, 300, 401)
        self.assertIn("router-1 sent 1.01 metadata requests per second afterwards", text)

    def test_a_counter_that_never_rose_and_memory_that_grew_are_seen(self):
        self.assertEqual(len(self.failed(5, 5, 5)), 1)
        self.assertEqual(len(self.failed(5, 300, 310, grown=33 * 2**20)), 1)


if __name__ == "__main__":
    unittest.main()
