"""A black hole lets nothing out and closes nothing; afterwards nothing is missing."""

import socket
import threading
import unittest

from proxy import Proxy


def echo_server() -> socket.socket:
    """Sends back what it gets, on any number of connections, until it is closed."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


class Holes(unittest.TestCase):
    def setUp(self):
        self.server = echo_server()
        self.addCleanup(self.server.close)
        self.addCleanup(self.server.shutdown, socket.SHUT_RDWR)
        self.proxy = Proxy(0, self.server.getsockname()[1])
        self.addCleanup(self.proxy.stop)

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.proxy.port), 5)
        self.addCleanup(connection.close)
        return connection

    def assert_silent(self, connection: socket.socket) -> None:
        connection.settimeout(0.1)
        with self.assertRaises(TimeoutError):
            connection.recv(10)
        connection.settimeout(5)

    def test_it_forwards(self):
        connection = self.connect()
        connection.sendall(b"hello")
        self.assertEqual(connection.recv(10), b"hello")

    def test_a_hole_is_silent_on_old_and_new_connections_and_loses_nothing(self):
        old = self.connect()
        old.sendall(b"1")
        self.assertEqual(old.recv(10), b"1")
        self.proxy.blackhole()
        new = self.connect()
        old.sendall(b"2")
        new.sendall(b"3")
        self.assert_silent(old)
        self.assert_silent(new)
        self.proxy.restore()
        self.assertEqual((old.recv(10), new.recv(10)), (b"2", b"3"))

    def test_stopping_ends_connections_and_frees_the_port(self):
        connection = self.connect()
        connection.sendall(b"1")
        self.assertEqual(connection.recv(10), b"1")
        self.proxy.stop()
        self.assertEqual(connection.recv(10), b"")
        Proxy(self.proxy.port, self.server.getsockname()[1]).stop()


if __name__ == "__main__":
    unittest.main()
