//! An end is believed only if it proved that it knows the secret, for exactly this pair of hellos.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod link_support;

use corelane_protocol::link::codec::{LinkError, LinkRole, PeerInfo};
use corelane_protocol::link::handshake::feature;
use link_support::{client_frame, end, established, feed, info, output, pair};

/// Hello and proof of a gateway, for this router.
fn gateway_bytes() -> Vec<u8> {
    let (mut gateway, mut router) = pair();
    let mut bytes = output(&mut gateway);
    feed(&mut gateway, &output(&mut router)).1.unwrap();
    bytes.extend(output(&mut gateway));
    bytes
}

#[test]
fn a_handshake_with_any_byte_changed_is_not_believed() {
    let bytes = gateway_bytes();
    let (_, mut router) = pair();
    assert_eq!(feed(&mut router, &bytes).0, ["up"], "the unchanged one is");
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            let (_, mut router) = pair();
            let (seen, _) = feed(&mut router, &changed);
            assert!(
                seen.is_empty() && !router.is_established(),
                "byte {at} changed by {flip:#x}"
            );
        }
    }
}

#[test]
fn a_handshake_that_ends_early_is_waited_for() {
    let bytes = gateway_bytes();
    for length in 0..bytes.len() {
        let (_, mut router) = pair();
        let (seen, result) = feed(&mut router, &bytes[..length]);
        assert_eq!((seen.len(), result), (0, Ok(())), "first {length} bytes");
        assert_eq!(feed(&mut router, &bytes[length..]).0, ["up"], "the rest of them");
    }
}

#[test]
fn a_recorded_handshake_is_worthless_to_another_boot_of_the_router() {
    let bytes = gateway_bytes();
    let other = PeerInfo { boot: 2, ..info() };
    let mut router = end(LinkRole::Router, other, 1, b"key");
    assert_eq!(feed(&mut router, &bytes).1, Err(LinkError::Proof { key_id: 1 }));
}

#[test]
fn a_proof_sent_back_to_its_maker_proves_nothing() {
    let (mut gateway, _) = pair();
    let hello = output(&mut gateway);
    assert_eq!(feed(&mut gateway, &hello).1, Err(LinkError::Role(1)));
    let (mut gateway, mut router) = pair();
    let (from_gateway, from_router) = (output(&mut gateway), output(&mut router));
    feed(&mut gateway, &from_router).1.unwrap();
    feed(&mut router, &from_gateway).1.unwrap();
    let proof = output(&mut gateway);
    assert_eq!(feed(&mut gateway, &proof).1, Err(LinkError::Proof { key_id: 1 }));
}

#[test]
fn peers_that_do_not_belong_together_are_told_apart() {
    let refusal = |gateway: PeerInfo, key_id, key: &[u8]| {
        let mut gateway = end(LinkRole::Gateway, gateway, key_id, key);
        let router = PeerInfo {
            cluster_id: 7,
            ..info()
        };
        let mut router = end(LinkRole::Router, router, 1, b"key");
        feed(&mut router, &output(&mut gateway)).1?;
        feed(&mut gateway, &output(&mut router)).1?;
        feed(&mut router, &output(&mut gateway)).1
    };
    let with = |change: fn(&mut PeerInfo)| {
        let mut info = info();
        change(&mut info);
        info
    };
    assert_eq!(refusal(info(), 1, b"key"), Ok(()));
    assert_eq!(refusal(with(|info| info.cluster_id = 7), 1, b"key"), Ok(()));
    assert_eq!(
        refusal(with(|info| info.cluster_id = 8), 1, b"key"),
        Err(LinkError::Cluster { theirs: 8, ours: 7 })
    );
    assert_eq!(
        refusal(info(), 2, b"key"),
        Err(LinkError::KeyId { theirs: 2, ours: 1 })
    );
    assert_eq!(
        refusal(info(), 1, b"kez"),
        Err(LinkError::Proof { key_id: 1 }),
        "the router finds out, or the gateway before it"
    );
    assert_eq!(refusal(with(|info| info.partitions = 0), 1, b"key"), Ok(()));
    assert_eq!(
        refusal(with(|info| info.partitions = 4), 1, b"key"),
        Err(LinkError::Partitions { theirs: 4, ours: 16 })
    );
    assert_eq!(
        refusal(with(|info| info.features = feature::BUS_APART), 1, b"key"),
        Err(LinkError::Bus { theirs_apart: true })
    );
    assert_eq!(
        refusal(with(|info| info.features = !feature::BUS_APART), 1, b"key"),
        Ok(()),
        "what is not known here does not matter"
    );
    for hello in [
        with(|info| info.shard = 2),
        with(|info| (info.shard, info.shards) = (1024, 1025)),
        with(|info| info.node = "a\nb".to_owned()),
        with(|info| info.node = "x".repeat(65)),
    ] {
        assert!(matches!(refusal(hello, 1, b"key"), Err(LinkError::Hello(_))));
    }
}

#[test]
fn a_router_without_lanes_is_refused() {
    for (lanes, partitions) in [(0, 16), (100, 16), (128, 0)] {
        let (mut gateway, _) = pair();
        let info = PeerInfo {
            lanes,
            partitions,
            ..info()
        };
        let mut router = end(LinkRole::Router, info, 1, b"key");
        assert!(matches!(
            feed(&mut gateway, &output(&mut router)).1,
            Err(LinkError::Hello(_))
        ));
    }
}

#[test]
fn a_newer_peer_is_told_by_its_version_whatever_its_hello_looks_like() {
    let (mut gateway, _) = pair();
    let mut hello = 20_u32.to_le_bytes().to_vec();
    hello.extend(b"CLNK\x02\x00\x03\x00");
    hello.extend([0xaa; 12]);
    let error = feed(&mut gateway, &hello).1.unwrap_err();
    assert_eq!(error, LinkError::Version { min: 2, max: 3 });
    assert_eq!(
        error.to_string(),
        "peer speaks link versions 2 to 3, spoken here is 1"
    );
}

#[test]
fn records_wait_for_the_proof_however_many_they_are() {
    let (mut gateway, mut router) = pair();
    let body = vec![7; 1024 * 1024];
    let mut expected = Vec::new();
    while gateway.push(&client_frame(&body)).is_ok() {
        expected.push(format!("1:{}", body.len()));
    }
    assert!(expected.len() > 4, "more than one batch");
    let (hello, router_hello) = (output(&mut gateway), output(&mut router));
    assert!(
        hello.len() < 1024,
        "nothing but the hello leaves before the proof"
    );
    feed(&mut router, &hello).1.unwrap();
    feed(&mut gateway, &router_hello).1.unwrap();
    let (seen, result) = feed(&mut router, &output(&mut gateway));
    result.unwrap();
    assert_eq!(
        seen,
        ["up"],
        "proof, and still no record: the router has not proved itself"
    );
    feed(&mut gateway, &output(&mut router)).1.unwrap();
    let (seen, result) = feed(&mut router, &output(&mut gateway));
    result.unwrap();
    assert_eq!(seen, expected);
}

#[test]
fn the_debug_form_of_an_end_does_not_show_its_key() {
    let (gateway, _) = established();
    let fresh = end(LinkRole::Gateway, info(), 1, b"\xfe\xfe\xfe");
    for text in [format!("{gateway:?}"), format!("{fresh:?}")] {
        assert!(!text.contains("254, 254, 254"), "{text}");
    }
}
