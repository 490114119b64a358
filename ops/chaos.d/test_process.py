"""What an earlier run left is found and ended, and nobody else."""

import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from process import Process, end_leftovers, identity_in, started_at, wait_until

FOR_EVER = [sys.executable, "-c", "import signal; signal.pause()"]


class Processes(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_it_has_several_lives_and_ends_with_each(self):
        process = Process("one", self.folder, FOR_EVER)
        self.addCleanup(process.kill)
        process.start()
        first = identity_in(self.folder / "one.pid")
        self.assertTrue(process.is_alive() and first)
        process.signal(signal.SIGSTOP)
        process.kill()
        self.assertFalse(process.is_alive())
        self.assertIsNone(identity_in(self.folder / "one.pid"))
        process.start()
        self.assertNotEqual(identity_in(self.folder / "one.pid"), first)
        process.stop()
        self.assertFalse(process.is_alive())

    def test_leftovers_are_killed(self):
        process = Process("one", self.folder, FOR_EVER)
        self.addCleanup(process.kill)
        process.start()
        end_leftovers(self.folder)
        wait_until("end of it", 5, lambda: not process.is_alive())
        self.assertEqual(list(self.folder.glob("*.pid")), [])

    def test_a_process_that_got_the_number_later_is_left_alone(self):
        other = subprocess.Popen(FOR_EVER)
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        (self.folder / "one.pid").write_text(f"{other.pid} {int(started_at(other.pid)) - 1}\n")
        end_leftovers(self.folder)
        self.assertIsNone(other.poll())


if __name__ == "__main__":
    unittest.main()
