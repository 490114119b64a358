"""Only what did not run is started, and that is stopped again, whatever happens in between."""

import os
import unittest
from unittest import mock

import real

ADDRESSES = "export CORELANE_TEST_REDIS='redis://r'\nexport CORELANE_TEST_KAFKA='k:1'\nexport CORELANE_TEST_PD='p:2'\n"


class Services(unittest.TestCase):
    def used(self, ready, environment=None, error=None):
        """Words given to ops/services, and the addresses, where some services run before."""
        calls, found = [], {}

        def run(*words):
            calls.append(words)
            return ADDRESSES

        with (
            mock.patch.dict(os.environ, environment or {}, clear=True),
            mock.patch.object(real, "is_ready", lambda name: name in ready),
            mock.patch.object(real, "services", run),
        ):
            try:
                with real.real_services() as found:
                    if error:
                        raise error
            except ValueError:
                pass
        return calls, found

    def test_what_runs_is_left_alone(self):
        calls, found = self.used({"redis", "kafka", "tikv"})
        self.assertEqual(calls, [("env", "redis", "kafka", "tikv")])
        self.assertEqual(found["CORELANE_TEST_KAFKA"], "k:1")

    def test_what_does_not_run_is_started_and_stopped(self):
        for error in (None, ValueError()):
            calls, _ = self.used({"redis"}, error=error)
            self.assertEqual(calls[0], ("up", "kafka", "tikv"))
            self.assertEqual(calls[-1], ("down", "kafka", "tikv"))

    def test_what_the_environment_names_is_not_asked_for(self):
        environment = {"CORELANE_TEST_REDIS": "redis://mine", "CORELANE_TEST_KAFKA": "m:1", "CORELANE_TEST_PD": "m:2"}
        calls, found = self.used(set(), environment)
        self.assertEqual((calls, found), ([], environment))


if __name__ == "__main__":
    unittest.main()
