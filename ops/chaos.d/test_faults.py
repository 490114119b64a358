"""What the faults of PD do, and in which order, with stand-ins that write down what they are asked."""

import unittest
from types import SimpleNamespace

from faults import pd_down_router_killed, pd_restarted


class Diary:
    """A stack and a run. Every second of a pause, lost regions are met as often as `per_second` says."""

    def __init__(self, per_second: int) -> None:
        self.said: list[str] = []
        self.per_second = per_second
        self.hits = 0
        self.notes: dict[str, float] = {}
        self.pd = SimpleNamespace(kill=lambda: self.say("pd dies"), start=lambda: self.say("pd starts"))
        self.stack = SimpleNamespace(tikv=self)
        self.cluster = SimpleNamespace(
            kill=lambda name: self.say(f"{name} dies"), restart=lambda name: self.say(f"{name} starts")
        )

    def say(self, what: str) -> None:
        self.said.append(what)

    def pause(self, seconds: float) -> None:
        self.hits += round(seconds * self.per_second)

    def await_acks(self, count: int, _: float) -> None:
        self.say("acks")

    def note(self, name: str, value: float) -> None:
        self.notes[name] = value

    def split(self, _: str) -> None:
        pass

    def fault(self, do: str, on: str, **_: object) -> None:
        self.say(f"{do} {on}")

    def end_faults(self) -> None:
        self.say("faults end")

    def faults_hit(self, do: str) -> int:
        return self.hits if do == "region_not_found" else 0

    def await_ready(self) -> None:
        pass


class Faults(unittest.TestCase):
    def test_only_what_is_met_while_pd_is_away_counts(self):
        diary = Diary(per_second=10)
        pd_restarted(diary)
        once = ["acks", "pd dies", "pd starts"]
        self.assertEqual(diary.said, ["region_not_found commit", "delay commit", *once, *once, "faults end"])
        self.assertEqual(diary.notes, {"regions_lost": 10})

    def test_the_router_dies_while_its_commits_cannot_be_read_back(self):
        diary = Diary(per_second=0)
        pd_down_router_killed(diary)
        dies = ["delay commit", "pd dies", "router-1 dies", "faults end"]
        self.assertEqual(diary.said, [*dies, "pd starts", "router-1 starts"])


if __name__ == "__main__":
    unittest.main()
