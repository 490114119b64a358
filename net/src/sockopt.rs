//! Sockets before they enter a ring: listeners and outgoing ones, with the options that all have.
//!
//! Options are set here because a direct descriptor takes no `setsockopt` before Linux 6.7; accepted
//! sockets inherit them from their listener.
#![expect(unsafe_code, reason = "two system calls that no safe wrapper offers")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::config::{EngineConfig, ListenOptions};

/// Soft limit of open descriptors, which is also the largest table of direct descriptors.
pub(crate) fn descriptor_limit() -> u32 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a live `rlimit` for the kernel to fill.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if answer != 0 {
        return 1024;
    }
    u32::try_from(limit.rlim_cur).unwrap_or(u32::MAX)
}

/// A listening socket and the address it got.
pub(crate) fn listening(
    address: SocketAddr,
    options: ListenOptions,
    send_buffer_bytes: u32,
) -> io::Result<(Socket, SocketAddr)> {
    let socket = stream(address, send_buffer_bytes)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, bound))
}

/// A socket that is about to connect to `to`, from the address `from` if given.
pub(crate) fn outgoing(to: SocketAddr, from: Option<IpAddr>, config: &EngineConfig) -> io::Result<Socket> {
    let socket = stream(to, config.send_buffer_bytes)?;
    socket.set_tcp_user_timeout(config.unacknowledged_max)?;
    if let Some(from) = from {
        bind_address_no_port(&socket)?;
        socket.bind(&SockAddr::from(SocketAddr::new(from, 0)))?;
    }
    Ok(socket)
}

fn stream(address: SocketAddr, send_buffer_bytes: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(send_buffer_bytes as usize)?;
    // A peer that vanished without FIN is found after about two minutes even if nobody writes to it.
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_mins(1))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    socket.set_tcp_keepalive(&keepalive)?;
    Ok(socket)
}

/// Size of an option that is an `int`.
const OPTION_BYTES: libc::socklen_t = 4;
const _: () = assert!(
    size_of::<libc::c_int>() == OPTION_BYTES as usize,
    "an int has four bytes"
);

/// Lets connect choose the port, so that one source address serves 28,000 connections per destination
/// instead of 28,000 in all.
fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: `one` is a live `c_int`, and its size is given.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const one).cast(),
            OPTION_BYTES,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outgoing_socket_has_the_timeout_of_its_engine() {
        let to = SocketAddr::from(([127, 0, 0, 1], 9));
        let mut config = EngineConfig::default();
        assert_eq!(
            outgoing(to, None, &config).unwrap().tcp_user_timeout().unwrap(),
            None
        );
        config.unacknowledged_max = Some(Duration::from_secs(10));
        let socket = outgoing(to, None, &config).unwrap();
        assert_eq!(socket.tcp_user_timeout().unwrap(), config.unacknowledged_max);
    }
}
