//! Two ends of a link and what they say to each other.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use corelane_protocol::link::codec::{LinkCodec, LinkError, LinkEvent, LinkRole, LinkSecret, PeerInfo};
use corelane_protocol::link::record::{Record, RecordKind};

pub(crate) fn info() -> PeerInfo {
    PeerInfo {
        node: "node-1".to_owned(),
        boot: 0x1122_3344_5566_7788,
        shard: 1,
        shards: 2,
        lanes: 128,
        partitions: 16,
        ..PeerInfo::default()
    }
}

pub(crate) fn end(role: LinkRole, info: PeerInfo, key_id: u8, key: &[u8]) -> LinkCodec {
    let secret = LinkSecret {
        key_id,
        key: key.to_vec(),
    };
    LinkCodec::new(role, info, secret, [role as u8; 16])
}

pub(crate) fn pair() -> (LinkCodec, LinkCodec) {
    (
        end(LinkRole::Gateway, info(), 1, b"key"),
        end(LinkRole::Router, info(), 1, b"key"),
    )
}

pub(crate) fn output(of: &mut LinkCodec) -> Vec<u8> {
    let mut bytes = Vec::new();
    of.output(&mut bytes);
    bytes
}

/// What came out of a `feed`: "up" once, then kind and body length of each record.
pub(crate) fn feed(to: &mut LinkCodec, bytes: &[u8]) -> (Vec<String>, Result<(), LinkError>) {
    let mut seen = Vec::new();
    let result = to.feed(bytes, &mut |event| match event {
        LinkEvent::Established(_) => seen.push("up".to_owned()),
        LinkEvent::Record(record) => seen.push(format!("{}:{}", record.kind, record.body.len())),
        LinkEvent::Room => {}
    });
    (seen, result)
}

/// Two ends that have proved who they are.
pub(crate) fn established() -> (LinkCodec, LinkCodec) {
    let (mut gateway, mut router) = pair();
    for _ in 0..2 {
        let (to_router, to_gateway) = (output(&mut gateway), output(&mut router));
        feed(&mut router, &to_router).1.unwrap();
        feed(&mut gateway, &to_gateway).1.unwrap();
    }
    assert!(gateway.is_established() && router.is_established());
    (gateway, router)
}

pub(crate) fn client_frame(body: &[u8]) -> Record<'_> {
    Record {
        kind: RecordKind::ClientFrame as u8,
        user: "alice",
        device: "phone",
        body,
        ..Record::default()
    }
}
