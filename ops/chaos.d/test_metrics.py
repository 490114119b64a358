"""Metrics are read as Prometheus wrote them, and rises are those of processes that went on."""

import unittest

from metrics import Look, parse, rises


class Metrics(unittest.TestCase):
    def test_samples_of_a_name_are_summed_over_labels_and_comments_are_skipped(self):
        text = '# HELP a Things, a 1.\n# TYPE a counter\na{shard="0"} 3\na{shard="1"} 4\n'
        text += 'b 1.5e3\nc{x="{y} 7"} 2\nnonsense\n'
        self.assertEqual(parse(text), {"a": 7.0, "b": 1500.0, "c": 2.0})

    def test_a_name_that_begins_with_another_is_not_counted_with_it(self):
        self.assertEqual(parse("a_total 1\na_total_more 5\n"), {"a_total": 1.0, "a_total_more": 5.0})

    def test_the_same_process_counts_from_before_and_a_new_one_from_nothing(self):
        before = {"one": Look("1 10", {"a": 5.0}), "two": Look("2 20", {"a": 7.0})}
        after = {"one": Look("1 10", {"a": 6.0}), "two": Look("9 90", {"a": 2.0})}
        self.assertEqual(rises(before, after), {"a": 3.0})

    def test_a_process_that_is_gone_takes_nothing_away(self):
        self.assertEqual(rises({"one": Look("1 10", {"a": 5.0})}, {}), {})


if __name__ == "__main__":
    unittest.main()
