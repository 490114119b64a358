//! Every format of version 1 is the same bytes as when it was frozen: frames in both encodings, link records, the link's
//! handshake, bus records, and the hashes that place data.
//!
//! `CORELANE_WRITE_GOLDEN=1` writes the files instead. Do that for new formats only: a changed file is a broken promise
//! to every node and client that speaks version 1.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod samples;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use corelane_protocol::frame::json::{JsonInput, from_json, to_json};
use corelane_protocol::frame::read::{HashedSend, send_hash};
use corelane_protocol::frame::{Frame, FrameKind};
use corelane_protocol::hash::{content_hash, lane_of, partition_of, registry_slot_of};
use corelane_protocol::id::{AppId, ConvId, GroupId, UserId};
use corelane_protocol::link::codec::{LinkCodec, LinkRole, LinkSecret, PeerInfo};

/// Everything that is pinned, by file name.
fn pinned() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for (name, bytes) in [samples::client_frames(), samples::server_frames()].concat() {
        let mut json = Vec::new();
        to_json(&bytes, &mut json).unwrap();
        json.push(b'\n');
        files.insert(format!("frame_{name}.json"), json);
        files.insert(format!("frame_{name}.bin"), bytes);
    }
    for (name, bytes) in samples::records() {
        files.insert(format!("record_{name}.bin"), bytes);
    }
    for (name, bytes) in samples::bus_records() {
        files.insert(format!("bus_{name}.bin"), bytes);
    }
    let [gateway, router] = handshake();
    files.insert("link_handshake_gateway.bin".to_owned(), gateway);
    files.insert("link_handshake_router.bin".to_owned(), router);
    files.insert("hashes.txt".to_owned(), hashes().into_bytes());
    files
}

/// What each end sends until it is established.
fn handshake() -> [Vec<u8>; 2] {
    let end = |role, node: &str, nonce| {
        let info = PeerInfo {
            features: 0x5,
            cluster_id: 0xc1,
            node: node.to_owned(),
            boot: 0xb007,
            shard: 1,
            shards: 2,
            epoch: 0xe0,
            lanes: 128,
            partitions: 16,
            router_list_version: 3,
            registry_incarnation: 4,
            ..PeerInfo::default()
        };
        let secret = LinkSecret {
            key_id: 1,
            key: (0..32).collect(),
        };
        LinkCodec::new(role, info, secret, [nonce; 16])
    };
    let mut gateway = end(LinkRole::Gateway, "gateway-1", 0xaa);
    let mut router = end(LinkRole::Router, "router-1", 0xbb);
    let (mut from_gateway, mut from_router) = (Vec::new(), Vec::new());
    gateway.output(&mut from_gateway);
    router.output(&mut from_router);
    gateway.feed(&from_router, &mut |_| ()).unwrap();
    router.feed(&from_gateway, &mut |_| ()).unwrap();
    gateway.output(&mut from_gateway);
    router.output(&mut from_router);
    [from_gateway, from_router]
}

fn hashes() -> String {
    let user = |text: &str| UserId::new(text).unwrap();
    let convs = [
        ConvId::direct(&user("alice"), &user("bob")),
        ConvId::direct(&user("bob"), &user("bob")),
        ConvId::group(&GroupId::new("team").unwrap()),
        ConvId::group(&GroupId::new("größe").unwrap()),
        ConvId::room(&GroupId::new("lobby").unwrap()),
    ];
    let mut text = "app conversation lane/128 lane/8 partition/16 send_hash\n".to_owned();
    for app in [0, 1, u32::MAX] {
        for conv in &convs {
            let send = HashedSend {
                kind: 1,
                flags: 2,
                ref_seq: 41,
                content_type: 1,
                payload: b"hello",
                extensions: &samples::stored_extension(),
            };
            let app_id = AppId(app);
            writeln!(
                text,
                "{app} {conv} {} {} {} {:016x}",
                lane_of(app_id, conv, 128).0,
                lane_of(app_id, conv, 8).0,
                partition_of(app_id, conv, 16),
                send_hash(conv, &send),
            )
            .unwrap();
        }
        for name in ["alice", "bob"] {
            let slot = registry_slot_of(AppId(app), &user(name));
            writeln!(text, "{app} user {name} registry_slot {slot}").unwrap();
        }
    }
    writeln!(text, "content_hash hello {:016x}", content_hash(b"hello")).unwrap();
    text
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

#[test]
fn formats_are_what_they_were() {
    if std::env::var_os("CORELANE_WRITE_GOLDEN").is_some() {
        for (name, bytes) in pinned() {
            std::fs::write(folder().join(name), bytes).unwrap();
        }
        return;
    }
    let mut expected = BTreeMap::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        expected.insert(name, std::fs::read(path).unwrap());
    }
    let actual = pinned();
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&actual), names(&expected), "one file for each format");
    for (name, bytes) in &actual {
        assert!(
            bytes == &expected[name],
            "{name} was\n{}\nand is now\n{}",
            expected[name].escape_ascii(),
            bytes.escape_ascii()
        );
    }
}

#[test]
fn every_frame_kind_is_pinned() {
    let mut kinds: Vec<u16> = [samples::client_frames(), samples::server_frames()]
        .concat()
        .iter()
        .map(|(_, bytes)| Frame::parse(bytes).unwrap().kind)
        .collect();
    kinds.dedup();
    let all: Vec<u16> = FrameKind::ALL.iter().map(|kind| *kind as u16).collect();
    assert_eq!(kinds, all);
}

#[test]
fn both_encodings_of_a_client_frame_say_the_same() {
    let files = pinned();
    for (name, bytes) in samples::client_frames() {
        let json = String::from_utf8(files[&format!("frame_{name}.json")].clone()).unwrap();
        assert_eq!(from_json(&json), Ok(JsonInput::Frame(bytes)), "{name}: {json}");
    }
}
