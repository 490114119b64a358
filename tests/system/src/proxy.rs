//! A proxy in front of a gateway that spoils one `Message` frame on its way to a client.
//!
//! It knows as much of WebSocket as that takes: the head of the answer to the upgrade, and the unmasked frames behind it.
//! Everything else passes as it is. Two threads per connection.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use corelane_protocol::frame::{Frame, FrameKind, body};
use corelane_protocol::ws::header;

/// What happens to the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is dropped.
    Drop,
    /// It comes twice.
    Double,
    /// It comes behind the next one.
    Swap,
    /// A byte of its payload is another.
    Payload,
}

/// A proxy that runs until the test ends.
#[derive(Debug)]
pub struct Proxy {
    /// Where clients connect.
    pub url: String,
    planted: Arc<AtomicBool>,
}

impl Proxy {
    /// Starts one. The fault befalls the first connection that has had `after` messages.
    ///
    /// # Panics
    ///
    /// If there is no port for it.
    pub fn start(gateway: SocketAddr, fault: Fault, after: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("ws://{}/ws", listener.local_addr().expect("it listens"));
        let planted = Arc::new(AtomicBool::new(fault == Fault::None));
        let shared = Arc::clone(&planted);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let spoiler = Spoiler {
                    fault,
                    left: after,
                    planted: Arc::clone(&shared),
                    upgraded: false,
                    held: None,
                };
                // A connection that breaks is the business of its ends.
                thread::spawn(move || drop(relay(client, gateway, spoiler)));
            }
        });
        Self { url, planted }
    }

    /// Whether the fault, if any, has happened.
    pub fn has_planted(&self) -> bool {
        self.planted.load(Ordering::Relaxed)
    }
}

fn relay(mut client: TcpStream, gateway: SocketAddr, mut spoiler: Spoiler) -> std::io::Result<()> {
    let mut server = TcpStream::connect(gateway)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        drop(std::io::copy(&mut from_client, &mut to_server));
        drop(to_server.shutdown(std::net::Shutdown::Write));
    });
    let (mut unread, mut out, mut buffer) = (Vec::new(), Vec::new(), [0; 16 * 1024]);
    loop {
        let count = server.read(&mut buffer)?;
        if count == 0 {
            return client.shutdown(std::net::Shutdown::Both);
        }
        unread.extend_from_slice(buffer.get(..count).unwrap_or_default());
        out.clear();
        while let Some(part) = spoiler.next_part(&unread) {
            spoiler.pass(unread.drain(..part).collect(), &mut out);
        }
        client.write_all(&out)?;
    }
}

struct Spoiler {
    fault: Fault,
    /// Messages until the fault.
    left: u32,
    planted: Arc<AtomicBool>,
    upgraded: bool,
    /// Comes behind the next message.
    held: Option<Vec<u8>>,
}

impl Spoiler {
    /// Length of the head or frame at the front, if all of it is there.
    fn next_part(&mut self, unread: &[u8]) -> Option<usize> {
        if !self.upgraded {
            let end = unread.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
            return Some(end + 4);
        }
        let header = header::parse(unread, false).expect("a gateway speaks RFC 6455")?;
        let whole = header.header_bytes + usize::try_from(header.payload_bytes).expect("it is in memory");
        (unread.len() >= whole).then_some(whole)
    }

    fn pass(&mut self, mut part: Vec<u8>, out: &mut Vec<u8>) {
        let place = std::mem::replace(&mut self.upgraded, true)
            .then(|| payload_place(&part))
            .flatten();
        let Some(payload) = place else {
            return out.extend(part);
        };
        if let Some(held) = self.held.take() {
            out.extend(part);
            return out.extend(held);
        }
        if self.left > 0 || self.planted.swap(true, Ordering::Relaxed) {
            self.left = self.left.saturating_sub(1);
            return out.extend(part);
        }
        match self.fault {
            Fault::Drop => return,
            Fault::Swap => {
                self.held = Some(part);
                return;
            }
            Fault::Double => out.extend(&part),
            Fault::Payload => part.get_mut(payload).into_iter().for_each(|byte| *byte ^= 1),
            Fault::None => {}
        }
        out.extend(part);
    }
}

/// Where the last byte of payload stands, if this WebSocket frame holds a `Message`.
fn payload_place(part: &[u8]) -> Option<usize> {
    let header = header::parse(part, false).ok()??;
    let bytes = part.get(header.header_bytes..)?;
    let frame = Frame::parse(bytes).ok()?;
    if frame.known_kind() != Some(FrameKind::Message) {
        return None;
    }
    let message = frame.access::<body::ArchivedMessage>().ok()?;
    let payload = &*message.payload;
    Some(part.windows(payload.len()).position(|bytes| bytes == payload)? + payload.len() - 1)
}
