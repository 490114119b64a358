//! What a client gets does not depend on where its reads end.

use corelane_protocol::ws::Opcode;

use crate::harness::{Seen, World, config, hello, masked, ping, send_to, sync, upgrade};

fn run(piece: usize) -> (Vec<Seen>, usize) {
    let mut world = World::new(config());
    let id = world.accept();
    let mut bytes = upgrade("/ws", "corelane.rkyv.v1", "");
    for frame in [
        hello("alice", "d"),
        ping(1),
        send_to("bob", 2, false),
        sync(3),
        ping(4),
    ] {
        bytes.extend(masked(Opcode::Binary, &frame));
    }
    bytes.extend(masked(Opcode::Ping, b"x"));
    bytes.extend(masked(Opcode::Close, &[0x03, 0xe8]));
    for part in bytes.chunks(piece) {
        world.bytes(id, part);
        world.turn();
    }
    assert!(world.client(id).closed);
    let forwarded = world.shard.metrics().forward_messages + world.shard.metrics().forward_requests;
    (world.seen(id), forwarded as usize)
}

#[test]
fn every_cut_gives_the_same_answers() {
    let whole = run(usize::MAX);
    assert_eq!(
        (whole.0.len(), whole.1),
        (5, 2),
        "welcome, two pongs, a pong, a close"
    );
    for piece in (1..60).chain([100, 300, 1000]) {
        assert_eq!(run(piece), whole, "cut every {piece} bytes");
    }
}
