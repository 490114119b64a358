//! Passwords in configurations: taken as they are written, and never shown, not even in a mistake.

use serde::de::{Deserializer, Error, Visitor};

/// Stands for what is not shown.
pub const NOT_SHOWN: &str = "(not shown)";

/// Whether a key, or what was meant to be one, names a secret.
pub fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["pas", "pwd", "secret"].iter().any(|part| key.contains(part))
}

/// A value for a mistake's text.
pub fn shown<'a>(key: &str, value: &'a str) -> &'a str {
    if is_secret(key) { NOT_SHOWN } else { value }
}

/// A flag for a mistake's text.
pub fn shown_flag(flag: &str) -> String {
    match flag.split_once('=') {
        Some((key, _)) if is_secret(key) => format!("{key}={NOT_SHOWN}"),
        _ if is_secret(flag) => NOT_SHOWN.to_owned(),
        _ => flag.to_owned(),
    }
}

/// What is wrong with a file of this text: with the line where it is, unless that may hold a secret.
pub fn shown_mistake(text: &str, error: &toml::de::Error) -> String {
    let begin = error.span().map_or(0, |span| span.start).min(text.len());
    let before = text.as_bytes().get(..begin).unwrap_or_default();
    let number = before.split(|byte| *byte == b'\n').count();
    let line = text.lines().nth(number - 1).unwrap_or_default();
    let key = line.split_once('=').map_or(line, |(key, _)| key);
    if is_secret(key) || line.contains('@') {
        format!("line {number}, {NOT_SHOWN}: {}", error.message())
    } else {
        error.to_string()
    }
}

/// A url without the user and password that should not be in it.
pub fn shown_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| {
        (url.get(..scheme.len() + 3).unwrap_or_default(), rest)
    });
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}{NOT_SHOWN}@{host}"),
        None => url.to_owned(),
    }
}

/// A password. One of digits only is a text, too, with quotes or without.
pub(super) fn password<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    struct Password;

    // A visitor's own words for what it does not take would show it.
    fn wrong<T, E: Error>() -> Result<T, E> {
        Err(E::custom("a password is a text in quotes"))
    }

    impl Visitor<'_> for Password {
        type Value = String;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a text in quotes")
        }

        fn visit_str<E>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_i64<E>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_u64<E>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_f64<E: Error>(self, _: f64) -> Result<String, E> {
            wrong()
        }

        fn visit_bool<E: Error>(self, _: bool) -> Result<String, E> {
            wrong()
        }
    }

    input.deserialize_any(Password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_what_does_not_belong_into_it() {
        assert_eq!(shown_url("redis://a:1/0"), "redis://a:1/0");
        assert_eq!(shown_url("redis://user:4711@a:1"), "redis://(not shown)@a:1");
        assert_eq!(shown_url("user:p@ss@a"), "(not shown)@a");
    }

    #[test]
    fn a_flag_is_shown_without_its_secret() {
        assert_eq!(shown_flag("router.node=a"), "router.node=a");
        assert_eq!(
            shown_flag("registry.password=4711"),
            "registry.password=(not shown)"
        );
        assert_eq!(shown_flag("password 4711"), "(not shown)");
    }
}
