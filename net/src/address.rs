//! Socket addresses as the kernel reads and writes them while an operation is in flight.
#![expect(
    unsafe_code,
    reason = "the kernel writes peer addresses behind the compiler's back"
)]

use std::cell::UnsafeCell;
use std::net::SocketAddr;

use socket2::{SockAddr, SockAddrStorage};

/// Room for one address at a fixed place. The kernel reads or writes it until the operation completes.
#[derive(Debug)]
pub(crate) struct AddressCell(Box<UnsafeCell<Raw>>);

#[derive(Debug)]
struct Raw {
    storage: SockAddrStorage,
    len: libc::socklen_t,
}

impl AddressCell {
    /// Empty room for accept to fill.
    pub(crate) fn empty() -> Self {
        let storage = SockAddrStorage::zeroed();
        let len = storage.size_of();
        Self(Box::new(UnsafeCell::new(Raw { storage, len })))
    }

    /// The address to connect to.
    pub(crate) fn of(address: SocketAddr) -> Self {
        let address = SockAddr::from(address);
        let len = address.len();
        Self(Box::new(UnsafeCell::new(Raw {
            storage: address.as_storage(),
            len,
        })))
    }

    /// Where the kernel finds the address and its length. Valid as long as this cell, wherever it is moved.
    pub(crate) fn pointers(&self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        let raw = self.0.get();
        // SAFETY: `raw` points to a live `Raw`; only the address of the field is computed.
        let storage = unsafe { &raw mut (*raw).storage };
        // SAFETY: as above.
        let len = unsafe { &raw mut (*raw).len };
        (storage.cast(), len)
    }

    /// Bytes of the address given to [`AddressCell::of`].
    pub(crate) fn len(&mut self) -> libc::socklen_t {
        self.0.get_mut().len
    }

    /// The address that the kernel wrote; call it only after the operation completed.
    pub(crate) fn into_address(self) -> Option<SocketAddr> {
        let raw = self.0.into_inner();
        let len = raw.len.min(raw.storage.size_of());
        // SAFETY: the storage was zeroed and then at most filled by the kernel with an address of `len`
        // bytes; `as_socket` looks at the family before it reads.
        unsafe { SockAddr::new(raw.storage, len) }.as_socket()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_its_cell() {
        for text in ["127.0.0.9:80", "[::1]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(AddressCell::of(address).into_address(), Some(address));
        }
        assert_eq!(AddressCell::empty().into_address(), None);
    }
}
