//! Which routers a shard links with: by seeds, by the list, and again by seeds when the list leads nowhere.

use std::collections::BTreeMap;
use std::time::Duration;

use corelane_protocol::frame;
use corelane_protocol::id::ConnId;
use corelane_protocol::link::body::{RouterInfo, RouterList};
use corelane_protocol::link::record::RecordKind;

use crate::harness::{Router, World, address_of, config, group_at, home_and_other, send_in};

/// Long enough for a lost link to be connected again.
const MOMENT: Duration = Duration::from_secs(3);

/// A world whose shard has these seeds, with who listens where.
fn world(seeds: &[&str], routers: &[(&str, &str, u64)]) -> World {
    let mut config = config();
    config.routers = seeds.iter().map(|seed| (*seed).to_owned()).collect();
    let listening = routers
        .iter()
        .map(|(address, node, boot)| ((*address).to_owned(), Router::new(node, *boot)));
    let mut world = World::with_routers(config, listening.collect::<BTreeMap<_, _>>());
    // Nobody else listens anywhere.
    world.router_is_up = false;
    world
}

/// A list with an address of its own for each router.
fn tell(world: &mut World, by: &str, version: u64, routers: &[(&str, u64, &str)]) {
    let routers = routers.iter().map(|(node, boot, address)| RouterInfo {
        node: (*node).to_owned(),
        boot: *boot,
        address: (*address).to_owned(),
    });
    let list = RouterList {
        version,
        routers: routers.collect(),
    };
    world.says(by, RecordKind::RouterList, ConnId(0), &frame::archive(&list));
    world.turn();
}

#[test]
fn one_seed_is_enough_to_find_all_of_a_list() {
    let mut world = world(
        &["seed:1"],
        &[
            ("seed:1", "a", 1),
            ("a:7090", "a", 1),
            ("b:7090", "b", 2),
            ("c:7090", "c", 3),
        ],
    );
    assert_eq!(world.linked(), ["a"]);
    world.tell_list("a", 1, &["a", "b", "c"]);
    assert_eq!(world.linked(), ["a", "b", "c"]);
    assert_eq!(
        world.links_opened, 3,
        "the link to the seed is that to its router"
    );
    world.tell_list("b", 1, &["b"]);
    world.tell_list("c", 0, &["b"]);
    world.pass(Duration::from_secs(20));
    assert_eq!(
        world.linked(),
        ["a", "b", "c"],
        "a list that is not newer is none"
    );
}

#[test]
fn a_list_of_one_router_changes_nothing() {
    let mut world = world(&["seed:1"], &[("seed:1", "a", 1)]);
    let alice = world.login("alice");
    world.got.clear();
    // What it says of its address is of no use here: it is behind the seed's.
    tell(&mut world, "a", 1, &[("a", 1, "0.0.0.0:7090")]);
    for reference in 1..=20 {
        let group = group_at(&["a", "b", "c"], ["a", "b", "c"][reference as usize % 3], 0);
        world.say(alice, &send_in(&group, reference, false));
    }
    assert_eq!(world.forwarded("a"), (1..=20).collect::<Vec<_>>());
    assert!(world.got(RecordKind::Claim).is_empty() && world.frames(alice).is_empty());
    assert_eq!(world.shard.metrics().link_established, 1);
    world.cut_from("a");
    world.pass(MOMENT);
    assert_eq!(world.linked(), ["a"], "it is found where it was");
    world.frames(alice);
    world.say(alice, &send_in(&group_at(&["a", "b"], "b", 0), 21, true));
    assert_eq!(world.forwarded("a"), [21]);
}

#[test]
fn a_seed_that_leads_to_a_router_with_a_link_is_given_up_before_that_one_hears_of_it() {
    let mut world = world(&["one:1", "two:1"], &[("one:1", "a", 1), ("two:1", "a", 1)]);
    assert_eq!((world.linked(), world.links_opened), (vec!["a"], 2));
    world.pass(Duration::from_mins(5));
    assert_eq!(world.linked(), ["a"]);
    let metrics = world.shard.metrics();
    assert_eq!((metrics.link_established, metrics.link_lost), (1, 0));
    assert!(world.links_opened < 10, "{} attempts", world.links_opened);
    // The name means another router by then.
    *world.routers.get_mut("two:1").unwrap() = Router::new("b", 2);
    world.pass(Duration::from_mins(2));
    assert_eq!(world.linked(), ["a", "b"]);
}

#[test]
fn the_link_to_a_seeds_router_is_connected_again_where_the_list_says() {
    let mut world = world(
        &["b:1", "seed:1"],
        &[("b:1", "b", 2), ("a:1", "a", 1), ("seed:1", "a", 1)],
    );
    assert_eq!(world.linked(), ["a", "b"]);
    tell(&mut world, "b", 1, &[("a", 1, "a:1"), ("b", 2, "b:1")]);
    assert_eq!((world.linked(), world.links_opened), (vec!["a", "b"], 2));
    world.routers.get_mut("seed:1").unwrap().is_up = false;
    world.cut_from("a");
    world.pass(MOMENT);
    assert_eq!(world.linked(), ["a", "b"]);
}

#[test]
fn a_router_of_the_list_that_a_seed_leads_to_has_that_link() {
    let mut world = world(&["seed:1"], &[("seed:1", "a", 1), ("b:1", "b", 2)]);
    tell(&mut world, "a", 1, &[("b", 2, "b:1")]);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.linked(), ["b"]);
    // It is not where the list says any more, but where the seed leads.
    world.routers.get_mut("b:1").unwrap().is_up = false;
    *world.routers.get_mut("seed:1").unwrap() = Router::new("b", 2);
    world.cut_from("b");
    assert_eq!(world.linked(), ["b"]);
    world.routers.get_mut("b:1").unwrap().is_up = true;
    world.pass(Duration::from_secs(20));
    assert_eq!(world.linked(), ["b"]);
}

#[test]
fn an_address_that_leads_to_another_router_than_the_list_says_is_not_used() {
    let mut world = world(&["a:1"], &[("a:1", "a", 1), ("b:1", "x", 9)]);
    tell(&mut world, "a", 1, &[("a", 1, "a:1"), ("b", 2, "b:1")]);
    world.pass(MOMENT);
    assert_eq!(world.linked(), ["a"]);
    let error = world.shard.take_link_error().expect("an error").to_string();
    assert!(error.contains("\"x\"") && error.contains("\"b\""), "{error}");
    *world.routers.get_mut("b:1").unwrap() = Router::new("b", 2);
    world.pass(MOMENT);
    assert_eq!(world.linked(), ["a", "b"]);
}

#[test]
fn when_no_router_of_the_list_can_be_reached_the_seeds_are_tried_again() {
    let mut world = world(&["a:1"], &[("a:1", "a", 1), ("b:1", "b", 2)]);
    tell(&mut world, "a", 7, &[("b", 2, "b:1")]);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.linked(), ["b"], "the seed's router is not in the list");
    let alice = world.login("alice");
    world.routers.get_mut("b:1").unwrap().is_up = false;
    world.cut_from("b");
    world.pass(MOMENT);
    assert_eq!(world.linked(), ["a"]);
    // It is of another time than the list, and serves all until it tells one, of whatever version.
    world.got.clear();
    for (reference, number) in (1..).zip(0..4) {
        world.say(
            alice,
            &send_in(&group_at(&["a", "b"], "b", number), reference, false),
        );
    }
    assert_eq!(world.forwarded("a"), [1, 2, 3, 4]);
    *world.routers.get_mut("b:1").unwrap() = Router::new("b", 3);
    tell(&mut world, "a", 1, &[("a", 1, "a:1"), ("b", 3, "b:1")]);
    assert_eq!(world.linked(), ["a", "b"]);
}

#[test]
fn a_router_that_restarted_is_connected_anew_when_the_list_says_so() {
    let nodes = ["a", "b"];
    let mut world = World::told_cluster(&nodes);
    let (home, other) = home_and_other(&nodes);
    let opened = world.links_opened;
    // Its machine is gone: nothing comes of the old link, not even its end.
    world.router(other).boot += 10;
    world.tell_list(home, 2, &nodes);
    world.pass(MOMENT);
    assert_eq!(world.linked(), nodes);
    assert_eq!(world.links_opened, opened + 1);
}

#[test]
fn a_list_that_cannot_be_one_is_not_taken() {
    let nodes = ["a", "b"];
    let mut world = World::told_cluster(&nodes);
    tell(&mut world, "a", 2, &[]);
    tell(&mut world, "a", 3, &[("a", 1, "a:7090"), ("a", 2, "b:7090")]);
    tell(&mut world, "a", 4, &[("", 1, "a:7090")]);
    let names: Vec<String> = (0..33).map(|number| format!("router{number}")).collect();
    let many: Vec<(&str, u64, &str)> = names.iter().map(|name| (name.as_str(), 5, "z:1")).collect();
    tell(&mut world, "a", 5, &many);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.linked(), nodes);
    world.tell_list("a", 2, &["b"]);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.linked(), ["b"], "one that can be is");
}

#[test]
fn as_many_routers_as_a_list_can_name_are_linked_and_replaced() {
    let names: Vec<String> = (0..64).map(|number| format!("r{number}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let (first, second) = all.split_at(32);
    let mut config = config();
    config.routers = vec![address_of("r0")];
    let routers = (1..)
        .zip(&all)
        .map(|(boot, name)| (address_of(name), Router::new(name, boot)));
    let mut world = World::with_routers(config, routers.collect());
    world.tell_list("r0", 1, first);
    assert_eq!(world.shard.metrics().links, 32);
    world.tell_list("r0", 2, second);
    world.pass(Duration::from_secs(10));
    let mut expected = second.to_vec();
    expected.sort_unstable();
    assert_eq!(world.linked(), expected);
}
