//! Why Redis cannot be used, for the operator: what is wrong, and how to mend it.

use fred::error::Error as ClientError;
use thiserror::Error;

use super::config::VERSION_MIN;

/// Why Redis cannot be used. For the operator: says what is wrong and how to mend it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RedisError {
    /// The url is none.
    #[error(
        "registry url {url:?}: {reason}; allowed are redis://HOST:PORT, redis-cluster://HOST:PORT?node=HOST:PORT, and \
         the same with rediss for TLS; user and password have keys of their own"
    )]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A key prefix that would break the slots.
    #[error(
        "registry prefix {prefix:?} holds a brace, which Redis Cluster would take for a slot tag: leave it out"
    )]
    Prefix {
        /// As configured.
        prefix: String,
    },
    /// The authorities cannot be read.
    #[error(
        "the certificates to trust ({from}) cannot be used: {reason}; name a PEM file with at least one certificate"
    )]
    Trust {
        /// The file, or "the system's".
        from: String,
        /// What is wrong with them.
        reason: String,
    },
    /// No TLS connection could be made.
    #[error(
        "Redis at {url}: TLS failed: {source}; its certificate must be signed by an authority in the configured file and \
         must have the configured name (by default the host of the url)"
    )]
    Tls {
        /// As configured.
        url: String,
        /// The cause.
        source: ClientError,
    },
    /// It does not answer.
    #[error(
        "Redis at {url} cannot be reached: {source}; check the address, that it runs and, with rediss, speaks TLS there, \
         and what is between"
    )]
    Unreachable {
        /// As configured.
        url: String,
        /// The cause.
        source: ClientError,
    },
    /// User or password is wrong.
    #[error(
        "Redis at {url} refuses user {user:?}: {source}; check user and password (ACL LIST shows the users)"
    )]
    Login {
        /// As configured.
        url: String,
        /// As configured.
        user: String,
        /// The cause.
        source: ClientError,
    },
    /// The user may not do what is needed.
    #[error(
        "Redis at {url} does not allow user {user:?} what is needed: {source}; allow it: ACL SETUSER {user} ~{prefix}* \
         +@read +@write +@scripting +@connection +info +time +cluster"
    )]
    Permission {
        /// As configured.
        url: String,
        /// As configured.
        user: String,
        /// Prefix of the keys.
        prefix: String,
        /// The cause.
        source: ClientError,
    },
    /// A single server was named as a cluster, or the other way round.
    #[error("Redis at {url} {is}: use {instead}")]
    Kind {
        /// As configured.
        url: String,
        /// What it is.
        is: &'static str,
        /// What to write.
        instead: &'static str,
    },
    /// It is too old.
    #[error("Redis at {server} is version {version}, at least {}.{} is needed: upgrade it", VERSION_MIN.0, VERSION_MIN.1)]
    Version {
        /// The node.
        server: String,
        /// Its version.
        version: String,
    },
    /// It may throw routes away.
    #[error(
        "Redis at {server} has maxmemory-policy {policy}: it would silently forget who is connected when memory is \
         short; set `maxmemory-policy noeviction` in its configuration, or CONFIG SET maxmemory-policy noeviction"
    )]
    Eviction {
        /// The node.
        server: String,
        /// Its policy.
        policy: String,
    },
    /// It is up, but its memory could not be checked.
    #[error("Redis at {url} is up but cannot be used yet: {reason}")]
    NotReady {
        /// As configured.
        url: String,
        /// Why.
        reason: String,
    },
}
