//! What the engine cannot do, each with its fix.

use std::io;
use std::net::SocketAddr;

/// The engine, a listener or an outgoing connection could not be made. What goes wrong with one socket
/// later is an [`Event::Closed`](crate::Event::Closed), never an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The kernel has no `io_uring`, or one without what the engine needs. Run a newer kernel.
    #[error(
        "kernel {release} is too old: io_uring with deferred task work and multishot receive needs Linux 6.1 or newer ({step}: {source}); upgrade the kernel"
    )]
    KernelTooOld {
        /// What `uname -r` says.
        release: String,
        /// The step that the kernel refused.
        step: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// Switched off by the administrator.
    #[error("io_uring is switched off: kernel.io_uring_disabled is {value} ({}); run `sysctl -w kernel.io_uring_disabled=0`", disabled_meaning(*.value))]
    Disabled {
        /// Value of `kernel.io_uring_disabled`: 1 for unprivileged processes, 2 for all.
        value: u32,
    },
    /// A seccomp filter, usually the container engine's default profile.
    #[error(
        "a seccomp filter blocks io_uring ({step}: {source}; /proc/self/status says Seccomp: {mode}); container engines do so by default: run the container with a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register, such as ops/seccomp/corelane.json"
    )]
    Seccomp {
        /// Value of `Seccomp:` in `/proc/self/status`.
        mode: u32,
        /// The step that was blocked.
        step: &'static str,
        /// The answer.
        source: io::Error,
    },
    /// A limit of this process is too low for one more ring.
    #[error(
        "{step} hit a limit of this process ({source}); raise RLIMIT_NOFILE (ulimit -n) and RLIMIT_MEMLOCK (ulimit -l), or lower slots_per_ring"
    )]
    Limit {
        /// The step that failed.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a step of making a ring for another reason.
    #[error("cannot make an io_uring: {step}: {source}")]
    Setup {
        /// The step that failed.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Entering the ring failed for good. Nothing can be received or sent any more: end the process.
    #[error("cannot enter io_uring: {source}")]
    Enter {
        /// The kernel's answer.
        source: io::Error,
    },
    /// A value of [`EngineConfig`](crate::EngineConfig) is out of range.
    #[error("{what} = {value} is not allowed: {allowed}")]
    Config {
        /// Name of the field.
        what: &'static str,
        /// The value given.
        value: u64,
        /// What is allowed.
        allowed: String,
    },
    /// Another process listens there.
    #[error(
        "cannot listen on {address}: the address is in use; stop the process that holds it (`ss -ltnp`) or choose another port"
    )]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Listening failed for another reason.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The socket of an outgoing connection could not be made. May pass: try again later.
    #[error("cannot make a socket to {to}: {source}")]
    Connect {
        /// The address asked for.
        to: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// Every slot is used. Try again when a socket has closed.
    #[error("all {slots} sockets of the engine are in use; raise slots_per_ring or rings_max")]
    Full {
        /// Sockets the engine can hold.
        slots: u64,
    },
}

const fn disabled_meaning(value: u32) -> &'static str {
    match value {
        0 => "not disabled",
        1 => "for unprivileged processes",
        _ => "for every process",
    }
}
