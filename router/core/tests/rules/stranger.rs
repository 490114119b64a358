//! A send for a lane of another router waits until the list was looked at: its sender may know a newer one.

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::id::ConvId;
use corelane_router_core::event::LaneRole;

use crate::bench::{Bench, append, user};

fn sent() -> Bench {
    let mut bench = Bench::without_list();
    bench.list(1, LaneRole::Foreign);
    let pair = ConvId::direct(&user("alice"), &user("bob"));
    for number in 1..=2 {
        bench.send(7, append(0, &pair, number), false, u64::MAX);
    }
    assert!(bench.batches.is_empty() && bench.answers.is_empty());
    assert_eq!(bench.looks, 1, "one look is for all");
    bench
}

#[test]
fn it_is_stored_if_the_lane_is_served_here_now() {
    let mut bench = sent();
    bench.list(2, LaneRole::Served);
    bench.commit();
    assert_eq!(bench.outcomes(), [Ok(1), Ok(2)]);
}

#[test]
fn it_is_refused_and_its_gate_closed_if_nothing_changed() {
    let mut bench = sent();
    bench.list(1, LaneRole::Foreign);
    assert_eq!(bench.outcomes(), [Err(ErrorCode::Retry), Err(ErrorCode::Retry)]);
    let pair = ConvId::direct(&user("alice"), &user("bob"));
    bench.list(2, LaneRole::Served);
    bench.send(7, append(0, &pair, 3), false, u64::MAX);
    assert_eq!(bench.outcomes(), [Err(ErrorCode::GateClosed)]);
    bench.send(7, append(0, &pair, 1), true, u64::MAX);
    bench.commit();
    assert_eq!(bench.outcomes(), [Ok(1)]);
    assert_eq!(
        bench.drained,
        [1, 2],
        "what only waited for a look holds nothing up"
    );
}
