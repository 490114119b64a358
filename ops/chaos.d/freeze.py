"""Freezes one partition of one topic for those who read it through a proxy: its records are withheld, all else passes.

To the reader it is a partition that stands still although its end moves on, which is what a consumer looks like whose
queue for that partition has got stuck. Records come out when it thaws, because the reader asks for them from where it
stands.

Kafka numbers the versions of its requests, and the newest ones hide topics behind ids and lengths behind variable
integers. So the proxy tells clients that the broker knows Fetch up to version 11 only, and has to read just that:

    answer 11: throttle i32, error i16, session i32, topics [name, partitions [number i32, error i16, high watermark i64,
    stable i64, start i64, aborted [i64 i64], replica i32, records bytes]]
"""

import struct
import threading
import time

from kafka import Reader, text

FETCH, API_VERSIONS = 1, 18
FETCH_VERSION_MAX = 11
# Withheld records are asked for again at once; without a pause that would be as often as the machine can.
PAUSE_S = 0.1


class FrozenPartition:
    """The partition, of all connections."""

    def __init__(self) -> None:
        self.frozen: tuple[str, int] | None = None
        # Answers from which records were taken.
        self.withheld = 0
        self.lock = threading.Lock()

    def freeze(self, topic: str, partition: int) -> None:
        """From now on."""
        self.frozen = (topic, partition)

    def thaw(self) -> None:
        """Lets records pass again."""
        self.frozen = None

    def connection(self) -> "Connection":
        """The filter of one more connection."""
        return Connection(self)


class Connection:
    """One client's connection to the broker."""

    def __init__(self, owner: FrozenPartition) -> None:
        self.owner = owner
        self.asked: dict[int, tuple[int, int]] = {}
        self.requests = b""
        self.answers = b""

    def to_server(self, data: bytes) -> bytes:
        """Passes everything, and remembers which number is a request of which kind."""
        self.requests += data
        while (frame := first_frame(self.requests)) is not None:
            self.requests = self.requests[4 + len(frame) :]
            key, version, number = struct.unpack_from(">hhi", frame)
            if key in (FETCH, API_VERSIONS):
                self.asked[number] = (key, version)
        return data

    def to_client(self, data: bytes) -> bytes:
        """Passes whole answers, changed where they are of the two kinds."""
        self.answers += data
        out = b""
        while (frame := first_frame(self.answers)) is not None:
            self.answers = self.answers[4 + len(frame) :]
            frame = self.change(frame)
            out += struct.pack(">i", len(frame)) + frame
        return out

    def change(self, frame: bytes) -> bytes:
        """One answer."""
        key, version = self.asked.pop(struct.unpack_from(">i", frame)[0], (None, 0))
        if key == API_VERSIONS:
            return frame[:4] + limit_fetch(frame[4:], version)
        if key != FETCH or self.owner.frozen is None:
            return frame
        body, taken = withhold(frame[4:], *self.owner.frozen)
        if taken:
            with self.owner.lock:
                self.owner.withheld += 1
            time.sleep(PAUSE_S)
        return frame[:4] + body


def first_frame(data: bytes) -> bytes | None:
    """The first frame without its length, if all of it is there."""
    if len(data) < 4:
        return None
    length = struct.unpack_from(">i", data)[0]
    return data[4 : 4 + length] if len(data) >= 4 + length else None


def limit_fetch(body: bytes, version: int) -> bytes:
    """The list of what the broker knows, with Fetch up to FETCH_VERSION_MAX. Its length stays."""
    flexible = version >= 3
    at, count = 2, 0
    if flexible:
        shift = 0
        while True:
            byte = body[at]
            count |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                break
        count -= 1
    else:
        count = struct.unpack_from(">i", body, at)[0]
        at += 4
    changed = bytearray(body)
    for _ in range(count):
        key, _, most = struct.unpack_from(">hhh", body, at)
        if key == FETCH:
            struct.pack_into(">h", changed, at + 4, min(most, FETCH_VERSION_MAX))
        # An entry with tags has none: one byte that says so.
        at += 7 if flexible else 6
    return bytes(changed)


def withhold(body: bytes, topic: str, partition: int) -> tuple[bytes, bool]:
    """A Fetch answer without the records of a partition, and whether there were any."""
    reader = Reader(body)
    out = [reader.take(10)]
    taken = False
    topics = reader.int(4)
    out.append(struct.pack(">i", topics))
    for _ in range(topics):
        name = reader.string() or ""
        partitions = reader.int(4)
        out += [text(name), struct.pack(">i", partitions)]
        for _ in range(partitions):
            head, records = take_partition(reader)
            number = struct.unpack_from(">i", head)[0]
            if (name, number) == (topic, partition) and records:
                records, taken = b"", True
            out += [head, struct.pack(">i", -1 if records is None else len(records)), records or b""]
    out.append(body[reader.at :])
    return b"".join(out), taken


def take_partition(reader: Reader) -> tuple[bytes, bytes | None]:
    """One partition of a Fetch answer: what stands before the records, and the records."""
    start = reader.at
    reader.take(30)
    aborted = reader.int(4)
    reader.take(16 * max(aborted, 0) + 4)
    head = reader.data[start : reader.at]
    length = reader.int(4)
    return head, None if length < 0 else reader.take(length)
