"""What the runners ask processes for is what processes have: names of metrics, settings and flags stand in the sources."""

import re
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RUNNERS = "\n".join(file.read_text() for file in HERE.glob("*.py") if not file.name.startswith("test_"))


def sources(folder: str) -> str:
    return "\n".join(file.read_text() for file in (ROOT / folder).rglob("*.rs"))


class Names(unittest.TestCase):
    def test_metrics_of_routers_are_rendered_under_these_names(self):
        text = sources("router/src")
        names = set(re.findall(r"corelane_(?:router|store|stage)_[a-z_]+", RUNNERS))
        self.assertIn("corelane_store_sync_rows_total", names)
        for name in names:
            # Those of the bus are put together.
            part = name.removeprefix("corelane_router_kafka_") if "_kafka_" in name else name
            self.assertIn(f'"{part}"', text, name)

    def test_metrics_of_gateways_are_rows_of_a_shard(self):
        text = sources("gateway/core/src")
        names = set(re.findall(r"corelane_gateway_([a-z_]+[a-z])", RUNNERS))
        self.assertIn("sessions", names)
        for name in names:
            counter = name.removesuffix("_total")
            kind = "counter" if counter != name else "gauge"
            self.assertIn(f"{kind} {counter};", text, name)

    def test_the_load_generator_has_these_options(self):
        text = sources("loadgen/src")
        # Of those verbs and programs that are not the load generator.
        others = {"--set", "--config", "--fifo", "--help"}
        flags = set(re.findall(r'"(--[a-z-]+)"', RUNNERS)) - others
        self.assertIn("--connect-rate", flags)
        for flag in flags:
            name = flag[2:].replace("-", "_")
            self.assertTrue(f"pub {name}:" in text or f'long = "{flag[2:]}"' in text, flag)

    def test_settings_of_a_cluster_are_keys_of_configurations(self):
        found = set(re.findall(r"\b(gateway|router) ([a-z]+)\.([a-z_]+)=", RUNNERS))
        self.assertTrue(found)
        for kind, _, key in found:
            self.assertRegex(sources(f"{kind}/src"), rf"\b{key}: ", f"{kind} {key}")

    def test_reports_have_these_fields(self):
        text = sources("loadgen/src")
        for name in set(re.findall(r'(?:report|idle|load|each|spread)\["([a-z_0-9]+)"\]', RUNNERS)):
            self.assertRegex(text, rf"\b{name}[:,]", name)


if __name__ == "__main__":
    unittest.main()
