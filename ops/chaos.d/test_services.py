"""What the services are asked, and what is kept of them, with stand-ins for their programs."""

import http.server
import json
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

import services
from process import NotReady, Process
from services import Kafka, Redis, Tikv, await_service

STATUS = {
    "faults_hit": 9,
    "faults": [
        {"rule": {"do": "drop", "on": "commit", "permille": 10}, "hits": 4},
        {"rule": {"do": "delay", "on": "commit", "ms": 100}, "hits": 5},
    ],
}


class Control(http.server.BaseHTTPRequestHandler):
    """The test store's control port."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(STATUS).encode())

    def log_message(self, *_):
        pass


class Services(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def program(self, name: str, text: str) -> None:
        """A program of this name that is found before all others."""
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(0o755)
        patch = mock.patch.dict("os.environ", {"PATH": f"{path.parent}:/usr/bin:/bin"})
        patch.start()
        self.addCleanup(patch.stop)

    def test_hits_are_those_of_one_fault(self):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Control)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        tikv = Tikv(self.folder, 1, 2, 3, server.server_address[1])
        self.assertEqual([tikv.faults_hit(do) for do in ("drop", "delay", "break")], [4, 5, 0])

    def test_pd_is_started_as_ops_services_does(self):
        text = (services.ROOT / "ops/services.d/tikv.sh").read_text()
        setting = "env GODEBUG=httpmuxgo121=1"
        self.assertIn(setting, text)
        self.assertEqual(" ".join(Tikv(self.folder, 1, 2, 3, 4).pd.command[:2]), setting)

    def test_redis_that_gives_no_answer_is_not_waited_for(self):
        redis = Redis(self.folder, 1)
        self.program("redis-cli", "import sys; print(' '.join(sys.argv[1:]))")
        self.assertEqual(redis.ask("PING"), ["-p 1 --raw PING"])
        with self.assertRaises(NotReady):
            redis.key_count()
        self.program("redis-cli", "import time; time.sleep(60)")
        with mock.patch("services.ANSWER_S", 0.2):
            self.assertEqual(redis.ask("PING"), [])

    def test_one_process_that_ends_is_enough_to_give_up(self):
        there = Process("there", self.folder, [sys.executable, "-c", "import signal; signal.pause()"])
        gone = Process("gone", self.folder, ["true"])
        there.start()
        self.addCleanup(there.kill)
        gone.start()
        gone.child.wait()
        with self.assertRaisesRegex(NotReady, "gone ended"):
            await_service([there, gone], lambda: False)

    def test_kafka_is_formatted_once_per_ports(self):
        format = "import pathlib, re, sys; text = pathlib.Path(sys.argv[-1]).read_text()\n"
        format += "logs = pathlib.Path(re.search('log.dirs=(.*)', text)[1])\nlogs.mkdir(); (logs / 'made').touch()"
        with mock.patch.object(Kafka, "find_lib", return_value="/cache/4.4.0/lib"):
            first, other = (Kafka(self.folder / f"slot-{at}", at, at + 1, at) for at in (10, 20))
            self.program("java", format)
            first.prepare(False)
            self.program("java", "raise SystemExit(1)")
            again = Kafka(self.folder / "slot-11", 10, 11, 10)
            again.prepare(False)
        self.assertTrue((again.data / "logs" / "made").exists())
        with self.assertRaises(NotReady):
            other.prepare(False)


if __name__ == "__main__":
    unittest.main()
