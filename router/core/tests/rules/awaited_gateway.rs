//! A gateway boot is awaited from the first record that was published to it until it is gone, and what waits for it goes
//! with it: somebody has to see to it that it lives or is declared dead.

use std::collections::BTreeSet;

use corelane_protocol::id::ConvId;
use corelane_router_core::event::Input;

use crate::bench::{Bench, append, user};

/// A message for users of gateway boot 1.
fn publish(bench: &mut Bench, number: u32) {
    let pair = ConvId::direct(&user("alice"), &user("bob"));
    bench.submit(vec![append(0, &pair, number)]);
    bench.commit();
}

#[test]
fn a_boot_is_awaited_from_its_first_record_until_it_is_gone() {
    let mut bench = Bench::new();
    assert_eq!(bench.core.boots_awaited(), BTreeSet::new());
    publish(&mut bench, 1);
    assert_eq!(
        (bench.cleared.len(), bench.core.rows_held()),
        (1, 0),
        "it reports"
    );
    assert_eq!(bench.core.boots_awaited(), [1].into(), "its numbers go on");
    bench.input(Input::GatewayGone(2));
    assert_eq!(bench.core.boots_awaited(), [1].into(), "another one");
    bench.input(Input::GatewayGone(1));
    assert_eq!(bench.core.boots_awaited(), BTreeSet::new());
}

#[test]
fn rows_that_wait_for_a_boot_are_cleared_when_it_is_gone_and_not_before() {
    let mut bench = Bench::new();
    bench.is_silent = true;
    publish(&mut bench, 1);
    publish(&mut bench, 2);
    bench.input(Input::TopicLost(2));
    assert_eq!((bench.cleared.len(), bench.core.rows_held()), (0, 2));
    assert_eq!(bench.core.boots_awaited(), [1].into());
    bench.input(Input::GatewayGone(1));
    assert_eq!((bench.cleared.len(), bench.core.rows_held()), (2, 0));
    assert_eq!(bench.core.boots_awaited(), BTreeSet::new());
}
