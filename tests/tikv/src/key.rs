//! Keys as text, for the command line and the control port: printable ASCII as it is, other bytes as `\xNN`.

/// Text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("wrong key {0:?}: `\\` must be followed by `x` and two hexadecimal digits, or by `\\`")]
pub struct WrongKey(String);

/// The key that a text stands for.
///
/// # Errors
/// A `\` that escapes nothing.
pub fn parse_key(text: &str) -> Result<Vec<u8>, WrongKey> {
    let mut key = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => return Ok(key),
            [b'\\', b'\\', after @ ..] => {
                key.push(b'\\');
                after
            }
            [b'\\', b'x', high, low, after @ ..] => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).map_err(|_| WrongKey(text.to_owned()))?;
                key.push(u8::from_str_radix(digits, 16).map_err(|_| WrongKey(text.to_owned()))?);
                after
            }
            [b'\\', ..] => return Err(WrongKey(text.to_owned())),
            [byte, after @ ..] => {
                key.push(*byte);
                after
            }
        };
    }
}

/// The text of a key.
pub fn format_key(key: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(key.len());
    for byte in key {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            // Writing to a string does not fail.
            _ => drop(write!(text, "\\x{byte:02x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_being_text() {
        for key in [&b""[..], b"plain", b"\x00\x03", b"back\\slash", b"\xff\\x41"] {
            assert_eq!(parse_key(&format_key(key)).unwrap(), key);
        }
        assert_eq!(parse_key("a\\x00b").unwrap(), b"a\0b");
        for wrong in ["\\", "\\x1", "\\xzz", "\\n"] {
            assert!(parse_key(wrong).is_err(), "{wrong}");
        }
    }
}
