//! A WebSocket echo server of the codec and blocking sockets: what the Autobahn cases are run against.
//!
//! `cargo run --example ws_echo -- 127.0.0.1:9001`; it prints the address it listens on. A thread per
//! connection; a message may have 16 MiB.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use corelane_protocol::ws::handshake::{HeadStatus, parse_upgrade, reject, scan_head};
use corelane_protocol::ws::{Decoder, Item, Items, Opcode, Role, close_frame, server_header};

const MESSAGE_BYTES_MAX: u32 = 16 << 20;

fn main() -> io::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address)?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    for socket in listener.incoming() {
        let socket = socket?;
        std::thread::spawn(move || {
            if let Err(error) = serve(socket) {
                let _ = writeln!(io::stderr(), "{error}");
            }
        });
    }
    Ok(())
}

fn serve(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let Some(mut unread) = shake_hands(&mut socket)? else {
        return Ok(());
    };
    let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES_MAX);
    let mut buffer = vec![0; 64 * 1024];
    let mut out = Vec::new();
    loop {
        echo(decoder.feed(&mut unread), &mut out);
        socket.write_all(&out)?;
        out.clear();
        if decoder.has_ended() {
            return drain(&mut socket, &mut buffer);
        }
        let bytes = socket.read(&mut buffer)?;
        if bytes == 0 {
            return Ok(());
        }
        unread.clear();
        unread.extend(buffer.iter().take(bytes));
    }
}

/// Bytes behind the head, or nothing if the request was refused.
fn shake_hands(socket: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut unread = Vec::new();
    let mut buffer = [0; 1024];
    let mut out = Vec::new();
    let verdict = loop {
        match scan_head(&unread) {
            Ok(HeadStatus::Complete { head_bytes }) => {
                let behind = unread.split_off(head_bytes);
                break parse_upgrade(&unread).map(|upgrade| (upgrade, behind));
            }
            Ok(HeadStatus::Partial) => {}
            Err(error) => break Err(error),
        }
        let bytes = socket.read(&mut buffer)?;
        if bytes == 0 {
            return Ok(None);
        }
        unread.extend(buffer.iter().take(bytes));
    };
    let behind = match verdict {
        Ok((upgrade, behind)) => {
            upgrade.accept(None, &mut out);
            Some(behind)
        }
        Err(error) => {
            reject(&error, &mut out);
            None
        }
    };
    socket.write_all(&out)?;
    Ok(behind)
}

fn echo(mut items: Items<'_>, out: &mut Vec<u8>) {
    let mut frame = |opcode, payload: &[u8]| {
        out.extend_from_slice(&server_header(opcode, payload.len(), true));
        out.extend_from_slice(payload);
    };
    while let Some(item) = items.next() {
        match item {
            Ok(Item::Text(text)) => frame(Opcode::Text, text.as_bytes()),
            Ok(Item::Binary(bytes)) => frame(Opcode::Binary, bytes),
            Ok(Item::Ping(bytes)) => frame(Opcode::Pong, bytes),
            Ok(Item::Pong(_)) => {}
            Ok(Item::Close(None)) => frame(Opcode::Close, &[]),
            Ok(Item::Close(Some((code, _)))) => return close_frame(code, "", out),
            Err(error) => return close_frame(error.close_code(), &error.to_string(), out),
        }
    }
}

/// Ends our side, then reads until the peer ends its own: closing over unread bytes would send a reset, which
/// may overtake the close frame.
fn drain(socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    socket.shutdown(std::net::Shutdown::Write)?;
    while socket.read(buffer)? > 0 {}
    Ok(())
}
