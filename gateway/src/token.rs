//! Tokens: JWT with HS256 (RFC 7519, RFC 7518 section 3.2), checked on the shard without asking anybody.
//!
//! Owns the verification keys. Header `kid` names the one that a token is signed with; without it that is key "1", and
//! a name that is not known is refused. Claims are `app`, `sub`, `terminal`, `device`, `iat`, `exp`, `scopes`. Nothing
//! else of a token is believed before its signature was checked.

use corelane_gateway_core::event::{Claims, TOKEN_LEEWAY, TokenVerdict};
use corelane_protocol::id::{AppId, ID_BYTES_MAX, UserId};
use corelane_protocol::terminal::Terminal;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// Id of the key in `token.key`.
const KEY_ID: &str = "1";

/// Claims as they stand in a token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenClaims {
    /// Tenant.
    #[serde(default)]
    pub app: u32,
    /// User.
    pub sub: String,
    /// Terminal class the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<String>,
    /// Device the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Issued at, s since 1970.
    #[serde(default)]
    pub iat: u64,
    /// Expires at, s since 1970.
    pub exp: u64,
    /// What it allows beyond chatting.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// Checks tokens.
pub struct Verifier {
    /// By id, the default first.
    keys: Vec<(String, DecodingKey)>,
    validation: Validation,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    /// A verifier for tokens signed with `secret`, which is key "1".
    pub fn new(secret: &[u8]) -> Self {
        Self::with_keys([(KEY_ID, secret)])
    }

    /// A verifier for tokens signed with any of these keys, each under its id. The first is for tokens that name none.
    pub fn with_keys<'a>(keys: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = TOKEN_LEEWAY.as_secs();
        validation.set_required_spec_claims(&["exp", "sub"]);
        Self {
            keys: keys
                .into_iter()
                .map(|(id, secret)| (id.to_owned(), DecodingKey::from_secret(secret)))
                .collect(),
            validation,
        }
    }

    /// Checks signature, expiry (with [`TOKEN_LEEWAY`]) and form.
    ///
    /// # Errors
    ///
    /// [`TokenVerdict`]: close with 4500, or 4005 if it only expired.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenVerdict> {
        let refused = |error: jsonwebtoken::errors::Error| match error.kind() {
            ErrorKind::ExpiredSignature => TokenVerdict::Expired,
            _ => TokenVerdict::Invalid(format!("token is not accepted: {error}")),
        };
        let named = jsonwebtoken::decode_header(token).map_err(refused)?.kid;
        let key = self.key(named.as_deref())?;
        let decoded = jsonwebtoken::decode::<TokenClaims>(token, key, &self.validation).map_err(refused)?;
        let claims = decoded.claims;
        let user =
            UserId::new(&claims.sub).map_err(|error| TokenVerdict::Invalid(format!("token sub: {error}")))?;
        let terminal = match claims.terminal.as_deref() {
            None => None,
            Some(name) => Some(Terminal::from_name(name).ok_or_else(|| {
                TokenVerdict::Invalid(
                    "token terminal is not web, ios, android, desktop, pad or bot".to_owned(),
                )
            })?),
        };
        if claims
            .device
            .as_ref()
            .is_some_and(|device| device.len() > ID_BYTES_MAX)
        {
            return Err(TokenVerdict::Invalid(format!(
                "token device exceeds {ID_BYTES_MAX} bytes"
            )));
        }
        Ok(Claims {
            app: AppId(claims.app),
            user,
            terminal,
            device: claims.device,
            expires_at_s: claims.exp,
            issued_at_s: claims.iat,
            scopes: claims.scopes,
        })
    }

    fn key(&self, named: Option<&str>) -> Result<&DecodingKey, TokenVerdict> {
        let mut keys = self.keys.iter();
        let found = match named {
            Some(named) => keys.find(|(id, _)| id == named),
            None => keys.next(),
        };
        found.map(|(_, key)| key).ok_or_else(|| {
            let known: Vec<&str> = self.keys.iter().map(|(id, _)| id.as_str()).collect();
            TokenVerdict::Invalid(format!(
                "token names an unknown key, known are: {}",
                known.join(", ")
            ))
        })
    }
}

/// Signs `claims` with `secret`.
///
/// # Errors
///
/// Only if the claims cannot be serialised.
pub fn issue(secret: &[u8], claims: &TokenClaims) -> Result<String, jsonwebtoken::errors::Error> {
    let header = Header {
        kid: Some(KEY_ID.to_owned()),
        ..Header::new(Algorithm::HS256)
    };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn claims(expires_in_s: i64) -> TokenClaims {
        let now_s = Clock::start().now().wall_ms / 1000;
        TokenClaims {
            app: 7,
            sub: "alice".to_owned(),
            terminal: Some("web".to_owned()),
            device: None,
            iat: now_s,
            exp: now_s.saturating_add_signed(expires_in_s),
            scopes: vec!["rooms".to_owned()],
        }
    }

    #[test]
    fn a_token_says_who_it_is_for() {
        let token = issue(b"secret", &claims(60)).unwrap();
        let verified = Verifier::new(b"secret").verify(&token).unwrap();
        assert_eq!(verified.user.as_str(), "alice");
        assert_eq!((verified.app, verified.terminal), (AppId(7), Some(Terminal::Web)));
        assert_eq!(verified.scopes, ["rooms"]);
    }

    #[test]
    fn an_expired_token_is_told_apart_from_a_forged_one() {
        let expired = issue(b"secret", &claims(-120)).unwrap();
        assert_eq!(
            Verifier::new(b"secret").verify(&expired).unwrap_err(),
            TokenVerdict::Expired
        );
        let forged = issue(b"other", &claims(60)).unwrap();
        assert!(matches!(
            Verifier::new(b"secret").verify(&forged),
            Err(TokenVerdict::Invalid(_))
        ));
    }

    /// A token that says it is signed with the key `kid`.
    fn signed(kid: Option<&str>, secret: &[u8]) -> String {
        let header = Header {
            kid: kid.map(str::to_owned),
            ..Header::new(Algorithm::HS256)
        };
        jsonwebtoken::encode(&header, &claims(60), &EncodingKey::from_secret(secret)).unwrap()
    }

    #[test]
    fn the_header_says_which_key_a_token_is_signed_with() {
        let verifier = Verifier::with_keys([("1", b"old".as_slice()), ("2", b"new")]);
        for (kid, secret, is_good) in [
            (Some("1"), b"old", true),
            (Some("2"), b"new", true),
            (None, b"old", true),
            (Some("1"), b"new", false),
            (Some("2"), b"old", false),
            (None, b"new", false),
            (Some("3"), b"old", false),
        ] {
            let verdict = verifier.verify(&signed(kid, secret));
            assert_eq!(verdict.is_ok(), is_good, "{kid:?}: {verdict:?}");
        }
    }

    #[test]
    fn no_signature_is_no_token() {
        // {"alg":"none"} . {"sub":"alice","exp":9999999999}
        let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0.";
        assert!(matches!(
            Verifier::new(b"secret").verify(none),
            Err(TokenVerdict::Invalid(_))
        ));
    }
}
