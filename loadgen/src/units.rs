//! What people write on a command line: rates, durations, sizes. Every error names the value and what is
//! allowed.

use std::time::Duration;

/// Splits a number from the unit behind it.
fn split(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

fn number(text: &str, whole: &str, allowed: &str) -> Result<f64, String> {
    text.replace('_', "")
        .parse::<f64>()
        .ok()
        .filter(|value| value.is_finite())
        .ok_or_else(|| format!("`{whole}` is not understood; allowed: {allowed}"))
}

const RATES: &str = "a number per second, minute or hour, such as 500, 500/s, 5k/s, 1.5M/s, 600/m";

/// A rate, per second.
///
/// # Errors
///
/// A text for people that names the value and what is allowed.
pub fn rate(text: &str) -> Result<f64, String> {
    let (digits, unit) = split(text.trim());
    let value = number(digits, text, RATES)?;
    let (scale, per) = match unit.split_once('/') {
        Some((scale, per)) => (scale, per),
        None => (unit, "s"),
    };
    let scale = match scale {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" | "m" => 1e6,
        _ => return Err(format!("unit `{unit}` of `{text}` is unknown; allowed: {RATES}")),
    };
    let per = match per {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unit `{unit}` of `{text}` is unknown; allowed: {RATES}")),
    };
    let rate = value * scale / per;
    if rate > 1e8 {
        return Err(format!("`{text}` is too fast; allowed: up to 100M/s"));
    }
    Ok(rate)
}

const DURATIONS: &str = "a number with ns, us, ms, s, m or h, such as 500ms, 30s, 1.5m";

/// A duration; a bare number counts seconds.
///
/// # Errors
///
/// A text for people that names the value and what is allowed.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = split(text.trim());
    let value = number(digits, text, DURATIONS)?;
    let seconds = match unit {
        "ns" => value / 1e9,
        "us" | "µs" => value / 1e6,
        "ms" => value / 1e3,
        "s" | "" => value,
        "m" | "min" => value * 60.0,
        "h" => value * 3600.0,
        _ => {
            return Err(format!(
                "unit `{unit}` of `{text}` is unknown; allowed: {DURATIONS}"
            ));
        }
    };
    if seconds > 86_400.0 * 30.0 {
        return Err(format!("`{text}` is too long; allowed: up to 720h"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

const SIZES: &str = "a number of bytes, such as 512, 512B, 4K, 64KiB (up to 1MiB)";

/// A size in bytes; K and M count 1,024.
///
/// # Errors
///
/// A text for people that names the value and what is allowed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "range checked before"
)]
pub fn size(text: &str) -> Result<usize, String> {
    let (digits, unit) = split(text.trim());
    let value = number(digits, text, SIZES)?;
    let scale = match unit {
        "" | "B" | "b" => 1.0,
        "K" | "k" | "KB" | "kB" | "KiB" => 1024.0,
        "M" | "MB" | "MiB" => 1024.0 * 1024.0,
        _ => return Err(format!("unit `{unit}` of `{text}` is unknown; allowed: {SIZES}")),
    };
    let bytes = value * scale;
    if bytes.fract() != 0.0 || bytes > 1024.0 * 1024.0 {
        return Err(format!("`{text}` is no allowed size; allowed: {SIZES}"));
    }
    Ok(bytes as usize)
}

/// A whole number, with k and M for thousands and millions.
///
/// # Errors
///
/// A text for people that names the value and what is allowed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "range checked before"
)]
pub fn count(text: &str) -> Result<u32, String> {
    const COUNTS: &str = "a whole number up to 10M, such as 1000, 10k, 1M";
    let (digits, unit) = split(text.trim());
    let value = number(digits, text, COUNTS)?;
    let scale = match unit {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" | "m" => 1e6,
        _ => return Err(format!("unit `{unit}` of `{text}` is unknown; allowed: {COUNTS}")),
    };
    let count = value * scale;
    if count.fract() != 0.0 || count > 1e7 {
        return Err(format!("`{text}` is no allowed count; allowed: {COUNTS}"));
    }
    Ok(count as u32)
}

/// A header: `Name: value`.
///
/// # Errors
///
/// A text for people that names the value and what is allowed.
pub fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| format!("`{text}` is no header; allowed: 'Name: value'"))?;
    let (name, value) = (name.trim(), value.trim());
    let name_is_token = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !name_is_token || value.chars().any(char::is_control) {
        return Err(format!(
            "`{text}` is no header; allowed: 'Name: value' without control characters"
        ));
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second() {
        for (text, rate_per_s) in [
            ("500", 500.0),
            ("5k/s", 5e3),
            ("1.5M/s", 1.5e6),
            ("600/m", 10.0),
            ("0", 0.0),
            ("1_000/s", 1e3),
        ] {
            assert_eq!(rate(text), Ok(rate_per_s), "{text}");
        }
        for text in ["", "fast", "5q/s", "5k/x", "-1", "1e9", "1000M/s"] {
            let error = rate(text).unwrap_err();
            assert!(error.contains(text) && error.contains("allowed"), "{error}");
        }
    }

    #[test]
    fn durations_and_sizes_say_what_is_allowed() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert!(duration("3 days").unwrap_err().contains("days"));
        assert_eq!(size("512B"), Ok(512));
        assert_eq!(size("4K"), Ok(4096));
        assert!(size("0.3").is_err() && size("2MiB").is_err() && size("x").is_err());
        assert_eq!(count("10k"), Ok(10_000));
        assert!(count("1.5").is_err());
    }

    #[test]
    fn headers_cannot_smuggle_lines() {
        assert_eq!(header("X-A: b:c"), Ok(("X-A".into(), "b:c".into())));
        assert!(header("X-A b").is_err() && header("X: a\r\nY: b").is_err() && header(": b").is_err());
    }
}
