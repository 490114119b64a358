"""One terminal of one user over `corelane.json.v1`, and the HTTP API of backends: for figures that count things, where the
load generator would be too much. Blocking, one frame at a time."""

import base64
import hashlib
import hmac
import http.client
import json
import os
import secrets
import socket
import struct
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

TIMEOUT_S = 20.0
TEXT, CLOSE = 0x1, 0x8
# Who is answered 503 may send again, under the same id.
AGAIN_S, AGAIN_PACE_S = 10.0, 0.2


class Refused(Exception):
    """The other end said no, or nothing."""


class Unavailable(Refused):
    """A router cannot do it now (503)."""


def mint(key_file: Path, user: str, device: str) -> str:
    """A token for a user on a desktop, as the load generator makes them; good for a day."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    now = int(time.time())
    header = {"typ": "JWT", "alg": "HS256", "kid": "1"}
    claims = {"app": 0, "sub": user, "terminal": "desktop", "device": device, "iat": now, "exp": now + 86_400}
    signed = ".".join(part(json.dumps(each).encode()) for each in (header, claims))
    secret = bytes.fromhex(key_file.read_text().strip())
    return f"{signed}.{part(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def message_id() -> str:
    """An id of this moment (RFC 9562, UUID version 7)."""
    return f"{time.time_ns() // 1_000_000:012x}7{secrets.token_hex(2)[1:]}8{secrets.token_hex(8)[1:]}"


def masked(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """A frame of a client (RFC 6455, section 5.2)."""
    length = len(payload)
    if length < 126:
        head = struct.pack(">BB", 0x80 | opcode, 0x80 | length)
    elif length < 1 << 16:
        head = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, length)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 0x80 | 127, length)
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def read_frame(take: Callable[[int], bytes]) -> tuple[int, bytes]:
    """Opcode and payload of a frame of a server, which is whole and not masked."""
    first, length = take(2)
    if length == 126:
        (length,) = struct.unpack(">H", take(2))
    elif length == 127:
        (length,) = struct.unpack(">Q", take(8))
    if not first & 0x80 or length & 1 << 63:
        raise Refused("a frame of the server is in pieces, or malformed")
    return first & 0x0F, take(length)


class Terminal:
    """A connection that is logged in."""

    def __init__(self, url: str, token: str, device: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), TIMEOUT_S)
        self.stream = self.socket.makefile("rb")
        self.reference = 0
        self.upgrade(parts)
        self.send({"type": "hello", "token": token, "terminal": "desktop", "device": device, "epoch": "0"})
        self.await_type("welcome")

    def upgrade(self, parts: urllib.parse.SplitResult) -> None:
        """The handshake."""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: corelane.json.v1"]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        status = self.stream.readline().split()
        if len(status) < 2 or status[1] != b"101":
            raise Refused(f"the upgrade was answered {b' '.join(status).decode(errors='replace')}")
        while self.stream.readline().strip():
            pass

    def send(self, frame: dict) -> int:
        """Sends a frame; its reference."""
        self.reference += 1
        text = json.dumps({**frame, "ref": self.reference}).encode()
        self.socket.sendall(masked(TEXT, text, os.urandom(4)))
        return self.reference

    def take(self, count: int) -> bytes:
        """So many bytes."""
        data = self.stream.read(count)
        if len(data) < count:
            raise Refused("the connection ended")
        return data

    def receive(self) -> dict:
        """The next frame."""
        while True:
            opcode, payload = read_frame(self.take)
            if opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big")
                raise Refused(f"closed with {code} {payload[2:].decode(errors='replace')}")
            if opcode == TEXT:
                return json.loads(payload)

    def await_type(self, kind: str) -> dict:
        """The next frame of a type; others are passed over, refusals are not."""
        while True:
            frame = self.receive()
            if frame["type"] == kind:
                return frame
            if frame["type"] == "error":
                raise Refused(f"{kind} was waited for, and there came {frame}")

    def sync(self, cursor: str) -> tuple[list[dict], str]:
        """All that changed since a cursor ("" for none), and the cursor for the next time."""
        conversations = []
        while True:
            self.send({"type": "sync", "cursor": cursor, "limit": 200})
            page = self.await_type("sync_page")
            conversations += page["conversations"]
            cursor = page["cursor"]
            if not page["more"]:
                return conversations, cursor

    def close(self) -> None:
        """Leaves in order."""
        try:
            self.socket.sendall(masked(CLOSE, struct.pack(">H", 1000), os.urandom(4)))
        except OSError:
            pass
        self.stream.close()
        self.socket.close()


class Backend:
    """A connection to the API of a router."""

    def __init__(self, base: str, key_file: Path) -> None:
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(base).netloc, timeout=TIMEOUT_S)
        self.headers = {"Authorization": f"Bearer {key_file.read_text().strip()}", "Content-Type": "application/json"}

    def send(self, sender: str, receiver: str, payload: str) -> None:
        """A message of one user to another one, once."""
        message = {"from": sender, "target": {"user": receiver}, "client_msg_id": message_id(), "payload": payload}
        until = time.monotonic() + AGAIN_S
        while True:
            try:
                self.ask("POST", "/v1/messages", message)
                return
            except Unavailable:
                if time.monotonic() >= until:
                    raise
            time.sleep(AGAIN_PACE_S)

    def boot_of(self, user: str) -> str:
        """The boot of the gateway at which a user has his one session."""
        sessions = self.ask("GET", f"/v1/users/{user}/sessions")
        if len(sessions) != 1:
            raise Refused(f"{user} has {len(sessions)} sessions, and should have one")
        return sessions[0]["boot"]

    def ask(self, method: str, path: str, body: dict | None = None):
        """One call, and what its answer holds."""
        self.connection.request(method, path, None if body is None else json.dumps(body), self.headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            refusal = Unavailable if answer.status == 503 else Refused
            raise refusal(f"{method} {path} was answered {answer.status} {text[:300].decode(errors='replace')}")
        return json.loads(text)

    def close(self) -> None:
        """Ends it."""
        self.connection.close()
