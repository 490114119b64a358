"""The few answers of Kafka that are read, and those that are changed on their way."""

import struct
import unittest

from freeze import FrozenPartition, limit_fetch, withhold
from kafka import Reader, metadata, text


def fetch_answer(topics: list[tuple[str, list[tuple[int, bytes | None]]]], tail: bytes = b"") -> bytes:
    """A Fetch answer of version 11; each partition has one aborted transaction."""
    out = struct.pack(">ihi", 7, 0, 99) + struct.pack(">i", len(topics))
    for name, partitions in topics:
        out += text(name) + struct.pack(">i", len(partitions))
        for number, records in partitions:
            out += struct.pack(">ihqqqi", number, 0, 500, 500, 0, 1) + struct.pack(">qqi", 11, 22, -1)
            out += struct.pack(">i", -1 if records is None else len(records)) + (records or b"")
    return out + tail


def frame(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


class Kafka(unittest.TestCase):
    def test_metadata_is_read(self):
        broker = struct.pack(">i", 1) + text("127.0.0.1") + struct.pack(">ih", 9092, -1)
        partition = struct.pack(">hii", 0, 0, 1) + struct.pack(">ii", 1, 1) + struct.pack(">ii", 1, 1)
        topics = struct.pack(">h", 0) + text("c.one") + b"\0" + struct.pack(">i", 2) + partition + partition
        topics += struct.pack(">h", 3) + text("c.gone") + b"\0" + struct.pack(">i", 0)
        body = struct.pack(">i", 0) + struct.pack(">i", 1) + broker + text("id") + struct.pack(">i", 1)
        self.assertEqual(metadata(Reader(body + struct.pack(">i", 2) + topics)), (1, {"c.one": 2}))

    def test_an_answer_that_ends_early_is_an_error(self):
        with self.assertRaises(ValueError):
            metadata(Reader(struct.pack(">ii", 0, 5)))

    def test_records_of_one_partition_are_withheld_and_nothing_else_changes(self):
        topics = [("a", [(0, b"xx"), (1, b"yyy")]), ("b", [(0, b"z"), (2, None)])]
        body, taken = withhold(fetch_answer(topics, b"tail"), "a", 1)
        self.assertTrue(taken)
        self.assertEqual(body, fetch_answer([("a", [(0, b"xx"), (1, b"")]), ("b", [(0, b"z"), (2, None)])], b"tail"))

    def test_nothing_is_taken_where_there_is_nothing(self):
        answer = fetch_answer([("a", [(0, b""), (1, None)])])
        for partition in (0, 1, 2):
            self.assertEqual(withhold(answer, "a", partition), (answer, False))
        self.assertEqual(withhold(answer, "b", 0), (answer, False))

    def test_the_broker_is_said_to_know_fetch_up_to_eleven_only(self):
        plain = struct.pack(">h", 0) + struct.pack(">i", 2) + struct.pack(">hhh", 0, 3, 12) + struct.pack(">hhh", 1, 4, 17)
        self.assertEqual(limit_fetch(plain, 0), plain[:-2] + struct.pack(">h", 11))
        entries = struct.pack(">hhh", 0, 3, 12) + b"\0" + struct.pack(">hhh", 1, 4, 17) + b"\0"
        flexible = struct.pack(">h", 0) + b"\x03" + entries + struct.pack(">i", 0) + b"\0"
        expected = flexible[:3] + entries[:-3] + struct.pack(">h", 11) + b"\0" + flexible[-5:]
        self.assertEqual(limit_fetch(flexible, 3), expected)
        old = struct.pack(">h", 0) + struct.pack(">i", 1) + struct.pack(">hhh", 1, 0, 10)
        self.assertEqual(limit_fetch(old, 0), old)

    def test_a_connection_changes_answers_by_what_was_asked_however_they_are_cut(self):
        partition = FrozenPartition()
        connection = partition.connection()
        request = frame(struct.pack(">hhi", 1, 11, 5) + b"rest") + frame(struct.pack(">hhi", 3, 4, 6))
        self.assertEqual(b"".join(connection.to_server(request[at : at + 3]) for at in range(0, len(request), 3)), request)
        answer = struct.pack(">i", 5) + fetch_answer([("a", [(0, b"xx")])])
        other = struct.pack(">i", 6) + fetch_answer([("a", [(0, b"xx")])])
        partition.freeze("a", 0)
        data = frame(answer) + frame(other)
        out = b"".join(connection.to_client(data[at : at + 7]) for at in range(0, len(data), 7))
        self.assertEqual(out, frame(struct.pack(">i", 5) + fetch_answer([("a", [(0, b"")])])) + frame(other))
        self.assertEqual(partition.withheld, 1)

    def test_what_is_not_frozen_passes_as_it_is(self):
        partition = FrozenPartition()
        connection = partition.connection()
        connection.to_server(frame(struct.pack(">hhi", 1, 11, 5)))
        data = frame(struct.pack(">i", 5) + fetch_answer([("a", [(0, b"xx")])]))
        self.assertEqual(connection.to_client(data), data)


if __name__ == "__main__":
    unittest.main()
