//! A network of IP addresses, as operators write it: `10.0.0.4`, `10.1.0.0/16`, `fd00::/8`.
//!
//! A socket that listens on both families sees IPv4 peers mapped into IPv6 (`::ffff:10.0.0.4`): they are the IPv4
//! addresses that they stand for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// An address, or all that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    prefix_bits: u8,
}

/// A text that is no network. Always the operator's to mend.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Neither an address nor an address, a slash and a number.
    #[error("{0:?} is no address and no network")]
    Form(String),
    /// More bits than an address has.
    #[error("{text:?} has no prefix of 0 to {bits_max} bits")]
    Prefix {
        /// What was written.
        text: String,
        /// Bits of an address of its family.
        bits_max: u8,
    },
    /// The address is not the first of its network: one of the two is not meant.
    #[error("{text:?} has bits behind its prefix: its network is {network}")]
    Inside {
        /// What was written.
        text: String,
        /// The network that it lies in.
        network: Network,
    },
    /// An IPv4 address that is written as an IPv6 address.
    #[error("{0:?} is an IPv4 address mapped into IPv6: write it as one of IPv4")]
    Mapped(String),
}

impl Network {
    /// Whether `address` belongs to it.
    pub fn contains(&self, address: IpAddr) -> bool {
        first_of(address.to_canonical(), self.prefix_bits) == self.first
    }
}

/// The first address of the network of `prefix_bits` bits that `address` lies in.
fn first_of(address: IpAddr, prefix_bits: u8) -> IpAddr {
    let prefix_bits = u32::from(prefix_bits);
    match address {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(prefix_bits).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & !host).into()
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(prefix_bits).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & !host).into()
        }
    }
}

const fn bits_max(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| NetworkError::Form(text.to_owned()))?;
        if first.to_canonical() != first {
            return Err(NetworkError::Mapped(text.to_owned()));
        }
        let bits_max = bits_max(first);
        let prefix_bits = prefix.map_or(Some(bits_max), |prefix| {
            let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
            let bits = prefix.parse::<u8>().ok();
            bits.filter(|bits| digits && *bits <= bits_max)
        });
        let Some(prefix_bits) = prefix_bits else {
            let text = text.to_owned();
            return Err(NetworkError::Prefix { text, bits_max });
        };
        let network = Self {
            first: first_of(first, prefix_bits),
            prefix_bits,
        };
        if network.first != first {
            let text = text.to_owned();
            return Err(NetworkError::Inside { text, network });
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix_bits == bits_max(self.first) {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}/{}", self.first, self.prefix_bits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_contains_what_shares_its_prefix_and_nothing_else() {
        for (text, inside, outside) in [
            ("10.0.0.4", "10.0.0.4", "10.0.0.5"),
            ("10.1.0.0/16", "10.1.255.255", "10.2.0.0"),
            ("10.1.0.128/25", "10.1.0.128", "10.1.0.127"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("10.1.0.0/16", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("fd00::/8", "fdff::1", "fe00::"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
            ("::/0", "ffff::", "10.0.0.4"),
        ] {
            let network = network(text);
            assert!(network.contains(inside.parse().unwrap()), "{inside} in {text}");
            assert!(!network.contains(outside.parse().unwrap()), "{outside} in {text}");
            assert_eq!(network.to_string(), text);
        }
        assert_eq!(network("10.0.0.4/32"), network("10.0.0.4"));
    }

    #[test]
    fn a_text_that_is_no_network_is_named_with_what_is_wrong() {
        for (text, problem) in [
            ("", "no address"),
            ("balancer", "no address"),
            ("10.0.0.4:7070", "no address"),
            ("10.0.0", "no address"),
            ("10.0.0.0/", "0 to 32 bits"),
            ("10.0.0.0/33", "0 to 32 bits"),
            ("10.0.0.0/+8", "0 to 32 bits"),
            ("10.0.0.0/8/8", "0 to 32 bits"),
            ("fd00::/129", "0 to 128 bits"),
            ("10.0.0.5/8", "its network is 10.0.0.0/8"),
            ("::ffff:10.0.0.4", "write it as one of IPv4"),
        ] {
            let error = text.parse::<Network>().unwrap_err().to_string();
            assert!(
                error.contains(problem) && error.contains(&format!("{text:?}")),
                "{text}: {error}"
            );
        }
    }
}
