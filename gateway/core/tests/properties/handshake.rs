//! What becomes a WebSocket and what does not.

use corelane_protocol::ws::Opcode;

use crate::harness::{Seen, World, config, hello, masked, upgrade};

fn answer(world: &mut World, head: &[u8]) -> String {
    let id = world.accept();
    world.bytes(id, head);
    world.turn();
    let client = world.client(id);
    assert_eq!(client.closed, !client.answer.starts_with("HTTP/1.1 101"));
    client.answer.lines().next().unwrap_or("").to_owned()
}

#[test]
fn what_cannot_become_a_websocket_gets_an_http_answer_and_is_closed() {
    let mut config = config();
    config.origins = vec!["https://chat.example".to_owned()];
    let mut world = World::new(config);
    let rkyv = "corelane.rkyv.v1";
    for (head, status) in [
        (upgrade("/ws", rkyv, ""), "HTTP/1.1 101"),
        (upgrade("/ws", "other, corelane.json.v1", ""), "HTTP/1.1 101"),
        (
            upgrade("/ws", rkyv, "Origin: https://chat.example\r\n"),
            "HTTP/1.1 101",
        ),
        (
            upgrade("/ws", rkyv, "Origin: https://evil.example\r\n"),
            "HTTP/1.1 403",
        ),
        (upgrade("/ws", "other", ""), "HTTP/1.1 400"),
        (upgrade("/ws", rkyv, "Content-Length: 5\r\n"), "HTTP/1.1 400"),
        (
            upgrade("/ws", rkyv, "Transfer-Encoding: chunked\r\n"),
            "HTTP/1.1 400",
        ),
        (upgrade("/nothing", rkyv, ""), "HTTP/1.1 404"),
        (b"POST /ws HTTP/1.1\r\n\r\n".to_vec(), "HTTP/1.1 405"),
        (b"GET /ws HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), "HTTP/1.1 4"),
        (
            upgrade("/ws", rkyv, &format!("X: {}\r\n", "x".repeat(5000))),
            "HTTP/1.1 431",
        ),
    ] {
        let line = answer(&mut world, &head);
        assert!(
            line.starts_with(status),
            "{line:?} for {:?}",
            String::from_utf8_lossy(&head)
        );
    }
}

#[test]
fn what_follows_the_head_is_used_after_101_was_written_and_not_before() {
    let mut world = World::new(config());
    let id = world.accept();
    world.client(id).stuck = true;
    let mut bytes = upgrade("/ws", "corelane.rkyv.v1", "");
    bytes.extend(masked(Opcode::Binary, &hello("alice", "d")));
    world.bytes(id, &bytes);
    world.turn();
    assert!(
        world.got.iter().all(|got| got.user != "alice"),
        "101 has not left"
    );
    world.client(id).stuck = false;
    world.turn();
    assert_eq!(world.frames(id).len(), 1, "welcome");
}

#[test]
fn what_is_sent_ahead_is_bounded() {
    let mut world = World::new(config());
    world.claims_granted = false;
    let id = world.open("corelane.rkyv.v1");
    world.say(id, &hello("alice", "d"));
    world.bytes(id, &[0; 3000]);
    assert!(world.client(id).paused);
    world.bytes(id, &[0; 3000]);
    world.turn();
    assert_eq!(world.close_code(id), Some(4504));
}

#[test]
fn a_token_may_come_in_the_query_the_header_or_the_hello() {
    let mut world = World::new(config());
    for head in [
        upgrade("/ws?token=alice", "corelane.rkyv.v1", ""),
        upgrade("/ws", "corelane.rkyv.v1", "Authorization: Bearer alice\r\n"),
    ] {
        let id = world.accept();
        world.bytes(id, &head);
        world.turn();
        world.say(id, &hello("", "d"));
        assert_eq!(world.frames(id).len(), 1);
    }
    for (token, code) in [("", 4500), ("invalid", 4500), ("expired", 4005)] {
        let id = world.open("corelane.rkyv.v1");
        world.say(id, &hello(token, "d"));
        assert_eq!(world.seen(id), [Seen::Close(code)], "{token}");
    }
}

#[test]
fn whoever_finds_no_room_is_upgraded_and_told_4505() {
    let mut config = config();
    config.connections_max = 2;
    config.connections_per_ip_max = 0;
    let mut world = World::new(config);
    let first = world.login("a");
    world.login("b");
    let third = world.open("corelane.json.v1");
    assert_eq!(world.close_code(third), Some(4505));
    world.input(corelane_gateway_core::event::Input::PeerClosed(first));
    world.input(corelane_gateway_core::event::Input::PeerClosed(third));
    world.turn();
    world.login("c");
    let reserve = corelane_protocol::id::ConnId::new(0, 500, 1);
    world.accept_as(reserve, true);
    world.bytes(reserve, &upgrade("/ws", "corelane.json.v1", ""));
    world.turn();
    assert_eq!(world.close_code(reserve), Some(4505));
}

#[test]
fn one_address_has_no_more_connections_than_allowed() {
    let mut config = config();
    config.connections_per_ip_max = 2;
    let mut world = World::new(config);
    let first = world.login("a");
    world.login("b");
    let third = world.open("corelane.rkyv.v1");
    assert_eq!(world.close_code(third), Some(4505));
    for conn in [first, third] {
        world.input(corelane_gateway_core::event::Input::PeerClosed(conn));
    }
    world.turn();
    world.login("c");
}
