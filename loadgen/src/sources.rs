//! Addresses to connect from: one has not enough ports for many connections to one target.

use std::net::Ipv4Addr;

/// Source addresses to connect from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sources {
    first: u32,
    count: u32,
}

impl Sources {
    /// Reads an IPv4 address or network.
    ///
    /// # Errors
    ///
    /// A text for people that names the value and what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no source; allowed: an IPv4 address or network, such as 127.0.0.2 or 127.0.0.0/8"
            )
        };
        let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let bits: u32 = bits
            .parse()
            .ok()
            .filter(|bits| (1..=32).contains(bits))
            .ok_or_else(wrong)?;
        let size = 1_u64 << (32 - bits);
        let network = u64::from(u32::from(address)) / size * size;
        // The first and last address of a network of some size are no hosts.
        let (first, count) = if size > 2 {
            (network + 1, size - 2)
        } else {
            (network, size)
        };
        Ok(Self {
            first: u32::try_from(first).map_err(|_| wrong())?,
            count: u32::try_from(count).map_err(|_| wrong())?,
        })
    }

    /// Address number `index`, starting over when they are used up.
    pub fn address(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.first.wrapping_add(index % self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_hosts_of_their_network() {
        let sources = Sources::parse("127.0.0.0/8").unwrap();
        assert_eq!(sources.address(0), Ipv4Addr::LOCALHOST);
        assert_eq!(sources.address(256), Ipv4Addr::new(127, 0, 1, 1));
        assert_eq!(
            Sources::parse("127.0.0.9").unwrap().address(5),
            Ipv4Addr::new(127, 0, 0, 9)
        );
    }
}
