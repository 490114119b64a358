"""A run passes only if everything that could speak against it was asked and did not."""

import unittest

from verdict import FAIL, PASS, VOID, Counted, Evidence, Load, Noted, Rose, Stalled, judge


def good(**more) -> Evidence:
    """Evidence of a run that passed."""
    report = {
        "acked": 100,
        "dropped": 2,
        "counters": {"retries": 3, "faults": 7},
        "faults": {"seen": 7, "complete_after_s": 1.5},
        "latency_us": {"due_to_delivery": {"max": 5e6}},
    }
    evidence = Evidence(
        loads={"main": Load(0, report), "quiet": Load(0, {"acked": 9})},
        rises={"retry_total": 4.0, "still_total": 0.0},
        notes={"answers": 2, "nothing": 0},
        flowing=True,
        complete_s=12.0,
    )
    for name, value in more.items():
        setattr(evidence, name, value)
    return evidence


HITS = (Rose(("retry_total",)), Counted(("dropped",)), Counted(("retries",)), Stalled(4), Noted("answers"))


class Verdicts(unittest.TestCase):
    def verdict(self, evidence: Evidence, hits=HITS) -> str:
        return judge(hits, evidence)[0]

    def test_a_run_without_fault_passes(self):
        self.assertEqual(judge(HITS, good()), (PASS, ""))

    def test_a_broken_promise_fails_even_where_nothing_was_hit(self):
        loads = {**good().loads, "main": Load(4, {"broken": ["2 lost", "1 doubled"]})}
        verdict, why = judge((Rose(("still_total",)),), good(loads=loads, flowing=False, mishaps=["late"]))
        self.assertEqual((verdict, why), (FAIL, "main: 2 lost; 1 doubled"))

    def test_a_quiet_conversation_counts_as_much_as_a_busy_one(self):
        self.assertEqual(self.verdict(good(loads={**good().loads, "quiet": Load(4, {"broken": ["1 missing"]})})), FAIL)

    def test_a_log_that_cannot_be_read_fails(self):
        self.assertEqual(self.verdict(good(loads={**good().loads, "main": Load(3, {"log_not_compared": "503"})})), FAIL)

    def test_a_member_that_ended_by_itself_fails(self):
        self.assertEqual(judge(HITS, good(trouble=["router-2 ended by itself"])), (FAIL, "router-2 ended by itself"))

    def test_what_a_fault_may_not_cost_fails(self):
        self.assertEqual(judge(HITS, good(), ("still_total", "unheard_total")), (PASS, ""))
        self.assertEqual(judge(HITS, good(), ("retry_total",)), (FAIL, "retry_total rose by 4"))

    def test_thirty_seconds_are_the_limit(self):
        self.assertEqual(self.verdict(good(complete_s=30.0)), PASS)
        self.assertEqual(self.verdict(good(complete_s=30.1)), FAIL)

    def test_a_load_that_proves_nothing_makes_the_run_void(self):
        void = Load(5, {"void_reason": "late"})
        for load in (void, Load(1), Load(2), Load(None), Load(130), Load(0, {"acked": 0}), Load(0)):
            with self.subTest(load=load):
                self.assertEqual(self.verdict(good(loads={**good().loads, "main": load})), VOID)

    def test_a_load_that_did_not_run_makes_the_run_void(self):
        self.assertEqual(self.verdict(good(loads={"main": good().loads["main"]}), ()), VOID)
        self.assertEqual(self.verdict(good(loads={}), ()), VOID)

    def test_a_fault_without_sends_in_flight_is_void(self):
        self.assertEqual(self.verdict(good(flowing=False)), VOID)

    def test_a_mishap_is_void(self):
        self.assertEqual(judge(HITS, good(mishaps=["no right answer of kafka within 60 s"]))[0], VOID)

    def test_a_fault_that_hit_nothing_is_void_and_says_what_it_should_have_hit(self):
        for hit, words in (
            (Rose(("still_total",)), "still_total did not rise"),
            (Rose(("unheard_total",)), "no process has a counter unheard_total"),
            (Counted(("unheard",)), "counted no unheard"),
            (Stalled(5.1), "nothing waited for 5.1 s"),
            (Noted("nothing"), "nothing is 0"),
            (Noted("unheard"), "unheard is 0"),
        ):
            with self.subTest(hit=hit):
                verdict, why = judge((*HITS, hit), good())
                self.assertEqual(verdict, VOID)
                self.assertIn(words, why)

    def test_figures_are_found_where_the_report_has_them(self):
        load = good().loads["main"]
        self.assertEqual((load.count("faults"), load.count("seen"), load.count("unheard")), (7, 7, 0))
        self.assertEqual((load.complete_after_s(), load.slowest_s()), (1.5, 5.0))
        self.assertIsNone(Load(0, {"faults": {"complete_after_s": None}}).complete_after_s())
        self.assertIsNone(Load(None).complete_after_s())

    def test_one_of_several_counters_is_enough(self):
        self.assertEqual(self.verdict(good(), (Rose(("unheard_total", "still_total", "retry_total")),)), PASS)


if __name__ == "__main__":
    unittest.main()
