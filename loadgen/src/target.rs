//! Where the targets are: their URLs, taken apart and resolved.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use crate::cli::{Options, UsageError};

/// How long a target may take to accept the first connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A WebSocket endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As it was given.
    pub url: String,
    /// Host and port as in the `Host` header.
    pub authority: String,
    /// Host alone.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
}

/// The target cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Its name means nothing.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The host.
        host: String,
        /// The resolver's answer.
        source: std::io::Error,
    },
    /// Its name has no address.
    #[error("{host} has no address")]
    NoAddress {
        /// The host.
        host: String,
    },
    /// Nobody answers there.
    #[error("cannot connect to {url} at {address}: {source}")]
    Connect {
        /// The target.
        url: String,
        /// Its address.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// A target and where its name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The target.
    pub target: Target,
    /// The first address behind its name.
    pub address: SocketAddr,
}

impl Endpoint {
    /// Finds `target` and sees that somebody listens there.
    ///
    /// # Errors
    ///
    /// [`TargetError`]: exit with 3.
    pub fn find(target: Target) -> Result<Self, TargetError> {
        let address = target.resolve()?;
        TcpStream::connect_timeout(&address, ANSWER_TIMEOUT).map_err(|source| TargetError::Connect {
            url: target.url.clone(),
            address,
            source,
        })?;
        Ok(Self { target, address })
    }
}

impl Target {
    /// Takes the URLs of `options` apart.
    ///
    /// # Errors
    ///
    /// [`UsageError`] that names the URL and what is allowed.
    pub fn parse_all(options: &Options) -> Result<Vec<Self>, UsageError> {
        let is_corelane = options.scenario.is_corelane();
        options
            .urls
            .iter()
            .map(|url| Self::parse(url, is_corelane))
            .collect()
    }

    fn parse(url: &str, is_corelane: bool) -> Result<Self, UsageError> {
        let wrong = |what: &str| UsageError(format!("{what} in `{url}`; allowed: ws://host[:port][/path]"));
        let rest = url.strip_prefix("ws://").ok_or_else(|| {
            if url.starts_with("wss://") {
                UsageError(format!(
                    "`{url}` needs TLS, which is not spoken here; allowed: ws://host[:port][/path]"
                ))
            } else {
                wrong("no ws:// scheme")
            }
        })?;
        if rest.contains(",ws://") {
            return Err(wrong("several targets in one argument, instead of one each"));
        }
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (
                host,
                port.parse()
                    .map_err(|_| wrong(&format!("port `{port}` is no port")))?,
            ),
            _ => (authority, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || rest.chars().any(|c| c.is_control() || c == ' ' || c == '#') {
            return Err(wrong("no host, or characters that are not allowed"));
        }
        let path = match path {
            "" | "/" if is_corelane => "/ws".to_owned(),
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            path => path.to_owned(),
        };
        Ok(Self {
            url: url.to_owned(),
            authority: authority.to_owned(),
            host: host.to_owned(),
            port,
            path,
        })
    }

    fn resolve(&self) -> Result<SocketAddr, TargetError> {
        let addresses = (self.host.as_str(), self.port).to_socket_addrs();
        let mut addresses = addresses.map_err(|source| TargetError::Resolve {
            host: self.host.clone(),
            source,
        })?;
        addresses.next().ok_or_else(|| TargetError::NoAddress {
            host: self.host.clone(),
        })
    }

    /// Where its HTTP API is guessed to be.
    pub fn http_guess(&self) -> String {
        if self.host.contains(':') {
            format!("http://[{}]:7080", self.host)
        } else {
            format!("http://{}:7080", self.host)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn target(scenario: &str, url: &str) -> Result<Target, String> {
        let options = Options::try_parse_from(["corelane-loadgen", scenario, url]).unwrap();
        let targets = Target::parse_all(&options).map_err(|error| error.to_string())?;
        Ok(targets[0].clone())
    }

    #[test]
    fn urls_are_taken_apart() {
        let parsed = target("echo", "ws://[::1]:9000/a?b=c").unwrap();
        assert_eq!(
            (parsed.host.as_str(), parsed.port, parsed.path.as_str()),
            ("::1", 9000, "/a?b=c")
        );
        assert_eq!(target("direct", "ws://h:1").unwrap().path, "/ws");
        assert_eq!(target("echo", "ws://h").unwrap().path, "/");
        assert_eq!(target("echo", "ws://h?x=1").unwrap().path, "/?x=1");
        assert_eq!(target("idle", "ws://h").unwrap().http_guess(), "http://h:7080");
    }

    #[test]
    fn bad_urls_are_named() {
        for url in [
            "http://h",
            "wss://h",
            "ws://",
            "ws://h:port",
            "ws://h/a b",
            "ws://h:99999",
            "ws://h:1,ws://i:2",
        ] {
            assert!(target("echo", url).unwrap_err().contains(url), "{url}");
        }
    }
}
