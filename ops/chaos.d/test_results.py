"""Results are kept whatever happens, and a run is made again only if it is missing."""

import tempfile
import unittest
from pathlib import Path

from results import append, next_number, plan, read, report


def record(row: str, run: int, verdict: str, **figures) -> dict:
    return {"row": row, "run": run, "verdict": verdict, "why": "" if verdict == "pass" else "because", "figures": figures}


class Results(unittest.TestCase):
    def test_what_is_appended_is_read_and_a_cut_line_is_skipped(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "deep" / "commit.jsonl"
            self.assertEqual(read(path), [])
            append(path, record("a", 1, "pass"))
            append(path, record("a", 2, "void"))
            with open(path, "a") as file:
                file.write('{"row": "a", "ru')
            self.assertEqual([each["run"] for each in read(path)], [1, 2])

    def test_a_line_behind_a_cut_one_is_not_lost(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "commit.jsonl"
            path.write_text('{"row": "a", "ru')
            append(path, record("a", 1, "pass"))
            self.assertEqual(len(read(path)), 1)

    def test_numbers_go_on_within_a_row(self):
        records = [record("a", 1, "pass"), record("a", 4, "fail"), record("b", 9, "pass")]
        self.assertEqual((next_number(records, "a"), next_number(records, "c")), (5, 1))

    def test_a_plan_goes_round_by_round(self):
        self.assertEqual(plan([], ["a", "b"], 2, False), [("a", 1), ("b", 1), ("a", 2), ("b", 2)])

    def test_resuming_makes_what_is_missing_and_void_runs_again(self):
        records = [record("a", 1, "pass"), record("a", 2, "void"), record("a", 3, "fail"), record("b", 1, "pass")]
        self.assertEqual(plan(records, ["a", "b"], 3, True), [("a", 4), ("b", 2), ("b", 3)])
        self.assertEqual(plan(records, ["b"], 1, True), [])
        self.assertEqual(plan(records, ["b"], 1, False), [("b", 2)])

    def test_a_report_has_every_row_and_hides_no_failure(self):
        records = [
            record("a", 1, "fail", complete_s=31.5, acked=10),
            record("a", 2, "pass", complete_s=3.0, slowest_s=2.5, acked=20, redelivered=1),
            record("a", 3, "void", complete_s=99.0),
        ]
        text = report(records, ["a", "b"])
        self.assertIn("| a | 1 | 1 | 1 | 31.5 | 2.5 | 30 | 1 |", text)
        self.assertIn("| b | 0 | 0 | 0 |", text)
        self.assertIn("- a 1: fail: because", text)
        self.assertIn("- a 3: void: because", text)


if __name__ == "__main__":
    unittest.main()
