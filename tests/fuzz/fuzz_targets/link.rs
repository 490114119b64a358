//! A peer that knows the handshake's form but not the secret, and one that sends anything at all.
#![no_main]

use corelane_protocol::link::codec::{LinkCodec, LinkRole, LinkSecret, PeerInfo};
use corelane_protocol::link::record::Record;
use libfuzzer_sys::fuzz_target;

fn end(role: LinkRole) -> LinkCodec {
    let info = PeerInfo { node: "n".to_owned(), shards: 1, lanes: 8, partitions: 4, ..PeerInfo::default() };
    LinkCodec::new(role, info, LinkSecret { key_id: 1, key: b"secret".to_vec() }, [7; 16])
}

fuzz_target!(|input: (Vec<u8>, bool, u8)| {
    let (bytes, established, cut) = input;
    let mut codec = end(LinkRole::Router);
    if established {
        let mut peer = end(LinkRole::Gateway);
        for _ in 0..3 {
            let mut out = Vec::new();
            peer.output(&mut out);
            codec.feed(&out, &mut |_| ()).expect("an honest peer");
            out.clear();
            codec.output(&mut out);
            peer.feed(&out, &mut |_| ()).expect("an honest peer");
        }
        assert!(codec.is_established());
    }
    for part in bytes.chunks(usize::from(cut) + 1) {
        if codec.feed(part, &mut |_| ()).is_err() {
            break;
        }
    }
    let mut rest = bytes.as_slice();
    while let Ok((_, after)) = Record::split(rest) {
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
});
