"""The matrix has every row once, and each can be void."""

import unittest

from rows import BY_NAME, ROWS


class Rows(unittest.TestCase):
    def test_names_are_unique_and_fit_a_file_name(self):
        self.assertEqual(len(BY_NAME), len(ROWS))
        for name in BY_NAME:
            self.assertRegex(name, r"\A[a-z0-9-]+\Z")

    def test_every_row_names_what_it_must_hit_and_what_it_touches(self):
        for row in ROWS:
            with self.subTest(row=row.name):
                self.assertTrue(row.hits and row.touches and row.seconds > 0)

    def test_a_row_that_fills_a_disk_has_a_small_one(self):
        for row in ROWS:
            self.assertEqual(row.small_disk, row.needs_root, row.name)

    def test_settings_name_who_is_set(self):
        for row in ROWS:
            for setting in row.settings:
                self.assertRegex(setting, r"\A(gateway|router) [a-z_]+\.[a-z_]+=\S+\Z")


if __name__ == "__main__":
    unittest.main()
