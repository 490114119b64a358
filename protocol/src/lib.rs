//! Everything of Corelane that is bytes, and nothing that does I/O.
#![forbid(unsafe_code)]
#![expect(clippy::cast_possible_truncation, reason = "lengths are bounded by `limits` before they are narrowed")]

pub mod arena;
