"""The small client speaks as RFC 6455 and RFC 7515 ask."""

import base64
import io
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from terminal import TEXT, Backend, Refused, Unavailable, masked, message_id, mint, read_frame


class Frames(unittest.TestCase):
    def test_the_example_of_the_rfc_is_masked_as_there(self):
        frame = masked(TEXT, b"Hello", bytes([0x37, 0xFA, 0x21, 0x3D]))
        self.assertEqual(frame.hex(), "818537fa213d7f9f4d5158")

    def test_lengths_take_as_many_bytes_as_they_need(self):
        for length, head in ((125, 2), (126, 4), (65_535, 4), (65_536, 10)):
            self.assertEqual(len(masked(TEXT, bytes(length), bytes(4))), head + 4 + length)

    def test_frames_of_a_server_are_read(self):
        for head, length in ((b"\x81\x05", 5), (b"\x81\x7e\x01\x00", 256), (b"\x81\x7f" + (70_000).to_bytes(8, "big"), 70_000)):
            self.assertEqual(read_frame(io.BytesIO(head + bytes(length)).read), (TEXT, bytes(length)))

    def test_a_frame_in_pieces_is_refused(self):
        with self.assertRaises(Refused):
            read_frame(io.BytesIO(b"\x01\x01x").read)


class Tokens(unittest.TestCase):
    def test_a_token_is_a_jwt_with_the_claims_of_a_desktop(self):
        with tempfile.TemporaryDirectory() as folder:
            key = Path(folder) / "token.key"
            key.write_text("0f" * 32 + "\n")
            header, claims, signature = mint(key, "alice", "desk").split(".")
        self.assertEqual(base64.urlsafe_b64decode(header + "=="), b'{"typ": "JWT", "alg": "HS256", "kid": "1"}')
        self.assertIn(b'"sub": "alice", "terminal": "desktop", "device": "desk"', base64.urlsafe_b64decode(claims + "=="))
        self.assertEqual(len(signature), 43)


class Sends(unittest.TestCase):
    def test_an_id_is_a_uuid_of_version_7(self):
        self.assertRegex(message_id(), r"^[0-9a-f]{12}7[0-9a-f]{3}8[0-9a-f]{15}$")
        self.assertNotEqual(message_id(), message_id())

    def test_a_message_that_was_not_taken_is_sent_again_under_its_id(self):
        answers, bodies = [Unavailable("503"), None], []

        def ask(_self, _method, _path, body):
            bodies.append(body)
            if (answer := answers.pop(0)) is not None:
                raise answer

        backend = Backend.__new__(Backend)
        with mock.patch.object(Backend, "ask", ask), mock.patch("time.sleep"):
            backend.send("a", "b", "hello")
        self.assertEqual(bodies[0], bodies[1])
        answers.append(Refused("400"))
        with mock.patch.object(Backend, "ask", ask), self.assertRaises(Refused):
            backend.send("a", "b", "hello")


if __name__ == "__main__":
    unittest.main()
