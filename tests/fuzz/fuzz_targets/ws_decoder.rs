//! The fuzzer chooses the bytes and where reads end: the items must be those of one read, and so must the verdict on a
//! PROXY header in front of them.
#![no_main]

use corelane_protocol::proxy::{HEADER_BYTES_MAX, SIGNATURE, parse};
use corelane_protocol::ws::{Decoder, Role};
use libfuzzer_sys::fuzz_target;

fn items(bytes: &[u8], cuts: &[u8], role: Role) -> Vec<String> {
    let mut decoder = Decoder::new(role, 4096);
    let mut found = Vec::new();
    let mut rest = bytes;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let cut = cuts.next().map_or(rest.len(), |cut| usize::from(*cut) + 1).min(rest.len());
        let (read, after) = rest.split_at(cut);
        rest = after;
        let mut read = read.to_vec();
        let mut items = decoder.feed(&mut read);
        while let Some(item) = items.next() {
            found.push(format!("{item:?}"));
            if found.len() > 10_000 {
                return found;
            }
        }
        assert!(decoder.held_bytes() < 64 * 1024, "a decoder is bounded by its message limit");
    }
    found
}

fn check_proxy_header(stream: &[u8]) {
    let mut looks = 0..=stream.len().min(HEADER_BYTES_MAX);
    let first = looks.find_map(|have| parse(&stream[..have]).transpose());
    assert_eq!(first, parse(stream).transpose(), "a verdict comes with one byte and stays");
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>, bool)| {
    let (bytes, cuts, server) = input;
    check_proxy_header(&bytes);
    check_proxy_header(&[&SIGNATURE[..], &bytes].concat());
    let role = if server { Role::Server } else { Role::Client };
    assert_eq!(items(&bytes, &cuts, role), items(&bytes, &[], role));
});
