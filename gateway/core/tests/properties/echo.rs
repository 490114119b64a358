//! The echo path.

use corelane_protocol::ws::Opcode;

use crate::harness::{Seen, World, config, masked, upgrade};

fn echoing() -> (World, corelane_protocol::id::ConnId) {
    let mut config = config();
    config.echo = true;
    let mut world = World::new(config);
    let id = world.accept();
    world.bytes(id, &upgrade("/echo", "", ""));
    world.turn();
    (world, id)
}

#[test]
fn texts_and_bytes_come_back_as_they_were() {
    let (mut world, id) = echoing();
    world.say_text(id, "hällo");
    world.say(id, &[0, 255]);
    world.bytes(id, &masked(Opcode::Ping, b"p"));
    world.turn();
    assert_eq!(
        world.seen(id),
        [
            Seen::Text("hällo".to_owned()),
            Seen::Frame(vec![0, 255]),
            Seen::Pong(b"p".to_vec())
        ]
    );
    world.bytes(id, &masked(Opcode::Close, &[0x03, 0xe8]));
    world.turn();
    assert_eq!(world.seen(id), [Seen::Close(1000)]);
    assert!(world.client(id).closed);
}

#[test]
fn an_echo_that_is_not_read_is_not_lost_and_not_unbounded() {
    let (mut world, id) = echoing();
    world.client(id).stuck = true;
    let mut sent = 0;
    for _ in 0..100 {
        if world.client(id).paused {
            break;
        }
        world.say(id, &[7; 10_000]);
        sent += 1;
    }
    assert!(world.client(id).paused);
    assert!(world.shard.metrics().queued_bytes < 300 * 1024);
    world.client(id).stuck = false;
    world.turn();
    assert_eq!(world.frames(id).len(), sent);
    assert!(!world.client(id).paused);
}

#[test]
fn it_is_not_served_unless_asked_for() {
    let mut world = World::new(config());
    let id = world.accept();
    world.bytes(id, &upgrade("/echo", "", ""));
    world.turn();
    assert!(world.client(id).answer.starts_with("HTTP/1.1 404"));
    assert!(world.client(id).closed);
}
