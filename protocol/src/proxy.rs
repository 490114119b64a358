//! The header that a TCP balancer puts in front of a connection to say whose it is: PROXY protocol, version 2.
//!
//! Specification: "The PROXY protocol, versions 1 & 2" (haproxy.org), section 2.2. Only what a receiver needs, and only
//! version 2: version 1 is recognised to be named in the refusal.
//!
//! ```text
//! signature 12 | version 4, command 4 | family and protocol 8 | length 16, big-endian | addresses | TLVs
//!                                                               └─ counts what follows
//! ```
//!
//! The verdict on a stream comes with one certain byte of it: whoever asks earlier is told to wait, whoever asks later
//! gets the same verdict. Owns nothing; the bytes are the caller's, at most [`HEADER_BYTES_MAX`] until the verdict.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

/// The first bytes of every header.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header, in bytes: what fits the smallest segment that every TCP takes (RFC 9293, section 3.7.1), with
/// room for what balancers add to the addresses.
pub const HEADER_BYTES_MAX: usize = 536;

/// Bytes before the block whose length the header tells.
const FIXED_BYTES: usize = SIGNATURE.len() + 4;
/// Two IPv4 addresses, two ports.
const INET_BYTES: usize = 2 * (4 + 2);
/// Two IPv6 addresses, two ports.
const INET6_BYTES: usize = 2 * (16 + 2);
/// Two paths.
const UNIX_BYTES: usize = 2 * 108;
/// How a header of version 1 begins.
const VERSION_1: &[u8] = b"PROXY ";
/// Type, and length of the value.
const TLV_HEADER_BYTES: usize = 3;
/// `PP2_TYPE_CRC32C`.
const TLV_CRC32C: u8 = 3;
/// The polynomial of CRC-32C (RFC 3720, section 12.1), reflected.
const CRC32C_POLYNOMIAL: u32 = 0x82f6_3b78;

const _: () = assert!(
    FIXED_BYTES + UNIX_BYTES + TLV_HEADER_BYTES < HEADER_BYTES_MAX,
    "the longest addresses leave room for TLVs"
);

/// A header that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its length: what follows is the client's.
    pub header_bytes: usize,
    /// The client's address; `None` if the connection is the balancer's own (a health check), or came to it over
    /// something else than TCP over IP: then the connection's own peer counts.
    pub source: Option<SocketAddr>,
}

/// Why a connection does not begin with a header. Always the fault of what connected: close, without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// Something else came.
    #[error("does not begin with a PROXY header; required: one of version 2")]
    NoSignature,
    /// The older, textual form.
    #[error("begins with a PROXY header of version 1; allowed: version 2 (HAProxy: send-proxy-v2)")]
    VersionOne,
    /// A version that this build does not know.
    #[error("PROXY header of version {version}; allowed: 2")]
    Version {
        /// The version.
        version: u8,
    },
    /// A command that the specification leaves undefined.
    #[error("PROXY command {command:#x} is not defined; allowed: 0 (LOCAL), 1 (PROXY)")]
    Command {
        /// The command.
        command: u8,
    },
    /// A combination of address family and protocol that the specification leaves undefined.
    #[error(
        "PROXY family and protocol {byte:#04x} are not defined; allowed: 0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32"
    )]
    Protocol {
        /// The byte that holds both.
        byte: u8,
    },
    /// The header is longer than allowed.
    #[error("PROXY header of {bytes} bytes; allowed: {HEADER_BYTES_MAX}")]
    TooLong {
        /// Its length as told.
        bytes: usize,
    },
    /// The addresses do not fit the length that it tells.
    #[error("PROXY header tells of {bytes} bytes, but its addresses take {wanted}")]
    AddressesCut {
        /// Length as told.
        bytes: usize,
        /// Length of the addresses.
        wanted: usize,
    },
    /// A TLV does not fit the length that the header tells.
    #[error("PROXY header ends inside of the TLV at byte {at}")]
    TlvCut {
        /// Where the TLV begins, from the beginning of the header.
        at: usize,
    },
    /// A checksum that is none.
    #[error("checksum of a PROXY header has {bytes} bytes; allowed: 4")]
    ChecksumLength {
        /// Its length.
        bytes: usize,
    },
    /// The header was damaged on its way.
    #[error("checksum of a PROXY header is {told:#010x}, its bytes give {found:#010x}")]
    Checksum {
        /// What the header says.
        told: u32,
        /// What it should say.
        found: u32,
    },
}

/// Reads the header at the front of all that was received of a connection; `None` while it is incomplete.
///
/// # Errors
///
/// [`ProxyError`] as soon as the offending byte is there: close.
pub fn parse(unread: &[u8]) -> Result<Option<Header>, ProxyError> {
    let Some(after) = unread.strip_prefix(&SIGNATURE) else {
        return unlike_signature(unread);
    };
    let [version_command, after @ ..] = after else {
        return Ok(None);
    };
    let is_local = is_local(*version_command)?;
    let [protocol, after @ ..] = after else {
        return Ok(None);
    };
    // What a LOCAL header says of addresses is to be ignored, whatever it is.
    let addresses = if is_local {
        Addresses::Ignored
    } else {
        Addresses::of(*protocol)?
    };
    let [high, low, block @ ..] = after else {
        return Ok(None);
    };
    let block_bytes = usize::from(u16::from_be_bytes([*high, *low]));
    let header_bytes = FIXED_BYTES + block_bytes;
    if header_bytes > HEADER_BYTES_MAX {
        return Err(ProxyError::TooLong { bytes: header_bytes });
    }
    if block_bytes < addresses.bytes() {
        return Err(ProxyError::AddressesCut {
            bytes: block_bytes,
            wanted: addresses.bytes(),
        });
    }
    let (Some(header), Some(block)) = (unread.get(..header_bytes), block.get(..block_bytes)) else {
        return Ok(None);
    };
    if addresses != Addresses::Ignored {
        check_tlvs(header, FIXED_BYTES + addresses.bytes())?;
    }
    Ok(Some(Header {
        header_bytes,
        source: addresses.source(block),
    }))
}

/// What a stream is that does not, or not yet, begin with the signature.
fn unlike_signature(unread: &[u8]) -> Result<Option<Header>, ProxyError> {
    if SIGNATURE.starts_with(unread) || VERSION_1.starts_with(unread) && unread != VERSION_1 {
        Ok(None)
    } else if unread.starts_with(VERSION_1) {
        Err(ProxyError::VersionOne)
    } else {
        Err(ProxyError::NoSignature)
    }
}

/// Whether the connection is the balancer's own.
fn is_local(version_command: u8) -> Result<bool, ProxyError> {
    match (version_command >> 4, version_command & 0xf) {
        (2, 0) => Ok(true),
        (2, 1) => Ok(false),
        (2, command) => Err(ProxyError::Command { command }),
        (version, _) => Err(ProxyError::Version { version }),
    }
}

/// What stands at the front of the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Addresses {
    /// Nothing that counts, TLVs included.
    Ignored,
    /// TCP over IPv4.
    Inet,
    /// TCP over IPv6.
    Inet6,
    /// So many bytes of something else.
    Other(usize),
}

impl Addresses {
    fn of(protocol: u8) -> Result<Self, ProxyError> {
        match protocol {
            0x00 => Ok(Self::Ignored),
            0x11 => Ok(Self::Inet),
            0x12 => Ok(Self::Other(INET_BYTES)),
            0x21 => Ok(Self::Inet6),
            0x22 => Ok(Self::Other(INET6_BYTES)),
            0x31 | 0x32 => Ok(Self::Other(UNIX_BYTES)),
            byte => Err(ProxyError::Protocol { byte }),
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Ignored => 0,
            Self::Inet => INET_BYTES,
            Self::Inet6 => INET6_BYTES,
            Self::Other(bytes) => bytes,
        }
    }

    fn source(self, block: &[u8]) -> Option<SocketAddr> {
        match self {
            Self::Ignored | Self::Other(_) => None,
            Self::Inet => source::<4>(block),
            Self::Inet6 => source::<16>(block),
        }
    }
}

/// Source and destination address of so many bytes each, then the ports of both.
fn source<const ADDRESS_BYTES: usize>(block: &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; ADDRESS_BYTES]>,
{
    let (address, after) = block.split_first_chunk::<ADDRESS_BYTES>()?;
    let (_, ports) = after.split_first_chunk::<ADDRESS_BYTES>()?;
    let port = ports.first_chunk::<2>()?;
    Some(SocketAddr::new(IpAddr::from(*address), u16::from_be_bytes(*port)))
}

/// Walks over the TLVs of a whole header, from byte `at` on. All are skipped but the checksum.
fn check_tlvs(header: &[u8], mut at: usize) -> Result<(), ProxyError> {
    while let Some(rest) = header.get(at..).filter(|rest| !rest.is_empty()) {
        let [kind, high, low, values @ ..] = rest else {
            return Err(ProxyError::TlvCut { at });
        };
        let value_bytes = usize::from(u16::from_be_bytes([*high, *low]));
        let value = values.get(..value_bytes).ok_or(ProxyError::TlvCut { at })?;
        if *kind == TLV_CRC32C {
            check_sum(header, at + TLV_HEADER_BYTES, value)?;
        }
        at += TLV_HEADER_BYTES + value_bytes;
    }
    Ok(())
}

/// The checksum covers the whole header, with zeros in its own place.
fn check_sum(header: &[u8], at: usize, value: &[u8]) -> Result<(), ProxyError> {
    let told = <[u8; 4]>::try_from(value).map_err(|_| ProxyError::ChecksumLength { bytes: value.len() })?;
    let before = header.get(..at).unwrap_or_default();
    let behind = header.get(at + told.len()..).unwrap_or_default();
    let (told, found) = (u32::from_be_bytes(told), crc32c([before, &[0; 4], behind]));
    if told == found {
        Ok(())
    } else {
        Err(ProxyError::Checksum { told, found })
    }
}

/// Bit by bit: some hundred bytes, once per connection of those few balancers that send a checksum, need no table.
fn crc32c(parts: [&[u8]; 3]) -> u32 {
    !parts.into_iter().flatten().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (CRC32C_POLYNOMIAL & 0_u32.wrapping_sub(sum & 1))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From 192.0.2.7:40000 to 198.51.100.1:7070.
    const INET: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0x1b, 0x9e];
    /// From `2001:db8::7` to `2001:db8::1`, the same ports.
    const INET6: [u8; 36] = [
        0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 1, 0x9c, 0x40, 0x1b, 0x9e,
    ];

    fn header(version_command: u8, protocol: u8, parts: &[&[u8]]) -> Vec<u8> {
        let block = parts.concat();
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[version_command, protocol], &length, &block].concat()
    }

    fn checksum(sum: u32) -> Vec<u8> {
        [&[TLV_CRC32C, 0, 4][..], &sum.to_be_bytes()].concat()
    }

    fn good() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let inet = Some("192.0.2.7:40000");
        let inet6 = Some("[2001:db8::7]:40000");
        let unix = [b'/'; UNIX_BYTES];
        vec![
            (header(0x21, 0x11, &[&INET]), inet),
            (header(0x21, 0x21, &[&INET6]), inet6),
            (header(0x21, 0x11, &[&INET, &[4, 0, 2, 9, 9], &[4, 0, 0]]), inet),
            // Checksums that were computed elsewhere.
            (header(0x21, 0x11, &[&INET, &checksum(0x7c8a_4a45)]), inet),
            (
                header(0x21, 0x21, &[&INET6, b"\x04\0\x05hello", &checksum(0x767c_44ce)]),
                inet6,
            ),
            (header(0x21, 0x12, &[&INET]), None),
            (header(0x21, 0x22, &[&INET6]), None),
            (header(0x21, 0x31, &[&unix]), None),
            (header(0x21, 0x32, &[&unix, &[4, 0, 1, 7]]), None),
            (header(0x21, 0x00, &[]), None),
            (header(0x21, 0x00, &[b"not looked at"]), None),
            // A LOCAL header may say of addresses what it likes.
            (header(0x20, 0x00, &[]), None),
            (header(0x20, 0x11, &[&INET]), None),
            (header(0x20, 0xff, &[b"not looked at"]), None),
            (header(0x21, 0x11, &[&INET, &[4, 0x01, 0xf9], &[0; 0x1f9]]), inet),
        ]
    }

    #[test]
    fn a_header_names_the_client_wherever_reads_end_and_what_follows_is_left_alone() {
        for (header, source) in good() {
            assert!(header.len() <= HEADER_BYTES_MAX);
            let stream = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            let whole = Header {
                header_bytes: header.len(),
                source: source.map(|source| source.parse().unwrap()),
            };
            for have in 0..=stream.len() {
                let expected = (have >= header.len()).then_some(whole);
                assert_eq!(parse(&stream[..have]), Ok(expected), "{have} of {header:02x?}");
            }
        }
        assert!(good().iter().any(|(header, _)| header.len() == HEADER_BYTES_MAX));
    }

    #[test]
    fn what_is_no_header_is_refused_at_the_same_byte_wherever_reads_end() {
        let mut too_long = header(0x21, 0x11, &[&INET]);
        too_long[14..16].copy_from_slice(&521_u16.to_be_bytes());
        let damaged = header(0x21, 0x11, &[&INET, &checksum(0x7c8a_4a44)]);
        let cases = [
            (b"GET /ws HTTP/1.1\r\n\r\n".to_vec(), 1, ProxyError::NoSignature),
            (b"\r\n\r\nX".to_vec(), 5, ProxyError::NoSignature),
            (b"PRI * HTTP/2.0\r\n".to_vec(), 3, ProxyError::NoSignature),
            (
                b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 7070\r\n".to_vec(),
                6,
                ProxyError::VersionOne,
            ),
            (
                header(0x31, 0x11, &[&INET]),
                13,
                ProxyError::Version { version: 3 },
            ),
            (
                header(0x22, 0x11, &[&INET]),
                13,
                ProxyError::Command { command: 2 },
            ),
            (
                header(0x21, 0x41, &[&INET]),
                14,
                ProxyError::Protocol { byte: 0x41 },
            ),
            (
                header(0x21, 0x10, &[&INET]),
                14,
                ProxyError::Protocol { byte: 0x10 },
            ),
            (too_long, 16, ProxyError::TooLong { bytes: 537 }),
            (
                header(0x21, 0x21, &[&INET]),
                16,
                ProxyError::AddressesCut {
                    bytes: 12,
                    wanted: 36,
                },
            ),
            (
                header(0x21, 0x11, &[&INET, &[4, 0]]),
                30,
                ProxyError::TlvCut { at: 28 },
            ),
            (
                header(0x21, 0x11, &[&INET, &[4, 0, 0], &[4, 0, 1]]),
                34,
                ProxyError::TlvCut { at: 31 },
            ),
            (
                header(0x21, 0x11, &[&INET, &[TLV_CRC32C, 0, 3, 1, 2, 3]]),
                34,
                ProxyError::ChecksumLength { bytes: 3 },
            ),
            (
                damaged,
                35,
                ProxyError::Checksum {
                    told: 0x7c8a_4a44,
                    found: 0x7c8a_4a45,
                },
            ),
        ];
        for (bytes, at, error) in cases {
            let stream = [&bytes[..], &[0; 8]].concat();
            for have in 0..=stream.len() {
                let expected = if have < at { Ok(None) } else { Err(error) };
                assert_eq!(parse(&stream[..have]), expected, "{have} of {bytes:02x?}");
            }
        }
    }

    #[test]
    fn a_checksum_notices_every_flipped_bit_behind_the_fixed_part() {
        let whole = header(0x21, 0x11, &[&INET, &checksum(0x7c8a_4a45)]);
        // Type and length of the TLV say whether there is a checksum at all.
        for at in (FIXED_BYTES..FIXED_BYTES + INET_BYTES).chain(whole.len() - 4..whole.len()) {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                assert!(
                    matches!(parse(&damaged), Err(ProxyError::Checksum { .. })),
                    "byte {at}"
                );
            }
        }
    }

    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(crc32c([b"1234", b"5678", b"9"]), 0xe306_9283);
    }
}
