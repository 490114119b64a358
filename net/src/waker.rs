//! How other threads wake the shard: one eventfd, written at most once per turn.
#![expect(unsafe_code, reason = "eventfd is created and written by system calls")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Wakes the engine from any thread. Put what the shard shall find where it looks first, then wake.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Bell>);

impl Waker {
    /// Makes the current or the next turn end with [`Event::Woken`](crate::Event::Woken). Many calls before
    /// that cost one system call together. After the engine is gone it does nothing.
    pub fn wake(&self) {
        if !self.0.rung.swap(true, Ordering::SeqCst) {
            self.0.ring();
        }
    }
}

/// The eventfd that ring 0 watches. The other rings are registered with it too.
#[derive(Debug)]
pub(crate) struct Bell {
    descriptor: OwnedFd,
    /// Set by a waker, cleared by the turn that reports it.
    rung: AtomicBool,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        // SAFETY: takes no pointer.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Arc::new(Self {
            descriptor,
            rung: AtomicBool::new(false),
        }))
    }

    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker(Arc::clone(self))
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    /// Whether a waker was used since the last call.
    pub(crate) fn take_rung(&self) -> bool {
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::SeqCst)
    }

    fn ring(&self) {
        let one = 1_u64.to_ne_bytes();
        // A full counter (2^64 - 2 rings) is the only error, and then the bell is rung already.
        // SAFETY: `one` is eight readable bytes, and the descriptor is open as long as `self`.
        unsafe { libc::write(self.descriptor.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}
