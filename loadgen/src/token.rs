//! Tokens for the users of a run: JWT with HS256, minted from the target's secret.

use std::path::{Path, PathBuf};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

/// The secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is not 64 hexadecimal characters.
    #[error("{path} does not hold 64 hexadecimal characters (a secret of 32 bytes)")]
    NotHex {
        /// The file.
        path: PathBuf,
    },
}

/// Mints tokens.
#[derive(Clone)]
pub struct Minter {
    key: EncodingKey,
    header: Header,
}

impl std::fmt::Debug for Minter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Minter")
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    app: u32,
    sub: &'a str,
    terminal: &'a str,
    device: &'a str,
    iat: u64,
    exp: u64,
}

/// Reads a file of 64 hexadecimal characters.
///
/// # Errors
///
/// [`TokenError`]: a mistake in the command line.
pub fn read_hex_file(path: &Path) -> Result<String, TokenError> {
    let text = std::fs::read_to_string(path).map_err(|source| TokenError::Read {
        path: path.to_owned(),
        source,
    })?;
    let text = text.trim();
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(TokenError::NotHex {
            path: path.to_owned(),
        });
    }
    Ok(text.to_owned())
}

impl Minter {
    /// A minter with the secret in `path`.
    ///
    /// # Errors
    ///
    /// [`TokenError`]: a mistake in the command line.
    pub fn from_file(path: &Path) -> Result<Self, TokenError> {
        let hex = read_hex_file(path)?;
        let secret: Vec<u8> = hex
            .as_bytes()
            .as_chunks::<2>()
            .0
            .iter()
            .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("1".to_owned());
        Ok(Self {
            key: EncodingKey::from_secret(&secret),
            header,
        })
    }

    /// A token for `user` on a desktop terminal, good for a day.
    ///
    /// # Panics
    ///
    /// Never: plain claims and an HMAC key always encode.
    pub fn mint(&self, user: &str, device: &str, wall_ms: u64) -> String {
        let now_s = wall_ms / 1000;
        let claims = Claims {
            app: 0,
            sub: user,
            terminal: "desktop",
            device,
            iat: now_s,
            exp: now_s + 86_400,
        };
        jsonwebtoken::encode(&self.header, &claims, &self.key)
            .expect("plain claims and an HMAC key always encode")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_file_must_be_hex() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.key");
        assert!(matches!(Minter::from_file(&path), Err(TokenError::Read { .. })));
        std::fs::write(&path, "xyz").unwrap();
        assert!(matches!(Minter::from_file(&path), Err(TokenError::NotHex { .. })));
        std::fs::write(&path, format!("{}\n", "0f".repeat(32))).unwrap();
        let token = Minter::from_file(&path).unwrap().mint("alice", "d", 1_000_000);
        assert_eq!(token.split('.').count(), 3);
    }
}
