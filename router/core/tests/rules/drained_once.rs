//! That a version is drained is said once, and not of one that another one replaced.

use corelane_protocol::id::ConvId;
use corelane_router_core::event::LaneRole;

use crate::bench::{Bench, append, user};

#[test]
fn drained_is_said_once_per_version() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        bench.list(2, LaneRole::Foreign);
    }
    assert_eq!(bench.drained, [1, 2]);
    bench.list(3, LaneRole::Served);
    bench.list(3, LaneRole::Served);
    assert_eq!(bench.drained, [1, 2, 3], "also where nothing was lost");
}

#[test]
fn a_version_that_was_replaced_meanwhile_is_not_said() {
    let mut bench = Bench::new();
    let pair = ConvId::direct(&user("alice"), &user("bob"));
    bench.submit(vec![append(0, &pair, 1)]);
    bench.list(2, LaneRole::Foreign);
    bench.list(3, LaneRole::Foreign);
    assert_eq!(bench.drained, [1]);
    bench.commit();
    assert_eq!(bench.drained, [1, 3]);
}
