"""A TCP proxy on loopback that can turn into a black hole, or change what passes.

A hole takes what fits its buffers and lets nothing out, on old and new connections, and closes none: what a machine that
died without a word, or a switch that drops, looks like. When it ends, what was taken goes on, as TCP would send it again.
Two threads per connection, which block while it is a hole.
"""

import socket
import threading
from collections.abc import Callable
from typing import Protocol

CHUNK = 64 * 1024


class Filter(Protocol):
    """Changes what passes on one connection. Each method is called by one thread only."""

    def to_server(self, data: bytes) -> bytes:
        """What goes on to the server."""

    def to_client(self, data: bytes) -> bytes:
        """What goes on to the client."""


class Untouched:
    """Changes nothing."""

    def to_server(self, data: bytes) -> bytes:
        """The same."""
        return data

    def to_client(self, data: bytes) -> bytes:
        """The same."""
        return data


class Proxy:
    """Forwards a port to another until it is stopped."""

    def __init__(self, port: int, target: int, make_filter: Callable[[], Filter] = Untouched) -> None:
        self.target = target
        self.make_filter = make_filter
        self.open = threading.Event()
        self.open.set()
        self.sockets: set[socket.socket] = set()
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def blackhole(self) -> None:
        """From now on nothing comes out."""
        self.open.clear()

    def restore(self) -> None:
        """Lets go on what was taken."""
        self.open.set()

    def stop(self) -> None:
        """Ends it with all its connections."""
        # Closing alone would not wake who waits in accept, and the port would stay taken.
        hang_up(self.listener)
        self.listener.close()
        self.open.set()
        with self.lock:
            sockets = list(self.sockets)
        for each in sockets:
            hang_up(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self.open.wait()
        try:
            server = socket.create_connection(("127.0.0.1", self.target), 5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        pair = (client, server)
        for each in pair:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.lock:
            self.sockets.update(pair)
        changes = self.make_filter()
        back = threading.Thread(target=self._pump, args=(server, client, changes.to_client), daemon=True)
        back.start()
        self._pump(client, server, changes.to_server)
        back.join()
        with self.lock:
            self.sockets.difference_update(pair)
        for each in pair:
            each.close()

    def _pump(self, source: socket.socket, sink: socket.socket, change: Callable[[bytes], bytes]) -> None:
        """One direction. Its end ends the other one: neither links nor Kafka's clients use half a connection."""
        try:
            while data := source.recv(CHUNK):
                self.open.wait()
                sink.sendall(change(data))
        except OSError:
            pass
        finally:
            self.open.wait()
            hang_up(source)
            hang_up(sink)


def hang_up(each: socket.socket) -> None:
    """Wakes whoever waits for it."""
    try:
        each.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
