//! How Redis is reached, and what it must be: the configuration, the client made from it, and the checks at start.
//!
//! The client never grows without bound and never waits without end: each command has a deadline, a connection that
//! does not answer is closed, it connects again for ever (with jitter), and at most [`BUFFER_COMMANDS`] commands wait.
//! A command that was on its way when its connection was lost is not sent again by the client.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use corelane_protocol::limits::{LEASE, RENEWALS_PER_LEASE};
use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike as _;
use fred::rustls::pki_types::CertificateDer;
use fred::rustls::pki_types::pem::PemObject as _;
use fred::rustls::{ClientConfig, RootCertStore, crypto};
use fred::types::Builder;
use fred::types::InfoKind;
use fred::types::config::{
    Config, HostMapping, ReconnectPolicy, Server, ServerConfig, TcpConfig, TlsConfig, TlsConnector,
    TlsHostMapping, UnresponsiveConfig,
};

use super::error::RedisError;
use crate::config::secret::shown_url;

/// A command is answered in this time, or not at all.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that does not answer a command for so long is closed.
const UNRESPONSIVE: Duration = Duration::from_secs(3);
/// How long connecting may take, name resolution and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Commands that wait for their turn; one more is refused, and counts as "the registry is away".
const BUFFER_COMMANDS: usize = 16_384;
/// Between attempts to connect: at least, at most, and the jitter on top.
const RECONNECT_MS: (u32, u32, u32) = (50, 2_000, 250);
/// The oldest version that is served: what is older gets no fixes any more, and before 6.0 had no ACL users.
pub(super) const VERSION_MIN: (u32, u32) = (6, 2);

const _: () = assert!(
    COMMAND_TIMEOUT.as_millis() < LEASE.as_millis() / (RENEWALS_PER_LEASE as u128),
    "a renewal has an answer before the next one is due"
);

/// How Redis is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// `redis://host:port/database`, or `redis-cluster://host:port?node=host:port&node=host:port`; with TLS `rediss://`
    /// and `rediss-cluster://`. No user and password: these have fields of their own.
    pub url: String,
    /// ACL user; empty: the default user.
    pub user: String,
    /// Password; empty: none.
    pub password: String,
    /// File of the certificates (PEM) of the authorities that are trusted; empty: those of the system.
    pub tls_ca: PathBuf,
    /// The name that the server's certificate must have; empty: the host of the url.
    pub tls_name: String,
    /// Put before every key, so that several systems can share one Redis. May not hold braces.
    pub prefix: String,
    /// How long a gateway lives without renewing.
    pub lease: Duration,
    /// After the registry was away no lease is ended for so long. Shorter than the time between renewals: living
    /// gateways are declared dead, and each must claim all its sessions again.
    pub grace: Duration,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".to_owned(),
            user: String::new(),
            password: String::new(),
            tls_ca: PathBuf::new(),
            tls_name: String::new(),
            prefix: String::new(),
            lease: LEASE,
            grace: Duration::from_secs(5),
        }
    }
}

/// The password is not shown.
impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConfig")
            .field("url", &shown_url(&self.url))
            .field("user", &self.user)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl RedisConfig {
    /// A client that is not connected yet.
    pub(super) fn client(&self) -> Result<Client, RedisError> {
        if self.prefix.contains(['{', '}']) {
            return Err(RedisError::Prefix {
                prefix: self.prefix.clone(),
            });
        }
        let mut builder = Builder::from_config(self.server()?);
        builder.set_policy(reconnect_policy());
        builder.with_performance_config(|performance| {
            performance.default_command_timeout = COMMAND_TIMEOUT;
        });
        builder.with_connection_config(|connection| {
            connection.connection_timeout = CONNECT_TIMEOUT;
            connection.internal_command_timeout = COMMAND_TIMEOUT;
            connection.max_command_attempts = 1;
            connection.max_command_buffer_len = BUFFER_COMMANDS;
            connection.unresponsive = UnresponsiveConfig {
                max_timeout: Some(UNRESPONSIVE),
                interval: Duration::from_millis(500),
            };
            connection.tcp = TcpConfig {
                nodelay: Some(true),
                ..TcpConfig::default()
            };
        });
        builder.build().map_err(|error| self.wrong_url(&error))
    }

    fn wrong_url(&self, error: &Error) -> RedisError {
        RedisError::Url {
            url: shown_url(&self.url),
            reason: error.details().to_owned(),
        }
    }

    fn server(&self) -> Result<Config, RedisError> {
        let wrong = |reason: &str| RedisError::Url {
            url: shown_url(&self.url),
            reason: reason.to_owned(),
        };
        let (scheme, rest) = self
            .url
            .split_once("://")
            .ok_or_else(|| wrong("it has no scheme"))?;
        let (plain, tls) = match scheme {
            "redis" | "redis-cluster" => (scheme, false),
            "rediss" => ("redis", true),
            "rediss-cluster" => ("redis-cluster", true),
            _ => return Err(wrong("the scheme is unknown")),
        };
        if rest.contains('@') {
            return Err(wrong("it holds a user or a password"));
        }
        let mut config =
            Config::from_url(&format!("{plain}://{rest}")).map_err(|error| self.wrong_url(&error))?;
        config.username = (!self.user.is_empty()).then(|| self.user.clone());
        config.password = (!self.password.is_empty()).then(|| self.password.clone());
        if tls {
            config.tls = Some(self.tls()?);
            self.name_servers(&mut config.server);
        }
        Ok(config)
    }

    fn name_servers(&self, config: &mut ServerConfig) {
        if self.tls_name.is_empty() {
            return;
        }
        let name = |server: &mut Server| server.tls_server_name = Some(self.tls_name.as_str().into());
        match config {
            ServerConfig::Centralized { server } => name(server),
            ServerConfig::Clustered { hosts, .. } => hosts.iter_mut().for_each(name),
            ServerConfig::Sentinel { .. } => {}
        }
    }

    fn tls(&self) -> Result<TlsConfig, RedisError> {
        let from = if self.tls_ca.as_os_str().is_empty() {
            "the system's".to_owned()
        } else {
            self.tls_ca.display().to_string()
        };
        let wrong = |reason: String| RedisError::Trust {
            from: from.clone(),
            reason,
        };
        let certificates = if self.tls_ca.as_os_str().is_empty() {
            fred::rustls_native_certs::load_native_certs().certs
        } else {
            CertificateDer::pem_file_iter(&self.tls_ca)
                .and_then(Iterator::collect)
                .map_err(|error| wrong(error.to_string()))?
        };
        let mut roots = RootCertStore::empty();
        let (trusted, _) = roots.add_parsable_certificates(certificates);
        if trusted == 0 {
            return Err(wrong("no certificate was found".to_owned()));
        }
        // The provider is named: another crate may have brought a second one into the process.
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let hostnames = if self.tls_name.is_empty() {
            TlsHostMapping::DefaultHost
        } else {
            TlsHostMapping::Custom(Arc::new(OneName(self.tls_name.clone())))
        };
        Ok(TlsConfig {
            connector: TlsConnector::from(config),
            hostnames,
        })
    }

    /// What a failure to connect means.
    pub(super) fn explain(&self, source: Error) -> RedisError {
        let url = self.url.clone();
        let user = if self.user.is_empty() {
            "default"
        } else {
            &self.user
        }
        .to_owned();
        let details = source.details();
        let says = |text: &str| details.contains(text);
        if says("NOPERM") || says("no permissions") {
            let prefix = self.prefix.clone();
            return RedisError::Permission {
                url,
                user,
                prefix,
                source,
            };
        }
        if matches!(source.kind(), ErrorKind::Auth)
            || says("WRONGPASS")
            || says("NOAUTH")
            || says("AUTH <password>")
        {
            return RedisError::Login { url, user, source };
        }
        if matches!(source.kind(), ErrorKind::Tls) || says("ertificate") || says("InvalidContentType") {
            return RedisError::Tls { url, source };
        }
        if says("cluster support disabled") {
            return RedisError::Kind {
                url,
                is: "is no cluster",
                instead: "redis:// or rediss://",
            };
        }
        RedisError::Unreachable { url, source }
    }

    /// Looks at every node: version, kind and memory policy.
    pub(super) async fn check(&self, client: &Client) -> Result<(), RedisError> {
        let clustered = matches!(client.client_config().server, ServerConfig::Clustered { .. });
        if !clustered {
            let info = client.info::<String>(None::<InfoKind>).await;
            return self.check_node(&self.url, false, &info.map_err(|error| self.explain(error))?);
        }
        for server in client.active_connections() {
            let name = server.to_string();
            let info = client
                .with_cluster_node(server)
                .info::<String>(None::<InfoKind>)
                .await;
            self.check_node(&name, true, &info.map_err(|error| self.explain(error))?)?;
        }
        Ok(())
    }

    fn check_node(&self, server: &str, clustered: bool, info: &str) -> Result<(), RedisError> {
        let wrong_kind = |is, instead| RedisError::Kind {
            url: self.url.clone(),
            is,
            instead,
        };
        let version = info_value(info, "redis_version");
        if !is_new_enough(version) {
            return Err(RedisError::Version {
                server: server.to_owned(),
                version: version.to_owned(),
            });
        }
        if !clustered && info_value(info, "redis_mode") == "cluster" {
            return Err(wrong_kind(
                "is a node of a cluster",
                "redis-cluster:// or rediss-cluster://",
            ));
        }
        if !clustered && info_value(info, "role") == "slave" {
            return Err(wrong_kind("is a replica", "the address of its primary"));
        }
        let policy = info_value(info, "maxmemory_policy");
        if policy != "noeviction" {
            return Err(RedisError::Eviction {
                server: server.to_owned(),
                policy: policy.to_owned(),
            });
        }
        Ok(())
    }
}

fn reconnect_policy() -> ReconnectPolicy {
    let (least, most, jitter) = RECONNECT_MS;
    // No number of attempts is the last one.
    let mut policy = ReconnectPolicy::new_exponential(0, least, most, 2);
    policy.set_jitter(jitter);
    policy
}

fn info_value<'a>(info: &'a str, key: &str) -> &'a str {
    let value = |line: &'a str| line.strip_prefix(key)?.strip_prefix(':');
    info.lines().find_map(value).unwrap_or("unknown").trim()
}

fn is_new_enough(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= VERSION_MIN,
        _ => false,
    }
}

/// All nodes of a cluster have certificates for one name.
#[derive(Debug)]
struct OneName(String);

impl HostMapping for OneName {
    fn map(&self, _: &std::net::IpAddr, _: &str) -> Option<String> {
        Some(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n# Memory\r\n\
                        maxmemory_policy:noeviction\r\n# Replication\r\nrole:master\r\n";

    fn checked(url: &str, clustered: bool, info: &str) -> Result<(), String> {
        let config = RedisConfig {
            url: url.to_owned(),
            ..RedisConfig::default()
        };
        config
            .check_node("10.0.0.1:6379", clustered, info)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_wrong_with_a_server_is_said_with_its_remedy() {
        assert_eq!(checked("redis://a", false, INFO), Ok(()));
        let text = checked("redis://a", false, &INFO.replace("7.0.15", "6.0.16")).unwrap_err();
        assert!(text.contains("6.0.16") && text.contains("6.2"), "{text}");
        let text = checked("redis://a", true, &INFO.replace("noeviction", "allkeys-lru")).unwrap_err();
        assert!(
            text.contains("allkeys-lru") && text.contains("CONFIG SET"),
            "{text}"
        );
        let text = checked("redis://a", false, &INFO.replace("standalone", "cluster")).unwrap_err();
        assert!(text.contains("redis-cluster://"), "{text}");
        let text = checked("redis://a", false, &INFO.replace("master", "slave")).unwrap_err();
        assert!(text.contains("primary"), "{text}");
    }

    #[test]
    fn a_wrong_url_names_what_is_allowed() {
        for url in [
            "127.0.0.1:6379",
            "http://a",
            "redis://user:secret@a",
            "redis://a:port",
        ] {
            let config = RedisConfig {
                url: url.to_owned(),
                ..RedisConfig::default()
            };
            let text = config.client().map(|_| ()).unwrap_err().to_string();
            assert!(
                text.contains(&shown_url(url)) && text.contains("redis-cluster://"),
                "{text}"
            );
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn the_versions_that_are_new_enough() {
        let enough = ["6.2.0", "6.2.14", "7.0.15", "8.0.1", "10.0.0"];
        assert!(enough.into_iter().all(is_new_enough));
        assert!(!["6.0.16", "5.0.7", "unknown", ""].into_iter().any(is_new_enough));
    }

    #[test]
    fn the_password_is_not_shown() {
        let config = RedisConfig {
            password: "hunter2".to_owned(),
            ..RedisConfig::default()
        };
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
