//! Whatever comes in the place of a PROXY header: a verdict that does not depend on where reads end, and no panic.
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

use corelane_protocol::proxy::{HEADER_BYTES_MAX, Header, ProxyError, SIGNATURE, parse};
use proptest::collection::vec;
use proptest::prelude::*;

/// Bytes that get past the fixed part more often than not.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let version_command = prop_oneof![8 => Just(0x21_u8), 2 => Just(0x20_u8), 1 => any::<u8>()];
    let protocol = prop_oneof![
        4 => Just(0x11_u8),
        4 => Just(0x21_u8),
        2 => Just(0x31_u8),
        1 => Just(0x00_u8),
        1 => any::<u8>()
    ];
    let length = prop_oneof![8 => 0..600_u16, 1 => any::<u16>()];
    (version_command, protocol, length, vec(any::<u8>(), 0..700)).prop_map(
        |(version_command, protocol, length, rest)| {
            let fixed = [version_command, protocol];
            [&SIGNATURE[..], &fixed, &length.to_be_bytes(), &rest].concat()
        },
    )
}

/// The verdicts on all beginnings of a stream, but for those that only wait.
fn verdicts(stream: &[u8]) -> Vec<(usize, Result<Header, ProxyError>)> {
    (0..=stream.len())
        .filter_map(|have| Some((have, parse(&stream[..have]).transpose()?)))
        .collect()
}

proptest! {
    #[test]
    fn a_verdict_stays_whatever_comes_behind_it(
        stream in prop_oneof![4 => nearly(), 1 => vec(any::<u8>(), 0..40)],
    ) {
        let verdicts = verdicts(&stream);
        let Some((first, verdict)) = verdicts.first().copied() else {
            prop_assert!(stream.len() < HEADER_BYTES_MAX, "{} bytes and no verdict", stream.len());
            return Ok(());
        };
        prop_assert!(first <= HEADER_BYTES_MAX);
        prop_assert_eq!(verdicts.len(), stream.len() - first + 1, "every later look has one");
        prop_assert!(verdicts.iter().all(|(_, later)| *later == verdict));
        if let Ok(header) = verdict {
            prop_assert_eq!(header.header_bytes, first, "it comes with the last byte of the header");
        }
    }
}
