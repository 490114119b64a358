//! Zeroed, page-aligned memory that the kernel may write to: it never moves and is given back at drop.
#![expect(unsafe_code, reason = "memory shared with the kernel is mapped by hand")]

use std::io;
use std::ptr::NonNull;

#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    bytes: usize,
}

impl Region {
    /// Maps `bytes`; pages cost memory once they are touched.
    pub(crate) fn map(bytes: usize) -> io::Result<Self> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { start, bytes })
    }

    /// Its start as the address of a `T`.
    pub(crate) const fn start_as<T>(&self) -> *mut T {
        const { assert!(align_of::<T>() <= 4096, "mappings are aligned to pages") };
        self.start.as_ptr().cast()
    }

    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `start` and `bytes` are what `mmap` gave in `map`, and nothing else unmaps them.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
