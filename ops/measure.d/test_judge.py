"""Reports are put together and held to their bounds as the figures ask."""

import io
import json
import tempfile
import unittest
from contextlib import redirect_stdout
from pathlib import Path

import judge
from judge import Verdict


def process(url, **figures):
    """What the load generator tells of one process (`TargetMetrics` of loadgen/src/metrics.rs)."""
    nothing = {"error": None, "restarted": False, "commits": None, "commits_per_s": None, "messages_per_commit": None}
    return {"url": url, **nothing, "stages": {}, "stage_latency_us": {}, "commit_latency_us": None, **figures}


def latency(p50, p99, mean, count):
    return {"p50": p50, "p99": p99, "mean": mean, "count": count}


def report(**changes):
    """A report of a calm run (`Report` of loadgen/src/report.rs), as far as it is read."""
    routers = [
        process(
            "r1", commits=100, commits_per_s=10.0, messages_per_commit=3.0, stages={"persist": 300},
            stage_latency_us={"persist": latency(1000.0, 4000.0, 1200.0, 30)}, commit_latency_us=latency(1, 5000.0, 2, 100),
        ),
        process(
            "r2", commits=300, commits_per_s=30.0, messages_per_commit=1.0, stages={"persist": 300},
            stage_latency_us={"persist": latency(2000.0, 3000.0, 2400.0, 10)}, commit_latency_us=latency(1, 7000.0, 2, 300),
        ),
    ]
    spread = latency(3000, 9000, 3500.0, 600)
    whole = {"sent": 600, "acked": 600, "delivered": 600, "lost": 0, "duplicated": 0, "reordered": 0, "void": False}
    whole |= {"void_reason": None, "log_not_compared": None, "broken": [], "halves": {"p50_ratio": 1.1}}
    whole |= {"latency_us": {"due_to_ack": spread, "due_to_delivery": spread}}
    whole["targets_metrics"] = [*routers, process("g1", stages={"deliver": 600})]
    return whole | changes


class Loads(unittest.TestCase):
    def test_a_run_is_clean_only_if_nothing_was_lost_doubled_or_reordered_and_it_is_not_void(self):
        self.assertTrue(judge.clean(report(), 0)[0])
        for wrong in ({"lost": 1}, {"duplicated": 1}, {"reordered": 1}, {"void": True, "void_reason": "late"}):
            self.assertFalse(judge.clean(report(**wrong), 0)[0], wrong)
        self.assertFalse(judge.clean(report(), 4)[0])
        self.assertIn("late", judge.clean(report(void=True, void_reason="late"), 5)[1])

    def test_halves_that_cannot_be_compared_keep_no_bound(self):
        self.assertEqual(judge.half_ratio(report()), 1.1)
        self.assertGreater(judge.half_ratio(report(halves={"p50_ratio": None})), 1e9)

    def test_commits_are_those_of_all_routers(self):
        done = judge.commits(report())
        self.assertEqual((done.count, done.per_s, done.messages_each, done.p99_us), (400, 40.0, 1.5, 7000.0))
        nothing = judge.commits(report(targets_metrics=[process("g1")]))
        self.assertEqual((nothing.count, nothing.messages_each), (0, 0.0))

    def test_messages_per_stage_are_summed_and_quantiles_are_of_the_slower(self):
        self.assertEqual(judge.stage_counts(report()), {"persist": 600, "deliver": 600})
        rows = judge.stage_rows(report())
        self.assertEqual(rows[0], ("decode to persist", 1500.0, 2000.0, 4000.0))
        self.assertEqual([row[0] for row in rows[1:]], ["due to ack", "due to delivery"])
        self.assertIn("9.0 ms", judge.stage_table(report()))

    def test_the_slowest_step_is_named(self):
        told = judge.slowest_steps(report())
        self.assertIn("2.0 ms of the mean of 3.5 ms pass from persist to delivery", told)
        self.assertIn("5.0 ms of the p99 of 9.0 ms pass from persist to delivery", told)
        slow = {"persist": latency(3000.0, 8000.0, 3000.0, 40)}
        told = judge.slowest_steps(report(targets_metrics=[process("r1", stage_latency_us=slow)]))
        self.assertIn("3.0 ms of the mean of 3.5 ms pass from decode to persist", told)
        self.assertIn("from decode to delivery", judge.slowest_steps(report(targets_metrics=[])))

    def test_a_process_that_was_not_read_is_told(self):
        wrong = [process("r1", error="no answer"), process("r2", restarted=True), process("g1")]
        told = judge.unread_metrics(report(targets_metrics=wrong))
        self.assertEqual(told, ["r1: no answer", "r2 was started again"])


class Reconnects(unittest.TestCase):
    def test_they_are_read_by_second(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "seconds.csv"
            path.write_text("second,sent,acked,delivered,p50_us,p99_us,reconnects\n-1,0,0,0,,,0\n0,5,5,5,1,2,7\n")
            self.assertEqual(judge.read_reconnects(path), {-1: 0, 0: 7})

    def test_the_fullest_second_is_held_against_the_mean_of_the_window(self):
        even = judge.spread({second: 100 for second in range(30)}, 30)
        self.assertEqual((even.total, even.mean, even.ratio()), (3000, 100.0, 1.0))
        late = judge.spread({0: 0, 5: 100, 29: 400, 30: 100}, 6)
        self.assertEqual((late.total, late.most, late.second, late.ratio()), (600, 400, 29, 4.0))

    def test_nobody_who_comes_back_keeps_no_bound(self):
        for nothing in ({}, {0: 0, 1: 0}):
            self.assertGreater(judge.spread(nothing, 30).ratio(), 1e9)


class Topics(unittest.TestCase):
    def test_those_of_the_living_and_of_who_ended_lately_may_be_there(self):
        age = judge.topic_age_max(60)
        self.assertEqual(age, 205.0)
        self.assertEqual(judge.topics_allowed(2, [0.0, 100.0, 290.0], 300.0, 60), 4)
        self.assertEqual(judge.topics_allowed(2, [0.0], age + 1, 60), 2)

    def test_more_than_a_sweep_deletes_take_more_sweeps(self):
        self.assertEqual([judge.topics_gone_in(count, 60) for count in (99, 100, 250)], [205.0, 265.0, 325.0])

    def test_a_sweep_is_as_the_routers_have_it(self):
        sources = Path(__file__).parent.parent.parent / "router/src"
        self.assertIn(f"SWEEP_MAX: usize = {judge.SWEEP_TOPICS};", (sources / "bus/kafka/janitor.rs").read_text())
        self.assertIn("PACE: Duration = Duration::from_mins(1);", (sources / "sweep.rs").read_text())


class Sync(unittest.TestCase):
    def test_a_cursor_lies_above_a_change_two_whole_buckets_later(self):
        for changed_at in (3000.0, 3299.9):
            at = judge.cursor_is_behind_at(changed_at)
            self.assertEqual(at, 3930.0)
            # What a sync in this bucket ends with begins above the bucket of the change.
            self.assertGreater(int(at) // judge.BUCKET_S - judge.LAG_BUCKETS, int(changed_at) // judge.BUCKET_S)

    def test_the_rules_are_those_of_the_store(self):
        rules = (Path(__file__).parent.parent.parent / "router/core/src/decide.rs").read_text()
        self.assertIn("RECENT_BUCKET_MS: u64 = 5 * 60 * 1000;", rules)
        self.assertIn(f"CURSOR_LAG_BUCKETS: u64 = {judge.LAG_BUCKETS};", rules)


class Builds(unittest.TestCase):
    def test_both_have_their_turns_early_and_late(self):
        self.assertEqual(judge.turns(2), ["old", "new", "new", "old"])
        self.assertEqual(judge.turns(4).count("old"), 4)

    def test_growth_is_of_medians(self):
        self.assertAlmostEqual(judge.growth([100, 90, 500], [104, 105, 106]), 0.05)
        self.assertLess(judge.growth([100], [80]), 0)

    def test_a_slope_is_what_each_more_costs(self):
        self.assertAlmostEqual(judge.slope([(10, 1005.0), (20, 1010.0), (40, 1020.0)]), 0.5)


class Verdicts(unittest.TestCase):
    def test_what_does_not_hold_is_counted_printed_and_left_as_json(self):
        verdict = Verdict("some")
        with redirect_stdout(io.StringIO()) as said:
            verdict.check(True, "one")
            verdict.check(False, "two")
        verdict.note("figure", 3)
        self.assertEqual(verdict.failed(), 1)
        self.assertIn("FAILED two", said.getvalue())
        with tempfile.TemporaryDirectory() as folder:
            found = json.loads(verdict.write(Path(folder)).read_text())
        self.assertEqual((found["failed"], found["figures"], len(found["checks"])), (1, {"figure": 3}, 2))


if __name__ == "__main__":
    unittest.main()
