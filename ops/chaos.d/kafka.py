"""As much of Kafka's protocol as the faults need: list topics, delete one. No client library is at hand in Python.

Versions are the oldest that Kafka 4 still serves, whose encoding has no tags: Metadata 4, DeleteTopics 1.
"""

import socket
import struct

from process import NotReady

METADATA, DELETE_TOPICS = 3, 20
METADATA_VERSION, DELETE_TOPICS_VERSION = 4, 1
TIMEOUT_S = 10.0


class Reader:
    """Takes values off the front of an answer."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count < 0 or self.at + count > len(self.data):
            raise ValueError(f"an answer of {len(self.data)} bytes ends early")
        part = self.data[self.at : self.at + count]
        self.at += count
        return part

    def int(self, size: int) -> int:
        """A signed integer."""
        return int.from_bytes(self.take(size), "big", signed=True)

    def string(self) -> str | None:
        """A text, or none."""
        length = self.int(2)
        return None if length < 0 else self.take(length).decode()

    def ints(self, size: int) -> list[int]:
        """A list of integers."""
        return [self.int(size) for _ in range(self.int(4))]


def text(value: str) -> bytes:
    """A text as the protocol has it."""
    data = value.encode()
    return struct.pack(">h", len(data)) + data


def receive(connection: socket.socket, count: int) -> bytes:
    """So many bytes."""
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError("Kafka closed the connection")
        data += part
    return data


def ask(port: int, key: int, version: int, body: bytes) -> Reader:
    """Sends one request to the broker on this machine; what is behind the answer's header."""
    request = struct.pack(">hhi", key, version, 1) + text("corelane-chaos") + body
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.sendall(struct.pack(">i", len(request)) + request)
        size = struct.unpack(">i", receive(connection, 4))[0]
        return Reader(receive(connection, size)[4:])


def metadata(reader: Reader) -> tuple[int, dict[str, int]]:
    """How many brokers there are, and all topics with their number of partitions."""
    reader.int(4)  # throttle time
    brokers = reader.int(4)
    for _ in range(brokers):
        reader.int(4)
        reader.string()
        reader.int(4)
        reader.string()
    reader.string()  # cluster id
    reader.int(4)  # controller
    topics = {}
    for _ in range(reader.int(4)):
        error, name, _ = reader.int(2), reader.string(), reader.int(1)
        partitions = reader.int(4)
        for _ in range(partitions):
            reader.take(10)  # error, number, leader
            reader.ints(4)
            reader.ints(4)
        if error == 0 and name is not None:
            topics[name] = partitions
    return brokers, topics


def list_topics(port: int) -> tuple[int, dict[str, int]]:
    """Brokers and topics. Answered with no broker while it starts."""
    return metadata(ask(port, METADATA, METADATA_VERSION, struct.pack(">i?", -1, False)))


def is_ready(port: int) -> bool:
    """Whether the broker works: its port opens before that."""
    try:
        return list_topics(port)[0] > 0
    except (OSError, ValueError):
        return False


def delete_topic(port: int, name: str) -> None:
    """Deletes a topic; raises NotReady with Kafka's code if it will not."""
    body = struct.pack(">i", 1) + text(name) + struct.pack(">i", int(TIMEOUT_S * 1000))
    reader = ask(port, DELETE_TOPICS, DELETE_TOPICS_VERSION, body)
    reader.int(4)  # throttle time
    codes = []
    for _ in range(reader.int(4)):
        reader.string()
        codes.append(reader.int(2))
    if codes != [0]:
        raise NotReady(f"Kafka did not delete topic {name}: error codes {codes}")
