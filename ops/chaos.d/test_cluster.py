"""ops/cluster, with stand-ins for the programs: what it starts, what it tells them, what it ends."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib
import unittest
from pathlib import Path

from cluster import Cluster
from process import Broken, NotReady, identity_in
from services import ROOT

# Answers every request with 200 at the address of its configuration where health is asked, until SIGTERM.
STAND_IN = f"""#!{sys.executable}
import http.server, json, sys, tomllib
with open(sys.argv[sys.argv.index("--config") + 1], "rb") as file:
    config = tomllib.load(file)
listen = config["admin"]["listen"] if "admin" in config else config["router"]["http_listen"]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(listen.rpartition(":")[2])), Handler)
print('{{"fields":{{"message":"router starts","cluster":"00000000000000ab"}}}}', sys.argv, flush=True)
server.serve_forever()
"""

ADDRESSES = {
    "CORELANE_TEST_REDIS": "redis://127.0.0.1:1",
    "CORELANE_TEST_KAFKA": "127.0.0.1:2",
    "CORELANE_TEST_PD": "127.0.0.1:3,127.0.0.1:4",
}


def free_ports() -> int:
    """Where fifty ports in a row are free, below every range that connections get theirs from."""
    for attempt in range(150):
        base = 2000 + (os.getpid() + attempt) % 150 * 50
        try:
            for port in range(base, base + 50):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return base
    raise AssertionError("there are no fifty free ports in a row")


class Clusters(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        programs = self.folder / "bin"
        programs.mkdir()
        for name in ("corelane-gateway", "corelane-router"):
            (programs / name).write_text(STAND_IN)
            (programs / name).chmod(0o755)
        self.cluster = Cluster(self.folder / "cluster", free_ports(), programs, ADDRESSES)
        self.addCleanup(self.cluster.down)

    def output(self, *words: str) -> tuple[int, str]:
        line = [str(ROOT / "ops/cluster"), *words]
        done = subprocess.run(line, env=self.cluster.environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    def told(self, name: str) -> dict:
        return tomllib.loads((self.cluster.folder / name / f"{name}.toml").read_text())

    def test_a_cluster_lives_through_all_verbs(self):
        cluster, base = self.cluster, self.cluster.ports
        cluster.up(["--set", "router", "router.threads=2"])
        self.assertEqual(cluster.gone(), [])
        self.assertEqual(self.output("status")[0], 0)
        self.assertIn(f"CORELANE_CLUSTER_WS='{' '.join(cluster.urls())}'", self.output("env")[1])
        self.assertIn("router.threads=2", self.output("logs", "router-2")[1])
        with self.assertRaises(NotReady):
            cluster.up([])

        gateway, router = self.told("gateway-2"), self.told("router-1")
        links = [f"127.0.0.1:{base + 31}", f"127.0.0.1:{base + 32}"]
        self.assertEqual(gateway["router"], {"embedded": False, "seeds": links})
        self.assertEqual(gateway["gateway"]["cluster_id"], "00000000000000ab")
        self.assertEqual(gateway["bus"], {"servers": "127.0.0.1:2", "topic_prefix": f"c{base}"})
        self.assertEqual(router["router"]["advertise"], links[0])
        self.assertEqual(router["store"]["pd"], ["127.0.0.1:3", "127.0.0.1:4"])
        self.assertEqual(router["bus"], gateway["bus"])
        keys = [Path(each["store"]["data_dir"], "link.key") for each in (gateway, router)]
        self.assertEqual(keys[0].read_text(), keys[1].read_text())
        self.assertRegex(keys[0].read_text(), r"\A[0-9a-f]{64}\Z")
        self.assertEqual(keys[0].stat().st_mode & 0o777, 0o600)

        cluster.kill("gateway-1")
        self.assertEqual(cluster.gone(), ["gateway-1"])
        code, text = self.output("status")
        self.assertEqual((code, "gateway-1 down" in text), (1, True))
        with self.assertRaises(Broken):
            cluster.kill("gateway-1")
        cluster.restart("gateway-1")
        self.assertEqual(cluster.gone(), [])

        cluster.command("add", "gateway")
        self.assertIsNotNone(identity_in(cluster.pid_file("gateway-3")))
        cluster.command("drain", "gateway-3")
        self.assertNotIn("gateway-3", self.output("status")[1])

        pid = identity_in(cluster.pid_file("router-2"))[0]
        cluster.kill("router-2", "STOP")
        self.addCleanup(lambda: identity_in(cluster.pid_file("router-2")) and os.kill(pid, signal.SIGCONT))
        cluster.down()
        self.assertFalse(Path(f"/proc/{pid}/exe").exists())
        self.assertFalse(cluster.folder.exists())

    def test_behind_a_proxy_nobody_is_told_where_the_links_really_are(self):
        self.cluster.up(["--behind-proxy"])
        base = self.cluster.ports
        self.assertEqual(self.told("gateway-1")["router"]["seeds"], [f"127.0.0.1:{base + 41}", f"127.0.0.1:{base + 42}"])
        router = self.told("router-1")["router"]
        self.assertEqual(router["advertise"], f"127.0.0.1:{base + 41}")
        self.assertEqual(router["link_listen"], f"127.0.0.1:{base + 31}")

    def test_one_router_with_sqlite_needs_no_service(self):
        self.cluster.command("up", "--routers", "1", "--store", "sqlite", "--bin-dir", str(self.cluster.bin_dir))
        for name in ("router-1", "gateway-2"):
            self.assertFalse({"bus", "registry"} & self.told(name).keys(), name)
        with self.assertRaises(NotReady):
            self.cluster.command("kill", "router-2")

    def test_mistakes_are_named(self):
        for options, words in (
            (("--gateways", "10"), "1 to 9"),
            (("--store", "oracle"), "tikv and sqlite"),
            (("--store", "sqlite"), "--routers 1"),
            (("--set", "gateway"), "KEY=VALUE"),
            (("--set", "redis", "a.b=c"), "--set gateway"),
            (("--routers",), "needs a value"),
            (("--bin-dir", "/nowhere"), "/nowhere"),
            (("--fast",), "--fast"),
        ):
            with self.subTest(options=options), self.assertRaisesRegex(NotReady, words):
                self.cluster.command("up", *options)


if __name__ == "__main__":
    unittest.main()
