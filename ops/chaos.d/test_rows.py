"""The matrix has every row once, and each can be void."""

import re
import unittest

from rows import BY_NAME, ROWS
from services import ROOT
from verdict import Counted, Noted, Rose

LABELLED = {"counter": "_total", "gauge": ""}


def metrics_of_the_programs() -> set[str]:
    """Every name that a gateway or router serves, as their sources have them."""
    text = (ROOT / "router/src/metrics.rs").read_text()
    names = set(re.findall(r'"(corelane_[a-z_]+)"', text))
    text = (ROOT / "gateway/core/src/metrics.rs").read_text()
    rows = re.findall(r"^    (counter|gauge) ([a-z_]+);$", text, re.MULTILINE)
    names |= {f"corelane_gateway_{name}{LABELLED[kind]}" for kind, name in rows}
    text = (ROOT / "router/src/bus/kafka/counters.rs").read_text()
    kafka = re.findall(r'"([a-z_]+_total)"', text)
    return names | {f"corelane_{program}_kafka_{name}" for program in ("gateway", "router") for name in kafka}


class Rows(unittest.TestCase):
    def test_names_are_unique_and_fit_a_file_name(self):
        self.assertEqual(len(BY_NAME), len(ROWS))
        for name in BY_NAME:
            self.assertRegex(name, r"\A[a-z0-9-]+\Z")

    def test_every_row_names_what_it_must_hit_and_what_it_touches(self):
        for row in ROWS:
            with self.subTest(row=row.name):
                self.assertTrue(row.hits and row.touches and row.seconds > 0)

    def test_every_counter_that_must_rise_is_one_of_the_programs(self):
        known = metrics_of_the_programs()
        for row in ROWS:
            for hit in row.hits:
                if isinstance(hit, Rose):
                    self.assertLessEqual(set(hit.metrics), known, row.name)

    def test_every_counter_of_the_load_is_one_of_the_load_generator(self):
        text = (ROOT / "loadgen/src/shared.rs").read_text()
        for row in ROWS:
            for hit in row.hits:
                for name in hit.counters if isinstance(hit, Counted) else ():
                    self.assertRegex(text, rf"(?m)^    {name},$", row.name)

    def test_every_note_is_made_by_a_fault(self):
        text = (ROOT / "ops/chaos.d/faults.py").read_text()
        for row in ROWS:
            for hit in row.hits:
                if isinstance(hit, Noted):
                    self.assertIn(f'run.note("{hit.note}"', text, row.name)

    def test_a_row_that_fills_a_disk_has_a_small_one(self):
        for row in ROWS:
            self.assertEqual(row.small_disk, row.needs_root, row.name)

    def test_settings_name_who_is_set(self):
        for row in ROWS:
            for setting in row.settings:
                self.assertRegex(setting, r"\A(gateway|router) [a-z_]+\.[a-z_]+=\S+\Z")


if __name__ == "__main__":
    unittest.main()
